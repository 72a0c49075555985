"""Readers of corpora with annotated relations or spans, one per format."""

from ._bioc import read_bioc, read_bioc_spans
from ._brat import read_brat, read_brat_spans
from ._conll import read_conll
from ._ddi import ddi_rows, read_ddi_xml, warn_of_offsets
from ._files import corpus_files
from ._pubtator import read_pubtator, read_pubtator_spans
from ._relations import whole_span

__all__ = [
    "corpus_files",
    "ddi_rows",
    "read_bioc",
    "read_bioc_spans",
    "read_brat",
    "read_brat_spans",
    "read_conll",
    "read_ddi_xml",
    "read_pubtator",
    "read_pubtator_spans",
    "warn_of_offsets",
    "whole_span",
]
