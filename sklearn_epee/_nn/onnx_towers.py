"""Export a network with two towers as ONNX graphs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from .batch_layout import CONTEXT
from .onnx_export import check_logits, write_graph
from .onnx_graphs import Backbone, Part, write_layer, write_tower
from .pairs import FIRST, PRESENT, SECOND
from .two_towers import TwoTowerNetwork, hand_over_layers

Batches = list[Mapping[str, Tensor]]


class _HandOver(nn.Module):
    """Computes the context of the second tower's heads from the last states of the first tower."""

    def __init__(self, network: TwoTowerNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, *inputs: Tensor) -> Tensor:
        state, known = inputs
        return torch.where(known, self.network.contexts(state), self.network.no_context)


class _FixedTowers(Part):
    """The complete network from the inputs of both towers to the logits of a layer of the second.

    Without a first input, the learned replacement of its state is used. Without a second input, the
    logits are those of the last exit of the first tower.
    """

    def __init__(
        self, network: TwoTowerNetwork, layer: int, names: tuple[list[str], list[str]]
    ) -> None:
        super().__init__([*names[0], *names[1], PRESENT])
        self.network = network
        self.first, self.second = (Backbone(tower) for tower in network.towers)
        self.hand_over = _HandOver(network)
        self._layer = layer
        self._of_first, self._of_second = names

    def forward(self, *inputs: Tensor) -> Tensor:
        batch = self.named(inputs)
        present = batch[PRESENT]
        early, state = self._first_tower({name: batch[name] for name in self._of_first})
        context = self.hand_over(state, present[:, :1])
        hidden, mask = self.second.embed({name: batch[name] for name in self._of_second})
        below = hidden
        for layer in range(1, self._layer + 1):
            below, hidden = hidden, self.second.layer(layer, hidden, mask)
        late, _ = self.second.exit(self._layer, hidden, below, mask, {CONTEXT: context})
        return torch.where(present[:, 1:], late, early)

    def _first_tower(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return the logits of the last exit of the first tower, and the state it hands over."""
        network, tower = self.network, self.first
        hidden, mask = tower.embed(batch)
        every_logits, states = [], []
        for layer in range(1, network.n_first_layers + 1):
            below, hidden = hidden, tower.layer(layer, hidden, mask)
            if layer == network.n_first_layers or network.hands_over_early:
                logits, state = tower.exit(layer, hidden, below, mask, batch)
                every_logits.append(logits)
                states.append(state)
        if not network.hands_over_early:
            return logits, state
        after = network.hand_over_after or 0
        ends = hand_over_layers(torch.stack(every_logits, 1), network.class_counts, after) - 1
        place = ends[:, None, None].expand(-1, 1, state.shape[1])
        return logits, torch.stack(states, 1).gather(1, place).squeeze(1)


def write_tower_stages(
    network: TwoTowerNetwork, names: tuple[str, str], batches: tuple[Batches, Batches], folder: Path
) -> list[str]:
    """Write the graphs of both towers and of the hand-over; return the names of the files.

    Parameters
    ----------
    network : TwoTowerNetwork
        In evaluation mode, on the CPU, in float32.
    names : tuple of str
        Names of the towers, in the order in which they run; prefixes of the names of their files.
    batches : tuple of lists of dict of str to Tensor
        Inputs of each tower, as in `write_stages`.
    folder : Path

    Raises
    ------
    CannotExportError
        As in `write_stages`.
    """
    first, second = (Backbone(tower) for tower in network.towers)
    files = write_tower(first, batches[0], folder, f"{names[0]}_", hands_over=True)
    sizes = [len(next(iter(batch.values()))) for batch in batches[1]]
    generator = torch.Generator().manual_seed(0)
    states = [torch.randn(n, network.first.n_features, generator=generator) for n in sizes]
    known = [(torch.arange(n) % 3 > 0).unsqueeze(1) for n in sizes]
    handed: Batches = [
        {"state": state, "known": mask} for state, mask in zip(states, known, strict=True)
    ]
    part = _HandOver(network)
    axes = {name: {0: "n"} for name in ("state", "known", CONTEXT)}
    write_graph(part, handed, [CONTEXT], axes, folder / "hand_over.onnx")
    with torch.no_grad():
        with_context: Batches = [
            {**batch, CONTEXT: part(*given.values())}
            for batch, given in zip(batches[1], handed, strict=True)
        ]
    files.append("hand_over.onnx")
    return files + write_tower(second, with_context, folder, f"{names[1]}_")


def write_tower_layer(
    network: TwoTowerNetwork, layer: int, batches: tuple[Batches, Batches], folder: Path
) -> list[str]:
    """Write one graph up to a layer, counted through both towers; return the names of the files.

    Parameters as in `write_tower_stages`. The graph of a layer of the first tower has the inputs of
    this tower. That of a layer of the second has the inputs of both, and `present`, (n, 2) bool:
    which of the two inputs each sample has.
    """
    if layer <= network.n_first_layers:
        return write_layer(network.first, layer, batches[0], folder)
    file = folder / "layer.onnx"
    first, second = (Backbone(tower) for tower in network.towers)
    joined: Batches = [
        {**one, **other, PRESENT: _some_present(len(next(iter(one.values()))))}
        for one, other in zip(*batches, strict=True)
    ]
    names = list(batches[0][0]), list(batches[1][0])
    part = _FixedTowers(network, layer - network.n_first_layers, names)
    check_logits(
        part,
        joined,
        [_of_network(network, layer, *both) for both in zip(*batches, joined, strict=True)],
        None,
        file.name,
    )
    of_first = first.axes(batches[0][0])
    axes = second.axes(batches[1][0]) | {name: of_first[name] for name in names[0]}
    write_graph(part, joined, ["logits"], axes | {PRESENT: {0: "n"}}, file)
    return [file.name]


@torch.no_grad()
def _of_network(
    network: TwoTowerNetwork,
    layer: int,
    first: Mapping[str, Tensor],
    second: Mapping[str, Tensor],
    joined: Mapping[str, Tensor],
) -> Tensor:
    """Return the logits of a layer as computed by the network itself."""
    given = {f"{FIRST}{name}": part for name, part in first.items()}
    given |= {f"{SECOND}{name}": part for name, part in second.items()}
    logits: Tensor = network(**given, **{PRESENT: joined[PRESENT]})
    return logits[:, layer - 1]


def _some_present(n: int) -> Tensor:
    """Return which inputs samples have: both, only the second, only the first, and so on."""
    rows = torch.tensor([[True, True], [False, True], [True, False]])
    return rows[torch.arange(n) % 3]
