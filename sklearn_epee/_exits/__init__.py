"""Early exits on arrays, shared by metrics, model selection and plotting; never imports torch.

checks
    Validation of the parameters of a policy.
rule
    Entropies, patience counters and exit layers.
staged
    Predictions of every exit, for one task, several tasks or several labels.
sentences
    Exits of sentences whose words exit together.
sweep
    Evaluation of all policies at once: how samples move between exits if tau increases.
sweep_scores, policy_scores, count_scores, multilabel_scores
    Scores for all thresholds of a sweep: any scorer, counts per class, and several labels.
label_thresholds
    The best threshold of each label.
label_scores, class_scores
    Scores of predicted labels, and of each class.
tables
    Tables of policies and the Pareto front.
reliability
    Bins of confidence and the expected calibration error.
protocol, wrappers
    The interface of classifiers with early exits, and how to find one inside wrappers.
"""
