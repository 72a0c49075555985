"""Fitted estimators as folders without pickle: weights, JSON and the tokenizer's own files.

NumPy only. What needs torch is written and read by the estimators themselves, see
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
