"""Readers of corpora with annotated relations, in the formats that they come in."""

from ._bioc import read_bioc
from ._brat import read_brat
from ._ddi import read_ddi_xml
from ._pubtator import read_pubtator

__all__ = ["read_bioc", "read_brat", "read_ddi_xml", "read_pubtator"]
