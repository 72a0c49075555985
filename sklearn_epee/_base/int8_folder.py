"""Save 8-bit scales and the report on their effect as a document, and load them."""

from __future__ import annotations

from typing import Any

import numpy as np

from sklearn_epee._folders import decode, encode, field, list_of
from sklearn_epee._nn.fast_backbone import LayerScales
from sklearn_epee._nn.int8_calibration import Int8Scales
from sklearn_epee._nn.int8_linear import InputScale
from sklearn_epee.exceptions import ModelFolderError

from .precision_report import MeasuredInt8, PrecisionReport

_ARRAYS = ("factor", "shift", "mean")


def int8_document(measured: MeasuredInt8 | None, store_array: Any) -> Any:
    """Return scales and report as a document; None if there are none."""
    if measured is None:
        return None
    scales = measured.scales
    towers = scales if isinstance(scales, (list, tuple)) else [scales]
    document = {
        "towers": [_plain(tower) for tower in towers],
        "several": isinstance(scales, (list, tuple)),
        "report": dict(vars(measured.report)),
    }
    return encode(document, store_array)


def _plain(scales: Int8Scales) -> dict[str, Any]:
    layers = [
        {name: None if part is None else dict(vars(part)) for name, part in layer._asdict().items()}
        for layer in scales.layers
    ]
    return {"layers": layers, "errors": [dict(errors) for errors in scales.errors]}


def read_int8(document: Any, network: Any, load_array: Any) -> MeasuredInt8 | None:
    """Return the scales and report of a document.

    Raises
    ------
    ModelFolderError
        If they do not match the network.
    """
    if document is None:
        return None
    found = decode(document, load_array)
    towers = getattr(network, "towers", (network,))
    parts = list_of(field(found, "towers", list, "int8"))
    several = field(found, "several", bool, "int8")
    if len(parts) != len(towers) or several != (len(towers) > 1):
        raise ModelFolderError(f"the 8-bit scales are not those of {len(towers)} backbone(s)")
    pairs = zip(parts, towers, strict=True)
    scales = tuple(_scales(part, tower) for part, tower in pairs)
    report = field(found, "report", dict, "int8")
    return MeasuredInt8(scales if several else scales[0], PrecisionReport(**report))


def _scales(document: Any, network: Any) -> Int8Scales:
    layers, errors = (list_of(field(document, name, list)) for name in ("layers", "errors"))
    if not len(layers) == len(errors) == network.n_layers:
        raise ModelFolderError(f"the 8-bit scales are not those of {network.n_layers} layers")
    for part in errors:
        if not isinstance(part, dict) or not set(part) <= set(LayerScales._fields):
            raise ModelFolderError("the errors of 8-bit products have unknown keys")
    made = tuple(_layer(layer, network.adapter.hidden_size) for layer in layers)
    return Int8Scales(made, tuple(dict(part) for part in errors))


def _layer(document: Any, width: int) -> LayerScales:
    if not isinstance(document, dict) or set(document) != set(LayerScales._fields):
        raise ModelFolderError("the 8-bit scales of a layer have missing or unknown keys")
    parts = {name: None if part is None else _scale(part) for name, part in document.items()}
    for name in ("attention", "up"):
        part = parts[name]
        if part is not None and len(part.factor) != width:
            raise ModelFolderError(f"the 8-bit scales of a layer do not have its width, {width}")
    return LayerScales(**parts)


def _scale(document: Any) -> InputScale:
    arrays = [field(document, name, np.ndarray) for name in _ARRAYS]
    for array in arrays:
        is_row = array.dtype == np.float32 and array.ndim == 1 and array.shape == arrays[0].shape
        if not is_row or not np.isfinite(array).all():
            raise ModelFolderError("the 8-bit scales are not finite float32 rows of one length")
    factor, shift, mean = arrays
    is_common = bool(field(document, "is_common", (bool, np.bool_)))
    return InputScale(factor, shift, mean, is_common)
