"""Audits of datasets: their contents, their errors, and patients or frames that their splits share."""

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
