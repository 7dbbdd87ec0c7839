"""What is done to a clip's pixels and boxes, on the CPU's fast ways and on any device's."""

import dataclasses

import cv2
import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as TF

from ultravid.data import (
    CropToRegion,
    DataError,
    RandomColor,
    RandomContrast,
    RandomDepthGain,
    RandomFlip,
    RandomGamma,
    RandomScale,
    RandomSpeckle,
    RandomTimeFlip,
    ResizeToArea,
    WindowFrameSampler,
    build_video_train_loader,
    load_cva_bus,
)
from ultravid.data.pixels import as_rgb, color_frames, has_one_plane, on_planes, resize_frames
from ultravid.structures import Boxes, Clip, Instances

PHOTOMETRIC = [RandomContrast(), RandomGamma(), RandomDepthGain(max_db=9.0), RandomSpeckle(sd=(0.1, 0.3))]


def clip_of(frames, boxes=()):
    """A clip; every frame holds the same boxes."""
    size = tuple(frames.shape[-2:])
    number = torch.arange(len(boxes))
    rows = [
        Instances(size, gt_boxes=Boxes([list(b) for b in boxes]), gt_classes=number * 0, gt_ids=number) for _ in frames
    ]
    return Clip(frames, rows, ["v"] * len(frames), list(range(len(frames))))


def grey(num_frames=3, height=41, width=57, seed=0):
    noise = np.random.default_rng(seed).integers(0, 256, (num_frames, height, width), dtype=np.uint8)
    smooth = np.stack([cv2.GaussianBlur(frame, (0, 0), 1.2) for frame in noise])
    return as_rgb(torch.from_numpy(smooth)[:, None])


def boxes_of(clip):
    return [i.gt_boxes.tensor.tolist() for i in clip.instances]


# --- the same as torchvision, to the bit --------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(12))
def test_grey_frames_computed_once_are_torchvisions_of_three_channels(seed):
    rng = np.random.default_rng(seed)
    height, width = (int(v) for v in rng.integers(1, 90, 2))
    frames = grey(int(rng.integers(1, 6)), height, width, seed)
    assert has_one_plane(frames)
    factors = [float(f) for f in rng.uniform(0.3, 1.9, 3)]
    expected = TF.adjust_contrast(frames.contiguous(), factors[0])
    expected = TF.adjust_saturation(TF.adjust_sharpness(expected, factors[1]), factors[2])
    assert torch.equal(color_frames(frames, *factors), expected)
    size = [int(v) for v in rng.integers(1, 120, 2)]
    resized = resize_frames(frames, *size)
    assert torch.equal(resized, TF.resize(frames.contiguous(), size, antialias=True)) and has_one_plane(resized)


def test_colour_frames_are_torchvisions_too():
    frames = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 3, 30, 44), dtype=np.uint8))
    expected = TF.adjust_saturation(TF.adjust_sharpness(TF.adjust_contrast(frames, 1.2), 0.6), 0.8)
    assert torch.equal(color_frames(frames, 1.2, 0.6, 0.8), expected)


# --- any device ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("transform", PHOTOMETRIC, ids=lambda t: type(t).__name__)
def test_the_fast_way_of_the_cpu_gives_what_the_general_one_gives(transform):
    """Float frames take the way that frames on a GPU take; rounded they must be the uint8 ones."""
    for seed in (0, 2, 3):  # whose factors are not next to 1
        frames = grey(seed=seed)
        fast = transform(clip_of(frames), np.random.default_rng(seed)).frames
        contiguous = transform(clip_of(frames.contiguous()), np.random.default_rng(seed)).frames
        general = transform(clip_of(frames.float()), np.random.default_rng(seed)).frames
        assert fast.dtype == torch.uint8 and general.dtype == torch.float32
        assert torch.equal(fast, contiguous)
        assert (fast.float() - general).abs().max() <= 0.501
        assert not torch.equal(fast, frames)


def augmentation():
    return [
        CropToRegion(),
        ResizeToArea(area=2000, factor=(0.5, 1.5)),
        RandomColor(),
        *PHOTOMETRIC,
        RandomFlip(),
        RandomScale(),
        RandomTimeFlip(),
    ]


def loader(phantom, **changes):
    arguments = dict(
        videos=load_cva_bus(root=phantom),
        frame_sampler=WindowFrameSampler(num_frames=3, window=6),
        transforms=augmentation(),
        total_batch_size=2,
        seed=11,
    )
    return build_video_train_loader(**{**arguments, **changes})


def taken(batches, number=3):
    return [clip for batch, _ in zip(batches, range(number), strict=False) for clip in batch]


def same(a, b):
    return torch.equal(a.frames, b.frames) and boxes_of(a) == boxes_of(b) and a.frame_indices == b.frame_indices


@pytest.mark.parametrize("num_workers", [0, 1, 2])
def test_clips_do_not_depend_on_workers_nor_on_where_they_are_augmented(phantom, num_workers):
    whole = taken(iter(loader(phantom)))
    assert all(clip.frames.is_contiguous() for clip in whole)
    cut = augmentation()[:2], augmentation()[2:]
    for changes in (
        {},
        {"device": "cpu"},
        {"transforms": [], "device_transforms": augmentation(), "device": "cpu"},
        {"transforms": cut[0], "device_transforms": cut[1], "device": "cpu"},
        {"transforms": cut[0], "device_transforms": cut[1], "image_format": "BGR"},
    ):
        other = taken(loader(phantom, num_workers=num_workers, **changes).iterate_from(1), 2)
        assert all(same(a, b) for a, b in zip(whole[2:], other, strict=True)), changes


def test_a_clip_moved_to_a_device_keeps_its_boxes_beside_its_frames():
    moved = clip_of(grey(), [(1, 2, 9, 9)]).to("meta")
    assert moved.frames.device.type == moved.instances[0].gt_boxes.device.type == "meta"
    assert has_one_plane(moved.frames) and moved.frames.shape == (3, 3, 41, 57)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gives_the_clips_of_the_cpu_but_for_rounding(phantom):
    parts = {"transforms": [], "device_transforms": augmentation()}
    for a, b in zip(
        taken(iter(loader(phantom, **parts))), taken(iter(loader(phantom, **parts, device="cuda"))), strict=True
    ):
        assert b.frames.is_cuda and b.instances[0].gt_boxes.device.type == "cuda"
        far = (a.frames.int() - b.frames.cpu().int()).abs() > 3
        assert far.float().mean() < 0.001
        assert all(
            torch.allclose(x.gt_boxes.tensor, y.gt_boxes.tensor.cpu())
            for x, y in zip(a.instances, b.instances, strict=True)
        )


# --- what each one does, worked by hand ---------------------------------------------------------------------------------------


def framed(left=10, top=6, right=50, bottom=36):
    """A scan of level 100 with a dark hole, in a black image of 60x40 px with a bright mark in its corner."""
    frames = torch.zeros(2, 1, 40, 60, dtype=torch.uint8)
    frames[:, :, top:bottom, left:right] = 100
    frames[0, :, 20:25, 20:25] = 0
    frames[:, :, 0:3, 55:60] = 255
    return as_rgb(frames)


def test_the_region_of_the_scan_is_found_and_boxes_are_clipped_to_it_or_dropped():
    boxes = [(20, 10, 30, 16), (4, 10, 16, 20), (0, 0, 12, 8), (0, 0, 8, 5)]
    cropped = CropToRegion()(clip_of(framed(), boxes), np.random.default_rng(0))
    assert cropped.frames.shape == (2, 3, 30, 40) and has_one_plane(cropped.frames)
    # (4, 10, 16, 20) keeps 6 of its 12 columns; of (0, 0, 12, 8) 2x2 of 12x8 px are left, of the last nothing.
    assert boxes_of(cropped) == [[[10, 4, 20, 10], [0, 4, 6, 14]]] * 2
    assert cropped.instances[0].gt_ids.tolist() == [0, 1] and cropped.instances[0].image_size == (30, 40)
    given = CropToRegion(region=(20, 10, 60, 40), min_visible=0.0)(clip_of(framed(), boxes), np.random.default_rng(0))
    assert boxes_of(given)[0] == [[0, 0, 10, 6]]


def test_an_image_without_a_large_bright_part_is_not_cropped():
    clip = clip_of(framed(10, 6, 20, 16))
    assert CropToRegion()(clip, np.random.default_rng(0)) is clip
    black = clip_of(as_rgb(torch.zeros(2, 1, 9, 9, dtype=torch.uint8)))
    assert CropToRegion()(black, np.random.default_rng(0)) is black
    with pytest.raises(DataError, match=r"Video 'v': the region .* goes past the image of 60x40 px"):
        CropToRegion(region=(0, 0, 61, 40))(clip, np.random.default_rng(0))
    with pytest.raises(ValueError, match="not a part"):
        CropToRegion(region=(5, 5, 5, 9))


def test_flips_and_resizing_move_boxes_as_worked_by_hand():
    clip = clip_of(as_rgb(torch.zeros(2, 1, 40, 60, dtype=torch.uint8)), [(10, 4, 22, 20)])
    rng = np.random.default_rng(0)
    assert boxes_of(RandomFlip(prob=1.0)(clip, rng))[0] == [[38, 4, 50, 20]]
    smaller = ResizeToArea(area=600)(clip, rng)
    assert smaller.frames.shape[-2:] == (20, 30) and boxes_of(smaller)[0] == [[5, 2, 11, 10]]


def test_gamma_and_contrast_are_their_formulas():
    ramp = as_rgb(torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16))
    gamma = RandomGamma(gamma=(0.5, 0.5))(clip_of(ramp), np.random.default_rng(0)).frames[0, 0].flatten()
    assert gamma[[0, 64, 255]].tolist() == [0, round(255 * (64 / 255) ** 0.5), 255]
    contrast = RandomContrast(factor=(2.0, 2.0))(clip_of(ramp), np.random.default_rng(0)).frames[0, 0].flatten()
    # The mean is 127.5: 100 -> 72.5, which rounds to the even 72; 200 -> 272.5 is clamped.
    assert contrast[[0, 100, 150, 200]].tolist() == [0, 72, 172, 255]


def test_depth_gain_follows_its_sliders_and_leaves_black_black():
    transform = RandomDepthGain(max_db=6.0, num_sliders=3, dynamic_range_db=60.0)
    sliders = np.random.default_rng(7).uniform(-6, 6, 3)
    expected = np.interp(np.linspace(0, 2, 101), [0, 1, 2], sliders) * 255 / 60
    frames = torch.full((1, 1, 101, 8), 100, dtype=torch.uint8)
    frames[..., 0] = 0
    changed = transform(clip_of(as_rgb(frames)), np.random.default_rng(7)).frames[0, 0].int()
    assert (changed[:, 0] == 0).all()
    assert changed[:, 3].tolist() == (100 + np.rint(expected)).astype(int).tolist()


def test_speckle_is_multiplicative_normal_noise_of_its_own_in_each_frame():
    frames = as_rgb(torch.cat([torch.full((2, 1, 200, 200), 100), torch.full((1, 1, 200, 200), 50)]).to(torch.uint8))
    noisy = RandomSpeckle(sd=(0.1, 0.1))(clip_of(frames), np.random.default_rng(0)).frames
    assert has_one_plane(noisy)
    planes = noisy[:, 0].float()
    assert planes.mean(dim=(1, 2)).tolist() == pytest.approx([100, 100, 50], abs=0.2)
    assert planes.std(dim=(1, 2)).tolist() == pytest.approx([10, 10, 5], abs=0.1)
    assert abs(np.corrcoef(planes[0].flatten(), planes[1].flatten())[0, 1]) < 0.02
    assert torch.equal(RandomSpeckle(sd=(0.0, 0.0))(clip_of(frames), np.random.default_rng(0)).frames, frames)


@pytest.mark.parametrize(
    ("transform", "arguments"),
    [
        (RandomContrast, {"factor": (-0.1, 1)}),
        (RandomGamma, {"gamma": (0.0, 1)}),
        (RandomSpeckle, {"sd": (0.3, 0.1)}),
        (RandomDepthGain, {"num_sliders": 1}),
    ],
)
def test_malformed_ranges_are_refused(transform, arguments):
    (name,) = arguments
    with pytest.raises(ValueError, match=f"{name}="):
        transform(**arguments)


def test_transforms_leave_the_given_clip_as_it_is():
    for frames in (grey(), grey().contiguous()):
        before = frames.clone()
        for transform in (*PHOTOMETRIC, RandomColor(), CropToRegion(), ResizeToArea(area=900), RandomFlip(prob=1.0)):
            transform(clip_of(frames), np.random.default_rng(0))
        assert torch.equal(frames, before)


def test_an_operation_on_planes_is_done_once_for_grey():
    seen = []
    result = on_planes(grey(), lambda f: (seen.append(f.shape[1]), f.flip(-1))[1])
    assert seen == [1] and torch.equal(result, grey().contiguous().flip(-1))
    assert dataclasses.replace(clip_of(grey()), organ="breast").organ == "breast"
