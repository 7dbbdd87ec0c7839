import functools
import json
import math
import random
import re

import numpy as np
import pytest
import torch
from fvcore.common.param_scheduler import ConstantParamScheduler
from torch import nn

from tests.conftest import read_rows
from ultravid.checkpoint import DetectionCheckpointer
from ultravid.engine import AMPTrainer, HookBase, SimpleTrainer, StopTraining, hooks
from ultravid.engine.steps import Accumulation, NonfinitePolicy
from ultravid.evaluation import DatasetEvaluators, FramePictures, VideoDetectionEvaluator
from ultravid.solver import LRMultiplier
from ultravid.utils.errors import UserError
from ultravid.utils.events import (
    CommonMetricPrinter,
    CSVWriter,
    EventStorage,
    EventWriter,
    JSONWriter,
    get_event_storage,
)


class Model(nn.Module):
    """A regression that also draws and measures something."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 1)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x):
        get_event_storage().put_scalar("some_accuracy", float(x.mean()))
        drawn = random.random() + np.random.randn()  # noqa: NPY002  # as a user's model may
        get_event_storage().put_scalar("drawn_by_the_model", drawn)
        return {
            "loss_a": self.layer(self.dropout(x)).pow(2).mean(),
            "loss_b": self.layer.weight.abs().sum(),
        }


class Data:
    """Batches that are a function of the iteration."""

    def __iter__(self):
        return self.iterate_from(0)

    def iterate_from(self, start):
        i = start
        while True:
            yield torch.randn(4, 3, generator=torch.Generator().manual_seed(i))
            i += 1


class Calls(HookBase):
    def __init__(self):
        self.seen = []

    def before_train(self):
        self.seen.append("before_train")

    def after_train(self):
        self.seen.append("after_train")

    def before_step(self):
        self.seen.append("before_step")

    def after_backward(self):
        assert self.trainer.model.layer.weight.grad is not None
        self.seen.append("after_backward")

    def after_step(self):
        self.seen.append("after_step")


class FailAt(HookBase):
    def __init__(self, iteration, error):
        self.iteration, self.error = iteration, error

    def after_step(self):
        if self.trainer.iter == self.iteration:
            raise self.error


def make(kind=SimpleTrainer, **kwargs):
    torch.manual_seed(0)
    model = Model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    return kind(model, Data(), optimizer, seed=5, **{"max_iter": 6, **kwargs})


def weights(trainer):
    return [p.detach().clone() for p in trainer.model.parameters()]


def test_hooks_are_called_in_their_order_and_measurements_are_kept():
    calls = Calls()
    trainer = make(hooks=[calls], max_iter=2)
    trainer.train()
    step = ["before_step", "after_backward", "after_step"]
    assert calls.seen == ["before_train", *step, *step, "after_train"]
    assert trainer.iter == 2
    assert {"some_accuracy", "loss_a", "loss_b", "total_loss"} <= set(trainer.storage.histories())


def test_named_hooks_run_by_their_order_and_lists_in_theirs():
    seen = []
    late, early = (
        type(
            name,
            (HookBase,),
            {"order": order, "before_train": lambda self, name=name: seen.append(name)},
        )()
        for name, order in (("late", 90), ("early", 10))
    )
    make(hooks={"late": late, "early": early, "none": None}, max_iter=0).train()
    make(hooks=[late, early], max_iter=0).train()
    assert seen == ["early", "late", "late", "early"]


def test_mixed_precision_that_is_off_is_the_simple_trainer():
    simple, amp, on = make(), make(AMPTrainer, enabled=False), make(AMPTrainer, enabled=True)
    for trainer in (simple, amp, on):
        trainer.train()
    assert all(torch.equal(a, b) for a, b in zip(weights(simple), weights(amp), strict=True))
    assert all(torch.allclose(a, b, atol=0.05) for a, b in zip(weights(simple), weights(on), strict=True))


def test_gradients_are_clipped_before_the_step():
    trainer = make(clip_grad=lambda p: nn.utils.clip_grad_norm_(p, 1e-3), max_iter=1)
    trainer.train()
    norm = torch.stack([p.grad.norm() for p in trainer.model.parameters()]).norm()
    assert norm.item() == pytest.approx(1e-3, rel=1e-3)


def test_a_loss_that_is_nan_stops_before_the_step_and_names_the_iteration():
    trainer = make()
    trainer.register_hooks([FailAt(1, None)])
    trainer.named_hooks["FailAt"].after_step = lambda: (
        trainer.iter == 1 and trainer.model.layer.weight.data.fill_(math.nan)
    )
    with pytest.raises(FloatingPointError, match=r"iteration 2: loss_a=nan, loss_b=nan"):
        trainer.train()


class Plain(nn.Module):
    """A regression that draws nothing; a negative first number makes its gradient infinite at a finite loss."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 1)

    def forward(self, x):
        root = (self.layer.weight.sum() * 0).abs().sqrt() if x[0, 0] < -100 else 0.0
        return {"loss": self.layer(x).pow(2).mean() + root}


def plain_trainer(batches, **kwargs):
    torch.manual_seed(0)
    model = Plain()
    return SimpleTrainer(model, batches, torch.optim.SGD(model.parameters(), lr=0.1), max_iter=2, **kwargs)


def test_accumulated_batches_make_the_step_of_one_large_batch():
    rows = torch.randn(16, 3)
    whole, parts = plain_trainer(rows.split(8)), plain_trainer(rows.split(4), accumulation=Accumulation(2))
    for trainer in (whole, parts):
        trainer.train()
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(weights(whole), weights(parts), strict=True))
    for name in ("loss", "total_loss", "grad_norm"):
        expected, got = ([v for v, _ in t.storage.history(name).values()] for t in (whole, parts))
        assert got == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("bad", [math.nan, -1000.0])
def test_a_step_whose_gradient_is_not_finite_is_skipped_or_ends_the_run(bad):
    good, broken = torch.ones(2, 3), torch.full((2, 3), bad)
    skipping, reference = plain_trainer([broken, good], nonfinite=NonfinitePolicy(1)), plain_trainer([good])
    skipping.train()
    reference.max_iter = 1
    reference.train()
    assert all(torch.equal(a, b) for a, b in zip(weights(skipping), weights(reference), strict=True))
    before = weights(plain_trainer([good]))
    for limit in (0, 1):
        trainer = plain_trainer([broken], nonfinite=NonfinitePolicy(limit))
        what = "Loss" if math.isnan(bad) else "Gradient"
        with pytest.raises(FloatingPointError, match=rf"{what} is not finite in iteration {limit}: .*norm of the gr"):
            trainer.train()
        assert all(torch.equal(a, b) for a, b in zip(weights(trainer), before, strict=True))


def test_numbers_on_a_device_are_read_when_a_reader_asks():
    with EventStorage(3) as storage:
        with storage.name_scope("a"):
            storage.put_scalars_later(["x", "y"], torch.tensor([1.0, 2.0]))
        storage.iter = 4
        storage.put_scalars_later(["a/x"], torch.tensor([5.0]))
    assert storage.latest() == {"a/x": (5.0, 4), "a/y": (2.0, 3)}
    assert storage.history("a/x").values() == [(1.0, 3), (5.0, 4)]


def test_an_error_in_after_train_does_not_hide_the_one_that_ended_the_run(caplog):
    class Broken(HookBase):
        def after_train(self):
            raise RuntimeError("second")

    with pytest.raises(ZeroDivisionError, match="first"):
        make(hooks=[FailAt(1, ZeroDivisionError("first")), Broken()]).train()
    with pytest.raises(RuntimeError, match="second"):
        make(hooks=[Broken()]).train()


def test_a_failure_in_the_last_iteration_evaluates_nothing():
    evaluated = []
    hook = hooks.EvalHook(2, lambda: evaluated.append(1) or {"AP50": 1.0})
    with pytest.raises(ZeroDivisionError):
        make(hooks=[FailAt(5, ZeroDivisionError()), hook]).train()
    assert len(evaluated) == 2  # after iterations 2 and 4
    trainer = make(hooks=[hooks.EvalHook(2, lambda: {"AP50": 1.0, "by": {"size": 2.0}})])
    trainer.train()
    assert trainer.storage.latest()["by/size"] == (2.0, 6)


def test_the_best_checkpoint_is_not_the_last_and_its_value_survives_a_resume(tmp_path):
    def run(values, max_iter, resume):
        metrics = iter(values)
        checkpointer = DetectionCheckpointer(nn.Linear(1, 1), tmp_path)
        trainer = make(
            checkpointer=checkpointer,
            max_iter=max_iter,
            hooks={
                "eval": hooks.EvalHook(2, lambda: {"AP50": next(metrics)}),
                "best": hooks.BestCheckpointer(2, checkpointer, "AP50"),
                "save": hooks.PeriodicCheckpointer(checkpointer, 2, max_to_keep=2),
            },
        )
        trainer.resume_or_load(resume)
        trainer.train()
        return trainer

    run([3.0, 9.0, 5.0], 6, resume=False)
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"
    assert torch.load(tmp_path / "model_best.pth", weights_only=True)["iteration"] == 3
    trainer = run([7.0, 8.0], 8, resume=True)
    assert trainer.start_iter == 6
    assert trainer.named_hooks["best"].best_metric == 9.0
    # The oldest files go, those of the first attempt too.
    assert sorted(p.name for p in tmp_path.glob("model_0*")) == [
        "model_0000001.pth",
        "model_0000003.pth",
    ]


def test_a_resumed_run_is_the_same_run(tmp_path):
    def run(folder, stop_at, resume):
        checkpointer = DetectionCheckpointer(Model(), folder)
        trainer = make(AMPTrainer, enabled=True, checkpointer=checkpointer, max_iter=9, accumulation=Accumulation(2))
        checkpointer.model = trainer.model
        trainer.register_hooks(
            {
                "writer": hooks.PeriodicWriter([JSONWriter(folder / "metrics.json")], period=2),
                "save": hooks.PeriodicCheckpointer(checkpointer, 3),
                "stop": FailAt(stop_at, StopTraining("here")),
            }
        )
        trainer.resume_or_load(resume)
        if stop_at is None:
            trainer.train()
        else:
            with pytest.raises(StopTraining):
                trainer.train()
        return trainer

    for folder in ("whole", "cut"):
        (tmp_path / folder).mkdir()
    whole = run(tmp_path / "whole", None, resume=False)
    run(tmp_path / "cut", 6, resume=False)
    cut = run(tmp_path / "cut", None, resume=True)
    assert cut.start_iter == 6
    assert all(torch.equal(a, b) for a, b in zip(weights(whole), weights(cut), strict=True))
    drop = ("data_time",)
    rows = [
        [{k: v for k, v in r.items() if k not in drop} for r in read_rows(tmp_path / f / "metrics.json")]
        for f in ("whole", "cut")
    ]
    assert rows[0] == rows[1]


def run_in(folder, max_iter, *, resume=False, stop_at=None, init="", metric="AP50", **more):
    """A run with a checkpoint after every second step and rows after every fifth."""
    checkpointer = DetectionCheckpointer(nn.Linear(1, 1), folder)
    trainer = make(checkpointer=checkpointer, max_iter=max_iter, init_checkpoint=init)
    checkpointer.model = trainer.model
    trainer.register_hooks(
        {
            **more,
            "writer": hooks.PeriodicWriter([JSONWriter(folder / "metrics.json")], period=5),
            "save": hooks.PeriodicCheckpointer(checkpointer, 2, max_to_keep=2),
            "best": hooks.BestCheckpointer(2 if metric != "AP50" else 3, checkpointer, metric),
            **({} if stop_at is None else {"stop": FailAt(stop_at, StopTraining("here"))}),
        }
    )
    trainer.resume_or_load(resume)
    try:
        trainer.train()
    except StopTraining:
        assert stop_at is not None
    return trainer


def test_a_new_run_archives_the_checkpoints_of_an_older_one(tmp_path):
    run_in(tmp_path, 20)
    run_in(tmp_path, 20, stop_at=6)
    assert sorted(p.name for p in tmp_path.glob("model_*")) == ["model_0000003.pth", "model_0000005.pth"]
    assert (tmp_path / "earlier_run_1/model_final.pth").is_file()
    assert run_in(tmp_path, 20, resume=True).start_iter == 6


def test_resuming_without_a_checkpoint_starts_at_zero_whatever_the_initial_weights_say(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    run_in(tmp_path / "a", 6)
    assert run_in(tmp_path / "b", 6, resume=True, init=str(tmp_path / "a/model_final.pth")).start_iter == 0


def test_a_run_that_cannot_start_leaves_the_older_one_as_it_was(tmp_path):
    run_in(tmp_path, 6, stop_at=4)
    with pytest.raises(ValueError, match="does not exist"):
        run_in(tmp_path, 6, init=str(tmp_path / "gone.pth"))
    assert run_in(tmp_path, 6, resume=True).start_iter == 4


def test_a_checkpoint_is_found_without_the_file_that_names_it(tmp_path):
    run_in(tmp_path, 6, stop_at=4)
    (tmp_path / "last_checkpoint").unlink()
    assert run_in(tmp_path, 6, resume=True).start_iter == 4


def test_the_metrics_of_an_evaluation_are_written_before_a_run_can_stop(tmp_path):
    metrics = iter([1.0, 2.0, 3.0])
    evaluation = hooks.EvalHook(3, lambda: {"AP50": next(metrics)})
    run_in(tmp_path, 8, stop_at=3, eval=evaluation)
    assert [r["iteration"] for r in read_rows(tmp_path / "metrics.json") if "AP50" in r] == [2]


def test_the_best_value_of_the_last_evaluation_is_remembered(tmp_path):
    run_in(tmp_path, 6, eval=hooks.EvalHook(0, lambda: {"AP50": 9.0}))
    longer = run_in(tmp_path, 8, resume=True, eval=hooks.EvalHook(0, lambda: {"AP50": 5.0}))
    assert (longer.start_iter, longer.named_hooks["best"].best_metric) == (6, 9.0)


def test_an_own_evaluators_metrics_reach_the_log_the_rows_and_the_best_checkpoint(tmp_path, caplog):
    results = {
        "bbox": {"AP": np.float32(61.5), "AP-cyst": None, 3: torch.tensor([2.0])},
        "speed": True,
        "count": 10**400,
        "note": "good",
        "curve": [1.0, 2.0],
    }
    with caplog.at_level("INFO"):
        trainer = run_in(tmp_path, 3, eval=hooks.EvalHook(2, lambda: results), metric="bbox/AP")
    assert trainer.named_hooks["best"].best_metric == 61.5
    rows = read_rows(tmp_path / "metrics.json")
    metrics = {"bbox/AP": 61.5, "bbox/AP-cyst": None, "bbox/3": 2.0, "speed": 1.0, "count": None}
    assert [{k: v for k, v in r.items() if k in metrics} for r in rows if "speed" in r] == [metrics, metrics]
    assert not any("note" in row or "nonfinite/bbox/AP-cyst" in row for row in rows)
    assert re.search(r"\| *bbox/AP \| *bbox/AP-cyst \|.*\n.*\n\| *61\.50 \| *- \|", caplog.text)
    assert (
        "The metric 'note' is 'good' (str), not a number" in caplog.text
        and "'curve' is [1.0, 2.0] (list)" in caplog.text
    )


@pytest.mark.parametrize(
    ("results", "message"),
    [
        ({"bbox": {"AP": 1.0}}, r"best.val_metric='AP' is not one .* Did you mean 'bbox/AP'\?"),
        ({"AP": 1.0, "": 2.0}, r"The evaluation returned 2\.0 without a name"),
        ({"bbox": {"AP": 1.0}, "bbox/AP": 2.0}, "two metrics of one name, 'bbox/AP'"),
        (
            {"total_loss": 1.0},
            r"'total_loss' is reserved for what the trainer records of each step, but the hook 'eval'",
        ),
        (3.0, "The evaluation returned 3.0, which is not a dict"),
    ],
)
def test_results_that_can_not_be_recorded_or_compared_end_the_run(tmp_path, results, message):
    with pytest.raises(UserError, match=message):
        run_in(tmp_path, 7, eval=hooks.EvalHook(2, lambda: results), metric="AP")
    assert (tmp_path / "model_0000001.pth").exists() == ("not one" in message)  # of the iteration that was evaluated


def test_a_metric_that_the_evaluator_does_not_declare_is_reported_after_the_first_iteration(tmp_path):
    nested = DatasetEvaluators([VideoDetectionEvaluator(), FramePictures(tmp_path)])  # as the shipped configs have it
    evaluation = functools.partial(lambda evaluator: {}, evaluator=[nested])
    with pytest.raises(
        UserError, match=r"val_metric='AP500' is not one .* Did you mean 'AP50'\? The evaluation's metrics: AP50, "
    ):
        run_in(tmp_path, 7, eval=hooks.EvalHook(0, evaluation), metric="AP500")
    assert not list(tmp_path.glob("*.pth"))


def test_two_evaluations_of_the_same_metrics_need_a_prefix(tmp_path):
    def evaluate(value):
        return functools.partial(lambda evaluator: {"AP50": value}, evaluator=VideoDetectionEvaluator())

    with pytest.raises(
        UserError, match=r"'val' and 'test' both record a metric 'AP50' .* \+trainer.hooks.test.prefix=test "
    ):
        run_in(tmp_path / "a", 5, val=hooks.EvalHook(2, evaluate(1.0)), test=hooks.EvalHook(3, evaluate(2.0)))
    test = hooks.EvalHook(3, evaluate(2.0), prefix="test")
    trainer = run_in(tmp_path, 6, val=hooks.EvalHook(3, evaluate(1.0)), test=test)
    best = trainer.named_hooks["best"]
    assert (best.best_metric, best.best_iter) == (1.0, 2)
    assert [(r["AP50"], r["test/AP50"]) for r in read_rows(tmp_path / "metrics.json") if "AP50" in r] == [(1, 2)] * 2


def test_the_second_of_two_evaluations_whose_names_are_not_known_takes_its_own_name_also_after_a_resume(
    tmp_path, caplog
):
    def evaluations():
        return {
            "val": hooks.EvalHook(2, lambda: {"AP50": 1.0}),
            "test": hooks.EvalHook(3, lambda: {"AP50": 2.0, "recall": 3.0}),
        }

    run_in(tmp_path, 8, stop_at=4, **evaluations())
    run_in(tmp_path, 8, resume=True, **evaluations())
    rows = {r["iteration"]: r for r in read_rows(tmp_path / "metrics.json") if "AP50" in r or "test/AP50" in r}
    assert [(i, r.get("AP50"), r.get("test/AP50"), r.get("test/recall")) for i, r in rows.items()] == [
        (1, 1, None, None),
        (2, None, 2, 3),
        (3, 1, None, None),
        (5, 1, 2, 3),
        (8, 1, 2, 3),  # at the end
    ]
    assert caplog.text.count("Those of 'test' are recorded as 'test/...';") == 1


class Dice(nn.Module):
    """A model that records a metric of its own in every third iteration."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(1, 1)

    def forward(self, x):
        storage = get_event_storage()
        if storage.iter % 3 == 2:
            storage.put_scalar("dice", storage.iter, smoothing_hint=False)
        return self.layer(x).pow(2).mean()


def test_the_best_checkpoint_goes_by_what_a_callback_or_the_model_records_now_and_then(tmp_path):
    evaluation = functools.partial(lambda evaluator: {"AP50": 1.0}, evaluator=VideoDetectionEvaluator())

    def record(trainer):
        if trainer.iter == 3:
            trainer.storage.put_scalar("AP51", 7.0, smoothing_hint=False)

    callback = hooks.CallbackHook(after_step=record)
    trainer = run_in(tmp_path / "a", 5, eval=hooks.EvalHook(2, evaluation), own=callback, metric="AP51")
    assert trainer.named_hooks["best"].best_iter == 3
    model = Dice()
    checkpointer = DetectionCheckpointer(model, tmp_path / "b")
    trainer = SimpleTrainer(model, [torch.ones(1, 1)], torch.optim.SGD(model.parameters(), 0.1), max_iter=8)
    best = hooks.BestCheckpointer(2, checkpointer, "dice")
    trainer.register_hooks({"eval": hooks.EvalHook(2, evaluation), "best": best})
    trainer.train()
    assert best.best_iter == 5


class Records(HookBase):
    def __init__(self, name, hint=True, value=1.0):
        self.name, self.hint, self.value = name, hint, value

    def after_step(self):
        self.trainer.storage.put_scalar(self.name, self.value, smoothing_hint=self.hint)


@pytest.mark.parametrize(
    ("own", "message"),
    [
        (
            {"a": Records("lr", False)},
            r"'lr' is reserved for the learning rate, but the hook 'a', Records.after_step \(.*:",
        ),
        ({"a": Records("total_loss")}, "reserved for what the trainer records of each step"),
        ({"a": Records("data_time")}, "reserved for what the trainer records of each step"),
        ({"a": Records("time/mine")}, "reserved for the breakdown of the time"),
        ({"a": Records("AP50", False)}, "reserved for a metric of the evaluation, but the hook 'a'"),
        ({"a": Records("iteration")}, "reserved for each row of metrics.json"),
        (
            {"a": Records("x"), "b": Records("x", value=2.0)},
            "recorded by two hooks in iteration 0: 1 by the hook 'a', 2 by",
        ),
        ({"a": Records("some_accuracy", False)}, r"smoothing_hint=True before by Model.forward \("),
        ({"a": Records("x"), "b": Records("x")}, None),
    ],
)
def test_a_scalar_can_not_take_the_place_of_another_one_in_a_row(own, message):
    trainer = make(max_iter=2)
    scheduler = LRMultiplier(trainer.optimizer, ConstantParamScheduler(1.0), 2)
    evaluation = functools.partial(lambda evaluator: {}, evaluator=VideoDetectionEvaluator())
    trainer.register_hooks(
        {
            "timer": hooks.IterationTimer(),
            "lr": hooks.LRScheduler(trainer.optimizer, scheduler),
            "ledger": hooks.TimeBreakdown(1),
            "eval": hooks.EvalHook(0, evaluation),
            **own,
        }
    )
    if message is None:
        trainer.train()
        return
    with pytest.raises(UserError, match=message):
        trainer.train()
    assert trainer.iter <= 1


def test_a_row_has_the_median_since_the_row_before_and_counts_what_is_not_finite(tmp_path, caplog):
    names = ("metrics.json", "m.csv")
    with caplog.at_level("INFO"), EventStorage() as storage:
        writers = [JSONWriter(tmp_path / names[0]), CSVWriter(tmp_path / names[1]), CommonMetricPrinter()]
        for iteration in range(6):
            storage.iter = iteration
            storage.put_scalar("loss", [1.0, 5.0, 2.0, math.inf, 3.0, 4.0][iteration])
            storage.put_scalar("lr", float(iteration), smoothing_hint=False)
            storage.put_scalar("time", [1.0, 1.0, 7.0, 1.0, 1.0, 1.0][iteration])
            if iteration == 1:
                storage.put_scalar("far_ahead", 8.0, cur_iter=1000)
            if iteration % 3 == 2:
                for writer in writers:
                    writer.write()
    assert read_rows(tmp_path / "metrics.json") == [
        {"iteration": 2, "loss": 2.0, "lr": 2.0, "time": 3.0},
        {"iteration": 1000, "far_ahead": 8.0},
        {"iteration": 5, "loss": None, "lr": 5.0, "nonfinite/loss": 1.0, "time": 1.0},
    ]
    assert (tmp_path / "m.csv").read_text().splitlines()[-1] == "5,,nan,5.0,1.0,1.0"
    assert "iter: 2  loss: 2  time: 3.0000  lr: 2" in caplog.messages[0]
    assert "iter: 5  loss: nan (1 of 3 not finite)  time: 1.0000  lr: 5" in caplog.messages[1]


def test_json_rows_past_the_first_new_iteration_are_dropped_and_cut_lines_too(tmp_path):
    path = tmp_path / "metrics.json"
    path.write_text('{"iteration": 1, "x": 1.0}\n{"iteration": 3, "x": 2.0}\n{"iterat')
    writer = JSONWriter(path)
    writer.rewind(3)
    with EventStorage(3) as storage:
        storage.put_scalar("x", math.nan)
        writer.write()
        writer.write()
    assert path.read_text() == '{"iteration": 1, "x": 1.0}\n{"iteration": 3, "nonfinite/x": 1.0, "x": null}\n'
    JSONWriter(path).rewind(0)
    assert not path.exists() and (tmp_path / "metrics.json.1").exists()


def test_scalars_are_smoothed_by_their_hint_and_prefixed_by_their_scope():
    with EventStorage(0) as storage:
        for i, value in enumerate([1.0, 9.0, 2.0]):
            storage.iter = i
            storage.put_scalar("loss", value)
            with storage.name_scope("a"):
                storage.put_scalar("lr", value, smoothing_hint=False)
    assert storage.latest_with_smoothing_hint(3) == {"loss": (2.0, 2), "a/lr": (2.0, 2)}
    assert storage.history("loss").median(2) == 5.5
    with pytest.raises(RuntimeError, match="outside"):
        get_event_storage()
    with pytest.raises(ValueError, match="smoothing_hint"):
        storage.put_scalar("loss", 1.0, smoothing_hint=False)


def test_writers_must_be_writers():
    with pytest.raises(TypeError, match="takes EventWriters, not int"):
        hooks.PeriodicWriter({"x": 3})
    assert issubclass(JSONWriter, EventWriter)


def test_a_budget_of_time_stops_with_a_checkpoint_as_a_signal_does(tmp_path):
    checkpointer = DetectionCheckpointer(nn.Linear(1, 1), tmp_path)
    trainer = make(checkpointer=checkpointer, max_iter=10**6)
    checkpointer.model = trainer.model
    trainer.register_hooks([hooks.StopOnSignal(checkpointer, wall_time_s=0.2)])
    with pytest.raises(StopTraining, match="its time limit is over"):
        trainer.train()
    assert checkpointer.resume_or_load("", resume=True)["iteration"] == trainer.iter < 10**6 - 1


@pytest.mark.parametrize("left_in_evaluation_mode", [False, True])
def test_precise_statistics_are_those_of_the_batches_at_fixed_weights(left_in_evaluation_mode):
    model = nn.Sequential(nn.BatchNorm1d(3))
    batches = [torch.randn(8, 3) * 2 + 1 for _ in range(4)]

    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model

        def forward(self, x):
            get_event_storage().put_scalar("not_the_runs", 1.0)
            return {"loss": self.inner(x).pow(2).mean()}

    wrapped = Wrapped()
    hook = hooks.PreciseBN(0, wrapped, batches, num_iter=4)
    last = hooks.CallbackHook(after_step=lambda trainer: wrapped.train(not left_in_evaluation_mode or trainer.iter < 2))
    optimizer = torch.optim.SGD(wrapped.parameters(), lr=0.0)
    trainer = SimpleTrainer(wrapped, batches, optimizer, hooks=[last, hook], max_iter=3)
    trainer.train()
    assert wrapped.training != left_in_evaluation_mode
    rows = torch.cat(batches)
    assert torch.allclose(model[0].running_mean, rows.mean(0), atol=1e-5)
    assert torch.allclose(model[0].running_var, rows.var(0, unbiased=False), rtol=0.1)
    assert len(trainer.storage.history("not_the_runs").values()) == 3


def test_a_profile_is_written_for_the_iterations_that_are_asked_for(tmp_path):
    hook = hooks.TorchProfiler(lambda t: t.iter == 1, tmp_path, save_tensorboard=False)
    make(hooks=[hook, hooks.TorchMemoryStats(period=1)], max_iter=3).train()
    (trace,) = (tmp_path / "log").iterdir()
    assert trace.name == "iter1_rank0.trace.json" and json.loads(trace.read_text())["traceEvents"]


def test_csv_rows_take_new_columns_and_go_on_after_a_resume(tmp_path):
    path = tmp_path / "m.csv"
    with EventStorage(0) as storage:
        writer = CSVWriter(path)
        for i, names in enumerate([["a"], ["a", "b"], ["a"]]):
            storage.iter = i
            for name in names:
                storage.put_scalar(name, i + 0.5)
            writer.write()
    with EventStorage(2) as storage:
        resumed = CSVWriter(path)
        resumed.rewind(2)
        storage.put_scalar("a", 2.5)
        storage.put_scalar("c", 9)
        resumed.write()
    assert path.read_text().splitlines() == ["iteration,a,b,c", "0,0.5,,", "1,1.5,1.5,", "2,2.5,,9.0"]
