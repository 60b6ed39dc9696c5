"""Rows: what a training run sees of each row of its data, and which labels are probably wrong."""

from trimtab.control.rows.dataset import IndexedRows
from trimtab.control.rows.kinds import RowSummary
from trimtab.control.rows.suspects import Suspects
from trimtab.control.rows.tracker import RowTracker
from trimtab.journal.rows import Kind

__all__ = ["IndexedRows", "Kind", "RowSummary", "RowTracker", "Suspects"]
