import functools
import json
import math
import random

import numpy as np
import pytest
import torch
from torch import nn

from tests.conftest import read_rows, without_times
from tests.engine.test_train_loop import Data, FailAt, Model
from ultravid.checkpoint import DetectionCheckpointer, load_file
from ultravid.engine import AMPTrainer, SimpleTrainer, StopTraining, hooks
from ultravid.engine.steps import Accumulation, NonfinitePolicy
from ultravid.evaluation import DatasetEvaluator, flatten_results_dict, inference_on_dataset
from ultravid.utils.events import JSONWriter, get_event_storage


class Marks(hooks.HookBase):
    """Counts its steps, and draws; two of them are in a run."""

    def __init__(self):
        self.count = 0

    def before_step(self):
        drawn = random.random() + np.random.randn() + float(torch.rand(()))  # noqa: NPY002  # as a user's hook may
        get_event_storage().put_scalar(f"drawn_by_{self.name}", drawn)

    def after_step(self):
        self.count += 1
        get_event_storage().put_scalar(f"marks_{id(self) and self.name}", float(self.count))

    def state_dict(self):
        return {"count": self.count}

    def load_state_dict(self, state):
        self.count = state["count"]


def make_run(folder, *, precision="bfloat16", stop_at=None, max_iter=12, lr=0.1, decay=0.9, eval_period=4):
    """Dropout, mixed precision, accumulation, clipping, EMA, two hooks of one class, a stateful schedule, evaluation."""
    torch.manual_seed(0)
    model = Model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    checkpointer = DetectionCheckpointer(model, folder, background=True)
    marks = [Marks(), Marks()]
    for name, hook in zip("ab", marks, strict=True):
        hook.name = name

    def evaluate():
        if stop_at == "last evaluation" and trainer.iter == max_iter:
            raise ZeroDivisionError("killed")
        with torch.no_grad():
            return {"AP50": model.layer(torch.ones(1, 3)).item()}

    named = {
        "lr": hooks.LRScheduler(optimizer, torch.optim.lr_scheduler.StepLR(optimizer, 5)),
        "ema": hooks.EMA(model, checkpointer, decay=decay),
        "eval": hooks.EvalHook(eval_period, evaluate),
        "best": hooks.BestCheckpointer(eval_period, checkpointer, "AP50", max_to_keep=2),
        "writer": hooks.PeriodicWriter([JSONWriter(folder / "metrics.json")], period=5),
        "save": hooks.PeriodicCheckpointer(checkpointer, 3, max_to_keep=2),
        "stop": FailAt(stop_at, ZeroDivisionError("killed")),
    }
    trainer = AMPTrainer(
        model,
        Data(),
        optimizer,
        precision=precision,
        checkpointer=checkpointer,
        max_iter=max_iter,
        seed=5,
        accumulation=Accumulation(2),
        clip_grad=lambda p: nn.utils.clip_grad_norm_(p, 1.0),
        hooks=marks,
    )
    trainer.register_hooks(named)
    return trainer


def run(folder, resume=False, **kwargs):
    folder.mkdir(exist_ok=True)
    trainer = make_run(folder, **kwargs)
    trainer.resume_or_load(resume)
    if kwargs.get("stop_at") is None:
        trainer.train()
    else:
        with pytest.raises(ZeroDivisionError):
            trainer.train()
    return trainer


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_a_run_with_everything_on_is_the_same_when_it_is_cut_at_any_iteration(tmp_path, precision):
    losses = run(tmp_path / "whole", precision=precision).storage.history("total_loss").values()
    rows = without_times(read_rows(tmp_path / "whole/metrics.json"))
    final = load_file(tmp_path / "whole/model_final.pth")
    assert {"marks_a", "marks_b", "AP50", "grad_norm"} <= set(rows[2])
    # Every fifth iteration, after each evaluation, and at the end; each with what came since the row before.
    assert [row["iteration"] for row in rows] == [3, 4, 7, 9, 11, 12]
    for row, first, last in zip(rows, (0, 4, 5, 8, 10), (3, 4, 7, 9, 11), strict=False):
        window = [loss for loss, iteration in losses if first <= iteration <= last]
        assert len(window) == last - first + 1 and row["total_loss"] == np.median(window)
    for cut in (0, 3, 7, 10, "last evaluation"):
        folder = tmp_path / f"cut{cut}"
        run(folder, precision=precision, stop_at=cut)
        second = run(folder, precision=precision, resume=True)
        assert second.start_iter == (12 if cut == "last evaluation" else cut // 3 * 3)
        assert without_times(read_rows(folder / "metrics.json")) == rows
        again = load_file(folder / "model_final.pth")
        assert str(again) == str(final)
        for entry in ("model", "averaged_model"):
            assert all(torch.equal(again[entry][k], final[entry][k]) for k in final[entry])
        assert (folder / "best_checkpoint").read_text() == (tmp_path / "whole/best_checkpoint").read_text()
        kept = [sorted(p.name for p in f.glob("model_*")) for f in (tmp_path / "whole", folder)]
        assert kept[0] == kept[1] and len([n for n in kept[0] if "best" in n]) == 2


class Score(DatasetEvaluator):
    def __init__(self, values):
        self.values = values

    def evaluate(self):
        return {"AP50": next(self.values)}


def test_the_search_for_the_best_restarts_when_the_test_data_have_changed(tmp_path, caplog):
    def train(first, last, frames, value):
        data, model = [[{"video_id": "v", "frame_index": i}] for i in range(frames)], Model()
        evaluate = functools.partial(inference_on_dataset, torch.nn.Identity(), data, Score(iter([value])))
        checkpointer = DetectionCheckpointer(model, tmp_path)
        best = hooks.BestCheckpointer(0, checkpointer, "AP50")
        trainer = SimpleTrainer(model, Data(), torch.optim.SGD(model.parameters(), lr=0.1), checkpointer=checkpointer)
        trainer.register_hooks([hooks.EvalHook(0, evaluate), best, hooks.PeriodicCheckpointer(checkpointer, 1)])
        trainer.resume_or_load(first > 0)
        trainer.train(first, last)
        return best

    assert train(0, 2, 3, 60.0).best_metric == 60
    assert train(2, 4, 3, 55.0).best_metric == 60  # on the same data
    before = (tmp_path / "model_best.pth").read_bytes()
    best = train(4, 6, 2, 30.0)
    assert (best.best_metric, best.best_iter) == (30.0, 6) and "was measured on other data" in caplog.text
    assert (tmp_path / "model_best.pth.1").read_bytes() == before != (tmp_path / "model_best.pth").read_bytes()


class Sizes:
    """Batches of consecutive numbers, from any batch on."""

    def __init__(self, total_batch_size):
        self.total_batch_size = total_batch_size

    def iterate_from(self, batch):
        start = batch * self.total_batch_size
        while True:
            yield torch.arange(start, start + self.total_batch_size)
            start += self.total_batch_size


class Sees(nn.Module):
    """Keeps the samples that it is given; raises at the number 4 if asked to."""

    def __init__(self, raises=False):
        super().__init__()
        self.layer = nn.Linear(1, 1)
        self.raises = raises
        self.seen = []

    def forward(self, x):
        self.seen += x.tolist()
        if self.raises and 4 in self.seen[-2:]:
            raise FloatingPointError("four")
        return self.layer(torch.ones(1)).sum()


def test_the_data_go_on_where_they_were_whatever_a_step_takes_now(tmp_path, caplog):
    def attempt(max_iter, num_batches, size, *, resume=True, raises=False):
        model = Sees(raises)
        checkpointer = DetectionCheckpointer(model, tmp_path)
        trainer = SimpleTrainer(
            model,
            Sizes(size),
            torch.optim.SGD(model.parameters(), lr=0.1),
            checkpointer=checkpointer,
            max_iter=max_iter,
            accumulation=Accumulation(num_batches),
            nonfinite=NonfinitePolicy(1),
            hooks=[hooks.PeriodicCheckpointer(checkpointer, 0)],
        )
        with caplog.at_level("INFO"):
            trainer.resume_or_load(resume)
            trainer.train()
        return model.seen

    # The second step is skipped after its first batch, [4, 5]; so three steps take five batches.
    assert attempt(3, 2, 2, resume=False, raises=True) == list(range(10))
    path = tmp_path / "model_final.pth"
    of_earlier_versions = load_file(path)
    assert attempt(4, 1, 2) == [10, 11]
    assert attempt(5, 3, 2) == list(range(12, 18))
    assert attempt(6, 1, 4) == list(range(20, 24))  # samples 18 and 19 are half of a batch
    assert "from 2 to 4: after 18 samples in 9 batches, the data continue with batch 5, sample 20." in caplog.text
    del of_earlier_versions["trainer"]["data_position"]
    for config, seen, how in (
        (
            "trainer: {accumulate: 2}\ndataloader: {train: {total_batch_size: 2}}",
            [12, 13, 14, 15],
            "6, with 2 per step as its",
        ),
        ("", [12, 13, 14, 15], "3, with 1 per step as now"),
    ):
        of_earlier_versions["trainer"]["hooks"]["record"] = {"config": config}
        torch.save(of_earlier_versions, path)
        (tmp_path / "manifest.json").unlink(missing_ok=True)
        assert attempt(4, 1, 4) == seen
        assert f"does not say how many batches the run has used. Assumed: {how}" in caplog.text


def test_the_k_best_are_kept_and_the_best_is_named(tmp_path):
    metrics = iter([3.0, 9.0, 5.0, 9.0, 1.0])
    model = Model()
    checkpointer = DetectionCheckpointer(model, tmp_path)
    best = hooks.BestCheckpointer(1, checkpointer, "AP50", max_to_keep=2)
    trainer = SimpleTrainer(model, Data(), torch.optim.SGD(model.parameters(), lr=0.1), checkpointer=checkpointer)
    trainer.register_hooks([hooks.EvalHook(1, lambda: {"AP50": next(metrics)}), best])
    trainer.train(0, 5)
    assert sorted(p.name for p in tmp_path.glob("*best*.pth")) == ["model_best_0000001.pth", "model_best_0000003.pth"]
    assert (tmp_path / "best_checkpoint").read_text() == "model_best_0000001.pth"  # of equal ones the first
    assert (best.best_metric, best.best_iter) == (9.0, 1)
    assert not checkpointer.has_checkpoint()


def test_averaged_weights_are_those_of_the_formula_and_what_is_evaluated(tmp_path):
    seen = []

    class Watch(hooks.HookBase):
        def after_step(self):
            seen.append(self.trainer.model.layer.weight.detach().clone())

    (tmp_path / "a").mkdir()
    trainer = make_run(tmp_path / "a", max_iter=8, decay=0.5)
    first = trainer.model.layer.weight.detach().clone()
    trainer.register_hooks([Watch()])
    trainer.resume_or_load(False)
    trainer.train()
    average = first
    for n, weight in enumerate(seen, start=1):
        d = min(0.5, (1 + n) / (10 + n))
        average = d * average + (1 - d) * weight
    content = load_file(tmp_path / "a/model_final.pth")
    assert torch.allclose(content["averaged_model"]["layer.weight"], average, atol=1e-6)
    assert torch.equal(content["model"]["layer.weight"], seen[-1])
    assert torch.equal(trainer.model.layer.weight, seen[-1])  # after the evaluation training's own are back
    figure = read_rows(tmp_path / "a/metrics.json")[-1]["AP50"]
    other = Model()
    DetectionCheckpointer(other).load(tmp_path / "a/model_final.pth")  # to evaluate: the averaged ones
    assert other.layer(torch.ones(1, 3)).item() == figure


def test_changed_hyperparameters_of_a_resumed_run_take_effect(tmp_path):
    torch.manual_seed(0)

    def make(weight_decay):
        model = Model()
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=weight_decay)
        checkpointer = DetectionCheckpointer(model, tmp_path)
        trainer = SimpleTrainer(model, Data(), optimizer, checkpointer=checkpointer, max_iter=2)
        trainer.register_hooks([hooks.PeriodicCheckpointer(checkpointer, 1, max_iter=5)])
        return trainer

    first = make(0.01)
    first.optimizer.param_groups[0]["lr"] = 0.05  # as a schedule of torch leaves it
    first.train()
    second = make(0.5)
    second.resume_or_load(True)
    assert (second.optimizer.param_groups[0]["weight_decay"], second.optimizer.param_groups[0]["lr"]) == (0.5, 0.05)


def test_an_optimizers_state_follows_the_names_of_parameters_into_other_groups(tmp_path, caplog):
    def resumed(kind=torch.optim.AdamW, frozen=(), by_parameter=False, resume=True, **settings):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
        model.forward = lambda x: model[1](model[0](x)).pow(2).mean()
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name not in frozen)
        parameters = [p for p in model.parameters() if p.requires_grad]
        groups = [{"params": [p]} for p in reversed(parameters)] if by_parameter else parameters
        checkpointer = DetectionCheckpointer(model, tmp_path)
        save = [] if resume else [hooks.PeriodicCheckpointer(checkpointer, 0)]
        optimizer = kind(groups, lr=0.1, **settings)
        trainer = SimpleTrainer(model, Data(), optimizer, checkpointer=checkpointer, max_iter=3, hooks=save)
        trainer.resume_or_load(resume)
        trainer.train(0 if not resume else None, 1 if not resume else 3)
        steps = [optimizer.state[p].get("step") for p in parameters]
        return [p.detach().clone() for p in model.parameters()], [s if s is None else int(s) for s in steps]

    resumed(resume=False)
    weights, steps = resumed()
    assert steps == [3] * 4
    caplog.clear()
    again, steps = resumed(by_parameter=True)
    assert steps == [3] * 4 and all(map(torch.equal, weights, again))
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
    assert resumed(frozen=["0.weight"])[1] == [3] * 3
    assert "The optimizer lacks 1 parameters that the checkpoint's had (0.weight)" in caplog.text
    assert resumed(amsgrad=True)[1] == [2] * 4  # it has an entry more, so it starts without a state
    assert "4 parameters start without" in caplog.text
    assert resumed(torch.optim.SGD, momentum=0.9)[1] == [None] * 4
    assert "The optimizer is SGD, that of the checkpoint AdamW" in caplog.text


class Breaks(nn.Module):
    """Divides by zero in its second part where the batch says so."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.norm = nn.BatchNorm1d(3)
        self.second = nn.Identity()
        self.second.register_forward_hook(lambda m, i, o: o / (i[0].sum() * 0 if self.bad else 1.0))
        self.bad = False

    def forward(self, x):
        self.bad = bool(x[0, 0] == 100)
        return {"loss": self.second(self.norm(self.first(x))).pow(2).mean()}


def test_a_step_that_is_not_finite_is_written_and_repeated(tmp_path):
    from ultravid.engine.step_dump import StepDump, first_nonfinite

    good, bad = torch.randn(4, 3), torch.full((4, 3), 100.0) + torch.randn(4, 3)
    bad[0, 0] = 100
    model = Breaks()
    trainer = SimpleTrainer(
        model,
        [good, bad],
        torch.optim.SGD(model.parameters(), lr=0.1),
        max_iter=5,
        seed=3,
        nonfinite=NonfinitePolicy(dump_dir=tmp_path),
    )
    with pytest.raises(
        FloatingPointError, match=r"Loss is not finite in iteration 1: .*replay.py .*iteration_0000001_rank0"
    ):
        trainer.train()
    dump = StepDump.read(tmp_path / "step_dumps/iteration_0000001_rank0.pth")
    assert dump.iteration == 1 and torch.equal(dump.batches[0], bad) and math.isinf(dump.losses["loss"])
    assert torch.equal(dump.model["first.weight"], model.first.weight)
    other = Breaks()
    other.load_state_dict(dump.model)
    where = first_nonfinite(other, lambda: other(dump.batches[0])["loss"])
    assert where == "The output of second (Identity) is not finite; its inputs are finite."
    assert first_nonfinite(other, lambda: other(good)["loss"]) is None


def test_a_skipped_step_leaves_no_trace_in_the_statistics():
    model = Breaks()
    model.second = nn.Identity()
    bad = torch.full((4, 3), math.nan)
    trainer = SimpleTrainer(
        model,
        [bad, torch.randn(4, 3)],
        torch.optim.SGD(model.parameters(), lr=0.1),
        max_iter=2,
        nonfinite=NonfinitePolicy(1),
    )
    trainer.train()
    assert torch.isfinite(model.norm.running_mean).all() and model.norm.num_batches_tracked == 1


def test_with_float16_an_overflow_halves_the_scale_and_a_loss_that_is_nan_ends_the_run():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))

        def forward(self, x):
            return {"loss": (self.weight * x).sum()}

    def make(batches, max_iter):
        model = Scaled()
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**120, enabled=True)
        return AMPTrainer(
            model,
            batches,
            torch.optim.SGD(model.parameters(), lr=0.1),
            1,
            False,
            scaler,
            precision="float16",
            max_iter=max_iter,
        )

    scaler_overflows = make([torch.full((1,), 1000.0)] * 20, 20)
    scaler_overflows.train()
    assert scaler_overflows.grad_scaler.get_scale() < 2.0**120
    assert scaler_overflows.model.weight.item() < 1
    ends = make([torch.ones(1) * math.nan], 20)
    with pytest.raises(FloatingPointError, match="Loss is not finite in iteration 0"):
        ends.train()
    assert ends.model.weight.item() == 1


def test_the_record_and_the_time_breakdown_describe_an_attempt(tmp_path, caplog):
    def attempt(error, resume):
        model = Model()
        checkpointer = DetectionCheckpointer(model, tmp_path)
        trainer = SimpleTrainer(
            model, Data(), torch.optim.SGD(model.parameters(), lr=0.1), checkpointer=checkpointer, max_iter=4
        )
        named = {
            "record": hooks.RunRecord(tmp_path, seed=7, datasets={"train": trainer.data_loader}),
            "ledger": hooks.TimeBreakdown(period=2),
            "save": hooks.PeriodicCheckpointer(checkpointer, 1),
            **({"fail": FailAt(2, error)} if error else {}),
        }
        trainer.register_hooks(named)
        trainer.resume_or_load(resume)
        if error:
            with pytest.raises(type(error)):
                trainer.train()
        else:
            trainer.train()
        return trainer

    attempt(ZeroDivisionError("here"), False)
    with caplog.at_level("INFO"):
        trainer = attempt(None, True)
    records = [json.loads((tmp_path / f"attempts/{i}/record.json").read_text()) for i in (1, 2)]
    assert [r["end"]["how"] for r in records] == ["failed", "finished"]
    assert records[0]["end"]["why"] == "ZeroDivisionError: here" and records[0]["seed"] == 7
    assert [r["start_iter"] for r in records] == [0, 2] and "torch" in records[0]["versions"]
    assert "Where the time went" in caplog.text and "hooks/save" in caplog.text
    latest = flatten_results_dict({k: v for k, (v, _) in trainer.storage.latest().items()})
    parts = {"time/data", "time/forward", "time/backward", "time/optimizer", "time/clips_per_second"}
    assert parts <= set(latest) and all(latest[p] > 0 for p in parts)


def test_the_watchdog_logs_the_stack_of_a_process_that_hangs(caplog):
    def stands_still(trainer):
        if trainer.iter == 1:
            import time

            time.sleep(1.0)

    model = Model()
    trainer = SimpleTrainer(model, Data(), torch.optim.SGD(model.parameters(), lr=0.1), max_iter=3)
    trainer.register_hooks([hooks.CallbackHook(after_step=stands_still), hooks.Watchdog(timeout_s=0.4)])
    trainer.train()
    assert caplog.text.count("Rank 0 of 1 has finished no iteration") == 1
    assert "in stands_still" in caplog.text


def test_stopping_is_no_failure_of_the_trainer():
    model = Model()
    trainer = SimpleTrainer(model, Data(), torch.optim.SGD(model.parameters(), lr=0.1), max_iter=3)
    trainer.register_hooks([FailAt(1, StopTraining("enough"))])
    with pytest.raises(StopTraining):
        trainer.train()
    assert trainer.stopped and isinstance(trainer.failure, StopTraining)
