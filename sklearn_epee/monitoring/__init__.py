"""Monitor early exits in production: audits of a guarantee, and drift of exits."""

from __future__ import annotations

from ._audit import ExitAudit
from ._monitor import ExitMonitor

__all__ = ["ExitAudit", "ExitMonitor"]
