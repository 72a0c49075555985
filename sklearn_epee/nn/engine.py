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
from .fast_backbone import LayerwiseBackbone, fast_backbone
from .graphs import LayerGraphs
from .joint_leaving import dynamic_rule
from .leaving import (
    ExitPolicy,
    Exits,
    LeaveChances,
    LeavingRule,
    RecordingRule,
    Standing,
    joined_standings,
)
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
class _Cohort:
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
    standing : Standing or None
        What the rule remembers of them.
    """

    layer: int
    rows: NDArray[np.intp]
    hidden: Tensor
    mask: Tensor
    standing: Standing | None = None

    @property
    def width(self) -> int:
        """Positions of each sample, padding included."""
        return self.mask.shape[1]

    def halves(self) -> tuple[_Cohort, _Cohort]:
        """Cut in two."""
        middle = len(self.rows) // 2
        first = torch.arange(middle, device=self.mask.device)
        second = torch.arange(middle, len(self.rows), device=self.mask.device)
        return self._take(first, slice(0, middle)), self._take(second, slice(middle, None))

    def _take(self, index: Tensor, rows: slice) -> _Cohort:
        standing = None if self.standing is None else self.standing.take(index)
        return _Cohort(self.layer, self.rows[rows], self.hidden[index], self.mask[index], standing)

    @classmethod
    def join(cls, parts: Sequence[_Cohort]) -> _Cohort:
        """Put cohorts of the same layer together, padded to the widest."""
        if len(parts) == 1:
            return parts[0]
        width = max(part.mask.shape[1] for part in parts)
        return cls(
            parts[0].layer,
            np.concatenate([part.rows for part in parts]),
            torch.cat([_widened(part.hidden, width) for part in parts]),
            torch.cat([_widened(part.mask, width) for part in parts]),
            joined_standings(part.standing for part in parts),
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
        self._chances: OrderedDict[tuple[object, ...], LeaveChances] = OrderedDict()

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
        chances = self._chances_for((policy.tau, policy.patience, policy.joint_exit))
        self._run(samples, batch_size, rule, chances)
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

    def _chances_for(self, policy: tuple[object, ...]) -> LeaveChances:
        chances = self._chances.setdefault(policy, LeaveChances(self._network.n_layers))
        if len(self._chances) > _REMEMBERED_POLICIES:
            self._chances.popitem(last=False)
        return chances

    def _run(
        self,
        samples: EncodedSamples,
        batch_size: int | str,
        rule: LeavingRule,
        chances: LeaveChances | None = None,
    ) -> None:
        limit = batch_limit(batch_size, self._device)
        batches = batches_by_length(samples.lengths, limit)
        if self._n_walks > 1:
            batches = iter(listed := list(batches))
            if len(listed) >= _BATCHES_FOR_WALKS and not self._can_replay(samples, listed[0]):
                self._walk_side_by_side(samples, listed, rule, chances, limit)
                return
        with torch.inference_mode():
            _Walk(self, rule, chances, limit, self._graphs).through(samples, batches)

    def _can_replay(self, samples: EncodedSamples, rows: NDArray[np.intp]) -> bool:
        """Tell whether the largest batch is small enough for graphs, which one walk replays."""
        return self._graphs is not None and self._graphs.fits(
            len(rows) * int(samples.lengths[rows].max())
        )

    def _walk_side_by_side(
        self,
        samples: EncodedSamples,
        batches: list[NDArray[np.intp]],
        rule: LeavingRule,
        chances: LeaveChances | None,
        limit: BatchLimit,
    ) -> None:
        """Let threads take the batches in turns; who takes which does not depend on the clock."""
        ready = torch.cuda.current_stream(self._device) if self._device.type == "cuda" else None

        def work(part: int) -> None:
            with torch.inference_mode(), _queue_after(ready):
                walk = _Walk(self, rule, chances, limit)
                walk.through(samples, batches[part :: self._n_walks])

        with ThreadPoolExecutor(self._n_walks) as threads:
            for done in [threads.submit(work, part) for part in range(self._n_walks)]:
                done.result()

    def start(self, samples: EncodedSamples, rows: NDArray[np.intp]) -> _Cohort:
        """Embed some samples."""
        batch = {name: self._place(part) for name, part in samples.batch(rows).items()}
        hidden, mask = self._backbone.embed(batch)
        return _Cohort(0, rows, hidden, mask)

    def step(
        self,
        cohort: _Cohort,
        rule: LeavingRule,
        chances: LeaveChances | None,
        graphs: LayerGraphs | None = None,
    ) -> _Cohort | None:
        """Run one layer; give those who stay, or None if nobody does."""
        layer = cohort.layer + 1
        if graphs is not None and graphs.fits(cohort.mask.numel()):
            hidden, logits = graphs(layer, cohort.hidden, cohort.mask)
            if rule.reads(layer):
                return self._settle(cohort, hidden, logits, rule, chances)
            return _Cohort(layer, cohort.rows, hidden, cohort.mask, cohort.standing)
        k, v = self._backbone.keys_values(layer, cohort.hidden)
        if not rule.reads(layer):
            hidden = self._backbone.rows(layer, cohort.hidden, k, v, cohort.mask)
            return _Cohort(layer, cohort.rows, hidden, cohort.mask, cohort.standing)
        if self._row_first(cohort, rule, chances):
            return self._step_row_first(cohort, (k, v), rule, chances)
        return self._step_whole(cohort, (k, v), rule, chances)

    def _step_whole(
        self,
        cohort: _Cohort,
        keys_values: tuple[Tensor, Tensor],
        rule: LeavingRule,
        chances: LeaveChances | None,
    ) -> _Cohort | None:
        """Run all positions, then ask the head."""
        layer, mask = cohort.layer + 1, cohort.mask
        hidden = self._rest(layer, cohort.hidden, keys_values, mask)
        logits = self._network.exit_logits(layer, hidden, cohort.hidden, mask, self._backbone.pool)
        return self._settle(cohort, hidden, logits, rule, chances)

    def _run_layer(self, layer: int, hidden: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Run all positions and the head, without a decision."""
        k, v = self._backbone.keys_values(layer, hidden)
        above = self._backbone.rows(layer, hidden, k, v, mask)
        return above, self._network.exit_logits(layer, above, hidden, mask, self._backbone.pool)

    def _settle(
        self,
        cohort: _Cohort,
        hidden: Tensor,
        logits: Tensor,
        rule: LeavingRule,
        chances: LeaveChances | None,
    ) -> _Cohort | None:
        """Decide who leaves a layer that has run for all; give those who stay."""
        layer, mask = cohort.layer + 1, cohort.mask
        stay, standing = self._decide(cohort, logits, rule, chances)
        if stay is None:
            return _Cohort(layer, cohort.rows, hidden, mask, standing)
        if not len(stay):
            return None
        index, width = self._index(stay), self._width(mask, stay)
        kept = None if standing is None else standing.take(index)
        return _Cohort(
            layer, cohort.rows[stay], hidden[:, :width][index], mask[:, :width][index], kept
        )

    def _step_row_first(
        self,
        cohort: _Cohort,
        keys_values: tuple[Tensor, Tensor],
        rule: LeavingRule,
        chances: LeaveChances | None,
    ) -> _Cohort | None:
        """Run the position that the head reads, ask it, and run the rest for those who stay."""
        layer, hidden, mask = cohort.layer + 1, cohort.hidden, cohort.mask
        started = perf_counter()
        row = self._read_row(layer, hidden, keys_values, mask)
        self._costs.note_row(len(row), perf_counter() - started)
        logits = self._network.row_logits(layer, row, hidden, mask, self._backbone.pool)
        stay, standing = self._decide(cohort, logits, rule, chances)
        rows = cohort.rows
        if stay is not None:
            if not len(stay):
                return None
            index, width = self._index(stay), self._width(mask, stay)
            rows, standing = rows[stay], None if standing is None else standing.take(index)
            hidden, mask = hidden[:, :width][index], mask[:, :width][index]
            k, v = keys_values
            keys_values = k[:, :, :width][index], v[:, :, :width][index]
        return _Cohort(layer, rows, self._rest(layer, hidden, keys_values, mask), mask, standing)

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
        cohort: _Cohort,
        logits: Tensor,
        rule: LeavingRule,
        chances: LeaveChances | None,
    ) -> tuple[NDArray[np.intp] | None, Standing | None]:
        layer = cohort.layer + 1
        proba = task_softmax(logits, self._network.class_counts)
        decision = rule.decide(layer, proba, cohort.rows, cohort.standing)
        if chances is not None:
            n = len(cohort.rows)
            chances.note(layer, n, 0 if decision.stay is None else n - len(decision.stay))
        return decision.stay, decision.standing

    def _row_first(self, cohort: _Cohort, rule: LeavingRule, chances: LeaveChances | None) -> bool:
        """Tell whether the head's own row should be computed before the others."""
        layer = cohort.layer + 1
        if not self._network.reads_one_row or not rule.may_leave(layer):
            return False
        if layer == rule.last_layer:
            return True
        chance = 0.0 if chances is None else chances.at(layer)
        n, t = cohort.mask.shape
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


class _Walk:
    """Cohorts on their way through the layers; thin ones wait for company.

    Parameters
    ----------
    engine : Engine
    rule : LeavingRule
    chances : LeaveChances or None
    limit : BatchLimit
        How large cohorts may be.
    graphs : LayerGraphs, default=None
        For small cohorts.
    """

    def __init__(
        self,
        engine: Engine,
        rule: LeavingRule,
        chances: LeaveChances | None,
        limit: BatchLimit,
        graphs: LayerGraphs | None = None,
    ) -> None:
        self.limit = limit
        self._graphs = graphs
        self._engine = engine
        self._rule = rule
        self._chances = chances
        self._waiting: dict[int, list[_Cohort]] = {}
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
            cohort = self._engine.start(samples, rows)
        except torch.cuda.OutOfMemoryError:
            if len(rows) == 1:
                raise
            cohort = None
        if cohort is not None:
            self._advance(cohort)
            return
        # Outside the handler, so that the failed attempt's tensors are free by now.
        self._make_room(len(rows))
        for part in np.array_split(rows, 2):
            self.enter(samples, part)

    def drain(self) -> None:
        """Run whoever waits, layer by layer."""
        while self._waiting:
            layer = min(self._waiting)
            for company in self._companies(self._waiting.pop(layer)):
                cohort = self._step(_Cohort.join(company))
                if cohort is not None:
                    self._waiting.setdefault(layer + 1, []).append(cohort)

    def _advance(self, cohort: _Cohort | None) -> None:
        """Run a cohort until it is thin or done."""
        while cohort is not None:
            cohort = self._gather(cohort)
            if cohort is not None:
                cohort = self._step(cohort)

    def _gather(self, cohort: _Cohort) -> _Cohort | None:
        """Let a thin cohort wait; give it with its company once they are enough."""
        if cohort.layer == 0 or not self.limit.is_thin(len(cohort.rows), cohort.width):
            return cohort
        waiting = self._waiting.setdefault(cohort.layer, [])
        company = [other for other in waiting if _are_alike(other.width, cohort.width)]
        width = max(part.width for part in [*company, cohort])
        n = len(cohort.rows) + sum(len(part.rows) for part in company)
        if self.limit.is_thin(n, width):
            waiting.append(cohort)
            return None
        self._waiting[cohort.layer] = [other for other in waiting if other not in company]
        return _Cohort.join([*company, cohort])

    def _companies(self, waiting: list[_Cohort]) -> Iterator[list[_Cohort]]:
        """Group cohorts of a layer by length, so that padding costs less than they gain."""
        company: list[_Cohort] = []
        for cohort in sorted(waiting, key=lambda part: -part.width):
            if company and not self._belongs(cohort, company):
                yield company
                company = []
            company.append(cohort)
        if company:
            yield company

    def _belongs(self, cohort: _Cohort, company: list[_Cohort]) -> bool:
        width = company[0].width
        padding = len(cohort.rows) * (width - cohort.width)
        n = len(cohort.rows) + sum(len(part.rows) for part in company)
        wasteful = padding > _CHEAP_PADDING and not _are_alike(cohort.width, width)
        return n <= self.limit.size(width) and not wasteful

    def _step(self, cohort: _Cohort) -> _Cohort | None:
        try:
            return self._engine.step(cohort, self._rule, self._chances, self._graphs)
        except torch.cuda.OutOfMemoryError:
            if len(cohort.rows) == 1:
                raise
        self._make_room(len(cohort.rows))
        for half in cohort.halves():
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
