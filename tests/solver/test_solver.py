import math

import pytest
import torch
from fvcore.common.param_scheduler import (
    ConstantParamScheduler,
    CosineParamScheduler,
    MultiStepParamScheduler,
    ParamScheduler,
    StepParamScheduler,
)
from torch import nn

from ultravid.config import ConfigError, get_cfg
from ultravid.solver import (
    FactorByName,
    LRMultiplier,
    WarmupCosineLR,
    WarmupMultiStepLR,
    WarmupParamScheduler,
    build_lr_scheduler,
    build_optimizer,
    get_default_optimizer_params,
    maybe_add_gradient_clipping,
    reduce_param_groups,
)


def make_model():
    return nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 1))


def test_groups_hold_each_parameter_once_with_its_own_settings():
    model = make_model()
    groups = get_default_optimizer_params(
        model,
        base_lr=1.0,
        weight_decay=0.1,
        weight_decay_norm=0.0,
        overrides={"bias": {"weight_decay": 0.5}},
        lr_factor_func=lambda name: 0.1 if name.startswith("2.") else 1.0,
    )
    found = {id(p): (g["lr"], g["weight_decay"]) for g in groups for p in g["params"]}
    assert len(found) == 6
    assert found[id(model[0].weight)] == (1.0, 0.1)
    assert found[id(model[1].weight)] == (1.0, 0.0)
    assert found[id(model[2].weight)] == (0.1, 0.1)
    assert found[id(model[2].bias)] == (0.1, 0.5)


def test_parameters_without_gradient_and_shared_ones_are_not_taken_twice():
    model = make_model()
    model[0].weight.requires_grad_(False)
    model.add_module("again", model[2])
    assert sum(len(g["params"]) for g in get_default_optimizer_params(model)) == 5


def test_a_factor_needs_a_base():
    with pytest.raises(ValueError, match="base_lr"):
        get_default_optimizer_params(make_model(), lr_factor_func=lambda name: 1.0)


def test_warm_up_and_steps_by_hand():
    schedule = WarmupParamScheduler(
        MultiStepParamScheduler([1.0, 0.1, 0.01], milestones=[60, 80, 100]),
        warmup_factor=0.001,
        warmup_length=0.1,
    )
    values = [schedule(i / 100) for i in (0, 5, 10, 59, 60, 79, 80, 99)]
    assert values == pytest.approx([0.001, 0.5005, 1.0, 1.0, 0.1, 0.1, 0.01, 0.01])


def test_a_warm_up_of_no_length_is_the_schedule_itself():
    cosine = CosineParamScheduler(1.0, 0.0)
    assert WarmupParamScheduler(cosine, 0.001, 0.0)(0.3) == cosine(0.3)


def test_the_rate_is_a_function_of_the_iteration_alone():
    def rates(start):
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=2.0)
        scheduler = LRMultiplier(optimizer, CosineParamScheduler(1.0, 0.0), max_iter=10)
        scheduler.set_iteration(start)
        seen = []
        for _ in range(start, 10):
            seen.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
        return seen

    whole = rates(0)
    assert whole[0] == 2.0 and rates(4) == whole[4:]


class Growing(ParamScheduler):
    def __call__(self, where):
        return 1.0 / (1.0 - where)


@pytest.mark.parametrize("schedule", [ConstantParamScheduler(1.0), Growing()])
def test_a_schedule_without_a_value_at_the_end_is_asked_for_one_before_it(schedule):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = LRMultiplier(optimizer, schedule, max_iter=4)
    for _ in range(4):
        optimizer.step()
        scheduler.step()
    assert optimizer.param_groups[0]["lr"] == schedule(0.75)


def rates_of(scheduler, steps):
    rates = []
    for _ in range(steps):
        rates.append(scheduler.optimizer.param_groups[0]["lr"])
        scheduler.optimizer.step()
        scheduler.step()
    return rates


def sgd(lr=1.0):
    return torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=lr)


def test_the_rate_after_the_last_step_is_the_schedules_end():
    optimizer = sgd(5.0)
    scheduler = LRMultiplier(optimizer, CosineParamScheduler(1.0, 0.1), max_iter=10)
    rates_of(scheduler, 10)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.5)
    scheduler = LRMultiplier(sgd(), StepParamScheduler(4, [1.0, 0.1]), max_iter=4)  # is not defined at its end
    assert rates_of(scheduler, 4) == pytest.approx([1, 1, 0.1, 0.1])
    assert scheduler.optimizer.param_groups[0]["lr"] == pytest.approx(0.1)


def test_older_schedulers_by_hand():
    steps = WarmupMultiStepLR(sgd(), [4, 6], gamma=0.1, warmup_factor=0.5, warmup_iters=2)
    assert rates_of(steps, 8) == pytest.approx([0.5, 0.75, 1, 1, 0.1, 0.1, 0.01, 0.01])
    constant = WarmupMultiStepLR(sgd(), [], warmup_factor=0.5, warmup_iters=2, warmup_method="constant")
    assert rates_of(constant, 3) == pytest.approx([0.5, 0.5, 1])
    cosine = WarmupCosineLR(sgd(), 4, warmup_factor=0.5, warmup_iters=1)
    assert rates_of(cosine, 5) == pytest.approx([0.5, 0.5 * (1 + math.sqrt(0.5)), 0.5, 0.5 * (1 - math.sqrt(0.5)), 0])
    with pytest.raises(ValueError, match="must rise"):
        WarmupMultiStepLR(sgd(), [2, 1])
    with pytest.raises(ValueError, match="neither 'linear'"):
        WarmupCosineLR(sgd(), 4, warmup_method="burn_in")


def test_groups_with_the_same_settings_are_joined_and_later_settings_count():
    a, b, c = (nn.Parameter(torch.zeros(1)) for _ in range(3))
    groups = [{"params": [a, b], "lr": 1.0}, {"params": [b], "lr": 2.0, "momentum": 0.5}, {"params": [c], "lr": 1.0}]
    joined = reduce_param_groups(groups)
    assert [[id(p) for p in g["params"]] for g in joined] == [[id(a), id(c)], [id(b)]]
    assert [{k: v for k, v in g.items() if k != "params"} for g in joined] == [
        {"lr": 1.0},
        {"lr": 2.0, "momentum": 0.5},
    ]


def small_cfg(**solver):
    cfg = get_cfg()
    cfg.SOLVER.update({"MAX_ITER": 10, "BASE_LR": 2.0, "WARMUP_ITERS": 0.0, "STEPS": (5,), **solver})
    return cfg


def test_optimizer_and_schedule_come_from_a_config():
    model = make_model()
    optimizer = build_optimizer(
        small_cfg(OPTIMIZER="SGD", MOMENTUM=0.5, WEIGHT_DECAY_NORM=0.0, WEIGHT_DECAY=0.1), model
    )
    assert type(optimizer) is torch.optim.SGD and optimizer.defaults["momentum"] == 0.5
    decay = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    assert decay[id(model[1].weight)] == 0.0 and decay[id(model[0].weight)] == 0.1
    scheduler = build_lr_scheduler(small_cfg(), optimizer)
    assert rates_of(scheduler, 10) == pytest.approx([2.0] * 5 + [0.2] * 5)
    with pytest.raises(ConfigError, match=r"SOLVER.OPTIMIZER"):
        build_optimizer(small_cfg(OPTIMIZER="Lion"), model)


@pytest.mark.parametrize(
    ("kind", "expected"), [("value", [1.0, 1.0]), ("norm", [1.0, 1.0]), ("full_model", [0.6, 0.8])]
)
def test_each_step_clips_first(kind, expected):
    model = nn.ParameterList([nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))])
    cfg = small_cfg(OPTIMIZER="SGD", BASE_LR=1.0, MOMENTUM=0.0, WEIGHT_DECAY=0.0)
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE = kind
    optimizers = [
        build_optimizer(cfg, model),
        maybe_add_gradient_clipping(cfg, torch.optim.SGD)(model.parameters(), lr=1.0),
    ]
    for optimizer in optimizers:
        for parameter, gradient in zip(model, (3.0, 4.0), strict=True):
            parameter.data.zero_()
            parameter.grad = torch.tensor([gradient])
        optimizer.step()
        assert [-p.item() for p in model] == pytest.approx(expected, abs=1e-5)
    cfg.SOLVER.CLIP_GRADIENTS.ENABLED = False
    assert maybe_add_gradient_clipping(cfg, torch.optim.SGD) is torch.optim.SGD


def test_the_first_part_of_a_name_that_fits_gives_the_factor_of_the_learning_rate():
    model = nn.ModuleDict({n: nn.Linear(1, 1) for n in ("backbone", "head", "sampling_offsets")})
    factors = FactorByName({"backbone": 0.1, "offsets": 0.5, "back": 2.0})
    groups = get_default_optimizer_params(model, base_lr=1.0, lr_factor_func=factors)
    assert [(g["lr"], len(g["params"])) for g in groups] == [(0.1, 2), (1.0, 2), (0.5, 2)]
