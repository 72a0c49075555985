"""Watching early exits in use: whether a promise still holds, and whether exits have changed."""

from __future__ import annotations

from ._audit import ExitAudit
from ._monitor import ExitMonitor

__all__ = ["ExitAudit", "ExitMonitor"]
