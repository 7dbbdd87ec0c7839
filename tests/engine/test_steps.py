"""The objects that a step is made of, and those of a user in their place."""

import math
from contextlib import contextmanager

import pytest
import torch
from torch import nn

from tests.engine.test_train_loop import Data, Plain, make, weights
from ultravid.checkpoint import DetectionCheckpointer
from ultravid.engine import AMPTrainer, SimpleTrainer, TrainerBase, hooks
from ultravid.engine.steps import Accumulation, FullPrecision, MixedPrecision, NonfinitePolicy


def test_mixed_precision_in_either_trainer_is_the_same_run():
    given = make(precision=MixedPrecision("bfloat16"), accumulation=Accumulation(2))
    named = make(AMPTrainer, precision="bfloat16", accumulation=Accumulation(2))
    for trainer in (given, named):
        trainer.train()
    assert all(torch.equal(a, b) for a, b in zip(weights(given), weights(named), strict=True))
    assert given.state_dict().keys() == named.state_dict().keys() >= {"grad_scaler", "optimizer", "iteration", "hooks"}
    assert "grad_scaler" not in make().state_dict()


def test_values_that_make_no_step_are_refused():
    with pytest.raises(ValueError, match="precision='int8' is neither float16 nor bfloat16"):
        MixedPrecision("int8")
    with pytest.raises(ValueError, match="num_batches=0 must be at least 1"):
        Accumulation(0)
    with pytest.raises(ValueError, match="max_skipped=-1 must be at least 0"):
        NonfinitePolicy(-1)


def test_a_users_precision_takes_part_in_each_step():
    class Halved(FullPrecision):
        """Trains on half the loss, and restores the scale of the gradients."""

        def __init__(self):
            self.calls = []

        @contextmanager
        def autocast(self):
            self.calls.append("autocast")
            yield

        def backward(self, loss):
            super().backward(loss / 2)

        def unscale(self, optimizer):
            self.calls.append("unscale")
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    parameter.grad *= 2

    halved = Halved()
    mine, plain = make(precision=halved, max_iter=2), make(max_iter=2)
    for trainer in (mine, plain):
        trainer.train()
    assert halved.calls == ["autocast", "unscale"] * 2
    assert all(torch.equal(a, b) for a, b in zip(weights(mine), weights(plain), strict=True))


def test_a_users_policy_decides_which_steps_are_skipped():
    class SkipEverySecond(NonfinitePolicy):
        def allows_step(self, step, norm, losses):
            if step.iteration % 2:
                self.skip(step, "as it was asked to")
                return False
            return super().allows_step(step, norm, losses)

    policy = SkipEverySecond(max_skipped=1)
    skipped = []
    trainer = make(nonfinite=policy, hooks=[hooks.CallbackHook(after_step=lambda t: skipped.append(t.step_skipped))])
    trainer.train()
    assert skipped == [False, True] * 3


class Loop(TrainerBase):
    """A trainer of a user's own, without any of the objects of `SimpleTrainer`."""

    def __init__(self, model, skipped):
        super().__init__()
        self.model = model
        self.skipped = skipped

    @property
    def step_skipped(self):
        return self.iter in self.skipped

    def run_step(self):
        self.num_samples += 3
        if not self.step_skipped:
            with torch.no_grad():
                self.model.layer.weight += 1


def test_averaged_weights_ignore_a_skipped_step_of_every_trainer(tmp_path):
    model = Plain()
    checkpointer = DetectionCheckpointer(model, tmp_path)
    average = hooks.EMA(model, checkpointer, decay=0.5, warmup=False)
    start = model.layer.weight.detach().clone()
    loop = Loop(model, skipped={1, 2})
    loop.register_hooks([average, hooks.TimeBreakdown(2)])
    loop.train(0, 4)
    # Two steps: (0, 1) averages to 0.5, (0.5, 2) to 1.25.
    assert torch.allclose(average._average["layer.weight"], start + 1.25)
    assert average.state_dict() == {"num_updates": 2} and loop.storage.latest()["time/clips_per_second"][0] > 0

    torch.manual_seed(0)
    bad = torch.full((2, 3), math.nan)
    model = Plain()
    trainer = SimpleTrainer(
        model, [bad, torch.ones(2, 3)], torch.optim.SGD(model.parameters(), lr=0.1), nonfinite=NonfinitePolicy(1)
    )
    average = hooks.EMA(model, DetectionCheckpointer(model, tmp_path))
    trainer.register_hooks([average])
    trainer.train(0, 4)
    assert average.state_dict() == {"num_updates": 2} and not TrainerBase().step_skipped


def test_a_step_written_for_detectron2_records_its_losses():
    class Own(SimpleTrainer):
        def run_step(self):
            losses = self.model(next(self._data_loader_iter))
            self.optimizer.zero_grad()
            sum(losses.values()).backward()
            self.optimizer.step()
            self._write_metrics(losses, 0.5, prefix="own_")

    torch.manual_seed(0)
    trainer = make(Own, gather_metric_period=2, max_iter=4)
    assert isinstance(trainer.data_loader, Data) and isinstance(trainer.model, nn.Module)
    trainer.train()
    history = {name: trainer.storage.history(f"own_{name}").values() for name in ("loss_a", "loss_b", "total_loss")}
    assert [i for _, i in history["total_loss"]] == [1, 3]
    for (a, _), (b, _), (total, _) in zip(*history.values(), strict=True):
        assert total == pytest.approx(a + b)
