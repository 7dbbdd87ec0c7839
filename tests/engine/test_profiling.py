import json

import pytest
import torch

from ultravid.engine import SimpleTrainer, hooks


class Model(torch.nn.Linear):
    fails = False

    def forward(self, x):
        if self.fails:
            raise ArithmeticError("here")
        return {"loss": super().forward(x).sum()}


def trainer_with(*given):
    model = Model(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    return SimpleTrainer(model, [torch.ones(1, 2)], optimizer, hooks=given, max_iter=3)


def test_the_operators_of_the_chosen_iterations_are_traced(tmp_path):
    trainer_with(hooks.AutogradProfiler(lambda t: t.iter != 1, tmp_path / "profile")).train()
    assert sorted(p.name for p in (tmp_path / "profile").iterdir()) == [
        "profiler-trace-iter0.json",
        "profiler-trace-iter2.json",
    ]
    events = json.loads((tmp_path / "profile/profiler-trace-iter2.json").read_text())
    events = events["traceEvents"] if isinstance(events, dict) else events
    assert "aten::linear" in {event["name"] for event in events}


def test_an_error_in_a_profiled_step_leaves_no_profiler_on(tmp_path):
    trainer = trainer_with(hooks.AutogradProfiler(lambda t: True, tmp_path))
    trainer.model.fails = True
    with pytest.raises(ArithmeticError):
        trainer.train()
    assert not torch.autograd._profiler_enabled()
