"""Marks around two entities of a text: rows as people have them, and where the marks go."""

from .marker import EntityMarker

__all__ = ["EntityMarker"]
