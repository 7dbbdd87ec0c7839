"""Export of a detector to files that run without ultravid: ONNX graphs, or programs of `torch.export`."""

from ultravid.serving.export.agreement import Agreement
from ultravid.serving.export.exporter import ExportedDetector, ExportFormat, export_detector
from ultravid.serving.export.step_graph import ExportError

__all__ = ["Agreement", "ExportError", "ExportFormat", "ExportedDetector", "export_detector"]
