"""The elements of an ultrasound image's DICOM header that are kept. Everything else is removed.

PS3.15 Annex E lists what a de-identifier must remove, replace or empty, and grows with every edition; private elements, and elements
that a scanner invents, are in no list. So the list here is of what stays: elements that describe pixels, time, scale and the scanner's
kind, each of them one that no row of table E.1-1 asks to be changed. The SOP class stays as well, if it is a UID.

Sources: DICOM PS3.15 E.1-1, PS3.3 A.6, A.7 (ultrasound images), C.7.6.3 (pixels), C.7.6.5 (cine), C.8.5.5 (regions), C.8.5.6.
"""

from __future__ import annotations

from types import MappingProxyType

__all__ = ["ITEMS_KEPT", "KEPT", "NEW_UIDS"]

KEPT = frozenset(
    {
        # What kind of image, of which kind of scanner.
        *("ImageType", "Modality", "Manufacturer", "ManufacturerModelName", "PresentationIntentType"),
        *("SeriesNumber", "InstanceNumber", "PatientOrientation", "Laterality", "ImageLaterality", "BodyPartExamined"),
        *("StageNumber", "NumberOfStages", "ViewNumber", "NumberOfViewsInStage", "AnatomicRegionSequence"),
        *("TransducerType", "TransducerFrequency", "PulseRepetitionFrequency", "DepthOfScanField", "FocusDepth"),
        *("MechanicalIndex", "BoneThermalIndex", "CranialThermalIndex", "SoftTissueThermalIndex"),
        *("SoftTissueFocusThermalIndex", "SoftTissueSurfaceThermalIndex", "UltrasoundColorDataPresent"),
        # When frames were taken, from the first one.
        *("NumberOfFrames", "FrameIncrementPointer", "FrameTime", "FrameTimeVector", "FrameDelay", "CineRate"),
        *("RecommendedDisplayFrameRate", "ActualFrameDuration", "EffectiveDuration", "AcquisitionDuration"),
        *("PreferredPlaybackSequencing", "StartTrim", "StopTrim"),
        # Where the scan is, and its scale.
        *("SequenceOfUltrasoundRegions", "PixelSpacing", "PixelSpacingCalibrationType", "PixelAspectRatio"),
        # How pixels are stored and shown.
        *("Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "BitsAllocated"),
        *("BitsStored", "HighBit", "PixelRepresentation", "WindowCenter", "WindowWidth", "VOILUTFunction"),
        *("RescaleIntercept", "RescaleSlope", "PresentationLUTShape", "LossyImageCompression"),
        *("LossyImageCompressionRatio", "LossyImageCompressionMethod"),
        *(f"{colour}PaletteColorLookupTableDescriptor" for colour in ("Red", "Green", "Blue")),
        *(f"{colour}PaletteColorLookupTableData" for colour in ("Red", "Green", "Blue")),
        *(f"Segmented{colour}PaletteColorLookupTableData" for colour in ("Red", "Green", "Blue")),
    }
)
"""Elements of the dataset whose values stay."""

_CODE = frozenset({"CodeValue", "CodingSchemeDesignator", "CodeMeaning"})

ITEMS_KEPT = MappingProxyType(
    {
        "SequenceOfUltrasoundRegions": frozenset(
            {
                *("RegionSpatialFormat", "RegionDataType", "RegionFlags", "RegionLocationMinX0", "RegionLocationMinY0"),
                *("RegionLocationMaxX1", "RegionLocationMaxY1", "ReferencePixelX0", "ReferencePixelY0"),
                *("PhysicalUnitsXDirection", "PhysicalUnitsYDirection", "PhysicalDeltaX", "PhysicalDeltaY"),
                *("ReferencePixelPhysicalValueX", "ReferencePixelPhysicalValueY", "TransducerFrequency"),
                *("PulseRepetitionFrequency", "DopplerCorrectionAngle", "SteeringAngle"),
                *("DopplerSampleVolumeXPosition", "DopplerSampleVolumeYPosition", "TMLinePositionX0"),
                *("TMLinePositionY0", "TMLinePositionX1", "TMLinePositionY1", "PixelComponentOrganization"),
                *("PixelComponentMask", "PixelComponentRangeStart", "PixelComponentRangeStop"),
                *("PixelComponentPhysicalUnits", "PixelComponentDataType", "NumberOfTableBreakPoints"),
                *("TableOfXBreakPoints", "TableOfYBreakPoints", "NumberOfTableEntries", "TableOfPixelValues"),
                "TableOfParameterValues",
            }
        ),
        "AnatomicRegionSequence": _CODE,
    }
)
"""Of sequences that stay, the elements of their items that do; items hold no sequences."""

NEW_UIDS = ("SOPInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")
"""UIDs that are replaced, the same by the same one; that of the study is among the subject's attributes."""
