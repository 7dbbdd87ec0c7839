"""Small recordings whose frames show their number, so that a test can read which frame it was given."""

import fractions

import av
import cv2
import numpy as np
import pydicom
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, UltrasoundMultiFrameImageStorage, generate_uid

HEIGHT, WIDTH, CELL = 96, 128, 16

HOSPITAL_COLUMNS = [
    "pkl_file",
    "jpg_folder",
    "neg",
    "video_path",
    "hospital",
    "anno_format",
    "polyline_error",
    "db_key",
    "device",
]
"""Of a hospital's table, as its CSV files have them."""


def numbered(number, seed=0):
    """An image that moves with its number and has it written in its top row, a bit a cell."""
    rng = np.random.default_rng(seed)
    texture = cv2.GaussianBlur(rng.integers(0, 255, (HEIGHT, WIDTH), np.uint8), (0, 0), 5)
    image = np.roll(texture, number, axis=1)
    for bit in range(8):
        image[:CELL, bit * CELL : (bit + 1) * CELL] = 255 if number >> bit & 1 else 0
    return np.repeat(image[..., None], 3, axis=2)


def number_of(image):
    cells = image[CELL // 2, CELL // 2 : 8 * CELL : CELL, 0] > 127
    return int((cells << np.arange(8)).sum())


def write_movie(path, numbers, rate=37, codec="libx264", gop=12, b_frames=2, seed=0):
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fractions.Fraction(rate))
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.codec_context.gop_size = gop
        stream.codec_context.thread_count = 1
        if codec != "mjpeg":
            stream.codec_context.max_b_frames = b_frames
        for number in numbers:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(numbered(number, seed), format="rgb24")))
        container.mux(stream.encode())
    return path


def write_dicom(path, pixels, *, photometric="MONOCHROME2", region=None, compress=None, **tags):
    """``pixels`` is ``(T, H, W)`` or ``(T, H, W, 3)``, uint8 or uint16; ``region`` is one, or a list of them. A tag of None is deleted."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = UltrasoundMultiFrameImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    file.SOPClassUID, file.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    file.PatientName, file.PatientID, file.PatientBirthDate = "Doe^Jane", tags.pop("PatientID", "MRN-4711"), "19700101"
    file.NumberOfFrames, file.Rows, file.Columns = pixels.shape[:3]
    file.SamplesPerPixel = 3 if pixels.ndim == 4 else 1
    if pixels.ndim == 4:
        file.PlanarConfiguration = 0
    file.PhotometricInterpretation = photometric
    file.BitsAllocated = 8 * pixels.itemsize
    file.BitsStored = tags.pop("BitsStored", file.BitsAllocated)
    file.HighBit, file.PixelRepresentation = file.BitsStored - 1, 0
    for key, value in tags.items():
        setattr(file, key, value)
        if value is None:
            delattr(file, key)
    items = []
    for x1, y1, x2, y2 in [] if region is None else [region] if isinstance(region, tuple) else region:
        item = pydicom.Dataset()
        item.RegionSpatialFormat, item.RegionDataType, item.RegionFlags = 1, 1, 0
        item.RegionLocationMinX0, item.RegionLocationMinY0 = x1, y1
        item.RegionLocationMaxX1, item.RegionLocationMaxY1 = x2 - 1, y2 - 1
        item.PhysicalUnitsXDirection = item.PhysicalUnitsYDirection = 3
        item.PhysicalDeltaX, item.PhysicalDeltaY = 0.02, 0.03
        items.append(item)
    if items:
        file.SequenceOfUltrasoundRegions = Sequence(items)
    file.PixelData = pixels.tobytes()
    if compress is not None:
        file.compress(compress, generate_instance_uid=False)
    file.save_as(path, enforce_file_format=True)
    return path
