"""Early exits on arrays, shared by metrics, model selection and plotting; never imports torch.

checks
    Validation of the parameters of a policy.
rule
    Entropies, patience counters, and the layer at which a sample exits.
staged
    Predictions of every exit for some samples, of one task or of several.
sentences
    Exits of sentences whose words exit together.
sweep
    Every policy at once: how samples move between exits as tau rises.
sweep_scores, policy_scores, count_scores, multilabel_scores
    Scores of whole sweeps; those that follow from counts per class, and of several labels.
label_thresholds
    The threshold of each label that scores best.
label_scores, class_scores
    Scores of predicted labels, and of each class by itself.
tables
    Tables of policies and the Pareto front.
reliability
    Bins of confidence and the expected calibration error.
protocol, wrappers
    What a classifier with early exits has to offer, and the way to it through wrappers.
"""
