"""Privacy of results: blacked-out pictures, neutral file names, and clean DICOM files."""

from ultravid.serving.privacy.blackout import Blackout, BlackoutRule, choose_blackout
from ultravid.serving.privacy.burned_in_text import find_text
from ultravid.serving.privacy.neutral_names import KEY_FILE, NeutralNames, output_key
from ultravid.serving.privacy.patient_values import PatientValues, patient_values
from ultravid.serving.privacy.qc import qc_picture, write_contact_sheets, write_qc_picture
from ultravid.serving.privacy.scan_area import MAX_FRAMES_LOOKED_AT, ScanArea, guess_scan_area
from ultravid.serving.privacy.scanner_masks import ScannerMasks, read_scanner_masks

__all__ = [
    "KEY_FILE",
    "MAX_FRAMES_LOOKED_AT",
    "Blackout",
    "BlackoutRule",
    "NeutralNames",
    "PatientValues",
    "ScanArea",
    "ScannerMasks",
    "choose_blackout",
    "find_text",
    "guess_scan_area",
    "output_key",
    "patient_values",
    "qc_picture",
    "read_scanner_masks",
    "write_contact_sheets",
    "write_qc_picture",
]
