"""Networks and predictions shared by the fits of one search.

A search over exit policies fits an estimator for every policy and fold. `NetworkReuse` trains the
network of a fold once, for the first policy, and loads it for the others. `SharedPredictions`
predicts the samples of a fold once for all policies.
"""

from .context import SearchContext
from .fingerprint import fingerprint
from .network_file import LazyNetwork, ready
from .reuse import NetworkReuse
from .shared_predictions import SharedPredictions
from .sources import source_identity

__all__ = [
    "LazyNetwork",
    "NetworkReuse",
    "SearchContext",
    "SharedPredictions",
    "fingerprint",
    "ready",
    "source_identity",
]
