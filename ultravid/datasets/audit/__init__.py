"""What a dataset holds, what is wrong with it, and what its splits share that they must not."""

from ultravid.datasets.audit.findings import audit_splits
from ultravid.datasets.audit.page import render_page
from ultravid.datasets.audit.similarity import FrameTable, find_near_duplicates, perceptual_hash
from ultravid.datasets.audit.survey import AuditReport, Example, Split, Table, count_tables

__all__ = [
    "AuditReport",
    "Example",
    "FrameTable",
    "Split",
    "Table",
    "audit_splits",
    "count_tables",
    "find_near_duplicates",
    "perceptual_hash",
    "render_page",
]
