import pytest
import torch
from fvcore.common.param_scheduler import CosineParamScheduler, MultiStepParamScheduler
from torch import nn

from ultravid.solver import LRMultiplier, WarmupParamScheduler, get_default_optimizer_params


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
