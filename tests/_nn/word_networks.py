"""Small networks of words, encoded words, and the plain loop that engines are compared with."""

from __future__ import annotations

import torch

from sklearn_epee._nn.backbones import load_backbone
from sklearn_epee._nn.tasks import Classes
from sklearn_epee._nn.token_network import TokenExitNetwork
from sklearn_epee._nn.word_texts import WordTokenizer
from tests.checkpoints import MAX_TOKENS, randomise, tiny_config, tiny_tokenizer

SENTENCES = [
    ["the", "patient", "takes", "zinc", "and", "melatonin", "daily"],
    ["severe", "rash", "after", "ibuprofen", "(", "400", "mg", ")", "."],
    ["no", "pain"],
    ["history", "of", "rash", "with", "iron", ",", "vitamin", "and", "amiodarone", "given"],
]


def make_word_network(
    family: str = "bert", n_classes: Classes = 3, n_layers: int = 3
) -> TokenExitNetwork:
    """Return a network in evaluation mode whose every layer changes its input."""
    backbone = randomise(load_backbone(tiny_config(family, n_layers), "text"))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = TokenExitNetwork(backbone, n_classes)
        with torch.no_grad():
            for weight in network.heads.parameters():
                weight.normal_()
    return network.eval()


def word_tokenizer(family: str = "bert", max_length: int = MAX_TOKENS) -> WordTokenizer:
    """Return what reads words for a family's tiny networks."""
    return WordTokenizer(tiny_tokenizer(family), max_length)
