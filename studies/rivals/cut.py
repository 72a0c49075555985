"""Jobs "cut-K" and "full": the first K layers of the backbone, or all, fine-tuned with one head.

Early exits must be better than this at equal cost, because it is the result of choosing a depth
before training. Everything except the depth and the single head is as in the jobs "exits": initial
weights, pooling, epochs and learning rates.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import PretrainedConfig

from sklearn_epee._base.text_backbone import compact_tokenizer
from sklearn_epee._checks.images import as_images
from sklearn_epee._nn.backbones import load_backbone, load_config
from sklearn_epee._nn.first_layers import shorter_config
from sklearn_epee._nn.images import common_size, compact_image_config
from sklearn_epee._nn.texts import choose_max_length, compact_text_config
from studies.exits import classifier, fitted
from studies.jobs import BACKBONES, Folder, Job, Kind, reads
from studies.rivals.common import keep, proba_of
from studies.sets import SETS, Parts

MAX_LAYERS = max(backbone.n_layers for backbone in BACKBONES.values())
# Weight files, which are written again or contain the same weights in another format.
_WEIGHTS = ("*.safetensors", "*.bin", "*.h5", "*.onnx", "*.ot", "*.msgpack", "*.index.json")


def cut_checkpoint(source: str | Path, n_layers: int, folder: str | Path, kind: str) -> Path:
    """Write a checkpoint of the first layers of another, with its tokenizer or processor.

    Parameters
    ----------
    source : str or path
        The folder of the whole checkpoint.
    n_layers : int
        Number of first layers to keep.
    folder : str or path
        Target folder; created if it does not exist.
    kind : {"text", "image"}

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    ValueError
        If the checkpoint has fewer layers, or `load_config` does not accept it.
    """
    config = load_config(source, kind)
    if not 1 <= n_layers <= config.num_hidden_layers:
        raise ValueError(
            f"n_layers={n_layers} is not valid; expected 1 to {config.num_hidden_layers}, the "
            f"layers of {str(source)!r}."
        )
    folder = Path(folder)
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns(*_WEIGHTS), dirs_exist_ok=True)
    whole = load_backbone(source, kind)
    with torch.random.fork_rng([]):
        own = load_backbone(shorter_config(whole.config, n_layers), kind)
    weights = whole.state_dict()
    # Strict loading checks that no weight of the kept layers or of other modules is missing.
    own.load_state_dict({name: weights[name] for name in own.state_dict()})
    own.save_pretrained(folder)
    return folder


def compact_config(X: Any, kind: str, n_layers: int) -> tuple[PretrainedConfig, dict[str, Any]]:
    """Return the package's compact architecture for training samples, with `n_layers` layers.

    Parameters
    ----------
    X : list of str or ndarray of images
    kind : {"texts", "images"}
    n_layers : int

    Returns
    -------
    config : PretrainedConfig
    parameters : dict
        Further parameters of the classifier: for texts, the trained tokenizer.
    """
    if kind == "images":
        images = as_images(X, None)
        return shorter_config(
            compact_image_config(common_size(images), images[0].shape[-1]), n_layers
        ), {}
    tokenizer = compact_tokenizer(None, X)
    config = compact_text_config(tokenizer, choose_max_length(None, tokenizer, None, X))
    return shorter_config(config, n_layers), {"tokenizer": tokenizer}


@contextmanager
def one_head(
    job: Job, parts: Parts, folder: Folder, n_layers: int, **parameters: Any
) -> Iterator[Any]:
    """Yield an untrained classifier with the first layers, which only trains its last head.

    Its checkpoint is deleted at the end of the block.
    """
    weights = [0.0] * (n_layers - 1) + [1.0]
    parameters |= {"exit_loss_weights": weights}
    if folder.backbone is None:
        config, more = compact_config(parts.train.X, parts.kind, n_layers)
        yield classifier(job, config, **more, **parameters)
        return
    with tempfile.TemporaryDirectory() as place:
        kind = {"texts": "text", "images": "image"}[parts.kind]
        source = cut_checkpoint(folder.backbone, n_layers, place, kind)
        yield classifier(job, str(source), **parameters)


def trained(
    job: Job, parts: Parts, folder: Folder, n_layers: int, **parameters: Any
) -> tuple[Any, dict[str, Any]]:
    """Return a trained classifier with the first layers and one head, and the training cost.

    Untrained heads are not counted as parameters.
    """
    with one_head(job, parts, folder, n_layers, **parameters) as untrained:
        model, cost = fitted(untrained, parts.train)
    unused = sum(p.numel() for p in model.net_.module_.heads[:-1].parameters())
    return model, cost | {"n_parameters": cost["n_parameters"] - unused}


def run(job: Job, parts: Parts, folder: Folder, n_layers: int | None = None) -> dict[str, Any]:
    """Train the first layers, or all layers, with one head.

    With all layers, the probabilities for the training part are stored, too, for distillation.
    """
    model, cost = trained(job, parts, folder, n_layers or BACKBONES[job.backbone].n_layers)
    taught = {} if n_layers else {"train_proba": proba_of(model, parts.train.X, parts)}
    return keep(job, parts, folder, model, timed=False, **taught) | cost


def applies(data: str, backbone: str, n_layers: int | None = None) -> bool:
    """Return whether there are such jobs: for texts and images, with fewer than all layers."""
    fewer = n_layers is None or n_layers < BACKBONES[backbone].n_layers
    return SETS[data].kind != "spans" and reads(data, backbone) and fewer


KINDS = {
    f"cut-{k}": Kind(partial(run, n_layers=k), partial(applies, n_layers=k))
    for k in range(1, MAX_LAYERS)
} | {"full": Kind(run, applies)}
