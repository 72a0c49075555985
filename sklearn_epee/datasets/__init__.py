"""Data sets: loaders of real ones, and a generator that needs no download."""

from sklearn_epee.datasets._csv_files import load_csv
from sklearn_epee.datasets._ddi2013 import load_ddi2013
from sklearn_epee.datasets._git import load_git
from sklearn_epee.datasets._health_advice import load_health_advice
from sklearn_epee.datasets._image_files import load_image_csv, load_image_folder
from sklearn_epee.datasets._medmnist import (
    load_breastmnist,
    load_pathmnist_subset,
    load_pneumoniamnist,
)
from sklearn_epee.datasets._phee import load_phee
from sklearn_epee.datasets._readers import read_bioc, read_brat, read_ddi_xml, read_pubtator
from sklearn_epee.datasets._supplement_notes import make_supplement_notes

__all__ = [
    "load_breastmnist",
    "load_csv",
    "load_ddi2013",
    "load_git",
    "load_health_advice",
    "load_image_csv",
    "load_image_folder",
    "load_pathmnist_subset",
    "load_phee",
    "load_pneumoniamnist",
    "make_supplement_notes",
    "read_bioc",
    "read_brat",
    "read_ddi_xml",
    "read_pubtator",
]
