"""Common parts of the loaders of real data sets: parameters and the folder of the files."""

import os
from pathlib import Path
from typing import Any

from sklearn_epee._compat import StrOptions
from sklearn_epee.datasets._paths import expanded

ENVIRONMENT_VARIABLE = "SKLEARN_EPEE_DATA"
SUBSETS = ("train", "dev", "test")

# Where sets are downloaded to if neither `data_home` nor the environment names a folder.
DEFAULT_HOME = "~/sklearn_epee_data"

LOADER_CONSTRAINTS: dict[str, list[Any]] = {
    "subset": [StrOptions({*SUBSETS, "all"})],
    "data_home": [str, os.PathLike, None],
    "as_frame": ["boolean"],
    "return_X_y": ["boolean"],
}

FETCHER_CONSTRAINTS = LOADER_CONSTRAINTS | {"download_if_missing": ["boolean"]}

_LAYOUT = (
    "The folder is expected to hold <name>/train.csv.gz, dev.csv.gz and test.csv.gz for the text "
    "sets (ddi2013, git, health_advice, phee) and medmnist/<name>.npz for the image sets "
    "(breastmnist, pathmnist_subset, pneumoniamnist and others of MedMNIST)."
)


def subsets_of(subset: str, parts: tuple[str, ...] = SUBSETS) -> tuple[str, ...]:
    """Return the parts that make up `subset`, in the order of the rows."""
    return parts if subset == "all" else (subset,)


def data_file(home: Path, relative: str, by_hand: str = "") -> Path:
    """Return the existing file `relative` of the data folder."""
    path = home / relative
    if not path.is_file():
        raise FileNotFoundError(
            f"data_home {str(home)!r} has no file {relative!r}. {_LAYOUT} {by_hand}".rstrip()
        )
    return path


def data_folder(data_home: str | os.PathLike[str] | None, *, create: bool = False) -> Path:
    """Return the folder of the data; with `create`, create it for downloads.

    Raises
    ------
    ValueError
        If neither `data_home` nor the environment variable is set.
    FileNotFoundError
        If the folder does not exist and `create` is False.
    """
    origin = "data_home"
    if data_home is None:
        origin = f"data_home (from the environment variable {ENVIRONMENT_VARIABLE})"
        data_home = os.environ.get(ENVIRONMENT_VARIABLE) or (DEFAULT_HOME if create else None)
        if not data_home:
            raise ValueError(
                f"data_home is None and the environment variable {ENVIRONMENT_VARIABLE} is not "
                "set; pass the folder of the data as data_home, or set the variable to it. "
                f"{_LAYOUT}"
            )
    folder = expanded(data_home)
    if create or _is_folder(folder):
        return folder
    raise FileNotFoundError(f"{origin} must be an existing folder; got {str(folder)!r}. {_LAYOUT}")


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # a name too long to be one
        return False
