"""DefaultTrainer and DefaultPredictor as a project uses them."""

import argparse
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from tests.conftest import ROOT, read_rows, same_weights
from ultravid.config import Builder, ConfigError, LazyConfig, as_config, get_cfg
from ultravid.data import DataError, DatasetCatalog, Frame, Video, load_cva_bus
from ultravid.engine import DefaultPredictor, DefaultTrainer, HookBase, SimpleTrainer, default_setup, hooks
from ultravid.evaluation import DatasetEvaluator
from ultravid.modeling import TwoStage
from ultravid.utils.errors import UserError
from ultravid.utils.events import EventWriter, get_event_storage

CONFIGS = ROOT / "projects/basicdet/configs"


def read(name="phantom", *overrides):
    cfg = get_cfg()
    cfg.merge_from_file(CONFIGS / f"{name}.yaml")
    cfg.merge_from_list(list(overrides))
    return cfg


@pytest.fixture
def cfg(phantom, tmp_path, monkeypatch):
    """A run of seconds."""
    monkeypatch.setenv("ULTRAVID_DATASETS", str(phantom.parent))
    small = ["SOLVER.MAX_ITER", "3", "LOG_PERIOD", "1", "INPUT.CLIP.NUM_FRAMES", "2", "DATALOADER.NUM_WORKERS", "0"]
    cfg = read("phantom", *small, "OUTPUT_DIR", str(tmp_path / "run"))
    cfg.freeze()
    return cfg


def arguments(resume=False):
    return argparse.Namespace(config_file="phantom.yaml", resume=resume, eval_only=False)


def changed(cfg, *overrides):
    cfg = cfg.clone()
    cfg.defrost()
    cfg.merge_from_list(list(overrides))
    return cfg


class CountingEvaluator(DatasetEvaluator):
    def __init__(self, dataset_name):
        self.dataset_name = dataset_name
        self.frames = 0

    def reset(self):
        self.frames = 0

    def process(self, inputs, outputs):
        self.frames += len(inputs)

    def evaluate(self):
        return {"frames": self.frames}


class Recorder(HookBase):
    def __init__(self):
        self.calls = []

    def before_train(self):
        self.calls.append(("before_train", type(self.trainer.model).__name__, self.trainer.cfg.SOLVER.MAX_ITER))

    def after_backward(self):
        grads = [p.grad for p in self.trainer.model.parameters() if p.grad is not None]
        self.calls.append(("after_backward", self.trainer.iter, len(grads) > 0))

    def after_step(self):
        self.calls.append(("after_step", self.trainer.iter, "total_loss" in self.trainer.storage.latest()))


class KeepingWriter(EventWriter):
    def __init__(self):
        self.seen = []

    def write(self):
        self.seen.append(dict(get_event_storage().latest()))


class Trainer(DefaultTrainer):
    @classmethod
    def build_evaluator(cls, cfg, dataset_name):
        return CountingEvaluator(dataset_name)

    def build_hooks(self):
        self.recorder = Recorder()
        return [*super().build_hooks(), self.recorder]

    def build_writers(self):
        self.writer = KeepingWriter()
        return [*super().build_writers(), self.writer]


def test_a_subclass_has_its_own_evaluator_hooks_and_writers(cfg):
    default_setup(cfg, arguments())
    trainer = Trainer(cfg)
    assert isinstance(trainer, SimpleTrainer) and not hasattr(trainer, "_trainer")
    trainer.resume_or_load(resume=False)
    assert trainer.train() == {"frames": 24}  # 2 test videos of 12 frames
    expected = [("before_train", "TwoStage", 3)]
    for i in range(3):
        expected += [("after_backward", i, True), ("after_step", i, True)]
    assert trainer.recorder.calls == expected
    assert trainer.writer.seen[-1]["frames"] == (24.0, 3)
    assert read_rows(trainer.checkpointer.save_dir / "metrics.json")[-1] == {"iteration": 3, "frames": 24.0}


def test_parts_are_overridden_one_by_one(cfg):
    class Own(DefaultTrainer):
        @classmethod
        def build_model(cls, cfg):
            model = super().build_model(cfg)
            model.roi_sampler.gt_jitter = 0.0
            return model

        @classmethod
        def build_optimizer(cls, cfg, model):
            return torch.optim.Adagrad(model.parameters(), lr=0.1)

        @classmethod
        def build_lr_scheduler(cls, cfg, optimizer):
            return torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)

        @classmethod
        def build_train_loader(cls, cfg):
            return [next(iter(super().build_train_loader(cfg)))]  # any iterable of batches will do

    cfg = changed(cfg, "DATASETS.TEST", "()")
    trainer = Own(cfg)
    trainer.resume_or_load(resume=False)
    assert trainer.train() == {}
    assert isinstance(trainer.optimizer, torch.optim.Adagrad) and trainer.model.roi_sampler.gt_jitter == 0.0
    assert [row["lr"] for row in read_rows(trainer.checkpointer.save_dir / "metrics.json")] == [0.1, 0.05, 0.025]


def test_several_data_sets_are_evaluated_each_by_itself(cfg, phantom):
    DatasetCatalog.register("first_video", lambda: load_cva_bus(root=phantom, splits=["test"])[:1])
    try:
        cfg = changed(cfg, "DATASETS.TEST", "('phantom_test', 'first_video')")
        model = Trainer.build_model(cfg)
        assert Trainer.test(cfg, model) == {"phantom_test": {"frames": 24}, "first_video": {"frames": 12}}
        given = [CountingEvaluator("a"), CountingEvaluator("b")]
        assert Trainer.test(cfg, model, given)["first_video"] == {"frames": 12}
        assert (given[0].frames, given[1].frames) == (24, 12)
        with pytest.raises(ConfigError, match="1 evaluators were given for 2 data sets"):
            Trainer.test(cfg, model, CountingEvaluator("a"))
        results = DefaultTrainer.test(cfg, model)
        assert set(results) == {"phantom_test", "first_video"} and "AP50" in results["first_video"]
        folder = Path(cfg.OUTPUT_DIR) / "inference"
        assert {p.name for p in folder.iterdir()} == {"phantom_test", "first_video"}
        records = {p.parent.name: json.loads(p.read_text()) for p in folder.glob("*/record.json")}
        assert {name: found["data"]["videos"] for name, found in records.items()} == {
            "phantom_test": 2,
            "first_video": 1,
        }
    finally:
        DatasetCatalog.remove("first_video")


def test_a_drawn_seed_is_kept_for_the_run_and_for_its_resumption(cfg, tmp_path):
    cfg = changed(cfg, "SEED", "-1")
    cfg.freeze()
    default_setup(cfg, arguments())
    assert cfg.SEED >= 0 and cfg.is_frozen()
    saved = get_cfg()
    saved.merge_from_file(tmp_path / "run/config.yaml")
    assert saved == cfg
    again = changed(cfg, "SEED", "-1")
    default_setup(again, arguments(resume=True))
    assert again.SEED == cfg.SEED


def test_mixed_precision_and_accumulation_are_keys(cfg):
    cfg = changed(cfg, "SOLVER.AMP.ENABLED", "True", "SOLVER.ACCUMULATE", "2", "DATASETS.TEST", "()")
    trainer = DefaultTrainer(cfg)
    assert trainer.precision.autocast_dtype == "bfloat16" and trainer.accumulation.num_batches == 2
    trainer.resume_or_load(resume=False)
    trainer.train()
    assert len(read_rows(trainer.checkpointer.save_dir / "metrics.json")) == 3
    with pytest.raises(ConfigError, match=r"SOLVER.AMP.PRECISION is 'int8'\..*bfloat16"):
        DefaultTrainer(changed(cfg, "SOLVER.AMP.PRECISION", "int8"))


@pytest.mark.parametrize("name", ["phantom", "phantom_one_frame", "cva_bus"])
def test_a_yaml_config_builds_the_model_the_schedule_and_the_optimizer_of_the_python_config(name):
    cfg, lazy = read(name), Builder(LazyConfig.load(CONFIGS / f"{name}.py"))
    torch.manual_seed(0)
    model = DefaultTrainer.build_model(cfg)
    torch.manual_seed(0)
    twin = lazy.build("model")
    assert str(model) == str(twin)
    assert plain_settings(model) == plain_settings(twin)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), twin.state_dict().values(), strict=True))
    optimizer, other = DefaultTrainer.build_optimizer(cfg, model), lazy.build("optimizer")
    assert groups_of(optimizer) == groups_of(other)
    scheduler = DefaultTrainer.build_lr_scheduler(cfg, optimizer)
    max_iter, multiplier = lazy.cfg.train.max_iter, lazy.build("lr_multiplier")
    assert max_iter == cfg.SOLVER.MAX_ITER
    for i in range(max_iter):
        scheduler.set_iteration(i)
        rate = optimizer.param_groups[0]["lr"]
        assert rate == pytest.approx(cfg.SOLVER.BASE_LR * multiplier(i / max_iter), rel=1e-12)
    clip, other_clip = clipper_of(cfg), lazy.build("trainer.clip_grad")
    assert clip.func is other_clip.func and other_clip.keywords.items() <= clip.keywords.items()


def clipper_of(cfg):
    return Builder(as_config(cfg)).build("trainer.clip_grad")


def plain_settings(module):
    """Numbers and texts that modules hold as attributes, which their repr does not show, by the module's name."""
    found = {}
    for name, part in module.named_modules():
        for key, value in vars(part).items():
            if isinstance(value, int | float | str | bool | tuple | list | None) and not key.startswith("_"):
                found[f"{name}.{key}"] = value
            elif type(value).__name__ in ("Matcher", "Box2BoxTransform"):
                found[f"{name}.{key}"] = {k: list(v) if isinstance(v, tuple) else v for k, v in vars(value).items()}
    return found


def groups_of(optimizer):
    return [{k: v for k, v in group.items() if k not in ("params", "initial_lr")} for group in optimizer.param_groups]


def test_gradients_are_clipped_by_value_by_each_norm_or_by_the_norm_of_all():
    def clipped(kind):
        parameters = [torch.nn.Parameter(torch.zeros(2)), torch.nn.Parameter(torch.zeros(1))]
        parameters[0].grad, parameters[1].grad = torch.tensor([3.0, 4.0]), torch.tensor([12.0])
        keys = ["SOLVER.CLIP_GRADIENTS.CLIP_TYPE", kind, "SOLVER.CLIP_GRADIENTS.CLIP_VALUE", "2.0"]
        clipper_of(read("phantom", *keys))(parameters)
        return torch.cat([p.grad for p in parameters]).tolist()

    assert clipped("value") == [2.0, 2.0, 2.0]
    assert clipped("norm") == pytest.approx([1.2, 1.6, 2.0], rel=1e-5)  # norms 5 and 12
    assert clipped("full_model") == pytest.approx([6 / 13, 8 / 13, 24 / 13], rel=1e-5)  # norm 13
    assert clipper_of(read("phantom", "SOLVER.CLIP_GRADIENTS.ENABLED", "False")) is None


def test_steps_past_the_end_are_ignored_and_the_cosine_ends_at_its_rate():
    parameter = torch.nn.Parameter(torch.zeros(1))

    def rates(*overrides):
        cfg = read("phantom", "SOLVER.MAX_ITER", "4", "SOLVER.WARMUP_ITERS", "0", "SOLVER.BASE_LR", "1", *overrides)
        optimizer = torch.optim.SGD([parameter], lr=1.0)
        scheduler = DefaultTrainer.build_lr_scheduler(cfg, optimizer)
        found = []
        for i in range(4):
            scheduler.set_iteration(i)
            found.append(optimizer.param_groups[0]["lr"])
        return found

    gamma = ["SOLVER.STEP_FACTORS", "[]", "SOLVER.GAMMA", "0.5"]
    assert rates("SOLVER.STEPS", "(1, 3, 4)", *gamma) == [1.0, 0.5, 0.5, 0.25]
    cosine = rates("SOLVER.LR_SCHEDULER_NAME", "WarmupCosineLR", "SOLVER.BASE_LR_END", "0.2")
    assert cosine == pytest.approx([0.2 + 0.8 * (1 + np.cos(np.pi * i / 4)) / 2 for i in range(4)])


def test_the_predictor_gives_frame_by_frame_what_the_evaluation_gives(cfg, phantom, tmp_path):
    cfg = changed(cfg, "INPUT.AREA_TEST", "2500")  # the frames are 64 x 64
    default_setup(cfg, arguments())
    trainer = DefaultTrainer(cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()
    found = {}
    for row in json.loads((tmp_path / "run/inference/predictions.json").read_text()):
        found.setdefault((row["video_id"], row["frame_index"]), []).append((*row["bbox"], row["score"]))
    cfg = changed(cfg, "MODEL.WEIGHTS", str(tmp_path / "run/model_final.pth"))
    predictor = DefaultPredictor(cfg)
    assert predictor.metadata.thing_classes == ["lesion"] and not predictor.model.training
    given = DefaultPredictor(cfg, image_size=(64, 64), precision="bfloat16").model
    assert given.image_size == (64, 64) and given.precision == "bfloat16"
    with pytest.raises(ValueError, match="need prepare=True"):
        DefaultPredictor(cfg, prepare=False, precision="bfloat16")
    for video in load_cva_bus(root=phantom, splits=["test"]):
        predictor.reset()
        for index, frame in enumerate(video.frames):
            rows = rows_of(predictor(cv2.imread(frame.path)))  # of folded norms: the same but for rounding
            np.testing.assert_allclose(rows, found[video.video_id, index], atol=1e-3)
    # Without a reset the next video's first frame relates to the frames before.
    first = load_cva_bus(root=phantom, splits=["test"])[0]
    assert rows_of(predictor(cv2.imread(first.frames[0].path))) != found[first.video_id, 0]


def rows_of(prediction):
    instances = prediction["instances"].to("cpu")
    rows = zip(instances.pred_boxes.tensor.tolist(), instances.scores.tolist(), strict=True)
    return [(x1, y1, x2 - x1, y2 - y1, score) for (x1, y1, x2, y2), score in rows]


def test_the_order_of_channels_is_that_of_the_format_in_training_evaluation_and_prediction(cfg, phantom):
    seen = []

    class Model(torch.nn.Module):
        def forward(self, inputs):
            seen.append(inputs[0]["image"][:, 0, 0].tolist())
            return [{"instances": None}]

    frame = np.zeros((8, 8, 3), np.uint8)
    frame[:] = (1, 2, 3)  # blue, green, red
    for image_format in ("RGB", "BGR"):
        predictor = DefaultPredictor(changed(cfg, "INPUT.FORMAT", image_format))
        predictor.model = Model()
        predictor(frame)
        predictor.reset()
    assert seen == [[3, 2, 1], [1, 2, 3]]


def test_coloured_frames_reach_a_bgr_model_reversed(cfg, tmp_path):
    path = tmp_path / "frame.png"
    cv2.imwrite(str(path), np.full((8, 8, 3), (1, 2, 3), np.uint8))
    box = np.array([[1, 1, 5, 5]], np.float32)
    lesion = {"boxes": box, "classes": np.zeros(1, np.int64), "track_ids": np.zeros(1, np.int64)}
    video = Video("v", tuple(Frame(str(path), i, 8, 8, **lesion) for i in range(2)), "p")
    DatasetCatalog.register("coloured", lambda: [video])
    try:
        names = ["DATASETS.TRAIN", "('coloured',)", "INPUT.CLIP.NUM_FRAMES", "1"]
        for image_format, expected in (("RGB", [3, 2, 1]), ("BGR", [1, 2, 3])):
            own = changed(cfg, *names, "INPUT.FORMAT", image_format)
            clip = next(iter(DefaultTrainer.build_train_loader(own)))[0]
            frame = next(iter(DefaultTrainer.build_test_loader(own, "coloured")))[0]
            assert clip.frames[0, :, 0, 0].tolist() == frame["image"][:, 0, 0].tolist() == expected
    finally:
        DatasetCatalog.remove("coloured")


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (np.zeros((8, 8), np.uint8), r"shape \(H, W, 3\), got \(8, 8\)"),
        (np.zeros((8, 8, 3), np.float32), "array of uint8, got float32"),
        ([[1]], "array of uint8, got list"),
    ],
)
def test_an_array_that_is_not_a_frame_is_refused(cfg, frame, message):
    with pytest.raises(UserError, match=message):
        DefaultPredictor(cfg)(frame)


def test_numbers_out_of_range_are_reported_together_before_anything_is_built(cfg):
    wrong = changed(
        cfg, "LOG_PERIOD", "0", "SOLVER.IMS_PER_BATCH", "0", "INPUT.COLOR.CONTRAST", "[1.0]", "TEST.EVAL_PERIOD", "-1"
    )
    wrong = changed(wrong, "INPUT.COLOR.ENABLED", "True")
    with pytest.raises(ConfigError) as caught:
        DefaultTrainer(wrong)
    text = str(caught.value)
    assert all(
        key in text for key in ("LOG_PERIOD is 0", "IMS_PER_BATCH is 0", "CONTRAST is [1.0]", "EVAL_PERIOD is -1")
    )


class OwnDetector(TwoStage):
    """A project's own."""


def test_a_project_names_its_own_detector_by_its_module(cfg):
    name = f"{__name__}.OwnDetector"
    assert type(DefaultTrainer.build_model(changed(cfg, "MODEL.META_ARCHITECTURE", name))).__name__ == "OwnDetector"


def test_a_run_is_resumed_from_its_last_checkpoint(cfg, tmp_path):
    def train(folder, resume, max_iter):
        own = changed(cfg, "OUTPUT_DIR", str(tmp_path / folder), "SOLVER.CHECKPOINT_PERIOD", "2", "DATASETS.TEST", "()")
        default_setup(own, arguments(resume))
        trainer = DefaultTrainer(own)
        trainer.resume_or_load(resume)
        trainer.train(max_iter=max_iter)
        return trainer

    train("whole", False, 3)
    train("parts", False, 2)  # its last checkpoint is after 2 steps
    resumed = train("parts", True, 3)
    assert resumed.start_iter == 2
    assert same_weights(tmp_path / "parts/model_final.pth", tmp_path / "whole/model_final.pth")


class SpoilGradient(HookBase):
    """Makes the gradient of one iteration infinite."""

    def after_backward(self):
        if self.trainer.iter == 1:
            next(p for p in self.trainer.model.parameters() if p.grad is not None).grad.fill_(torch.inf)


def test_averaged_weights_leave_out_a_skipped_step(cfg):
    seen = []

    class Averaging(DefaultTrainer):
        def build_hooks(self):
            self.ema = hooks.EMA(self.model, self.checkpointer, decay=0.5, warmup=False)
            average = hooks.CallbackHook(
                after_step=lambda trainer: seen.append(
                    (self.ema.state_dict()["num_updates"], [v.clone() for v in self.ema._average.values()])
                )
            )
            return [SpoilGradient(), *super().build_hooks(), self.ema, average]

    trainer = Averaging(changed(cfg, "SOLVER.SKIP_NONFINITE", "1", "DATASETS.TEST", "()"))
    trainer.resume_or_load(resume=False)
    trainer.train()
    assert [number for number, _ in seen] == [1, 1, 2]
    (_, first), (_, skipped), (_, third) = seen
    assert all(torch.equal(a, b) for a, b in zip(first, skipped, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(skipped, third, strict=True))


def test_a_trainer_and_a_predictor_take_a_config_in_nodes_a_file_or_the_folder_of_a_run(phantom, tmp_path, monkeypatch):
    monkeypatch.setenv("ULTRAVID_DATASETS", str(phantom.parent))
    small = ["train.max_iter=2", "dataloader.train.frame_sampler.num_frames=2", "dataloader.train.num_workers=0"]
    folder = tmp_path / "run"
    overrides = [*small, "dataloader.test.num_workers=0", f"train.output_dir={folder}", "train.log_period=1"]
    config = LazyConfig.apply_overrides(LazyConfig.load(CONFIGS / "phantom.py"), overrides)
    default_setup(config, arguments())
    trainer = DefaultTrainer(config)
    trainer.resume_or_load(resume=False)
    assert "AP50" in trainer.train()
    assert list(trainer.named_hooks) == [
        "progress",
        "timer",
        "lr",
        "eval",
        "best",
        "ledger",
        "writer",
        "checkpoint",
        "stop",
        "record",
        "hang",
    ]
    frame = cv2.imread(load_cva_bus(root=phantom, splits=["test"])[0].frames[0].path)
    config.train.init_checkpoint = str(folder / "model_final.pth")
    LazyConfig.save(config, tmp_path / "saved.yaml")
    expected = rows_of(DefaultPredictor(config)(frame))
    assert len(expected) > 0
    assert (
        rows_of(DefaultPredictor(folder)(frame))
        == rows_of(DefaultPredictor(tmp_path / "saved.yaml")(frame))
        == expected
    )


def test_the_state_of_hooks_that_was_stored_by_class_is_loaded(cfg):
    trainer = DefaultTrainer(changed(cfg, "TEST.BEST_METRIC", "AP50"))
    state = trainer.state_dict()
    given = []
    trainer.named_hooks["best"].load_state_dict = given.append
    trainer.named_hooks["ledger"].load_state_dict = given.append
    trainer.load_state_dict({**state, "hooks": {"BestCheckpointer": {"best": 1}, "TimeLedger": {"seconds": 2}}})
    assert given == [{"best": 1}, {"seconds": 2}]


def test_default_setup_takes_a_dict_of_arguments_as_detectron2s_does(cfg, tmp_path):
    default_setup(cfg, {})
    saved = get_cfg()
    saved.merge_from_file(tmp_path / "run/config.yaml")
    assert saved == cfg and LazyConfig.load(tmp_path / "run/config.yaml").train.max_iter == 3


def test_several_test_data_sets_are_evaluated_during_training_also_by_the_config_alone(cfg, phantom):
    DatasetCatalog.register("first.video", lambda: load_cva_bus(root=phantom, splits=["test"])[:1])
    try:
        cfg = changed(cfg, "DATASETS.TEST", "('phantom_test', 'first.video')", "TEST.BEST_METRIC", "phantom_test/AP50")
        trainer = DefaultTrainer(cfg)
        trainer.resume_or_load(resume=False)
        results = trainer.train()
        builder = Builder(as_config(cfg))
        builder.build("checkpointer").load(Path(cfg.OUTPUT_DIR) / "model_final.pth")
        again = builder.build("trainer.hooks.eval")._func()
        assert set(results) == {"phantom_test", "first.video"} and set(again) == {"phantom_test", "first_video"}
        assert again["first_video"]["AP50"] == results["first.video"]["AP50"]
    finally:
        DatasetCatalog.remove("first.video")


def test_test_data_that_are_missing_are_reported_before_the_first_iteration(cfg):
    def gone():
        raise DataError("the drive is not there")

    DatasetCatalog.register("gone", gone)
    try:
        trainer = Trainer(changed(cfg, "DATASETS.TEST", "('gone',)"))
        trainer.resume_or_load(resume=False)
        with pytest.raises(DataError, match="the drive is not there"):
            trainer.train()
        assert trainer.recorder.calls == []
    finally:
        DatasetCatalog.remove("gone")
