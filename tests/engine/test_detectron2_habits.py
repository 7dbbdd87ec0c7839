"""What users of detectron2 do with a trainer, and errors that a trainer must not hide."""

import datetime
import functools
import json
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import clip_grad_value_

from tests.conftest import read_rows
from tests.engine.test_train_loop import Data, FailAt, Model, make, weights
from ultravid.checkpoint import Checkpointer, DetectionCheckpointer
from ultravid.engine import AMPTrainer, HookBase, SimpleTrainer, StopTraining, hooks
from ultravid.utils.errors import UserError
from ultravid.utils.events import JSONWriter, get_event_storage


class Linear(nn.Module):
    """A model with a given loss."""

    def __init__(self, loss):
        super().__init__()
        self.layer = nn.Linear(2, 1)
        self.loss = loss

    def forward(self, x):
        return self.loss(self.layer(x))


def trainer_of(loss, kind=SimpleTrainer, batches=None, **kwargs):
    torch.manual_seed(0)
    model = Linear(loss)
    batches = batches or [torch.ones(3, 2)]
    return kind(model, batches, torch.optim.SGD(model.parameters(), lr=0.1), **{"max_iter": 2, **kwargs})


def infinite_gradient(y):
    return y.mean() + (y.sum() * 0).abs().sqrt()


@pytest.mark.parametrize("kind", [SimpleTrainer, functools.partial(AMPTrainer, precision="float16")])
def test_an_infinite_gradient_is_found_before_it_is_clipped_by_value(kind):
    trainer = trainer_of(infinite_gradient, kind, clip_grad=functools.partial(clip_grad_value_, clip_value=1.0))
    before = weights(trainer)
    if kind is SimpleTrainer:
        with pytest.raises(FloatingPointError, match="Gradient is not finite in iteration 0"):
            trainer.train()
    else:
        trainer.train()  # it may be an overflow: the scale is halved and no step made
        assert trainer.grad_scaler.get_scale() < 65536
    assert all(torch.equal(a, b) for a, b in zip(weights(trainer), before, strict=True))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("kind", [SimpleTrainer, functools.partial(AMPTrainer, precision="float16")])
def test_a_loss_that_is_not_finite_ends_the_run_though_its_gradients_are(kind, bad):
    trainer = trainer_of(lambda y: {"loss": y.mean(), "other": torch.tensor(bad)}, kind)
    before = weights(trainer)
    with pytest.raises(FloatingPointError, match=r"Loss is not finite in iteration 0: loss=.*other="):
        trainer.train()
    assert all(torch.equal(a, b) for a, b in zip(weights(trainer), before, strict=True))


def test_an_overridden_step_takes_its_batch_as_in_detectron2():
    class Own(SimpleTrainer):
        def run_step(self):
            data = next(self._data_loader_iter)
            losses = self.model(data)
            self.optimizer.zero_grad()
            sum(losses.values()).backward()
            self.optimizer.step()
            self.write_metrics({k: v.detach() for k, v in losses.items()}, 0.0)

    torch.manual_seed(0)
    model = Model()
    trainer = Own(model, Data(), torch.optim.SGD(model.parameters(), lr=0.1))
    trainer.register_hooks([hooks.IterationTimer(), None])
    trainer.train(0, 3)
    assert len(trainer.storage.history("loss_a").values()) == 3
    assert [type(h).__name__ for h in trainer._hooks] == ["IterationTimer"]
    trainer.reset_data_loader(lambda: [torch.zeros(1, 3)])
    assert next(trainer._data_loader_iter).sum() == 0


def test_a_schedule_is_taken_from_the_trainer_also_when_a_run_is_resumed(tmp_path):
    def run(resume, max_iter):
        torch.manual_seed(0)
        model = Model()
        checkpointer = DetectionCheckpointer(model, tmp_path)
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        trainer = SimpleTrainer(model, Data(), optimizer, checkpointer=checkpointer)
        trainer.scheduler = torch.optim.lr_scheduler.StepLR(trainer.optimizer, 2)
        trainer.register_hooks([hooks.LRScheduler(), hooks.PeriodicCheckpointer(checkpointer, 1)])
        trainer.resume_or_load(resume)
        trainer.train(max_iter=max_iter)
        return [round(v, 6) for v, _ in trainer.storage.history("lr").values()]

    assert run(False, 3) == [1.0, 1.0, 0.1]
    assert run(True, 6) == [0.1, 0.01, 0.01]


def test_metrics_are_gathered_in_the_last_iteration_of_a_period():
    trainer = make(gather_metric_period=3)
    trainer.train()
    assert [i for _, i in trainer.storage.history("total_loss").values()] == [2, 5]


class Keeps(HookBase):
    def __init__(self, state):
        self.state = state

    def state_dict(self):
        return {"what": self.state}


@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize("state", [lambda: 0, datetime.date(2026, 1, 1), np.uint16(3), np.zeros(2)])
def test_a_state_that_could_not_be_read_back_is_refused_when_it_is_saved(tmp_path, state, background):
    model = Model()
    checkpointer = DetectionCheckpointer(model, tmp_path, background=background, on_error="continue")
    trainer = SimpleTrainer(
        model, Data(), torch.optim.SGD(model.parameters(), lr=0.1), checkpointer=checkpointer, max_iter=3
    )
    trainer.register_hooks({"mine": Keeps(state), "save": hooks.PeriodicCheckpointer(checkpointer, 1)})
    with pytest.raises(
        UserError, match=r"'trainer/hooks/mine/what' can't be saved in a checkpoint: a \S+ is neither a tensor"
    ):
        trainer.train()


class Draws(nn.Module):
    """Draws from every global generator."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 1)

    def forward(self, x):
        import random

        noise = random.random() + np.random.rand() + torch.rand(())  # noqa: NPY002  # as users' models do
        return {"loss": (self.layer(x) * noise).pow(2).mean()}


@pytest.mark.parametrize("seed", [None, 3])
def test_a_model_that_draws_from_the_global_generators_goes_on_from_their_state(tmp_path, seed):
    from ultravid.utils.seed import seed_all_rng

    def run(folder, stop_at, resume):
        seed_all_rng(1)
        model = Draws()
        checkpointer = DetectionCheckpointer(model, folder)
        trainer = SimpleTrainer(
            model,
            Data(),
            torch.optim.SGD(model.parameters(), lr=0.1),
            checkpointer=checkpointer,
            max_iter=6,
            seed=seed,
            hooks={
                "save": hooks.PeriodicCheckpointer(checkpointer, 2),
                "stop": FailAt(stop_at, StopTraining("here")),
            },
        )
        trainer.resume_or_load(resume)
        try:
            trainer.train()
        except StopTraining:
            seed_all_rng(99)
        return weights(trainer)

    whole = run(tmp_path / "whole", None, False)
    run(tmp_path / "cut", 3, False)
    assert all(torch.equal(a, b) for a, b in zip(whole, run(tmp_path / "cut", None, True), strict=True))


def test_the_best_checkpoint_holds_the_weights_that_were_evaluated(tmp_path):
    model = Model()
    checkpointer = DetectionCheckpointer(model, tmp_path)
    trainer = SimpleTrainer(
        model, Data(), torch.optim.SGD(model.parameters(), lr=0.1), checkpointer=checkpointer, max_iter=7
    )
    metrics = iter([5.0, 4.0, 3.0])
    trainer.register_hooks(
        [hooks.EvalHook(4, lambda: {"AP": next(metrics)}), hooks.BestCheckpointer(2, checkpointer, "AP")]
    )
    trainer.train()
    assert torch.load(tmp_path / "model_best.pth", weights_only=True)["iteration"] == 3


class Now(HookBase):
    """Records something between two writes, once."""

    def after_step(self):
        if self.trainer.iter in (2, 3):
            get_event_storage().put_scalar(f"at_{self.trainer.iter}", 1.0)


def test_metrics_recorded_between_two_writes_survive_a_stop(tmp_path):
    def run(folder, stop_at, resume):
        folder.mkdir(exist_ok=True)
        torch.manual_seed(0)
        model = Model()
        checkpointer = DetectionCheckpointer(model, folder)
        trainer = make(checkpointer=checkpointer, max_iter=10)
        checkpointer.model = trainer.model
        trainer.register_hooks(
            {
                "now": Now(),
                "writer": hooks.PeriodicWriter([JSONWriter(folder / "m.json")], period=5),
                "save": hooks.PeriodicCheckpointer(checkpointer, 1),
                "stop": FailAt(stop_at, StopTraining("here")),
            }
        )
        trainer.resume_or_load(resume)
        try:
            trainer.train()
        except StopTraining:
            assert stop_at is not None
        drop = ("data_time",)
        return [{k: v for k, v in row.items() if k not in drop} for row in read_rows(folder / "m.json")]

    whole = run(tmp_path / "whole", None, False)
    assert [r["iteration"] for r in whole] == [2, 3, 4, 9]
    with pytest.raises(FileNotFoundError):
        run(tmp_path / "cut", 3, False)
    assert run(tmp_path / "cut", None, True) == whole


def test_every_hook_ends_even_if_the_last_evaluation_fails_and_the_record_says_so(tmp_path):
    ended = []

    class Ends(HookBase):
        order = 97

        def after_train(self):
            ended.append(self.trainer.iter)

    def fails():
        raise ZeroDivisionError("in the evaluation")

    trainer = make(max_iter=2)
    trainer.register_hooks({"record": hooks.RunRecord(tmp_path), "eval": hooks.EvalHook(0, fails), "ends": Ends()})
    with pytest.raises(ZeroDivisionError, match="in the evaluation"):
        trainer.train()
    end = json.loads((tmp_path / "attempts/1/record.json").read_text())["end"]
    assert ended == [2] and (end["how"], end["why"]) == ("failed", "ZeroDivisionError: in the evaluation")


def test_a_second_training_starts_with_its_own_data():
    seen = []
    trainer = make(hooks=[hooks.CallbackHook(after_step=lambda t: seen.append(t.iter))])
    trainer.train(0, 3)
    first = trainer.storage.history("some_accuracy").values()
    trainer.train(1, 3)
    assert trainer.storage.history("some_accuracy").values() == first[1:] and seen == [0, 1, 2, 1, 2]


def test_the_hooks_save_with_fvcores_checkpointer_too(tmp_path):
    trainer = trainer_of(torch.mean)
    checkpointer = Checkpointer(trainer.model, str(tmp_path), trainer=trainer)
    values = iter([1.0, 3.0, 2.0])
    trainer.register_hooks(
        [
            hooks.EvalHook(2, lambda: {"metric": next(values)}),
            hooks.BestCheckpointer(2, checkpointer, "metric"),
            hooks.PeriodicCheckpointer(checkpointer, 2, max_to_keep=1),
        ]
    )
    trainer.train(0, 6)
    assert sorted(p.name for p in tmp_path.glob("*.pth")) == ["model_0000003.pth", "model_best.pth", "model_final.pth"]
    assert torch.load(tmp_path / "model_final.pth", weights_only=False)["trainer"]["iteration"] == 5


def test_a_scheduler_of_torch_goes_on_from_its_own_rate_and_follows_a_changed_one(tmp_path):
    def run(lr, until):
        model = Linear(torch.mean)
        optimizer = torch.optim.SGD(model.parameters(), lr=lr)
        trainer = SimpleTrainer(model, [torch.ones(3, 2)], optimizer)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 3)
        checkpointer = Checkpointer(model, str(tmp_path), trainer=trainer)
        trainer.register_hooks([hooks.LRScheduler(scheduler=scheduler), hooks.PeriodicCheckpointer(checkpointer, 0)])
        checkpointer.resume_or_load("")
        if until:
            trainer.train(0, until)
        return optimizer.param_groups[0]["lr"]

    assert run(0.1, until=6) == pytest.approx(0.001)
    assert run(0.1, until=0) == pytest.approx(0.001)
    assert run(10.0, until=0) == pytest.approx(0.1)
