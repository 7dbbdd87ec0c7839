"""torch's own schedulers: an unchanged resume keeps the bits, a changed one has the rates of a run that was made with it."""

import contextlib
import functools
import logging

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler as schedulers
from torch.optim.swa_utils import SWALR

from ultravid.checkpoint import DetectionCheckpointer
from ultravid.engine import SimpleTrainer, hooks
from ultravid.utils.errors import UserError


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def forward(self, x):
        return self.layer(x).pow(2).mean()


class Rates(hooks.HookBase):
    order = hooks.HookOrder.TIMER

    def __init__(self, cut):
        self.rates, self.cut = [], cut

    def after_step(self):
        groups = self.trainer.optimizer.param_groups
        self.rates.append([(g["lr"], g.get("momentum"), g["weight_decay"]) for g in groups])
        if self.trainer.iter == self.cut:
            raise ZeroDivisionError


def run(folder, schedule, resume=False, cut=None, max_iter=10, metric=None, values=(), lr=0.1, period=4, **kwargs):
    torch.manual_seed(0)
    model = Model()
    groups = [{"params": [model.layer.weight]}, {"params": [model.layer.bias], "lr": lr / 10}]
    optimizer = torch.optim.SGD(groups, lr=lr, momentum=0.9, **kwargs)
    checkpointer = DetectionCheckpointer(model, folder)
    rates = Rates(cut)
    named = {
        "rates": rates,
        "lr": hooks.LRScheduler(optimizer, schedule(optimizer), metric),
        "eval": hooks.EvalHook(2, lambda: {"AP50": values[trainer.iter // 2]}) if values else None,
        "checkpoint": hooks.PeriodicCheckpointer(checkpointer, period),
    }
    data = [torch.ones(3, 2)]
    trainer = SimpleTrainer(model, data, optimizer, hooks=named, checkpointer=checkpointer, max_iter=max_iter, seed=0)
    trainer.resume_or_load(resume)
    with contextlib.suppress(ZeroDivisionError):
        trainer.train()
    return rates.rates, model.layer.weight


def sequential(first, second):
    return lambda o: schedulers.SequentialLR(
        o, [schedulers.LinearLR(o, 0.1, total_iters=3), schedulers.MultiStepLR(o, [first, second])], milestones=[3]
    )


class Own(schedulers.LRScheduler):
    def __init__(self, optimizer, factor):
        self.factor = factor
        super().__init__(optimizer)

    def get_lr(self):
        return [group["lr"] * self.factor() for group in self.optimizer.param_groups]


def with_function(share):
    """A part with a function of the user's, of which torch's states know nothing."""
    factor = functools.partial(pow, share, 2)
    return lambda o: schedulers.ChainedScheduler([schedulers.ConstantLR(o, 0.5, 3), Own(o, factor)])


class Decay:
    def __init__(self, share):
        self.share = share

    def __call__(self, step):
        return self.share**step


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (lambda o: schedulers.CosineAnnealingLR(o, 6), lambda o: schedulers.CosineAnnealingLR(o, 10)),
        (lambda o: schedulers.StepLR(o, 2), lambda o: schedulers.StepLR(o, 3)),
        (lambda o: schedulers.OneCycleLR(o, 0.5, 10), lambda o: schedulers.OneCycleLR(o, 0.8, 12)),
        (sequential(1, 3), sequential(2, 5)),
        (
            lambda o: schedulers.ChainedScheduler([schedulers.ExponentialLR(o, 0.9), schedulers.ConstantLR(o, 0.5, 3)]),
            lambda o: schedulers.ChainedScheduler([schedulers.ExponentialLR(o, 0.8), schedulers.ConstantLR(o, 0.5, 8)]),
        ),
        (
            lambda o: schedulers.CyclicLR(o, 0.01, 0.1, 3, mode="triangular2"),
            lambda o: schedulers.CyclicLR(o, 0.01, 0.2, 2),
        ),
        (
            lambda o: schedulers.CosineAnnealingWarmRestarts(o, 3, 2),
            lambda o: schedulers.CosineAnnealingWarmRestarts(o, 4),
        ),
        (lambda o: schedulers.LambdaLR(o, Decay(0.9)), lambda o: schedulers.LambdaLR(o, Decay(0.5))),
        (lambda o: schedulers.LambdaLR(o, lambda i: 0.9**i), lambda o: schedulers.LambdaLR(o, lambda i: 0.5**i)),
        (
            lambda o: schedulers.MultiplicativeLR(o, lambda _: 0.9),
            lambda o: schedulers.MultiplicativeLR(o, lambda _: 0.5),
        ),
        (with_function(0.9), with_function(0.5)),
        (lambda o: SWALR(o, 0.01, 5), lambda o: SWALR(o, 0.02, 8)),
        (lambda o: schedulers.StepLR(o, 2), lambda o: schedulers.CosineAnnealingLR(o, 12)),
    ],
    ids=[
        "cosine",
        "step",
        "one cycle",
        "sequential",
        "chained",
        "cyclic",
        "restarts",
        "callable",
        "lambda",
        "multiplicative",
        "own function",
        "swa",
        "other",
    ],
)
def test_a_schedule_is_resumed_exactly_and_a_changed_one_as_if_it_had_always_been_there(tmp_path, before, after):
    whole, weight = run(tmp_path / "whole", before)
    run(tmp_path / "cut", before, cut=4)
    resumed, again = run(tmp_path / "cut", before, resume=True)
    assert resumed == whole[4:] and torch.equal(weight, again)
    changed, _ = run(tmp_path / "other", after, lr=0.2, weight_decay=0.1)
    run(tmp_path / "moved", before, cut=4)
    assert run(tmp_path / "moved", after, resume=True, lr=0.2, weight_decay=0.1)[0] == changed[4:]
    run(tmp_path / "schedule alone", before, cut=4)
    assert run(tmp_path / "schedule alone", after, resume=True)[0] == run(tmp_path / "after", after)[0][4:]


def plateau(patience=0, mode="max", factor=0.5):
    return lambda o: schedulers.ReduceLROnPlateau(o, mode, factor, patience)


def test_a_plateau_is_stepped_by_evaluations_resumed_exactly_and_keeps_its_reductions(tmp_path):
    given = {"metric": "AP50", "values": [1.0, 3.0, 2.0, 5.0, 4.0, 6.0], "period": 2}
    whole, weight = run(tmp_path / "whole", plateau(), **given)
    assert [groups[0][0] for groups in whole] == [0.1] * 6 + [0.05] * 4
    for cut in (3, 6):  # the last evaluation before the checkpoint of 5 reduces the rate when the next iteration begins
        run(tmp_path / f"{cut}", plateau(), cut=cut, **given)
        resumed, again = run(tmp_path / f"{cut}", plateau(), resume=True, **given)
        assert resumed == whole[-len(resumed) :] and torch.equal(weight, again)
    run(tmp_path / "moved", plateau(), cut=8, **given)
    moved, _ = run(tmp_path / "moved", plateau(patience=5), resume=True, lr=0.4, **given)
    assert [g[0] for g in moved[0]] == pytest.approx([0.2, 0.02])


def test_a_schedule_that_cannot_be_right_is_reported_before_the_first_step(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    with pytest.raises(UserError, match=r"needs a metric of the evaluation: set metric of hooks.LRScheduler"):
        run(tmp_path, plateau())
    with pytest.raises(UserError, match=r"is for ReduceLROnPlateau; StepLR takes none"):
        run(tmp_path, lambda o: schedulers.StepLR(o, 2), metric="AP50")
    with pytest.raises(UserError, match=r"is evaluated only at its end"):
        run(tmp_path, plateau(), metric="AP50", values=[1.0], max_iter=2)
    with pytest.raises(UserError, match=r"total_steps=4 steps, but makes 10 in this run"):
        run(tmp_path, lambda o: schedulers.OneCycleLR(o, 0.5, 4))
    assert not list(tmp_path.glob("*.pth")) and not [r for r in caplog.records if r.levelno == logging.WARNING]
    run(tmp_path, plateau(mode="min"), metric="AP50", values=[1.0, 2.0], max_iter=3, period=0)
    run(tmp_path, lambda o: schedulers.CosineAnnealingLR(o, 4), max_iter=5)
    assert "is its lowest value the best?" in caplog.text
    assert "CosineAnnealingLR is made for T_max=4 steps, but makes 5 in this run" in caplog.text
