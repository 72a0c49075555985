"""Dynamic, budgeted and staged inference: one walk through the layers, and rules for leaving."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from time import perf_counter

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .batching import BatchLimit, EncodedSamples, batch_limit, batches_by_length
from .exit_rules import (
    ExitPolicy,
    ExitRates,
    ExitRule,
    Exits,
    ExitState,
    RecordingRule,
    joined_states,
)
from .fast_backbone import LayerwiseBackbone, fast_backbone
from .graphs import LayerGraphs
from .joint_exit_rules import dynamic_rule
from .network import MultiExitNetwork
from .row_costs import RowCosts
from .tasks import task_softmax

# Policies whose exits are remembered to guess where samples will leave.
_REMEMBERED_POLICIES = 64
# Walks that a GPU runs side by side, so that it has work while a decision is on its way to the
# host, and the batches from which on they pay.
_GPU_WALKS = 2
_BATCHES_FOR_WALKS = 4
# Positions that cost less than another round through a layer's calls.
_CHEAP_PADDING = 64


@dataclass(frozen=True, eq=False)
class _ActiveBatch:
    """Samples that have passed the same layers and go on together.

    Attributes
    ----------
    layer : int
        Layers passed.
    rows : ndarray of shape (n,)
        Numbers of the samples.
    hidden : Tensor of shape (n, t, d)
    mask : Tensor of shape (n, t), bool
        Real tokens; each row's come first.
    state : ExitState or None
        What the rule remembers of them.
    """

    layer: int
    rows: NDArray[np.intp]
    hidden: Tensor
    mask: Tensor
    state: ExitState | None = None

    @property
    def width(self) -> int:
        """Positions of each sample, padding included."""
        return self.mask.shape[1]

    def halves(self) -> tuple[_ActiveBatch, _ActiveBatch]:
        """Cut in two."""
        middle = len(self.rows) // 2
        first = torch.arange(middle, device=self.mask.device)
        second = torch.arange(middle, len(self.rows), device=self.mask.device)
        return self._take(first, slice(0, middle)), self._take(second, slice(middle, None))

    def _take(self, index: Tensor, rows: slice) -> _ActiveBatch:
        state = None if self.state is None else self.state.take(index)
        return _ActiveBatch(
            self.layer, self.rows[rows], self.hidden[index], self.mask[index], state
        )

    @classmethod
    def join(cls, parts: Sequence[_ActiveBatch]) -> _ActiveBatch:
        """Put cohorts of the same layer together, padded to the widest."""
        if len(parts) == 1:
            return parts[0]
        width = max(part.mask.shape[1] for part in parts)
        return cls(
            parts[0].layer,
            np.concatenate([part.rows for part in parts]),
            torch.cat([_widened(part.hidden, width) for part in parts]),
            torch.cat([_widened(part.mask, width) for part in parts]),
            joined_states(part.state for part in parts),
        )


class Engine:
    """Runs a trained network in prediction.

    Parameters
    ----------
    network : MultiExitNetwork
        In evaluation mode, on its device. Never modified, so threads may share it.
    dtype : torch.dtype, default=torch.float32
        What the layers compute in; heads and entropies are float32.

    Notes
    -----
    On a CPU the layers run on copies of their weights that are laid out for the processor
    (`fast_backbone`), in either precision. On a GPU small batches replay captured graphs
    (`LayerGraphs`), and where there are many batches two threads take every other one, each with
    its own queue: while one waits for a decision the GPU works for the other.
    """

    def __init__(self, network: MultiExitNetwork, dtype: torch.dtype = torch.float32) -> None:
        self._device = next(network.backbone.parameters()).device
        fast = fast_backbone(network.adapter, dtype) if self._device.type == "cpu" else None
        if fast is None:
            network = network.to_inference_copy(self._device, dtype)
        self._network = network
        self._backbone: LayerwiseBackbone = network.adapter if fast is None else fast
        self._input_dtype = next(network.backbone.parameters()).dtype
        self._costs = RowCosts(timed=self._device.type == "cpu")
        on_gpu = self._device.type == "cuda"
        self._n_walks = _GPU_WALKS if on_gpu else 1
        pads_length = network.adapter.kind == "text"
        self._graphs = LayerGraphs(self._run_layer, pads_length) if on_gpu else None
        self._rates: OrderedDict[tuple[object, ...], ExitRates] = OrderedDict()

    def dynamic(
        self,
        samples: EncodedSamples,
        policy: ExitPolicy,
        batch_size: int | str = "auto",
        schedule: NDArray[np.int64] | None = None,
    ) -> Exits:
        """Let each sample leave by the policy.

        Parameters
        ----------
        samples : EncodedSamples
        policy : ExitPolicy
        batch_size : int or "auto"
        schedule : ndarray of shape (n,), int64, default=None
            Layers at which samples leave instead; for benchmarks.

        Returns
        -------
        Exits
        """
        network = self._network
        out = Exits.empty(len(samples), network.n_columns, len(network.class_counts))
        rule = dynamic_rule(policy, network.n_layers, out, schedule, network.class_counts)
        rates = self._rates_for((policy.tau, policy.patience, policy.joint_exit))
        self._run(samples, batch_size, rule, rates)
        return out

    def budgeted(
        self, samples: EncodedSamples, layer: int, batch_size: int | str = "auto"
    ) -> NDArray[np.float32]:
        """Answer every sample at one layer; layers above it do not run.

        Parameters
        ----------
        samples : EncodedSamples
        layer : int
            Layer, counted from 1.
        batch_size : int or "auto"

        Returns
        -------
        ndarray of shape (n, K), float32
            With several tasks side by side, K is the sum of their classes.
        """
        out = np.empty((len(samples), 1, self._network.n_columns), np.float32)
        self._run(samples, batch_size, RecordingRule(layer, layer, out))
        return out[:, 0]

    def staged(
        self, samples: EncodedSamples, batch_size: int | str = "auto"
    ) -> NDArray[np.float32]:
        """Probabilities of every exit in one pass.

        Parameters
        ----------
        samples : EncodedSamples
        batch_size : int or "auto"

        Returns
        -------
        ndarray of shape (n, M, K), float32
            With several tasks side by side, K is the sum of their classes.
        """
        n_layers = self._network.n_layers
        out = np.empty((len(samples), n_layers, self._network.n_columns), np.float32)
        self._run(samples, batch_size, RecordingRule(1, n_layers, out))
        return out

    def _rates_for(self, policy: tuple[object, ...]) -> ExitRates:
        rates = self._rates.setdefault(policy, ExitRates(self._network.n_layers))
        if len(self._rates) > _REMEMBERED_POLICIES:
            self._rates.popitem(last=False)
        return rates

    def _run(
        self,
        samples: EncodedSamples,
        batch_size: int | str,
        rule: ExitRule,
        rates: ExitRates | None = None,
    ) -> None:
        limit = batch_limit(batch_size, self._device)
        batches = batches_by_length(samples.lengths, limit)
        if self._n_walks > 1:
            batches = iter(listed := list(batches))
            if len(listed) >= _BATCHES_FOR_WALKS and not self._can_replay(samples, listed[0]):
                self._walk_side_by_side(samples, listed, rule, rates, limit)
                return
        with torch.inference_mode():
            _BatchScheduler(self, rule, rates, limit, self._graphs).through(samples, batches)

    def _can_replay(self, samples: EncodedSamples, rows: NDArray[np.intp]) -> bool:
        """Tell whether the largest batch is small enough for graphs, which one walk replays."""
        return self._graphs is not None and self._graphs.fits(
            len(rows) * int(samples.lengths[rows].max())
        )

    def _walk_side_by_side(
        self,
        samples: EncodedSamples,
        batches: list[NDArray[np.intp]],
        rule: ExitRule,
        rates: ExitRates | None,
        limit: BatchLimit,
    ) -> None:
        """Let threads take the batches in turns; who takes which does not depend on the clock."""
        ready = torch.cuda.current_stream(self._device) if self._device.type == "cuda" else None

        def work(part: int) -> None:
            with torch.inference_mode(), _queue_after(ready):
                walk = _BatchScheduler(self, rule, rates, limit)
                walk.through(samples, batches[part :: self._n_walks])

        with ThreadPoolExecutor(self._n_walks) as threads:
            for done in [threads.submit(work, part) for part in range(self._n_walks)]:
                done.result()

    def start(self, samples: EncodedSamples, rows: NDArray[np.intp]) -> _ActiveBatch:
        """Embed some samples."""
        batch = {name: self._place(part) for name, part in samples.batch(rows).items()}
        hidden, mask = self._backbone.embed(batch)
        return _ActiveBatch(0, rows, hidden, mask)

    def step(
        self,
        active: _ActiveBatch,
        rule: ExitRule,
        rates: ExitRates | None,
        graphs: LayerGraphs | None = None,
    ) -> _ActiveBatch | None:
        """Run one layer; give those who stay, or None if nobody does."""
        layer = active.layer + 1
        if graphs is not None and graphs.fits(active.mask.numel()):
            hidden, logits = graphs(layer, active.hidden, active.mask)
            if rule.reads(layer):
                return self._settle(active, hidden, logits, rule, rates)
            return _ActiveBatch(layer, active.rows, hidden, active.mask, active.state)
        k, v = self._backbone.keys_values(layer, active.hidden)
        if not rule.reads(layer):
            hidden = self._backbone.rows(layer, active.hidden, k, v, active.mask)
            return _ActiveBatch(layer, active.rows, hidden, active.mask, active.state)
        if self._row_first(active, rule, rates):
            return self._step_row_first(active, (k, v), rule, rates)
        return self._step_whole(active, (k, v), rule, rates)

    def _step_whole(
        self,
        active: _ActiveBatch,
        keys_values: tuple[Tensor, Tensor],
        rule: ExitRule,
        rates: ExitRates | None,
    ) -> _ActiveBatch | None:
        """Run all positions, then ask the head."""
        layer, mask = active.layer + 1, active.mask
        hidden = self._rest(layer, active.hidden, keys_values, mask)
        logits = self._network.exit_logits(layer, hidden, active.hidden, mask, self._backbone.pool)
        return self._settle(active, hidden, logits, rule, rates)

    def _run_layer(self, layer: int, hidden: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Run all positions and the head, without a decision."""
        k, v = self._backbone.keys_values(layer, hidden)
        above = self._backbone.rows(layer, hidden, k, v, mask)
        return above, self._network.exit_logits(layer, above, hidden, mask, self._backbone.pool)

    def _settle(
        self,
        active: _ActiveBatch,
        hidden: Tensor,
        logits: Tensor,
        rule: ExitRule,
        rates: ExitRates | None,
    ) -> _ActiveBatch | None:
        """Decide who leaves a layer that has run for all; give those who stay."""
        layer, mask = active.layer + 1, active.mask
        stay, state = self._decide(active, logits, rule, rates)
        if stay is None:
            return _ActiveBatch(layer, active.rows, hidden, mask, state)
        if not len(stay):
            return None
        index, width = self._index(stay), self._width(mask, stay)
        kept = None if state is None else state.take(index)
        return _ActiveBatch(
            layer, active.rows[stay], hidden[:, :width][index], mask[:, :width][index], kept
        )

    def _step_row_first(
        self,
        active: _ActiveBatch,
        keys_values: tuple[Tensor, Tensor],
        rule: ExitRule,
        rates: ExitRates | None,
    ) -> _ActiveBatch | None:
        """Run the position that the head reads, ask it, and run the rest for those who stay."""
        layer, hidden, mask = active.layer + 1, active.hidden, active.mask
        started = perf_counter()
        row = self._read_row(layer, hidden, keys_values, mask)
        self._costs.note_row(len(row), perf_counter() - started)
        logits = self._network.row_logits(layer, row, hidden, mask, self._backbone.pool)
        stay, state = self._decide(active, logits, rule, rates)
        rows = active.rows
        if stay is not None:
            if not len(stay):
                return None
            index, width = self._index(stay), self._width(mask, stay)
            rows, state = rows[stay], None if state is None else state.take(index)
            hidden, mask = hidden[:, :width][index], mask[:, :width][index]
            k, v = keys_values
            keys_values = k[:, :, :width][index], v[:, :, :width][index]
        return _ActiveBatch(layer, rows, self._rest(layer, hidden, keys_values, mask), mask, state)

    def _read_row(
        self, layer: int, hidden: Tensor, keys_values: tuple[Tensor, Tensor], mask: Tensor
    ) -> Tensor:
        positions = self._network.read_positions(mask)
        samples = torch.arange(len(hidden), device=hidden.device)
        rows = hidden[samples, positions].unsqueeze(1)
        return self._backbone.rows(layer, rows, *keys_values, mask, positions.unsqueeze(1))[:, 0]

    def _rest(
        self, layer: int, hidden: Tensor, keys_values: tuple[Tensor, Tensor], mask: Tensor
    ) -> Tensor:
        started = perf_counter()
        above = self._backbone.rows(layer, hidden, *keys_values, mask)
        self._costs.note_rest(mask.numel(), perf_counter() - started)
        return above

    def _decide(
        self,
        active: _ActiveBatch,
        logits: Tensor,
        rule: ExitRule,
        rates: ExitRates | None,
    ) -> tuple[NDArray[np.intp] | None, ExitState | None]:
        layer = active.layer + 1
        proba = task_softmax(logits, self._network.class_counts)
        decision = rule.decide(layer, proba, active.rows, active.state)
        if rates is not None:
            n = len(active.rows)
            rates.note(layer, n, 0 if decision.stay is None else n - len(decision.stay))
        return decision.stay, decision.state

    def _row_first(self, active: _ActiveBatch, rule: ExitRule, rates: ExitRates | None) -> bool:
        """Tell whether the head's own row should be computed before the others."""
        layer = active.layer + 1
        if not self._network.reads_one_row or not rule.may_leave(layer):
            return False
        if layer == rule.last_layer:
            return True
        chance = 0.0 if rates is None else rates.at(layer)
        n, t = active.mask.shape
        return self._costs.row_first_pays(n, t, chance)

    def _index(self, stay: NDArray[np.intp]) -> Tensor:
        return torch.from_numpy(stay).to(self._device)

    def _width(self, mask: Tensor, stay: NDArray[np.intp]) -> int:
        """Columns that one of those who stay still fills."""
        if mask.device.type != "cpu":  # asking would stall the queue
            return mask.shape[1]
        return int(mask.numpy()[stay].sum(axis=1).max())

    def _place(self, part: Tensor) -> Tensor:
        dtype = self._input_dtype if part.is_floating_point() else part.dtype
        if self._device.type == "cuda":
            # Pixels of grey images may be one channel seen three times, which cannot be pinned.
            part = part.contiguous().pin_memory()
        return part.to(self._device, dtype, non_blocking=True)


class _BatchScheduler:
    """Cohorts on their way through the layers; thin ones wait for group.

    Parameters
    ----------
    engine : Engine
    rule : ExitRule
    rates : ExitRates or None
    limit : BatchLimit
        How large cohorts may be.
    graphs : LayerGraphs, default=None
        For small cohorts.
    """

    def __init__(
        self,
        engine: Engine,
        rule: ExitRule,
        rates: ExitRates | None,
        limit: BatchLimit,
        graphs: LayerGraphs | None = None,
    ) -> None:
        self.limit = limit
        self._graphs = graphs
        self._engine = engine
        self._rule = rule
        self._rates = rates
        self._waiting: dict[int, list[_ActiveBatch]] = {}
        self._warned = False

    def through(self, samples: EncodedSamples, batches: Iterable[NDArray[np.intp]]) -> None:
        """Take batches in and run all their samples to their exits."""
        for rows in batches:
            self.enter(samples, rows)
        self.drain()

    def enter(self, samples: EncodedSamples, rows: NDArray[np.intp]) -> None:
        """Take in a batch and run it until it is thin or done."""
        most = self.limit.samples
        if most is not None and len(rows) > most:
            self.enter(samples, rows[:most])
            self.enter(samples, rows[most:])
            return
        try:
            active = self._engine.start(samples, rows)
        except torch.cuda.OutOfMemoryError:
            if len(rows) == 1:
                raise
            active = None
        if active is not None:
            self._advance(active)
            return
        # Outside the handler, so that the failed attempt's tensors are free by now.
        self._make_room(len(rows))
        for part in np.array_split(rows, 2):
            self.enter(samples, part)

    def drain(self) -> None:
        """Run whoever waits, layer by layer."""
        while self._waiting:
            layer = min(self._waiting)
            for group in self._merge_groups(self._waiting.pop(layer)):
                active = self._step(_ActiveBatch.join(group))
                if active is not None:
                    self._waiting.setdefault(layer + 1, []).append(active)

    def _advance(self, active: _ActiveBatch | None) -> None:
        """Run a active until it is thin or done."""
        while active is not None:
            active = self._gather(active)
            if active is not None:
                active = self._step(active)

    def _gather(self, active: _ActiveBatch) -> _ActiveBatch | None:
        """Let a thin active wait; give it with its group once they are enough."""
        if active.layer == 0 or not self.limit.is_underfilled(len(active.rows), active.width):
            return active
        waiting = self._waiting.setdefault(active.layer, [])
        group = [other for other in waiting if _are_alike(other.width, active.width)]
        width = max(part.width for part in [*group, active])
        n = len(active.rows) + sum(len(part.rows) for part in group)
        if self.limit.is_underfilled(n, width):
            waiting.append(active)
            return None
        self._waiting[active.layer] = [other for other in waiting if other not in group]
        return _ActiveBatch.join([*group, active])

    def _merge_groups(self, waiting: list[_ActiveBatch]) -> Iterator[list[_ActiveBatch]]:
        """Group cohorts of a layer by length, so that padding costs less than they gain."""
        group: list[_ActiveBatch] = []
        for active in sorted(waiting, key=lambda part: -part.width):
            if group and not self._belongs(active, group):
                yield group
                group = []
            group.append(active)
        if group:
            yield group

    def _belongs(self, active: _ActiveBatch, group: list[_ActiveBatch]) -> bool:
        width = group[0].width
        padding = len(active.rows) * (width - active.width)
        n = len(active.rows) + sum(len(part.rows) for part in group)
        wasteful = padding > _CHEAP_PADDING and not _are_alike(active.width, width)
        return n <= self.limit.size(width) and not wasteful

    def _step(self, active: _ActiveBatch) -> _ActiveBatch | None:
        try:
            return self._engine.step(active, self._rule, self._rates, self._graphs)
        except torch.cuda.OutOfMemoryError:
            if len(active.rows) == 1:
                raise
        self._make_room(len(active.rows))
        for half in active.halves():
            self._advance(half)
        return None

    def _make_room(self, size: int) -> None:
        torch.cuda.empty_cache()
        self.limit = self.limit.at_most(size // 2)
        if not self._warned:
            self._warned = True
            _warn_out_of_memory(size)


def _queue_after(ready: torch.cuda.Stream | None) -> AbstractContextManager[object]:
    """Launch what runs in the block in a queue of its own, after what is ready by then."""
    if ready is None:
        return nullcontext()
    queue = torch.cuda.Stream(ready.device)
    queue.wait_stream(ready)
    return torch.cuda.stream(queue)


def _are_alike(width: int, other: int) -> bool:
    """Tell whether samples of two lengths waste little in one batch."""
    return max(width, other) <= 1.2 * min(width, other) + 2


def _widened(part: Tensor, width: int) -> Tensor:
    """Pad the second dimension at its end, with zeros."""
    missing = width - part.shape[1]
    if not missing:
        return part
    filler = part.new_zeros((part.shape[0], missing, *part.shape[2:]))
    return torch.cat([part, filler], dim=1)


def _warn_out_of_memory(size: int) -> None:
    warnings.warn(
        f"The device ran out of memory with a prediction batch of {size} samples; going on with "
        "halves. Set predict_batch_size lower to avoid this.",
        RuntimeWarning,
        stacklevel=2,
    )
