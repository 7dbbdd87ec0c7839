"""What a report reads of a run beside its metrics: the boxes of some videos again, and their images."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from ultravid.evaluation.matching import without_ignored
from ultravid.evaluation.prediction_store import find_manifest, read_manifest, read_video
from ultravid.evaluation.report.html_page import Html, caption
from ultravid.evaluation.report.report_run import ReportRun
from ultravid.evaluation.report.strips import ImageFinder
from ultravid.evaluation.results import VideoResult
from ultravid.evaluation.runs import load_videos
from ultravid.utils.file_io import is_local
from ultravid.utils.run_folder import RunFolder

__all__ = ["image_finder", "missing_images", "read_videos"]


def read_videos(run: ReportRun, wanted: set[str]) -> dict[str, VideoResult]:
    """The wanted videos, read again: the boxes of all videos of a large run do not fit into memory at once.

    They have the detections of the run's matched videos, in their order: those on regions to ignore are left out.
    """
    if not wanted:
        return {}
    if run.options.annotations is None:
        files = dict(read_manifest(find_manifest(run.path)))
        return {name: without_ignored(read_video(files[name]).video) for name in sorted(wanted)}
    videos = load_videos(run.path, run.options.annotations, run.options.patients)
    return {video.video_id: without_ignored(video) for video in videos if video.video_id in wanted}


def image_finder(run: ReportRun) -> ImageFinder:
    """Looks for images from the folder where the run was started, and from the annotations' folder.

    The names in annotations may come from anywhere, and lead into these folders alone: a report shows what it finds.
    """
    folders = []
    run_folder = RunFolder.containing(run.path)
    record = run_folder.newest_record() if run_folder else None
    if record and record.get("folder"):
        folders.append(Path(record["folder"]))
    if run.options.annotations and is_local(run.options.annotations):
        root = Path(run.options.annotations).resolve().parent
        folders += [root, root / "rawframes"]
    return ImageFinder(
        folders,
        run.options.images,
        anywhere=run.options.annotations is None,
        allow_burned_in_text=run.options.allow_burned_in_text,
    )


def missing_images(run: ReportRun, counts: Counter[str]) -> list[Html]:
    """Notes that images are missing or not shown; empty if all are shown. They are counted for the run too.

    Args:
        run: the run.
        counts: sum of the second results of `strips.strip`.
    """
    run.pictures.update(counts)
    notes = []
    if number := counts["missing"]:
        hint = "" if run.options.images else " Give the folder that holds them now with --images DIR."
        notes.append(
            f"{number} images are not where the predictions say, or outside of the data's folder: only boxes are drawn.{hint}"
        )
    if number := counts["hidden"]:
        notes.append(
            f"{number} images are of DICOM files that show more than an ultrasound region, and are not shown: names may be burnt "
            "into them (--allow-burned-in-text)."
        )
    return [caption(note) for note in notes]
