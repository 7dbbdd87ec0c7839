"""Synthetic B-mode videos in which time matters.

A lesion and a distractor (a duct or a vessel) are drawn from the same distributions of size, contrast, margin
and shadow. Only their change over time differs: a lesion's section grows and shrinks as the probe sweeps over it; a
distractor is a long stripe that closes to the same ellipse for a moment and opens again. One frame of a closed
distractor cannot be distinguished from a lesion; the frames before it show the difference.

Legend of shapes: ``T`` frames, ``S`` side of the square image in pixels, ``P`` side of the tissue block
(``S`` plus a border, so that the wrap-around of the Fourier shift stays out of the image).

Sources: speckle as a filtered complex Gaussian field follows Wagner et al., "Statistics of speckle in ultrasound
B-scans", IEEE Trans. Sonics Ultrason. 30(3), 1983; its loss of correlation under elevational motion follows
Chen et al., "Determination of scan-plane motion using speckle decorrelation", IEEE TUFFC 44(2), 1997.
"""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from ultravid.utils.whole_files import write_whole

__all__ = [
    "PhantomVideo",
    "check_phantom_arguments",
    "make_phantom_video",
    "write_phantom_dataset",
    "write_phantom_dicom",
    "write_phantom_movies",
]

FloatArray = NDArray[np.float32]

_BORDER = 16  # px of tissue around the image: more than the reach of the point-spread function
_REFERENCE_SIDE = 128  # px: the lengths below are given for an image of this side and scale with it

_SMALLEST_SIDE = 32  # px

_LESION_SHARE = 0.7  # of the videos hold a lesion
_VISIBLE_SECTION = 0.35  # a lesion is boxed while its section is larger than this share of the largest
_LATERAL_HALF_AXIS = (11.0, 17.5)  # px
_AXIAL_RATIO = (0.6, 0.82)
_CONTRAST_DB = (11.0, 18.0)  # below the tissue
_MARGIN_PX = (1.0, 2.5)
_SHADOW_DB = (-8.0, 5.0)
_SHADOW_DECAY_PX = 60.0
_DYNAMIC_RANGE_DB = 60.0

_FPS = 30
_BAND = 0.125  # height of a movie's band of text, as a share of the scan's
# Its grey level. The dataset's videos have no band, and a detector that was trained on them has seen no large black area: below a black one,
# weights of `make train` gave scores of 1.0 everywhere.
_BAND_GREY = 110
_BURNED_IN = "DOE^JANE  ID 0042  1970-01-01"


@dataclass(frozen=True)
class PhantomVideo:
    """One phantom video.

    Attributes:
        frames: ``(T, S, S)`` uint8, grey.
        boxes: per frame ``(N, 4)`` float32, XYXY in pixels, inside the image; ``N`` is 0 or 1.
        distractor_boxes: the distractors' bounding boxes in the same form; they are not ground truth.
    """

    frames: NDArray[np.uint8]
    boxes: list[FloatArray]
    distractor_boxes: list[FloatArray]


@dataclass(frozen=True)
class _Object:
    """A hypo-echoic superellipse that is fixed in the tissue; `half_axes` is its section over time."""

    x: float  # centre in tissue coordinates, px
    y: float
    half_width: float
    half_height: float
    power: float
    contrast_db: float
    margin: float
    shadow_db: float
    centre_frame: float
    duration: float
    is_lesion: bool

    def half_axes(self, frame: int) -> tuple[float, float]:
        """Lateral and axial half axis at a frame; (0, 0) if the object is out of plane."""
        u = abs(frame - self.centre_frame) / self.duration
        if self.is_lesion:
            section = np.sqrt(max(0.0, 1.0 - (u / 1.6) ** 2))
            return self.half_width * section, self.half_height * section
        opening = float(np.clip((u - 0.55) / 0.35, 0.0, 1.0))
        opening = opening * opening * (3.0 - 2.0 * opening)
        return self.half_width * (1.0 + 3.5 * opening), self.half_height * (1.0 - 0.45 * opening)

    def is_boxed(self, frame: int) -> bool:
        return self.half_axes(frame)[0] > _VISIBLE_SECTION * self.half_width


def _ornstein_uhlenbeck(rng: np.random.Generator, num: int, std: float, time_constant: float) -> NDArray[np.float64]:
    keep = np.exp(-1.0 / time_constant)
    noise = rng.standard_normal(num) * std * np.sqrt(1.0 - keep**2)
    value = np.empty(num)
    value[0] = rng.standard_normal() * std
    for t in range(1, num):
        value[t] = keep * value[t - 1] + noise[t]
    return value


def _echo_map_db(rng: np.random.Generator, side: int, scale: float) -> FloatArray:
    """``(side, side)`` echo strength of the tissue in dB: curved layers, bright interfaces, Gaussian lobules."""
    y, x = np.mgrid[0:side, 0:side].astype(np.float32)
    depth = y.copy()
    for _ in range(3):  # layers are bent by whole waves, so that the map may wrap round laterally
        waves, phase = rng.integers(1, 4), rng.uniform(0, 2 * np.pi)
        depth += rng.uniform(1.0, 4.0) * scale * np.sin(2 * np.pi * waves * x / side + phase).astype(np.float32)
    bounds = np.sort(rng.uniform(0, side, rng.integers(3, 6)))
    levels = rng.uniform(-5.0, 3.0, len(bounds) + 1)
    echo = levels[np.searchsorted(bounds, depth)].astype(np.float32)
    for bound in bounds:
        strength, width = rng.uniform(2.0, 8.0), rng.uniform(0.8, 1.8) * scale
        echo += strength * np.exp(-0.5 * ((depth - bound) / width) ** 2)
    for _ in range(rng.integers(6, 13)):
        cx, cy = rng.uniform(0, side, 2)
        sx, sy = rng.uniform(6, 20) * scale, rng.uniform(4, 10) * scale
        dx = (x - cx + side / 2) % side - side / 2
        echo += rng.uniform(-5.0, 4.0) * np.exp(-0.5 * ((dx / sx) ** 2 + ((y - cy) / sy) ** 2))
    return np.asarray(ndimage.gaussian_filter(echo, 0.8, mode="wrap"), np.float32)


def _draw_object(rng: np.random.Generator, is_lesion: bool, num_frames: int, scale: float) -> dict[str, float | bool]:
    half_width = rng.uniform(*_LATERAL_HALF_AXIS) * scale
    return {
        "half_width": half_width,
        "half_height": half_width * rng.uniform(*_AXIAL_RATIO),
        "power": rng.uniform(2.0, 2.6),
        "contrast_db": rng.uniform(*_CONTRAST_DB),
        "margin": rng.uniform(*_MARGIN_PX),
        "shadow_db": rng.uniform(*_SHADOW_DB),
        "duration": rng.uniform(9.0, 16.0),
        "centre_frame": rng.uniform(0.2, 0.8) * num_frames,
        "is_lesion": is_lesion,
    }


def _place_objects(rng: np.random.Generator, num_frames: int, side: int, offset: NDArray[np.float64]) -> list[_Object]:
    """Draw 0 or 1 lesion and 1 or 2 distractors, apart in depth, inside the image while they matter.

    ``offset`` is ``(T, 2)``, x and y of the image's corner in the tissue, px.
    """
    scale = side / _REFERENCE_SIDE
    kinds = [True] * int(rng.random() < _LESION_SHARE) + [False] * int(rng.integers(1, 3))
    objects: list[_Object] = []
    for is_lesion in kinds:
        for _ in range(200):
            drawn = _draw_object(rng, is_lesion, num_frames, scale)
            t0, duration = float(drawn["centre_frame"]), float(drawn["duration"])
            reach = (1.5 if is_lesion else 0.6) * duration
            seen = offset[max(0, int(t0 - reach)) : int(t0 + reach) + 1]
            margin = np.array([drawn["half_width"], drawn["half_height"]], float) + 2.0
            low = seen.max(0) + margin  # the object stays inside the image for as long as it is seen
            high = seen.min(0) + side - margin
            if (high <= low).any():
                continue
            x, y = rng.uniform(low, high)
            candidate = _Object(x=x, y=y, **drawn)  # type: ignore[arg-type]
            gap = [abs(o.y - y) - o.half_height - candidate.half_height for o in objects]
            if all(g > 3.0 * scale for g in gap):
                objects.append(candidate)
                break
    return objects


def _sigmoid(x: FloatArray) -> FloatArray:
    return np.asarray(1.0 / (1.0 + np.exp(np.clip(-x, -30, 30))), np.float32)


def _attenuation_db(obj: _Object, frame: int, x: FloatArray, y: FloatArray) -> FloatArray | None:
    """``(P, P)`` dB that the object adds to the tissue; ``x`` and ``y`` are ``(P,)`` tissue coordinates."""
    a, b = obj.half_axes(frame)
    if a < 1.0 or b < 1.0:
        return None
    dx, dy = np.abs(x - obj.x), y - obj.y
    radius = ((dx / a) ** obj.power)[None, :] + ((np.abs(dy) / b) ** obj.power)[:, None]
    radius **= 1.0 / obj.power
    inside = _sigmoid((1.0 - radius) * np.float32(min(a, b) / obj.margin * 2.0))
    # Below the object the whole column is darker (shadow) or brighter (enhancement), fading with depth.
    below = np.clip(dy - 0.5 * b, 0.0, None)
    fade = np.where(below > 0, np.exp(-below / _SHADOW_DECAY_PX), 0.0).astype(np.float32)
    column = _sigmoid((a - dx) / np.float32(1.5))
    tail = np.float32(obj.shadow_db) * fade[:, None] * column[None, :]
    return np.asarray(tail * (1.0 - inside) - np.float32(obj.contrast_db) * inside, np.float32)


def _point_spread_kernels() -> tuple[FloatArray, FloatArray, FloatArray]:
    """Lateral Gaussian (sd 1.7 px); real and imaginary part of the axial Gabor (0.22 cycles a px, sd 1.8 px)."""
    reach = np.arange(-6, 7, dtype=np.float64)
    lateral = np.exp(-0.5 * (reach / 1.7) ** 2)
    axial = np.exp(-0.5 * (reach / 1.8) ** 2) * np.exp(2j * np.pi * 0.22 * reach)
    lateral /= np.sqrt((lateral**2).sum())
    axial /= np.sqrt((np.abs(axial) ** 2).sum())
    return lateral.astype(np.float32), axial.real.astype(np.float32), axial.imag.astype(np.float32)


def _boxes(objects: list[_Object], frame: int, corner: NDArray[np.float64], side: int) -> FloatArray:
    rows = []
    for obj in objects:
        if obj.is_lesion and not obj.is_boxed(frame):
            continue
        a, b = obj.half_axes(frame)
        x, y = obj.x - corner[0], obj.y - corner[1]
        box = np.clip([x - a, y - b, x + a, y + b], 0, side)
        if box[2] - box[0] > 2.0 and box[3] - box[1] > 2.0:
            rows.append(box)
    return np.asarray(rows, np.float32).reshape(-1, 4)


def _check_size(num_frames: int, size: int) -> None:
    if num_frames < 1 or size < _SMALLEST_SIDE:
        raise ValueError(
            f"A phantom video needs at least 1 frame of {_SMALLEST_SIDE} px, got {num_frames} frames of {size} px."
        )


def make_phantom_video(num_frames: int, size: int, rng: np.random.Generator) -> PhantomVideo:
    """Make one video.

    Args:
        num_frames: ``T``, at least 1.
        size: ``S``, side of the image in pixels, at least 32.
        rng: source of every draw, in a fixed order: the same generator state gives the same bytes.

    Raises:
        ValueError: the size or the number of frames is too small.
    """
    _check_size(num_frames, size)
    scale = size / _REFERENCE_SIDE
    side = size + 2 * _BORDER
    velocity = np.stack([_ornstein_uhlenbeck(rng, num_frames, std * scale, 15.0) for std in (0.7, 0.3, 0.7)], axis=1)
    offset = np.cumsum(velocity[:, :2], axis=0)
    objects = _place_objects(rng, num_frames, size, offset)
    echo = _echo_map_db(rng, side, scale)
    lateral, axial_real, axial_imag = _point_spread_kernels()

    def white() -> NDArray[np.complex64]:
        return (rng.standard_normal((side, side, 2), np.float32)).view(np.complex64)[..., 0]

    wave_x = (2j * np.pi * fft.fftfreq(side)).astype(np.complex64)[None, :]
    wave_y = wave_x.T
    # The field lives in the Fourier domain, where white noise stays white: shifting it by a part of a pixel is a
    # phase there and costs no contrast, as interpolation would.
    spectrum = white()
    grid = np.arange(side, dtype=np.float32) - _BORDER
    crop = slice(_BORDER, _BORDER + size)
    gain_db = rng.normal(0.0, 0.4, num_frames)
    frames = np.empty((num_frames, size, size), np.uint8)
    for t in range(num_frames):
        rho = np.exp(-0.08 * abs(velocity[t, 2]) / scale)
        spectrum = np.float32(rho) * spectrum + np.float32(np.sqrt(1.0 - rho**2)) * white()
        shift_x, shift_y = offset[t].astype(np.float32)
        phase = np.exp(wave_y * shift_y) * np.exp(wave_x * shift_x)
        field = np.asarray(fft.ifft2(spectrum * phase), np.complex64) * np.float32(side)
        moved = np.array([[1, 0, shift_x], [0, 1, shift_y]], np.float32)
        tissue = cv2.warpAffine(
            echo,
            moved,
            (side, side),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_WRAP,
        )
        for obj in objects:
            added = _attenuation_db(obj, t, grid + shift_x, grid + shift_y)
            if added is not None:
                tissue = tissue + added
        amplitude = np.exp((tissue + np.float32(gain_db[t])) * np.float32(np.log(10.0) / 20.0))
        echoes = (field * amplitude).view(np.float32).reshape(side, side, 2)
        in_phase = cv2.sepFilter2D(echoes, cv2.CV_32F, lateral, axial_real)
        quadrature = cv2.sepFilter2D(echoes, cv2.CV_32F, lateral, axial_imag)
        real = (in_phase[..., 0] - quadrature[..., 1])[crop, crop]
        imaginary = (in_phase[..., 1] + quadrature[..., 0])[crop, crop]
        # 60 dB fill the grey scale; mean tissue (0 dB) lies 20 dB below its top.
        decibel = np.float32(10.0) * np.log10(real**2 + imaginary**2 + np.float32(1e-12))
        grey = (decibel + _DYNAMIC_RANGE_DB - 20.0) / _DYNAMIC_RANGE_DB * 255.0
        frames[t] = np.clip(np.rint(grey), 0, 255).astype(np.uint8)
    lesions = [o for o in objects if o.is_lesion]
    distractors = [o for o in objects if not o.is_lesion]
    return PhantomVideo(
        frames=frames,
        boxes=[_boxes(lesions, t, offset[t], size) for t in range(num_frames)],
        distractor_boxes=[_boxes(distractors, t, offset[t], size) for t in range(num_frames)],
    )


def _write_video(root: Path, name: str, seed: int, index: int, num_frames: int, size: int) -> list[FloatArray]:
    """Make video ``index`` of the dataset and write its frames; return the boxes of each frame."""
    cv2.setNumThreads(1)  # the pool below already uses every core
    video = make_phantom_video(num_frames, size, np.random.default_rng((seed, index)))
    folder = root / "rawframes" / name
    folder.mkdir(parents=True, exist_ok=True)
    for t, frame in enumerate(video.frames):
        ok, png = cv2.imencode(".png", frame, [cv2.IMWRITE_PNG_COMPRESSION, 1])
        assert ok
        (folder / f"{t:06d}.png").write_bytes(png.tobytes())
    return video.boxes


def _coco_video(names: Sequence[str], boxes: Sequence[list[FloatArray]], size: int, split: str) -> dict[str, object]:
    """The COCO-VID description of one split: videos, their frames and the lesions' boxes."""
    videos: list[dict[str, object]] = []
    images: list[dict[str, object]] = []
    annotations: list[dict[str, object]] = []
    for j, (name, frames) in enumerate(zip(names, boxes, strict=True)):
        # Every fifth video is a second sweep over the patient before: folds have to keep the two together.
        patient = f"{split}-{j - (j % 5 == 4):04d}"
        videos.append({"id": j + 1, "name": name, "patient": patient, "fps": float(_FPS)})
        for t, frame_boxes in enumerate(frames):
            image_id = len(images) + 1
            image = {
                "id": image_id,
                "video_id": j + 1,
                "frame_id": t,
                "file_name": f"{name}/{t:06d}.png",
            }
            images.append({**image, "height": size, "width": size})
            for x1, y1, x2, y2 in frame_boxes.astype(float).round(3).tolist():
                bbox = [x1, y1, round(x2 - x1, 3), round(y2 - y1, 3)]
                annotation = {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "video_id": j + 1,
                    "bbox": bbox,
                }
                category = 1 if name.startswith("benign") else 2
                annotations.append({**annotation, "instance_id": 1, "category_id": category})
    categories = [{"id": 1, "name": "benign"}, {"id": 2, "name": "malignant"}]
    return {
        "videos": videos,
        "images": images,
        "annotations": annotations,
        "categories": categories,
    }


def check_phantom_arguments(num_videos: int, num_frames: int, size: int, test_fraction: float) -> None:
    """Raise what `write_phantom_dataset` would, before a folder is made."""
    if num_videos < 1 or not 0 < test_fraction < 1:
        raise ValueError(
            f"A phantom needs at least 1 video and a test fraction in (0, 1), got {num_videos} and {test_fraction}."
        )
    _check_size(num_frames, size)


def write_phantom_dataset(
    output: Path,
    num_videos: int,
    num_frames: int,
    size: int,
    seed: int,
    test_fraction: float,
    num_workers: int,
) -> Iterator[int]:
    """Write a phantom dataset in the layout of CVA-BUS, one finished video at a time.

    ``output`` then holds ``trainval.json``, ``test.json`` and ``rawframes/{benign,malignant}/<video>/%06d.png``.
    The same arguments give the same bytes, whatever the number of workers. The two JSON files come last: a folder
    that lacks them was not finished.

    Yields:
        the number of videos written so far.

    Raises:
        ValueError: no video, a fraction outside (0, 1), or what `make_phantom_video` refuses.
    """
    check_phantom_arguments(num_videos, num_frames, size, test_fraction)
    # Each split gets a video if there are two.
    num_test = min(max(round(num_videos * test_fraction), 1), num_videos - 1)
    kinds = [
        "benign" if kind else "malignant" for kind in np.random.default_rng((seed, num_videos)).random(num_videos) < 0.5
    ]
    names = [f"{kind}/{index:05d}" for index, kind in enumerate(kinds)]
    boxes: dict[int, list[FloatArray]] = {}
    with ProcessPoolExecutor(num_workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        jobs = {
            pool.submit(_write_video, output, name, seed, index, num_frames, size): index
            for index, name in enumerate(names)
        }
        for done in as_completed(jobs):
            boxes[jobs[done]] = done.result()
            yield len(boxes)
    first_test = num_videos - num_test
    for split, indices in (
        ("trainval", range(first_test)),
        ("test", range(first_test, num_videos)),
    ):
        text = json.dumps(_coco_video([names[i] for i in indices], [boxes[i] for i in indices], size, split))
        (output / f"{split}.json").write_text(text, encoding="utf-8")


def _scanner_screen(scan: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """``(H, W, 3)``: a scan as a scanner shows it, below a band with the made-up name, id and date of a patient; even sides, for H.264."""
    side = scan.shape[1]
    band = np.full((round(side * _BAND), side), _BAND_GREY, np.uint8)
    font, scale = cv2.FONT_HERSHEY_SIMPLEX, side / 550
    cv2.putText(band, _BURNED_IN, (side // 32, band.shape[0] * 2 // 3), font, scale, 255, 1, cv2.LINE_AA)
    screen = np.vstack([band, scan])
    screen = np.pad(screen, ((0, screen.shape[0] % 2), (0, side % 2)), mode="edge")
    return np.repeat(screen[..., None], 3, axis=2)


def _write_movie(path: Path, seed: int, index: int, num_frames: int, size: int) -> None:
    """Write video ``index`` of the dataset of this seed as an MP4; there is no file if that fails."""
    import av  # PyAV takes half a second to import, and a dataset of images needs it not

    cv2.setNumThreads(1)
    video = make_phantom_video(num_frames, size, np.random.default_rng((seed, index)))
    unfinished = path.with_suffix(".unfinished")
    try:
        with av.open(str(unfinished), "w", format="mp4") as container:
            height, width = _scanner_screen(video.frames[0]).shape[:2]
            stream = container.add_stream("libx264", rate=Fraction(_FPS), options={"crf": "20", "threads": "1"})
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            for scan in video.frames:
                picture = av.VideoFrame.from_ndarray(_scanner_screen(scan), format="rgb24")
                container.mux(stream.encode(picture))
            container.mux(stream.encode())
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def write_phantom_movies(
    output: Path, num_videos: int, num_frames: int, size: int, seed: int, num_workers: int
) -> Iterator[int]:
    """Write phantom movies for who has no recordings to try a detector on, one finished movie at a time.

    ``output`` then holds ``phantom_%05d.mp4``: H.264, 30 frames a second, as a screen of a scanner. Above the scan is a grey band with a
    made-up name, id and date, so that what is blacked out can be tried too. The frames below the band are those of the dataset's videos of the same
    seed, but for the loss of the encoding.

    Yields:
        the number of movies written so far.

    Raises:
        ValueError: no video, or what `make_phantom_video` refuses.
    """
    return _write_recordings(_write_movie, ".mp4", output, num_videos, num_frames, size, seed, num_workers)


def _write_dicom(path: Path, seed: int, index: int, num_frames: int, size: int) -> None:
    """Write video ``index`` of the dataset of this seed as a DICOM file; there is no file if that fails."""
    import pydicom  # it takes a third of a second to import
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, UltrasoundMultiFrameImageStorage, generate_uid

    cv2.setNumThreads(1)
    video = make_phantom_video(num_frames, size, np.random.default_rng((seed, index)))
    screens = np.stack([_scanner_screen(scan)[..., 0] for scan in video.frames])
    uid = [generate_uid(entropy_srcs=[f"ultravid phantom {seed} {index} {size} {num_frames} {what}"]) for what in "isr"]
    file = Dataset()
    file.SOPClassUID, file.SOPInstanceUID = UltrasoundMultiFrameImageStorage, uid[0]
    file.StudyInstanceUID, file.SeriesInstanceUID = uid[1:]
    file.Modality, file.Manufacturer, file.ManufacturerModelName = "US", "ultravid", "Phantom"
    file.PatientName, file.PatientID, file.PatientBirthDate, file.PatientSex = "Doe^Jane", "0042", "19700101", "O"
    file.StudyDate, file.StudyTime, file.StudyID, file.AccessionNumber = "20200102", "120000", "1", ""
    file.ReferringPhysicianName, file.SeriesNumber, file.InstanceNumber = "", 1, index + 1
    file.NumberOfFrames, file.Rows, file.Columns = screens.shape
    file.SamplesPerPixel, file.PhotometricInterpretation = 1, "MONOCHROME2"
    file.BitsAllocated, file.BitsStored, file.HighBit, file.PixelRepresentation = 8, 8, 7, 0
    file.CineRate, file.FrameTime = _FPS, str(round(1000 / _FPS, 3))
    region = Dataset()
    region.RegionSpatialFormat, region.RegionDataType, region.RegionFlags = 1, 1, 0
    band = round(size * _BAND)
    region.RegionLocationMinX0, region.RegionLocationMinY0 = 0, band
    region.RegionLocationMaxX1, region.RegionLocationMaxY1 = size - 1, band + size - 1
    region.PhysicalUnitsXDirection = region.PhysicalUnitsYDirection = 3  # centimetres
    region.PhysicalDeltaX = region.PhysicalDeltaY = 0.03
    file.SequenceOfUltrasoundRegions = [region]
    file.PixelData = screens.tobytes()
    file.file_meta = FileMetaDataset()
    file.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    with write_whole(path) as whole:
        pydicom.dcmwrite(whole, file, enforce_file_format=True)


def write_phantom_dicom(
    output: Path, num_videos: int, num_frames: int, size: int, seed: int, num_workers: int
) -> Iterator[int]:
    """Write phantom DICOM files, one finished file at a time.

    ``output`` then holds ``phantom_%05d.dcm``: uncompressed, grey, 30 frames a second, with the picture of `write_phantom_movies`. The header has the
    made-up name, id and birth date of the band, and states the scan as the ultrasound region.

    Yields:
        the number of files written so far.

    Raises:
        ValueError: no video, or what `make_phantom_video` refuses.
    """
    return _write_recordings(_write_dicom, ".dcm", output, num_videos, num_frames, size, seed, num_workers)


def _write_recordings(
    write: Callable[[Path, int, int, int, int], None],
    suffix: str,
    output: Path,
    num_videos: int,
    num_frames: int,
    size: int,
    seed: int,
    num_workers: int,
) -> Iterator[int]:
    check_phantom_arguments(num_videos, num_frames, size, test_fraction=0.5)
    with ProcessPoolExecutor(num_workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        jobs = [
            pool.submit(write, output / f"phantom_{index:05d}{suffix}", seed, index, num_frames, size)
            for index in range(num_videos)
        ]
        for number, done in enumerate(as_completed(jobs), 1):
            done.result()
            yield number
