"""Private parts of other packages that this package uses.

Each has a comment with the tested versions and the reason why no public part can be used.
`tests/test_compat.py` checks each by name, so that it fails if an upgrade moves one.

This module does not import torch, transformers or skorch; functions import them when called.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import numpy as np

# scikit-learn 1.9. Its callbacks are public, but the method for estimators has an underscore,
# although it is documented for third parties. The public decorator for the end of a fit would add a
# call between `fit` and its warnings, which should show the line of the caller. Earlier versions
# have no callbacks.
try:
    from sklearn.callback import CallbackSupportMixin
    from sklearn.callback._callback_support import callback_management_context
except ImportError:

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """Empty mixin for versions of scikit-learn without callbacks."""

    def callback_management_context(estimator: Any) -> AbstractContextManager[None]:
        """Return an empty context, for versions of scikit-learn without callbacks."""
        del estimator
        return nullcontext()


# scikit-learn 1.7 to 1.9. The result of `make_scorer`, whose attributes are not public.
from sklearn.metrics._scorer import _Scorer

# scikit-learn 1.7 to 1.9. The base class of all searches. Only the searches are public, and
# experimental ones should not be imported here.
from sklearn.model_selection._search import BaseSearchCV

# scikit-learn 1.7 to 1.9. Selects rows of any indexable object, as in its searches.
from sklearn.utils import _safe_indexing as safe_indexing

# scikit-learn 1.7 to 1.9. The error of its loaders if pandas is missing.
from sklearn.utils._optional_dependencies import check_pandas_support

# scikit-learn 1.7 to 1.9. The constraints and the decorator for the validation of parameters, which
# third-party estimators use, too; they have no public names.
from sklearn.utils._param_validation import (
    HasMethods,
    Options,
    RealNotInt,
    StrOptions,
    validate_params,
)
from sklearn.utils._param_validation import Interval as SklearnInterval

# scikit-learn 1.7 to 1.9. Functions of its meta-estimators to select `fit` parameters for a fold,
# and to count the samples of any X.
from sklearn.utils.validation import _check_method_params as check_method_params
from sklearn.utils.validation import _num_samples as num_samples

__all__ = [
    "BaseSearchCV",
    "CallbackSupportMixin",
    "HasMethods",
    "Int8Linear",
    "Interval",
    "MkldnnLinear",
    "Options",
    "RealNotInt",
    "ScorerParts",
    "StrOptions",
    "attention_on_cpu",
    "begin_fit_task",
    "callback_management_context",
    "check_method_params",
    "check_pandas_support",
    "cpu_capabilities",
    "int8_linear",
    "is_out_of_memory",
    "mkldnn_linear",
    "num_samples",
    "safe_indexing",
    "scorer_parts",
    "validate_params",
]


def begin_fit_task(estimator: Any, max_subtasks: int) -> Any:
    """Set up scikit-learn's callbacks, and return the task of a fit.

    scikit-learn 1.9; None for versions without callbacks.
    """
    begin = getattr(estimator, "_init_callback_context", None)
    return None if begin is None else begin(max_subtasks=max_subtasks)


class Interval(SklearnInterval):
    """scikit-learn's interval, without numbers that NumPy does not support, such as Fraction."""

    def is_satisfied_by(self, val: Any) -> bool:
        """Return whether a value is a number in the interval."""
        known = isinstance(val, int | float | np.integer | np.floating)
        return known and super().is_satisfied_by(val)


class ScorerParts(NamedTuple):
    """The parts of a scorer of predicted labels."""

    function: Callable[..., Any]
    """Takes the true and the predicted labels."""
    kwargs: Mapping[str, Any]
    """Keyword arguments of the function."""
    sign: int
    """1, or -1 if lower is better."""


def scorer_parts(scorer: Any) -> ScorerParts | None:
    """Return the parts of a scorer made by `make_scorer`; None for other callables.

    scikit-learn 1.7 to 1.9. Also None for scorers of probabilities or decision values.
    """
    if type(scorer) is not _Scorer or scorer._response_method not in ("predict", ("predict",)):
        return None
    return ScorerParts(scorer._score_func, scorer._kwargs, scorer._sign)


def cpu_capabilities() -> Mapping[str, Any]:
    """Return the features of the processor, with the names of ``torch.cpu.get_capabilities``.

    torch 2.13 has that function; in earlier releases from 2.6 on, the relevant features are queried
    one by one.

    Returns
    -------
    mapping of str to bool
        ``"avx512_bf16"``, ``"amx_bf16"``, ``"avx512_vnni"`` and others; unknown features are left
        out.
    """
    import torch  # noqa: PLC0415 - see the module's first lines

    public = getattr(torch.cpu, "get_capabilities", None)
    if public is not None:
        return public()
    probes = {
        "avx512_bf16": "_is_avx512_bf16_supported",
        "amx_bf16": "_is_amx_tile_supported",
        "avx512_vnni": "_is_vnni_supported",
    }
    return {
        name: bool(getattr(torch.cpu, probe)())
        for name, probe in probes.items()
        if hasattr(torch.cpu, probe)
    }


class MkldnnLinear(NamedTuple):
    """oneDNN's operators for products with a weight in its packed layout."""

    reorder: Callable[..., Any]
    """Weight (out, in) and batch size or None -> packed weight."""
    linear: Callable[..., Any]
    """Rows, packed weight, bias, activation, its scalars, its variant -> rows."""
    linear_add: Callable[..., Any]
    """Rows, other rows, packed weight, bias, ``"add"`` -> rows."""


def mkldnn_linear() -> MkldnnLinear:
    """Return oneDNN's packed linear operators, which torch.compile uses on a CPU.

    torch 2.6 to 2.13, on x86 and ARM builds with oneDNN. The public `torch.nn.functional.linear`
    packs the weight again at every call.

    Raises
    ------
    AttributeError
        If this build of torch does not have them.
    """
    import torch  # noqa: PLC0415 - see the module's first lines

    operators = torch.ops.mkldnn
    linear = operators._linear_pointwise
    return MkldnnLinear(operators._reorder_linear_weight, linear.default, linear.binary)


class Int8Linear(NamedTuple):
    """oneDNN's operators for products of unsigned bytes with a signed 8-bit weight."""

    reorder: Callable[..., Any]
    """Weight (out, in), int8, and a shape or None -> packed weight."""
    linear: Callable[..., Any]
    """Rows (uint8), their scale and zero point, packed weight, its scales and zero points (out,),
    bias, scale, zero point and type of the result, activation, its scalars, its variant -> rows."""
    linear_add: Callable[..., Any]
    """Rows (uint8), their scale and zero point, packed weight, its scales and zero points, other
    rows, bias, scale, zero point and type of the result, scale and zero point of the other rows,
    ``"add"``, 1.0, activation, its scalars, its variant -> rows."""


def int8_linear() -> Int8Linear:
    """Return oneDNN's 8-bit linear operators, to which torch.compile lowers quantized models.

    torch 2.6 to 2.13, on x86 builds with oneDNN. The public quantized modules of torch round the
    result of every product to 8 bits, and are deprecated.

    Raises
    ------
    AttributeError
        If this build of torch does not have them.
    """
    import torch  # noqa: PLC0415 - see the module's first lines

    operators = torch.ops.onednn
    linear = operators.qlinear_pointwise
    return Int8Linear(operators.qlinear_prepack, linear.default, linear.binary)


def attention_on_cpu() -> Any:
    """Return the operator of attention on a CPU, which torch's FLOP counter does not support.

    torch 2.6 to 2.13. The public `torch.nn.functional.scaled_dot_product_attention` calls it. A
    custom formula for the FLOP counter needs the operator itself.
    """
    import torch  # noqa: PLC0415 - see the module's first lines

    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu


# torch 2.6 to 2.13. Messages of its allocators without memory, if they raise no special exception.
_OUT_OF_MEMORY_PHRASES = (
    "can't allocate memory",  # DefaultCPUAllocator
    "not enough memory",  # DefaultCPUAllocator on Windows
    "MPS backend out of memory",
)
# The whole message of oneDNN without memory for the code of a product or its result. For products
# that it does not support, the message is longer.
_ONEDNN_OUT_OF_MEMORY = (
    "could not create a memory object",
    "could not create a primitive",
    "could not execute a primitive",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an exception means that a device, including a CPU, ran out of memory.

    torch has a special exception for GPUs. Its CPU and MPS allocators and oneDNN raise a
    RuntimeError, recognized by its message, and NumPy and Python raise MemoryError.
    """
    import torch  # noqa: PLC0415 - see the module's first lines

    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    message = str(error)
    return isinstance(error, RuntimeError) and (
        message in _ONEDNN_OUT_OF_MEMORY
        or any(phrase in message for phrase in _OUT_OF_MEMORY_PHRASES)
    )
