"""Checks for patients' names that may be burnt into pixels, for code that writes frames to disk."""

from __future__ import annotations

from collections.abc import Sequence

from ultravid.datasets.video import DataError, Video

__all__ = ["refuse_burned_in_text"]

_NAMED = 3  # files in a message


def refuse_burned_in_text(videos: Sequence[Video], what: str, *, blank: str, masks: str, allow: str) -> None:
    """Refuse to write pictures of DICOM files that show more than an ultrasound region.

    The tag BurnedInAnnotation is not asked: scanners write its NO into files whose header band shows a name.

    Args:
        videos: to be written.
        what: would be written, such as "frames".
        blank: what the user types to black out what is outside of the region.
        masks: what the user types to give a table of parts to black out, ``TABLE``.
        allow: what the user types to write the pictures all the same.

    Raises:
        DataError: there are such videos; the message counts them, names the first ones and says what can be done.
    """
    open_ones = [video for video in videos if video.may_show_text]
    if not open_ones:
        return
    files = list(dict.fromkeys(video.frames[0].path for video in open_ones))
    named = ", ".join(files[:_NAMED]) + (f" and {len(files) - _NAMED} more" if len(files) > _NAMED else "")
    frame = open_ones[0].frames[0]
    device = str(open_ones[0].metadata.get("device", ""))
    raise DataError(
        f"Names and dates may be burnt into {what} of {len(open_ones)} of {len(videos)} videos: they are of DICOM files and show more "
        f"than an ultrasound region that the file states ({named}; device {device!r}, {frame.width}x{frame.height} px). Nothing was written.\n"
        f"  If the files state a region: {blank}\n"
        f"  For any file, by device and image size: {masks}\n"
        f"  If you have looked and nothing is burnt in: {allow}\n"
        "See docs/dicom.md."
    )
