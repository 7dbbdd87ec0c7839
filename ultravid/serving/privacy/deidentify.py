"""De-identified copies of DICOM files: neither their headers nor their blacked-out pixels identify a patient.

The basic application level confidentiality profile with the option to clean pixel data, of DICOM PS3.15 Annex E.

Legend: ``H, W`` height and width of an image in pixels.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.pixels.encoders.base import get_encoder
from pydicom.uid import UID, ExplicitVRLittleEndian, RLELossless

from ultravid.datasets.faults import as_data_error
from ultravid.datasets.readers.dicom_file import NOT_DICOM, DicomHeader, is_big_endian, quiet_pydicom, read_header
from ultravid.datasets.readers.dicom_frames import find_frames
from ultravid.datasets.readers.dicom_pixels import PixelDecoder, PixelForm, pixel_form
from ultravid.datasets.safe_files import open_regular
from ultravid.serving.privacy.blackout import Blackout, BlackoutRule
from ultravid.serving.privacy.confidentiality_profile import ITEMS_KEPT, KEPT, NEW_UIDS
from ultravid.serving.privacy.dicom_output import FrameSpool
from ultravid.serving.privacy.dicom_subject import Pseudonyms, original_uids, pseudonymous, sop_class_of, uid_of
from ultravid.serving.privacy.patient_values import PatientValues, patient_values

__all__ = ["CleanDicom", "deidentify_dicom"]

_METHOD = "ultravid: PS3.15 E basic profile"
_CODES = {"113100": "Basic Application Confidentiality Profile", "113101": "Clean Pixel Data Option"}
_CODE_STRING = re.compile(r"[A-Z0-9_ ]{0,16}")
_TEXTS = frozenset({"CS", "LO", "SH", "LT", "ST", "UT", "UC", "PN", "AE", "AS", "UR"})
_NUMBERS_AS_TEXT = frozenset({"DS", "IS"})
_REQUIRED = ("SeriesNumber", "InstanceNumber", "Manufacturer")  # may be empty, not absent
_PALETTE = "PALETTE COLOR"

Stored = NDArray[Any]
"""Stored values ``(H, W)`` or ``(H, W, 3)``."""


@dataclass(frozen=True)
class CleanDicom:
    """What a clean copy is like.

    Attributes:
        num_frames: in it.
        num_removed: elements of the dataset that the file had and the copy has not, or has under a pseudonym or empty.
        is_stated_clean: whether it states that no annotation is burnt in: what was blacked out was stated, not guessed.
    """

    num_frames: int
    num_removed: int
    is_stated_clean: bool


def deidentify_dicom(path: Path, output: Path, *, blackout: Blackout, pseudonyms: Pseudonyms) -> CleanDicom:
    """Write a clean copy of a DICOM file.

    Only elements of `KEPT` stay, and of these none in which a value of the patient's occurs; the patient, the study and all UIDs get
    pseudonyms. Pixels are decoded, blacked out and rewritten without loss: uncompressed, or as RLE if they were compressed.

    Args:
        path: the file.
        output: the copy, complete or absent; its folder exists.
        blackout: what is black in it.
        pseudonyms: the same for all files of a patient or a study.

    Raises:
        DataError: the file is no DICOM image that can be read, or does not state its SOP class (its kind of object).
        OSError: the copy can't be written.
    """
    header = read_header(path)
    with as_data_error(path, NOT_DICOM), quiet_pydicom():
        form = pixel_form(header)
        spans, _ = find_frames(header, form.size, form.frame_bits, form.is_subsampled)
        decoder = PixelDecoder(header, form, spans)
        full = _read_all(path)
        clean = _clean_header(full, path, pseudonyms)
        if is_big_endian(header):
            _swap_palette(clean)
        stated_clean = _state_method(clean, full, blackout)
        _describe_pixels(clean, form, len(spans), header)
    transfer_syntax = RLELossless if form.is_compressed else ExplicitVRLittleEndian
    spool = FrameSpool(output.parent, is_compressed=form.is_compressed)
    try:
        with open_regular(path) as file:
            for index in range(len(spans)):
                values = _blacked_out(decoder.stored(file.fileno(), index), form, header, blackout)
                spool.add(_encoded(values, form))
        vr = "OB" if form.is_compressed or form.allocated == 8 else "OW"
        spool.write(output, clean, UID(transfer_syntax), vr)
    finally:
        spool.close()
    return CleanDicom(len(spans), _num_removed(full, clean), stated_clean)


def _read_all(path: Path) -> pydicom.Dataset:
    with open_regular(path) as file:
        return pydicom.dcmread(file, stop_before_pixels=True, force=True)


def _clean_header(full: pydicom.Dataset, path: Path, pseudonyms: Pseudonyms) -> pydicom.Dataset:
    values, originals = patient_values(path), original_uids(full, path)
    clean = pseudonymous(full, originals["StudyInstanceUID"], pseudonyms)
    for keyword, element in _elements(full, KEPT):
        if element.VR == "SQ":
            items = [_clean_item(item, ITEMS_KEPT[keyword], values) for item in element.value]
            setattr(clean, keyword, pydicom.Sequence(items))
        elif _may_stay(element, values):
            clean.add(element)
    for keyword in _REQUIRED:
        if keyword not in clean:
            setattr(clean, keyword, None)
    clean.SOPClassUID = sop_class_of(full, path)
    for keyword in NEW_UIDS:
        if original := originals.get(keyword) or uid_of(full, keyword):
            setattr(clean, keyword, pseudonyms.uid(original))
    for keyword in ("ContentDate", "ContentTime"):
        setattr(clean, keyword, "")
    if "Modality" not in clean:
        clean.Modality = "US"
    return clean


def _clean_item(item: pydicom.Dataset, kept: frozenset[str], values: PatientValues) -> pydicom.Dataset:
    clean = pydicom.Dataset()
    for _, element in _elements(item, kept):
        if element.VR != "SQ" and _may_stay(element, values):
            clean.add(element)
    return clean


def _elements(item: pydicom.Dataset, keywords: frozenset[str]) -> Iterator[tuple[str, pydicom.DataElement]]:
    """Elements of some keywords whose values can be converted, each with the kind of value that the standard gives it."""
    for keyword in sorted(keywords):
        tag = tag_for_keyword(keyword)
        assert tag is not None, f"{keyword} is a keyword of DICOM"
        if tag not in item:
            continue
        try:
            element = item[tag]
            value = element.value
        except Exception:  # a value is converted when it is asked for, and that raises any exception
            continue
        if element.VR not in dictionary_VR(tag).split(" or "):
            continue
        if element.VR == "SQ" and not isinstance(value, pydicom.Sequence):
            continue
        yield keyword, element


def _may_stay(element: pydicom.DataElement, values: PatientValues) -> bool:
    """Whether an element holds nothing but what its kind of value is for, and nothing of the patient."""
    many = element.value if isinstance(element.value, list | pydicom.multival.MultiValue) else [element.value]
    if element.VR in _NUMBERS_AS_TEXT:  # pydicom leaves a text that is no number as it is
        return not any(isinstance(value, str) and value for value in many)
    if element.VR not in _TEXTS:
        return True
    texts = ["" if value is None else str(value) for value in many]
    if element.VR == "CS" and not all(_CODE_STRING.fullmatch(text) for text in texts):
        return False
    return not any(values.occur_in(text) for text in texts) and all(len(text) <= 64 for text in texts)


def _state_method(clean: pydicom.Dataset, full: pydicom.Dataset, blackout: Blackout) -> bool:
    """State how the file was de-identified; whether its pixels are stated to be clean."""
    is_stated = blackout.rule in (BlackoutRule.MASK, BlackoutRule.ALL) or (
        blackout.rule == BlackoutRule.REGIONS and blackout.kept is not None
    )
    clean.PatientIdentityRemoved = "YES"
    clean.DeidentificationMethod = [_METHOD, f"pixels: {_pixels_said(blackout, is_stated)}"]
    codes = ["113100", "113101"] if is_stated else ["113100"]
    clean.DeidentificationMethodCodeSequence = pydicom.Sequence([_code(value) for value in codes])
    clean.LongitudinalTemporalInformationModified = "REMOVED"
    if is_stated:
        clean.BurnedInAnnotation = "NO"
    elif str(full.get("BurnedInAnnotation") or "").strip() == "YES":
        clean.BurnedInAnnotation = "YES"
    return is_stated


def _pixels_said(blackout: Blackout, is_stated: bool) -> str:
    if is_stated:
        return "black outside of the stated scan"
    return "black outside of a guessed scan" if blackout.guessed else "as they were"


def _code(value: str) -> pydicom.Dataset:
    code = pydicom.Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, "DCM", _CODES[value]
    return code


def _describe_pixels(clean: pydicom.Dataset, form: PixelForm, num_frames: int, header: DicomHeader) -> None:
    """What `PixelDecoder.stored` gives, in the file's words: colours are RGB by pixel."""
    clean.Rows, clean.Columns = form.size
    clean.SamplesPerPixel = form.samples
    clean.BitsAllocated, clean.BitsStored, clean.HighBit = form.allocated, form.stored, form.low + form.stored - 1
    clean.PixelRepresentation = 0
    clean.PhotometricInterpretation = form.colours if form.samples == 1 else "RGB"
    if form.samples == 3:
        clean.PlanarConfiguration = 0
    elif "PlanarConfiguration" in clean:
        del clean.PlanarConfiguration
    if num_frames > 1 or header.has("NumberOfFrames"):
        clean.NumberOfFrames = num_frames


def _swap_palette(clean: pydicom.Dataset) -> None:
    """Put the first byte of a palette's words first: pydicom leaves the order of bytes in them as it is."""
    for colour in ("Red", "Green", "Blue"):
        for keyword in (f"{colour}PaletteColorLookupTableData", f"Segmented{colour}PaletteColorLookupTableData"):
            if keyword in clean:
                setattr(clean, keyword, np.frombuffer(clean[keyword].value, ">u2").astype("<u2").tobytes())


def _blacked_out(values: Stored, form: PixelForm, header: DicomHeader, blackout: Blackout) -> Stored:
    values = np.array(values)
    if header.has_overlay_in_pixels:
        values &= ((1 << form.stored) - 1) << form.low  # a graphic in the other bits may be text
    if blackout.kept is not None:
        values[blackout.kept == 0] = _black(form, header)
    return values


def _black(form: PixelForm, header: DicomHeader) -> int:
    if form.colours == "MONOCHROME1":
        return ((1 << form.stored) - 1) << form.low
    if form.colours != _PALETTE:
        return 0
    first = header.numbers("RedPaletteColorLookupTableDescriptor")[1]
    sums = [np.frombuffer(header.data(f"{c}PaletteColorLookupTableData"), np.uint8) for c in ("Red", "Green", "Blue")]
    if not all(len(table) for table in sums):
        return int(first or 0)  # of a segmented palette the first entry is black as a rule
    entries = int(header.numbers("RedPaletteColorLookupTableDescriptor")[0] or 1 << 16)
    width = 2 if len(sums[0]) >= 2 * entries else 1
    upper = 0 if is_big_endian(header) else width - 1  # the byte that shows
    total = sum(table[: width * entries].reshape(-1, width).astype(np.int64)[:, upper] for table in sums)
    return int(np.argmin(total)) + int(first or 0)


def _encoded(values: Stored, form: PixelForm) -> bytes:
    little = np.ascontiguousarray(values.astype("<u2" if form.allocated == 16 else np.uint8))
    if not form.is_compressed:
        return little.tobytes()
    rows, columns = form.size
    return get_encoder(RLELossless).encode(
        little.tobytes(),
        rows=rows,
        columns=columns,
        samples_per_pixel=form.samples,
        number_of_frames=1,
        bits_allocated=form.allocated,
        bits_stored=form.stored,
        pixel_representation=0,
        photometric_interpretation="RGB" if form.samples == 3 else "MONOCHROME2",
        planar_configuration=0,
    )


def _num_removed(full: pydicom.Dataset, clean: pydicom.Dataset) -> int:
    replaced = {tag_for_keyword(keyword) for keyword in NEW_UIDS}
    return sum(
        1
        for tag in full.keys()  # noqa: SIM118  # iterating over a dataset converts values
        if int(tag) != 0x7FE00010 and (tag not in clean or int(tag) in replaced or clean[tag].value in ("", None))
    )
