"""Data sets: loaders of real ones, and a generator that needs no download."""

from sklearn_epee.datasets._case_reports import make_case_reports
from sklearn_epee.datasets._csv_files import load_csv
from sklearn_epee.datasets._ddi2013 import fetch_ddi2013, load_ddi2013
from sklearn_epee.datasets._drug_reviews import load_drug_reviews
from sklearn_epee.datasets._git import fetch_git, load_git
from sklearn_epee.datasets._health_advice import fetch_health_advice, load_health_advice
from sklearn_epee.datasets._image_files import load_image_csv, load_image_folder
from sklearn_epee.datasets._medmnist import (
    load_breastmnist,
    load_pathmnist_subset,
    load_pneumoniamnist,
)
from sklearn_epee.datasets._medmnist_sets import fetch_medmnist, load_medmnist
from sklearn_epee.datasets._phee import fetch_phee, load_phee
from sklearn_epee.datasets._phee_events import fetch_phee_events, load_phee_events
from sklearn_epee.datasets._readers import (
    read_bioc,
    read_bioc_spans,
    read_brat,
    read_brat_spans,
    read_conll,
    read_ddi_xml,
    read_pubtator,
    read_pubtator_spans,
)
from sklearn_epee.datasets._supplement_notes import make_supplement_notes

__all__ = [
    "fetch_ddi2013",
    "fetch_git",
    "fetch_health_advice",
    "fetch_medmnist",
    "fetch_phee",
    "fetch_phee_events",
    "load_breastmnist",
    "load_csv",
    "load_ddi2013",
    "load_drug_reviews",
    "load_git",
    "load_health_advice",
    "load_image_csv",
    "load_image_folder",
    "load_medmnist",
    "load_pathmnist_subset",
    "load_phee",
    "load_phee_events",
    "load_pneumoniamnist",
    "make_case_reports",
    "make_supplement_notes",
    "read_bioc",
    "read_bioc_spans",
    "read_brat",
    "read_brat_spans",
    "read_conll",
    "read_ddi_xml",
    "read_pubtator",
    "read_pubtator_spans",
]
