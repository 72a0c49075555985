"""Choose the device and the precision of a network."""

from __future__ import annotations

import torch

from sklearn_epee._compat import cpu_capabilities

from .int8_linear import why_not_int8
from .packed_linear import can_pack

_NO_NAME = "device={!r} is not a device name; expected 'auto', 'cpu', 'cuda', 'cuda:0', ..."


def resolve_device(device: str | torch.device) -> torch.device:
    """Return the torch device of the ``device`` parameter.

    Parameters
    ----------
    device : str or torch.device
        ``"auto"`` takes a CUDA GPU if there is one, then Apple's MPS, then the CPU.

    Returns
    -------
    torch.device

    Raises
    ------
    TypeError
        If it is neither a name nor a device.
    ValueError
        If the device is unknown or absent.
    """
    if not isinstance(device, str | torch.device):
        raise TypeError(_NO_NAME.format(device))
    try:
        resolved = torch.device(_best_device() if device == "auto" else device)
    except RuntimeError as error:
        raise ValueError(_NO_NAME.format(device)) from error
    _check_present(resolved)
    if resolved.type == "cuda" and resolved.index is None:
        # The devices of tensors have an index; with one, the two compare equal.
        return torch.device("cuda", torch.cuda.current_device())
    return resolved


def _best_device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _check_present(device: torch.device) -> None:
    name = str(device)
    if name == "cpu":
        return
    present = ["cpu"]
    present += [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    present += ["mps"] if torch.backends.mps.is_available() else []
    if name not in present and not (name == "cuda" and torch.cuda.device_count()):
        raise ValueError(
            f"device={name!r} is not available on this machine; available: {present}. "
            "device='auto' takes the best of them."
        )


def training_dtype(precision: str, device: torch.device) -> torch.dtype:
    """Return the data type of the forward and backward pass in training.

    ``"auto"`` is bfloat16 if the hardware multiplies bfloat16 natively, else float32. ``"int8"`` is
    only for predictions; training is the same as with ``"auto"``. Weights, their gradients and the
    loss are always in float32.
    """
    if precision in ("auto", "int8"):
        return torch.bfloat16 if has_native_bfloat16(device) else torch.float32
    return getattr(torch, precision)


def prediction_dtype(precision: str, device: torch.device) -> torch.dtype:
    """Return the data type of the backbone in prediction.

    ``"auto"`` is bfloat16 on a CPU that multiplies it in hardware, where the result of a sample
    does not depend on the other samples of its batch; else float32. On a GPU, the third digit of a
    bfloat16 result changes with the batch size, and an exit must not depend on other samples.

    ``"int8"`` is ``torch.int8``, which stands for 8-bit matrix products within layers that
    otherwise compute in the precision of ``"auto"``.

    Raises
    ------
    ValueError
        If 8-bit products are not supported on the device.
    """
    if precision == "int8":
        _check_int8(device)
    if precision == "auto":
        independent = device.type == "cpu" and has_native_bfloat16(device)
        return torch.bfloat16 if independent and can_pack(torch.bfloat16) else torch.float32
    return getattr(torch, precision)


def _check_int8(device: torch.device) -> None:
    reason = "8-bit products are only supported on CPUs" if device.type != "cpu" else why_not_int8()
    if reason:
        raise ValueError(
            f"precision='int8' cannot be used on device={str(device)!r}: {reason}. Expected "
            "'auto', 'float32' or 'bfloat16'"
            f"{', or device=' + repr('cpu') if device.type != 'cpu' else ''}."
        )


def has_native_bfloat16(device: torch.device) -> bool:
    """Return whether a device multiplies bfloat16 in hardware."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        capabilities = cpu_capabilities()
        return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16"))
    return False
