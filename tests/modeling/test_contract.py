"""What every detector must keep: one test for each promise, over all small configs, those that are added later included."""

import copy
import functools
import gc
import re
import threading
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_leaves, tree_map

from tests.modeling.random_models import SMALL, clip, describe, deterministic_model, forms, random_model, video
from ultravid.checkpoint import DetectionCheckpointer
from ultravid.config import Builder, Node, get_config, instantiate
from ultravid.modeling.detector import VideoDetector, VideoStream
from ultravid.modeling.postprocessing import detector_postprocess
from ultravid.modeling.types import Detections, State
from ultravid.structures import Boxes, Clip, Instances

SIZE = (48, 64)
NOT_CAUSAL: frozenset[str] = frozenset()
"""Models whose small config lets a clip use later frames, as published; with ``causal=False`` all do that have it."""
WITHOUT_GRADIENT: dict[str, str] = {}
"""Parameters that no loss reaches, by model: a regular expression of their names."""

CASES = [(name, causal) for name in SMALL for causal in forms(name)]


def shown(case: tuple[str, bool | None]) -> str:
    return case[0] + {None: "", True: "-causal", False: "-published"}[case[1]]


class Case:
    """A model, two videos and what it detects in them."""

    def __init__(self, name: str, causal: bool | None) -> None:
        self.name = name
        self.causal = causal
        self.model = random_model(name, causal=causal)
        lengths = {"a": 10 if self.model.num_phases > 1 else 6, "b": 4}
        self.videos = {v: video(seed, length, *SIZE) for seed, (v, length) in enumerate(lengths.items())}
        self.alone = {v: self.stream(v, length) for v, length in lengths.items()}

    def stream(self, name: str, length: int) -> list[Instances]:
        one = VideoStream(self.model, SIZE)
        return [one(frame) for frame in self.videos[name][:length]]

    def asked(self, name: str, length: int | None = None, **more: object) -> list[dict[str, object]]:
        """The first frames of a video in detectron2's form."""
        frames = self.videos[name][:length]
        return [{"image": f, "video_id": name, "frame_index": t, **more} for t, f in enumerate(frames)]

    def answered(self, name: str, length: int | None = None, **more: object) -> list[Instances]:
        return [output["instances"] for output in self.model(self.asked(name, length, **more))]


@functools.lru_cache(maxsize=2)
def built(name: str, causal: bool | None) -> Case:
    return Case(name, causal)


@pytest.fixture(scope="module", params=CASES, ids=shown)
def case(request: pytest.FixtureRequest) -> Case:
    return built(*request.param)


as_shipped = pytest.mark.parametrize("case", [(name, None) for name in SMALL], ids=shown, indirect=True)
"""For what both forms of a model have in common."""


@pytest.fixture(scope="module", params=SMALL)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def same(a: Instances, b: Instances) -> bool:
    """Equal in every bit."""
    fields = a.get_fields()
    if fields.keys() != b.get_fields().keys() or a.image_size != b.image_size:
        return False
    return all(torch.equal(_tensor(value), _tensor(b.get(key))) for key, value in fields.items())


def _tensor(value: Boxes | Tensor) -> Tensor:
    return value.tensor if isinstance(value, Boxes) else value


def inside(found: Instances) -> bool:
    """Whether the boxes lie in the image and have an area."""
    boxes, (height, width) = found.pred_boxes.tensor, found.image_size
    return bool(
        (boxes >= 0).all()
        and (boxes <= torch.tensor([width, height] * 2)).all()
        and (boxes[:, 2:] > boxes[:, :2]).all()
    )


def all_same(a: list[Instances], b: list[Instances]) -> bool:
    return all(same(x, y) for x, y in zip(a, b, strict=True))


def flat(state: State, prefix: str = "") -> dict[str, Tensor]:
    found = {}
    for key, value in state.items():
        found.update(flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value})
    return found


def form(state: State) -> dict[str, tuple[torch.Size, torch.dtype]]:
    return {key: (value.shape, value.dtype) for key, value in flat(state).items()}


def attributes(model: nn.Module) -> dict[str, object]:
    """What every module holds: the identity of objects, and the values of plain ones and of tensors' versions."""
    found = {}
    for name, module in model.named_modules():
        for key, value in [*vars(module).items(), *module._buffers.items(), *module._parameters.items()]:
            plain = value is None or isinstance(value, bool | int | float | str | tuple)
            size = len(value) if isinstance(value, dict | list | set) else None
            found[f"{name}.{key}"] = value if plain else (id(value), getattr(value, "_version", None), size)
    return found


def near(a: Detections, b: Detections, image: str) -> None:
    """The same detections to 1e-4, in any order among scores that rounding may exchange."""
    boxes, scores, classes = ([getattr(d, f)[d.valid] for d in (a, b)] for f in ("boxes", "scores", "classes"))
    assert len(scores[0]) == len(scores[1]), f"{image}: {len(scores[0])} detections and {len(scores[1])}"
    free = torch.ones(len(scores[1]), dtype=torch.bool)
    for box, score, label in zip(boxes[0], scores[0], classes[0], strict=True):
        gap = (boxes[1] - box).abs().amax(1) + (scores[1] - score).abs() * 100 + 1e9 * ((classes[1] != label) | ~free)
        best = int(gap.argmin())
        assert (boxes[1][best] - box).abs().max() < 1e-4 * max(SIZE), f"{image}: {box} against {boxes[1][best]}"
        assert (scores[1][best] - score).abs() < 1e-4, f"{image}: score {score} against {scores[1][best]}"
        free[best] = False


def steps(model: VideoDetector, frames: Tensor) -> list[Detections]:
    state, found = model.initial_state((frames.shape[-2], frames.shape[-1])), []
    with torch.no_grad():
        for number, image in enumerate(frames.float()):
            detections, state = model.step(image, state, model.phase(number))
            found.append(detections)
    return found


@as_shipped
def test_boxes_lie_in_the_output_and_scale_with_it(case):
    larger = VideoStream(case.model, SIZE, (SIZE[0] * 2, SIZE[1] * 3))
    for image, found in zip(case.videos["a"][:2], case.alone["a"], strict=False):
        scaled = larger(image)
        assert found.image_size == SIZE and inside(found)
        assert scaled.image_size == (SIZE[0] * 2, SIZE[1] * 3) and inside(scaled)
        if case.model.tracker is None:
            assert torch.allclose(
                scaled.pred_boxes.tensor, found.pred_boxes.tensor * torch.tensor([3.0, 2.0, 3.0, 2.0]), atol=1e-3
            )
            assert torch.equal(scaled.scores, found.scores)


@torch.no_grad()
def test_a_step_is_pure_its_state_keeps_its_form_and_its_rows_are_fixed_valid_first_by_falling_score(case):
    model, state = case.model, case.model.initial_state(SIZE)
    fields, results = form(state), []
    assert all(dtype in (torch.float32, torch.int64, torch.bool) for _, dtype in fields.values()), fields
    before, weights = attributes(model), copy.deepcopy(model.state_dict())
    for number, frame in enumerate(case.videos["a"].float()):
        given, image = {k: v.clone() for k, v in flat(state).items()}, frame.clone()
        objects = {k: id(v) for k, v in flat(state).items()}
        detections, after = model.step(frame, state, model.phase(number))
        assert torch.equal(frame, image)
        assert objects == {k: id(v) for k, v in flat(state).items()}
        assert all(torch.equal(value, given[key]) for key, value in flat(state).items())
        assert form(after) == fields
        assert all(torch.isfinite(value).all() for value in flat(after).values())
        if model.tracker is None:
            found = Instances(SIZE, pred_boxes=Boxes(detections.boxes), scores=detections.scores)
            found.pred_classes = detections.classes
            assert same(detector_postprocess(found[detections.valid], *SIZE), case.alone["a"][number])
        state = after
        results.append(detections)
    changed = [key for key, value in attributes(model).items() if value != before.get(key)]
    assert not changed and attributes(model).keys() == before.keys()
    assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())
    check_rows(results)


def check_rows(results: list[Detections]) -> None:
    assert sum(int(d.valid.sum()) for d in results) >= len(results), "nothing was detected, so nothing was tested"
    scores = torch.cat([d.scores[d.valid] for d in results])
    assert scores.std() > 1e-4 and scores.min() > 0 and scores.max() < 1
    for d in results:
        assert [x.shape for x in d] == [x.shape for x in results[0]] and d.boxes.shape == (len(d.valid), 4)
        assert [x.dtype for x in d] == [torch.float32, torch.float32, torch.int64, torch.bool, torch.int64]
        assert d.valid.int().diff().le(0).all()
        assert d.scores[d.valid].diff().le(0).all()
        assert inside(Instances(SIZE, pred_boxes=Boxes(d.boxes[d.valid])))
        assert torch.isfinite(d.boxes).all() and torch.isfinite(d.scores).all() and d.track_ids.eq(-1).all()


@pytest.mark.slow_models
@torch.no_grad()
def test_a_step_has_fixed_shapes_and_no_branch_on_data(case):
    """With tensors that have shapes and no values, ``item``, ``nonzero`` and a condition on a value raise."""
    state = case.model.initial_state(SIZE)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        image = mode.from_tensor(torch.zeros(3, *SIZE))
        for phase in range(case.model.num_phases):
            detections, after = case.model.step(image, tree_map(mode.from_tensor, state), phase)
            assert form(after) == form(state) and detections.boxes.shape == (len(detections.valid), 4)


def test_the_state_is_on_the_device_of_the_model(case):
    state = copy.deepcopy(case.model).to("meta").initial_state(SIZE)
    assert {value.device.type for value in tree_leaves(state)} == {"meta"}


@as_shipped
@torch.no_grad()
def test_the_state_is_float32_whatever_autocast_does(case):
    state = case.model.initial_state(SIZE)
    with torch.autocast("cpu", torch.bfloat16):
        for number in range(2):
            detections, after = case.model.step(case.videos["a"][number].float(), state, case.model.phase(number))
            assert form(after) == form(state)
            assert detections.boxes.dtype == detections.scores.dtype == torch.float32
            state = after


def test_detectron2s_form_gives_what_the_stream_gives_for_any_split_into_calls(case):
    case.model.reset()
    frames = case.asked("a")
    calls = (frames[:1], frames[1:4], frames[4:])
    assert all_same([o["instances"] for part in calls for o in case.model(part)], case.alone["a"])


def test_streams_through_one_model_do_not_meet(case):
    streams = {v: VideoStream(case.model, SIZE) for v in case.videos}
    found = {v: [] for v in streams}
    for a, b in zip(case.videos["a"][:3], case.videos["b"][:3], strict=True):
        found["a"].append(streams["a"](a))
        found["b"].append(streams["b"](b))
    assert all_same(found["a"], case.alone["a"][:3]) and all_same(found["b"], case.alone["b"][:3])
    threaded = {}
    both = threading.Barrier(2)

    def run(name: str) -> None:
        torch.set_num_threads(1)
        both.wait()
        threaded[name] = case.stream(name, 2)

    threads = [threading.Thread(target=run, args=(name,)) for name in case.videos]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all_same(threaded["a"], case.alone["a"][:2]) and all_same(threaded["b"], case.alone["b"][:2])


@as_shipped
def test_reset_and_a_new_stream_leave_nothing_behind(case):
    model = case.model
    model.reset()
    assert all_same(case.answered("b", 2), case.alone["b"][:2])
    model.reset()  # the same id, which would go on otherwise
    assert all_same(case.answered("b", 2), case.alone["b"][:2])
    assert all_same(case.answered("a", 2, stream_id="one"), case.alone["a"][:2])
    assert all_same(case.answered("a", 2, stream_id="two"), case.alone["a"][:2])
    # Under one stream_id, a video after another continues it.
    model.reset()
    case.answered("a", 1, stream_id="one")
    continued = case.answered("b", 1, stream_id="one")
    both = VideoStream(model, SIZE)
    assert all_same([both(frame) for frame in (case.videos["a"][0], case.videos["b"][0])][1:], continued)


@as_shipped
def test_another_organ_within_a_stream_is_refused(case):
    model = case.model
    model.reset()
    frames = case.asked("b", 2, organ="breast")
    model(frames)
    with pytest.raises(ValueError, match="Frame 2 of stream 'b' shows 'thyroid', the frames before it 'breast'"):
        model([{**frames[1], "organ": "thyroid"}])
    model([{**frames[1], "organ": "thyroid", "stream_id": "c"}])
    model.reset()


@pytest.mark.parametrize(
    "case", [c for c in CASES if c[1] or (c[1] is None and c[0] not in NOT_CAUSAL)], ids=shown, indirect=True
)
@torch.no_grad()
def test_a_causal_clip_equals_the_stream_and_sees_no_later_frame(case):
    # Frames of a clip are one place of the window apart; the window and the lag are shorter than the clip.
    model = random_model(case.name, causal=case.causal, context_stride=1, context_frames=4, lag=3)
    frames = video(3, 8, *SIZE).float()
    changed = torch.cat((frames[:6], frames[6:].flip(-1)))
    whole, cut, other = (model.detect_clip(x) for x in (frames, frames[:6], changed))
    for number, found in enumerate(steps(model, frames)):
        near(whole.frame(number), found, f"clip against stream, frame {number}")
        if number < 6:
            near(cut.frame(number), found, f"cut, frame {number}")
            near(other.frame(number), found, f"later frames changed, frame {number}")


def test_a_step_keeps_no_graph_of_the_frames_before_it(case):
    assert torch.is_grad_enabled()
    detections, state = case.model.step(case.videos["a"][0].float(), case.model.initial_state(SIZE))
    assert not any(value.requires_grad for value in [*detections, *flat(state).values()])


def test_detections_of_a_clip_draw_nothing(case):
    frames = video(3, 4, *SIZE)
    model = copy.deepcopy(case.model).train()
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.eval()
    before = torch.get_rng_state()
    found = model.detect_clip(frames)
    assert torch.equal(torch.get_rng_state(), before)
    near(found.frame(3), case.model.detect_clip(frames).frame(3), "in training mode")


@as_shipped
@pytest.mark.parametrize("size", [(31, 47), (96, 64)], ids=str)
def test_a_video_of_one_frame_and_odd_sizes(case, size):
    (found,) = case.model([{"image": video(3, 1, *size)[0], "video_id": f"one of {size}", "height": 62, "width": 94}])
    instances = found["instances"]
    assert instances.image_size == (62, 94) and inside(instances)
    assert case.model.tracker is not None or len(instances)
    clips = case.model.detect_clip(video(3, 2, *size))
    assert len(clips.valid) == 2 and torch.isfinite(clips.boxes).all()


@as_shipped
def test_a_frame_of_another_size_is_refused_if_the_state_depends_on_the_size(case):
    stream = VideoStream(case.model, SIZE)
    stream(case.videos["a"][0])
    image = video(4, 1, 80, 96)[0]
    if form(case.model.initial_state((80, 96))) != form(case.model.initial_state(SIZE)):
        with pytest.raises(ValueError, match="Frame 1 of the stream is 96x80 px, the frames before it are 64x48"):
            stream(image)
    else:
        found = stream(image, (80, 96))
        assert found.image_size == (80, 96) and inside(found)


def test_what_is_no_frame_is_refused_before_it_reaches_the_state():
    model = built("basicdet", None).model
    stream, frame = VideoStream(model, SIZE), video(0, 1, *SIZE)[0]
    expected = VideoStream(model, SIZE)(frame)
    broken = frame.float()
    broken[1, 2, 3] = torch.inf
    with pytest.raises(ValueError, match="Frame 0 of the stream has values that are NaN or infinite"):
        stream(broken)
    for wrong in (frame[None], frame.movedim(0, -1), frame.repeat(2, 1, 1), frame.numpy()):
        with pytest.raises(ValueError, match=r"a frame is a tensor \(3, height, width\)"):
            stream(wrong)
    assert same(stream(frame), expected)
    of_half = VideoStream(copy.deepcopy(model).half(), SIZE)
    with pytest.raises(ValueError, match=r"weights are torch\.float16; keep them in float32"):
        of_half(frame)
    config = describe("basicdet")
    config.pixel_std = [0, 1, 1]
    with pytest.raises(ValueError, match=r"pixel_std=\[0, 1, 1\] must be three numbers"):
        instantiate(config)


@as_shipped
def test_weights_survive_a_checkpoint(case, tmp_path):
    DetectionCheckpointer(case.model, tmp_path).save("x")
    other = random_model(case.name, seed=1)
    assert not all_same([VideoStream(other, SIZE)(case.videos["a"][0])], case.alone["a"][:1])
    DetectionCheckpointer(other, tmp_path).load(tmp_path / "x.pth")
    stream = VideoStream(other, SIZE)
    assert all_same([stream(frame) for frame in case.videos["a"][:3]], case.alone["a"][:3])


def backward(model: VideoDetector, clips: list[Clip], seed: int = 0) -> float:
    """Losses and gradients, checked to be finite; returns the total."""
    torch.manual_seed(seed)
    model.zero_grad()
    losses = model(clips)
    assert all(key.startswith("loss_") and value.shape == () for key, value in losses.items()), losses
    assert all(torch.isfinite(value) for value in losses.values()), losses
    total = sum(losses.values())
    total.backward()
    broken = [n for n, p in model.named_parameters() if p.grad is not None and not torch.isfinite(p.grad).all()]
    assert not broken, broken
    return total.item()


def test_the_loss_falls_and_every_parameter_gets_a_gradient(name):
    torch.manual_seed(0)
    model = instantiate(describe(name)).train()
    clips = [clip(1, 2, *SIZE, boxes=[1, 0]), clip(2, 2, *SIZE, num_memory=1)]
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    totals = [backward(model, clips)]
    missing = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    allowed = re.compile(WITHOUT_GRADIENT.get(name, "$^"))
    assert all(allowed.search(n) for n in missing), f"no loss reaches {missing}"
    for _ in range(4):
        optimizer.step()
        totals.append(backward(model, clips))
    assert totals[-1] < 0.95 * totals[0], totals


def test_frames_that_pad_a_short_clip_and_clips_without_weight_change_no_loss(name):
    """A longer clip beside it, all of whose frames are memory, pads a clip and adds nothing to its losses."""
    model = deterministic_model(name)
    short, long = clip(1, 2, *SIZE, boxes=[1, 2]), clip(2, 4, *SIZE, boxes=3, num_memory=4)
    alone, beside = (losses_of(model, clips) for clips in ([short], [short, long]))
    assert beside == pytest.approx(alone, rel=1e-4)


def losses_of(model: VideoDetector, clips: list[Clip]) -> dict[str, float]:
    torch.manual_seed(0)
    with torch.no_grad():
        return {key: value.item() for key, value in model(clips).items()}


HARD = {
    "no box": lambda: [clip(1, 2, *SIZE, boxes=0)],
    "200 boxes, one frame, two sizes": lambda: [
        clip(1, 2, *SIZE, boxes=[200, 0]),
        clip(2, length=1, height=31, width=47),
    ],
    "memory alone": lambda: [clip(1, 2, *SIZE, num_memory=2)],
    "one frame": lambda: [clip(2, length=1, boxes=0, height=31, width=47)],
}


def test_hard_clips_train_and_evaluate(name):
    model = random_model(name).train()
    for kind, clips in HARD.items():
        try:
            backward(model, clips())
        except Exception as error:
            error.add_note(f"clips: {kind}")
            raise
    collapse(model)
    backward(model, [clip(1, 2, *SIZE, boxes=[1, 2])])
    found = VideoStream(model.eval(), SIZE)(video(1, 1, *SIZE)[0])
    assert torch.isfinite(found.scores).all()


def test_ground_truth_without_area_is_refused_by_video_and_frame(name):
    model = instantiate(describe(name)).train()
    wrong = clip(1, 3, *SIZE, boxes=[1, 0, 2])
    wrong.instances[2].gt_boxes.tensor[1] = torch.tensor([20.0, 5.0, 10.0, 15.0])
    message = rf"x2 > x1 and y2 > y1: \[20.0, 5.0, 10.0, 15.0\] in frame {wrong.frame_indices[2]} of video {wrong.video_ids[2]}\."
    with pytest.raises(ValueError, match=message):
        model([clip(2, 2, *SIZE), wrong])


BOX_LAYERS = re.compile(r"(anchor_deltas|bbox_pred|reg_preds|bbox_embed|box_)")


def collapse(model: VideoDetector) -> None:
    """Let every box that is predicted have no area: proposals on one point, and box layers that give extreme values."""
    head = getattr(model, "proposal_head", None)
    if head is not None:
        decode = head.decode

        def on_a_point(*args):
            found = decode(*args)
            return found._replace(boxes=found.boxes[..., :2].repeat(1, 1, 2), valid=torch.ones_like(found.valid))

        head.decode = on_a_point
        return
    with torch.no_grad():
        layers = [m for n, m in model.named_modules() if BOX_LAYERS.search(n) and isinstance(m, nn.Linear | nn.Conv2d)]
        last = [m for m in layers if len(m.weight) % 4 == 0 and len(m.weight) <= 64]
        assert last, "no layer that predicts boxes was found by its name"
        for layer in last:
            layer.weight.zero_()
            layer.bias.fill_(-50.0)


CAUSAL = [name for name in SMALL if False in forms(name) or True in forms(name)]


@pytest.mark.slow_models
@pytest.mark.parametrize("name", CAUSAL)
def test_a_frame_of_a_causal_model_costs_the_same_every_time(name):
    """Per frame number the median of five passes; the largest is under 1.5 times their median."""
    model = random_model(name, causal=True)
    frames = video(1, 40, 128, 128)
    times = [
        [seconds(stream, frame) for frame in frames] for stream in (VideoStream(model, (128, 128)) for _ in range(5))
    ]
    by_frame = torch.tensor(times).median(dim=0).values
    assert by_frame.max() < 1.5 * by_frame.median(), (by_frame * 1000).round().tolist()


def seconds(stream: VideoStream, frame: Tensor) -> float:
    """Of this thread's CPU, which other processes do not slow down much."""
    begin = time.thread_time()
    stream(frame)
    return time.thread_time() - begin


@pytest.mark.slow_models
def test_ten_thousand_frames_take_constant_memory_and_time(name):
    """The time is compared with that of a new stream in turns with it, because other processes slow both down."""
    model = random_model(name)
    stream, frames = VideoStream(model, SIZE), video(1, 50, *SIZE)
    form_at_first, memory, ratios = form(stream.state), [], []
    for round_number in range(200):
        if round_number in (40, 199):
            gc.collect()
            memory.append(resource_kb())
        spent = sum(seconds(stream, frame) for frame in frames)
        if round_number >= 193:
            new = VideoStream(model, SIZE)
            ratios.append(spent / sum(seconds(new, frame) for frame in frames))
    assert stream.frame_number == 10_000 and form(stream.state) == form_at_first
    assert memory[1] - memory[0] < 8_000, f"kB at frames 2,000 and 9,950: {memory}"
    assert torch.tensor(ratios).median() < 1.3, ratios


def resource_kb() -> int:
    """Resident memory of this process."""
    fields = Path("/proc/self/status").read_text().split("VmRSS:")[1]
    return int(fields.split()[0])


@pytest.mark.slow_models
def test_the_loss_falls_on_the_phantom(name, phantom):
    """40 iterations of the small model on 64 px videos, as its config on the phantom trains it."""
    clips = phantom_clips(phantom)
    torch.manual_seed(0)
    model = instantiate(describe(name)).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3, weight_decay=0.01)
    totals = []
    for step in range(40):
        totals.append(backward(model, [clips[(2 * step + i) % len(clips)] for i in range(2)], seed=step))
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
    first, last = (sum(part) / 8 for part in (totals[:8], totals[-8:]))
    assert last < 0.85 * first, totals


@functools.lru_cache(maxsize=1)
def phantom_clips(root: Path) -> list[Clip]:
    """The first eight frames of each training video."""
    cfg = get_config("common/data/phantom.py")
    cfg.train = Node(seed=0)
    cfg.data.root = str(root)
    cfg.dataloader.train.num_workers = 0
    cfg.dataloader.train.total_batch_size = 1
    cfg.dataloader.train.frame_sampler.num_frames = 8
    cfg.dataloader.train.frame_sampler.stride = 1
    loader = iter(Builder(cfg).build("dataloader.train"))
    return [next(loader)[0] for _ in range(12)]
