"""Save fitted estimators as folders without pickle: weights, JSON and tokenizer files.

NumPy only. The estimators themselves write and read everything that needs torch, see
`sklearn_epee._base.fitted_folder`.
"""

from .mixin import PretrainedMixin
from .tree import FITTED, Loading, Saving
from .values import NotSerializableError, decode, encode, field, integer_field, list_of

__all__ = [
    "FITTED",
    "Loading",
    "NotSerializableError",
    "PretrainedMixin",
    "Saving",
    "decode",
    "encode",
    "field",
    "integer_field",
    "list_of",
]
