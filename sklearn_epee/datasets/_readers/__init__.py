"""Readers of corpora with annotated relations, in the formats that they come in."""

from ._bioc import read_bioc
from ._brat import read_brat
from ._ddi import ddi_rows, read_ddi_xml, warn_of_offsets
from ._files import corpus_files
from ._pubtator import read_pubtator
from ._relations import whole_span

__all__ = [
    "corpus_files",
    "ddi_rows",
    "read_bioc",
    "read_brat",
    "read_ddi_xml",
    "read_pubtator",
    "warn_of_offsets",
    "whole_span",
]
