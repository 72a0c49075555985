"""Adapter for any other transformers model with a single list of layers; runs whole layers."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import torch
import transformers
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary
from transformers import PretrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES,
    MODEL_MAPPING_NAMES,
)

from sklearn_epee._nn.backbones._adapter import AttentionParts, BackboneAdapter, LayerParts
from sklearn_epee._nn.backbones._row_subset import RowSubset

__all__ = ["GenericAdapter", "generic_adapter_class"]

# Families whose models are not a plain sequence of layers, in a way that the check of a loaded
# model (`_generic_check`) might not detect or would describe badly.
_NEVER = {
    "big_bird": "it changes its attention for good at the first short batch",
    "bigbird_pegasus": "it changes its attention for good at the first short batch",
    "funnel": "it pools positions between its layers",
    "reformer": "its attention hashes positions at random",
    "xlnet": "its layers read two streams of hidden states",
}
# Decoders whose base model is bidirectional by default.
_ENCODERS = ("bert-generation",)
_CLASS_TOKENS = ("cls_token", "class_token", "class_embedding")


@dataclass(frozen=True)
class _LayerCall:
    """Arguments that a model passes to one of its layers, except the hidden state."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    name: str | None
    """Name of the hidden state's argument; None if it is the first positional one."""

    def __call__(self, layer: Any, hidden: Tensor) -> Any:
        if self.name is None:
            return layer(hidden, *self.args, **self.kwargs)
        return layer(*self.args, **{self.name: hidden}, **self.kwargs)


class _CachedCalls(NamedTuple):
    """Calls of all layers for one batch, and the settings with which they were recorded."""

    setting: tuple[Any, ...]
    calls: list[_LayerCall]


class _Recorder(nn.Module):
    """Replacement of a layer that records its arguments and returns its input.

    Parameters
    ----------
    layer : Module
        The layer, for its attributes.
    trace : _Trace
        Collects the calls.
    """

    def __init__(self, layer: nn.Module, trace: _Trace) -> None:
        super().__init__()
        # Not with setattr: torch would register the layer as a submodule.
        self.__dict__.update(_layer=layer, _trace=trace)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_layer"], name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Record the arguments; return the hidden state in the form of the layer's output."""
        return self._trace.record(self._layer, args, kwargs)


class _Trace:
    """One forward pass of a model with recorders instead of its layers.

    Parameters
    ----------
    output : Tensor, default=None
        Output of the layers; None: they return their input.
    rest : tuple, default=None
        Further outputs of the layers; None: the first layer is run to find them.
    """

    def __init__(self, output: Tensor | None = None, rest: _OtherOutputs | None = None) -> None:
        self.calls: list[_LayerCall] = []
        self.first_hidden: Tensor | None = None
        self.rest = rest
        self._output = output

    def record(self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Record a call of a layer; return the output with which the model continues."""
        name = None if args else "hidden_states"
        hidden = args[0] if args else kwargs["hidden_states"]
        others = {key: value for key, value in kwargs.items() if key != name}
        call = _LayerCall(args[1:], others, name)
        if self.first_hidden is None:
            self.first_hidden = hidden
        if self.rest is None:
            self.rest = _OtherOutputs.of(call(layer, hidden))
        self.calls.append(call)
        return self.rest.after(hidden if self._output is None else self._output)


class _OtherOutputs(NamedTuple):
    """Outputs of layers after the hidden state; None if they only return the hidden state."""

    values: tuple[Any, ...] | None

    @classmethod
    def of(cls, output: Any) -> _OtherOutputs:
        return cls(None if isinstance(output, Tensor) else tuple(output[1:]))

    @property
    def is_constant(self) -> bool:
        """Whether it is the same for every batch."""
        return not any(value is not None for value in self.values or ())

    def after(self, hidden: Tensor) -> Any:
        return hidden if self.values is None else (hidden, *self.values)


class GenericAdapter(BackboneAdapter):
    """Runs the layers of a transformers model with the arguments that the model would pass.

    The model's own forward pass is run with recorders instead of its layers, which gives the input
    of the first layer, the other arguments of each layer (masks, position embeddings), and what is
    computed after the last one. Then the layers are run one by one.

    Notes
    -----
    Layers are black boxes: `rows` at some positions computes all of them, so computing rows first
    saves no time, and products are not packed. `_generic_check` checks every model that is loaded.
    """

    rows_apart: ClassVar[bool] = False

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__(model)
        self._accepted = tuple(inspect.signature(type(model).forward).parameters)
        self._path = _path_of_layers(model, self.family)
        self._remembered: Any = WeakIdKeyDictionary()
        self._rest: _OtherOutputs | None = None

    def __reduce__(self) -> tuple[type[GenericAdapter], tuple[Any, ...]]:
        return _remake, (self.family, self.model)  # type: ignore[return-value]

    @classmethod
    def check_config(cls, config: PretrainedConfig) -> None:
        """Raise for encoder-decoder models and models with cross attention."""
        is_whole = not cls.model_class.endswith("EncoderModel")
        for option in ("add_cross_attention", *(["is_encoder_decoder"] if is_whole else [])):
            if getattr(config, option, False):
                raise ValueError(
                    f"backbone: {option}=True is not supported for the {cls.family} family; "
                    f"expected {option}=False."
                )
        if getattr(config, "num_hidden_layers", None) is None:
            raise ValueError(
                f"backbone: a {cls.family} model does not have one list of num_hidden_layers "
                "layers; models whose stages differ in width cannot be run layer by layer."
            )

    # ------------------------------------------------------------------------- the model's parts

    def _blocks(self) -> nn.ModuleList:
        blocks: nn.ModuleList = self.model.get_submodule(self._path)
        return blocks

    def _parts(self, block: Any) -> LayerParts | None:  # noqa: ARG002 - no layer is taken apart
        return None

    def _attention_parts(self, block: Any) -> AttentionParts:
        raise NotImplementedError(f"{type(block).__name__} is run as a whole.")

    def _finish(self, block: Any, attended: Tensor, residual: Tensor) -> Tensor:
        raise NotImplementedError(f"{type(block).__name__} is run as a whole.")

    def layer_parts(self, layer: int) -> LayerParts | None:
        """Return None, because layers are run as a whole."""
        self._block(layer)
        return None

    # ------------------------------------------------------------------------------ whole layers

    def layer(self, layer: int, hidden: Tensor, mask: Tensor) -> Tensor:
        """See `BackboneAdapter.layer`."""
        block = self._block(layer)
        output = self._calls(hidden, mask)[layer - 1](block, hidden)
        above: Tensor = output if isinstance(output, Tensor) else output[0]
        return above

    def keys_values(self, layer: int, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Return the input of the layer twice, in place of keys and values."""
        self._block(layer)
        return hidden.unsqueeze(1), hidden.unsqueeze(1)

    def rows(  # noqa: PLR0917 - as the base class
        self,
        layer: int,
        hidden_rows: Tensor,
        k: Tensor,
        v: Tensor,  # noqa: ARG002 - the same as the keys
        mask: Tensor,
        positions: Tensor | None = None,
    ) -> Tensor:
        """Return the output of one layer at the given positions; all positions are computed."""
        above = self.layer(layer, k.squeeze(1), mask)
        if positions is None:
            return above
        return above.gather(1, positions.unsqueeze(-1).expand(-1, -1, hidden_rows.shape[-1]))

    def row_subset(  # noqa: PLR0917 - as the base class
        self,
        layer: int,
        hidden_rows: Tensor,  # noqa: ARG002 - among the keys
        k: Tensor,
        v: Tensor,  # noqa: ARG002 - the same as the keys
        mask: Tensor,
        at: RowSubset,
    ) -> Tensor:
        """Return the output of one layer at some positions; all positions are computed."""
        return at.read(self.layer(layer, k.squeeze(1), mask))

    def pool(self, hidden_rows: Tensor) -> Tensor:
        """Apply the operations of the model after its last layer to hidden states."""
        trace = _Trace(hidden_rows, self._other_outputs(hidden_rows))
        pooled: Tensor = self._run(self._smallest_batch(hidden_rows.device), trace)[0]
        return pooled

    # ------------------------------------------------------------- the model's own forward pass

    def _calls(self, hidden: Tensor, mask: Tensor) -> list[_LayerCall]:
        """Return the calls of the layers for samples with the lengths of a mask."""
        # The arguments may depend on parameters, and have gradients of one training step only.
        setting = (hidden.dtype, torch.is_grad_enabled(), torch.is_inference_mode_enabled())
        known: _CachedCalls | None = self._remembered.get(mask)
        if known is None or known.setting != setting:
            trace = _Trace(rest=self._rest)
            self._run(self._stand_in(mask), trace)
            self._learn_other_outputs(trace)
            known = self._remembered[mask] = _CachedCalls(setting, trace.calls)
        return known.calls

    def _other_outputs(self, hidden: Tensor) -> _OtherOutputs:
        if self._rest is None:
            trace = _Trace()
            with torch.no_grad(), torch.random.fork_rng([]):
                self._run(self._smallest_batch(hidden.device), trace)
            self._learn_other_outputs(trace)
            return trace.rest or _OtherOutputs(None)
        return self._rest

    def _learn_other_outputs(self, trace: _Trace) -> None:
        if trace.rest is not None and trace.rest.is_constant:
            self._rest = trace.rest

    def _run(self, batch: Mapping[str, Tensor], trace: _Trace) -> Any:
        """Run the model's own forward pass with recorders instead of its layers."""
        arguments = {**batch, "use_cache": False, "return_dict": True}
        return self._with_recorders(trace)(**{
            name: value for name, value in arguments.items() if name in self._accepted
        })  # fmt: skip

    def _with_recorders(self, trace: _Trace) -> Any:
        """Return a copy of the model with recorders instead of layers; other modules are shared.

        A new copy is created for every pass, so that threads and later changes of the model do not
        interfere.
        """
        recorders = nn.ModuleList(_Recorder(layer, trace) for layer in self._blocks())
        root = module = _shallow_copy(self.model)
        *parents, last = self._path.split(".")
        for name in parents:
            module._modules[name] = _shallow_copy(module._modules[name])
            module = module._modules[name]
        module._modules[last] = recorders
        return root

    def _embedded(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Return the input of the first layer."""
        trace = _Trace(rest=self._rest)
        self._run(batch, trace)
        self._learn_other_outputs(trace)
        hidden = trace.first_hidden
        if hidden is None or len(trace.calls) != self.n_layers:
            raise ValueError(
                f"this {self.family} model called {len(trace.calls)} of its {self.n_layers} layers"
            )
        return hidden

    def _stand_in(self, mask: Tensor) -> dict[str, Tensor]:
        """Return a batch with the same lengths and arbitrary content."""
        raise NotImplementedError

    def _smallest_batch(self, device: torch.device) -> dict[str, Tensor]:
        """Return the smallest batch that the model accepts."""
        raise NotImplementedError


class _GenericTextAdapter(GenericAdapter):
    """Generic adapter for models that read token ids."""

    kind: ClassVar[Literal["text", "image"]] = "text"
    needed_sizes: ClassVar[tuple[str, ...]] = ("hidden_size", "num_hidden_layers", "vocab_size")

    @property
    def max_length(self) -> int | None:
        most = getattr(self.model.config, "max_position_embeddings", None)
        if not isinstance(most, int) or most < 1:
            return None  # relative positions
        return most - _first_position(self.model)

    def pool(self, hidden_rows: Tensor) -> Tensor:
        """See `GenericAdapter.pool`; each position is passed as a separate text."""
        single = hidden_rows.reshape(-1, 1, hidden_rows.shape[-1])
        trace = _Trace(single, self._other_outputs(hidden_rows))
        real = torch.ones(single.shape[:2], dtype=torch.bool, device=single.device)
        pooled: Tensor = self._run(self._stand_in(real), trace)[0]
        return pooled.reshape(*hidden_rows.shape[:-1], pooled.shape[-1])

    def embed(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        ids = batch["input_ids"]
        if self.max_length is not None and ids.shape[1] > self.max_length:
            raise ValueError(
                f"input_ids has {ids.shape[1]} tokens a row; this {self.family} backbone has "
                f"positions for at most {self.max_length}. Lower max_length."
            )
        attention_mask = batch.get("attention_mask")
        mask = (
            torch.ones_like(ids, dtype=torch.bool)
            if attention_mask is None
            else attention_mask.bool()
        )
        hidden = self._embedded({**batch, "attention_mask": mask.long()})
        # Record the calls now: during gradient checkpointing, a layer must not add to the cache.
        self._calls(hidden, mask)
        return hidden, mask

    def _stand_in(self, mask: Tensor) -> dict[str, Tensor]:
        pad = getattr(self.model.config, "pad_token_id", None)
        pad = pad if isinstance(pad, int) else 0
        ids = torch.where(mask, int(pad == 0), pad)
        return {"input_ids": ids, "attention_mask": mask.long()}

    def _smallest_batch(self, device: torch.device) -> dict[str, Tensor]:
        return self._stand_in(torch.ones(1, 1, dtype=torch.bool, device=device))


class _GenericImageAdapter(GenericAdapter):
    """Generic adapter for models that read pixels, with the image size of the configuration."""

    kind: ClassVar[Literal["text", "image"]] = "image"
    needed_sizes: ClassVar[tuple[str, ...]] = ("hidden_size", "num_hidden_layers", "num_channels")

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__(model)
        names = [name for name, _ in model.named_parameters()]
        self.has_class_token = any(name.endswith(_CLASS_TOKENS) for name in names)

    @property
    def pixel_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the images that the backbone reads."""
        config = self.model.config
        size = config.image_size
        height, width = (size, size) if isinstance(size, int) else size
        return int(config.num_channels), int(height), int(width)

    def embed(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        pixels = batch["pixel_values"]
        channels, height, width = self.pixel_shape
        if pixels.shape[1] != channels:
            raise ValueError(
                f"pixel_values has {pixels.shape[1]} channels; this {self.family} backbone expects "
                f"{channels}."
            )
        if tuple(pixels.shape[2:]) != (height, width):
            raise ValueError(
                f"image_size: a {self.family} backbone is run by the generic adapter, at its own "
                f"size of {height}x{width} pixels only; got {pixels.shape[2]}x{pixels.shape[3]}."
            )
        weight = next(self.model.parameters())
        hidden = self._embedded({"pixel_values": pixels.to(weight.dtype)})
        if hidden.ndim != 3:
            raise ValueError(f"its layers read {hidden.ndim} dimensions, not (n, positions, width)")
        mask = torch.ones(hidden.shape[:2], dtype=torch.bool, device=hidden.device)
        self._calls(hidden, mask)
        return hidden, mask

    def _stand_in(self, mask: Tensor) -> dict[str, Tensor]:
        # The arguments of layers only depend on the size of the images, which is the same for all.
        return self._smallest_batch(mask.device)

    def _smallest_batch(self, device: torch.device) -> dict[str, Tensor]:
        dtype = next(self.model.parameters()).dtype
        return {"pixel_values": torch.zeros(1, *self.pixel_shape, dtype=dtype, device=device)}


def generic_adapter_class(model_type: str) -> type[GenericAdapter] | None:
    """Return the adapter class for a family without an adapter of its own.

    Parameters
    ----------
    model_type : str
        The family, as transformers names it.

    Returns
    -------
    type or None
        None if transformers has no model of that name that reads texts or images.

    Raises
    ------
    ValueError
        If the family is known to compute what cannot be run layer by layer.
    """
    if model_type in _NEVER:
        raise ValueError(
            f"backbone: the {model_type!r} family cannot be run layer by layer: "
            f"{_NEVER[model_type]}."
        )
    if model_type not in CONFIG_MAPPING:
        return None
    return _class_for(model_type)


@functools.cache
def _class_for(model_type: str) -> type[GenericAdapter] | None:
    encoders: Mapping[str, str] = MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES
    name = encoders.get(model_type) or _first(MODEL_MAPPING_NAMES.get(model_type))
    model_class = getattr(transformers, name, None) if name else None
    bases = {"input_ids": _GenericTextAdapter, "pixel_values": _GenericImageAdapter}
    base = bases.get(getattr(model_class, "main_input_name", None) or "")
    if model_class is None or base is None:
        return None
    accepted = inspect.signature(model_class.__init__).parameters
    is_encoder = name != _first(MODEL_MAPPING_NAMES.get(model_type))
    causal = (
        model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
        and model_type not in MODEL_FOR_MASKED_LM_MAPPING_NAMES
        and model_type not in _ENCODERS
    )
    members = {
        "__doc__": f"The {model_type} family, in whole layers.",
        "family": model_type,
        "causal": causal,
        "config_class": CONFIG_MAPPING[model_type].__name__,
        "model_class": model_class.__name__,
        "auto_class": "AutoModelForTextEncoding" if is_encoder else "AutoModel",
        "attention": "sdpa" if getattr(model_class, "_supports_sdpa", False) else "eager",
        "model_options": {"add_pooling_layer": False} if "add_pooling_layer" in accepted else {},
    }
    return type(f"Generic{model_class.__name__}Adapter", (base,), members)


def _first(names: Any) -> Any:
    return names[0] if isinstance(names, (tuple, list)) else names


def _remake(model_type: str, model: PreTrainedModel) -> GenericAdapter:
    adapter_class = _class_for(model_type)
    if adapter_class is None:
        raise ValueError(f"backbone: this version of transformers has no {model_type!r} models.")
    return adapter_class(model)


def _path_of_layers(model: PreTrainedModel, family: str) -> str:
    """Return the name of the only outermost list with as many modules as there are layers."""
    n_layers = model.config.num_hidden_layers
    found = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == n_layers
    ]
    outer = [name for name in found if not any(name.startswith(f"{other}.") for other in found)]
    if len(outer) != 1:
        what = f"several ({', '.join(outer)})" if outer else "none"
        raise ValueError(
            f"backbone: expected one list of num_hidden_layers={n_layers} layers in a {family} "
            f"model, found {what}."
        )
    return outer[0]


def _first_position(model: nn.Module) -> int:
    """Return the number of unused positions, in families whose positions start after padding."""
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            return 0 if module.padding_idx is None else module.padding_idx + 1
    return 0


def _shallow_copy(module: Any) -> Any:
    """Return a module with the same weights and buffers, and its own table of submodules."""
    twin = copy.copy(module)
    twin.__dict__["_modules"] = dict(module._modules)
    if getattr(twin, "layerdrop", 0):
        twin.layerdrop = 0.0  # the arguments of a dropped layer would not be recorded
    return twin
