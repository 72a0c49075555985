"""Markers around two entities of a text, from rows in many forms."""

from .marker import EntityMarker

__all__ = ["EntityMarker"]
