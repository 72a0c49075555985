"""Exits on arrays: what metrics, model selection and plotting share; never torch.

checks
    Validation of the parameters of a policy.
rule
    Entropies, patience counters, and the layer at which a sample exits.
staged
    Predictions of every exit for some samples, of one task or of several.
sweep
    Every policy at once: how samples move between exits as tau rises.
policy_scores, label_scores
    Scores of whole sweeps, and of predicted labels.
tables
    Tables of policies and the Pareto front.
reliability
    Bins of confidence and the expected calibration error.
protocol, wrappers
    What a classifier with early exits has to offer, and the way to it through wrappers.
"""
