"""What hooks may not leave behind: each is named before the step that would be wrong, in one process and in two."""

import json

import pytest
import torch
from torch import nn

from tests.quick_python import spawns_quick_python
from ultravid.checkpoint import DetectionCheckpointer
from ultravid.engine import SimpleTrainer, create_ddp_model, hooks, launch
from ultravid.engine.hooks import CallbackHook
from ultravid.evaluation import inference_context
from ultravid.solver import get_default_optimizer_params
from ultravid.utils import comm
from ultravid.utils.errors import UserError


class Model(nn.Module):
    def __init__(self, frozen=(), unused=False):
        super().__init__()
        self.first, self.norm, self.second = nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 1)
        self.extra = nn.Linear(2, 2) if unused else None
        for name in frozen:
            getattr(self, name).requires_grad_(False)

    def forward(self, x):
        return {"loss": self.second(self.norm(self.first(x))).pow(2).mean()}


class PartlyShared(Model):
    """A model with a parameter that DDP leaves to each process, and a quantized one."""

    _ddp_params_and_buffers_to_ignore = ("own",)

    def __init__(self, *args):
        super().__init__(*args)
        self.own = nn.Parameter(torch.tensor(1.0 + comm.get_rank()))
        self.codes = nn.Parameter(torch.zeros(2, dtype=torch.uint8), requires_grad=False)

    def forward(self, x):
        return super().forward(x * self.own)


def make(
    do=None,
    place="after_step",
    at=1,
    frozen=(),
    unused=False,
    include_frozen=False,
    ema=False,
    more=None,
    kind=Model,
    **ddp,
):
    """A trainer of 4 steps in which a hook does something after, or before, iteration ``at``."""
    torch.manual_seed(0)
    model = kind(frozen, unused)
    wrapped = create_ddp_model(model, **ddp)
    optimizer = torch.optim.SGD(
        get_default_optimizer_params(model, include_frozen=include_frozen), lr=0.1, momentum=0.9
    )
    act = {place: lambda trainer: do(trainer, model) if trainer.iter == at or place == "before_train" else None}
    named = {"odd": CallbackHook(**act) if do else None, **(more or {})}
    if ema:
        named["ema"] = hooks.EMA(model, DetectionCheckpointer(model))
    generator = torch.Generator().manual_seed(comm.get_rank())
    data = [torch.randn(3, 2, generator=generator) for _ in range(4)]
    return SimpleTrainer(wrapped, data, optimizer, max_iter=4, seed=0, hooks=named), model


def freeze(name, value=False):
    return lambda _, model: getattr(model, name).requires_grad_(value)


def replace_head(_, model):
    model.second = nn.Linear(2, 1)


def replace_model(trainer, _):
    trainer.model = Model()


def add_group(trainer, _):
    trainer.optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(1))]})


@pytest.mark.parametrize(
    ("do", "message"),
    [
        (lambda _, model: model.eval(), r"The hook 'odd' left the model in evaluation mode"),
        (lambda *_: torch.set_grad_enabled(False), r"The hook 'odd' left gradients off"),
        (replace_model, r"The hook 'odd' replaced trainer.model by one with 6 parameters.*first.weight"),
        (add_group, r"The hook 'odd' changed the optimizer's parameter groups from 1 to 2"),
        (replace_head, r"The model has 2 new parameters.*second.weight, second.bias"),
        (freeze("first", True), r"unfroze 2 parameters \(first.weight, first.bias\).*include_frozen=True"),
    ],
)
@pytest.mark.parametrize("place", ["before_step", "after_step"])
def test_a_hook_that_would_make_the_next_step_wrong_is_named(do, message, place):
    trainer, _ = make(do, place, frozen=["first"])
    with torch.enable_grad(), pytest.raises(UserError, match=message):
        trainer.train()
    assert trainer.iter == (2 if do is replace_head and place == "after_step" else 1)  # before weights move


def test_settings_of_the_process_that_a_hook_changes_are_kept_with_one_warning(caplog, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)

    def choose(trainer, _):
        torch.backends.cudnn.benchmark = trainer.iter % 2 == 1
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.set_float32_matmul_precision("high")

    trainer, model = make()
    trainer.register_hooks({"choose": CallbackHook(after_step=lambda trainer: choose(trainer, model))})
    torch.set_deterministic_debug_mode("default")
    torch.set_float32_matmul_precision("highest")
    trainer.train()
    assert (torch.get_float32_matmul_precision(), torch.get_deterministic_debug_mode()) == ("high", 1)
    torch.set_deterministic_debug_mode("default")
    torch.set_float32_matmul_precision("highest")
    assert caplog.text.count("The hook 'choose' changed the precision of float32 products from highest to high") == 1
    assert caplog.text.count("'choose' changed torch's deterministic algorithms from off to warn only") == 1
    assert caplog.text.count("'choose' changed torch.backends.cudnn.benchmark from") == 1
    make(lambda _, model: model.norm.eval())[0].train()
    assert "The hook 'odd' switched the training mode of 1 modules: norm." in caplog.text


def test_a_parameter_is_frozen_and_unfrozen_by_a_hook_and_averaged_either_way(caplog):
    caplog.set_level("INFO")
    for do, frozen in ((freeze("first"), ()), (freeze("first", True), ("first",))):
        trainer, model = make(do, frozen=frozen, include_frozen=True, ema=True)
        before = model.first.weight.detach().clone()
        trainer.train()
        assert not torch.equal(model.first.weight, before)
    assert "The hook 'odd' froze 2 parameters (first.weight, first.bias)." in caplog.text
    trainer, model = make(frozen=["first", "norm", "second"], include_frozen=True)
    with pytest.raises(UserError, match="all parameters of the model are frozen"):
        trainer.train()


def test_a_hook_may_leave_the_model_in_evaluation_mode_after_the_last_iteration():
    trainer, model = make(lambda _, model: model.eval(), at=3)
    trainer.train()
    assert not model.training


def test_what_the_optimizer_lacks_is_reported_at_the_start(caplog):
    trainer, _ = make()
    trainer.optimizer.param_groups[0]["params"].pop()
    trainer.train()
    assert "The optimizer lacks 1 parameters of the model that need a gradient; they stay as they are: second.bias" in (
        caplog.text
    )
    with pytest.raises(UserError, match="The model has 2 new parameters"):
        make(replace_head, "before_train")[0].train()
    other = SimpleTrainer(Model(), [], torch.optim.SGD(Model().parameters(), lr=0.1), max_iter=1)
    with pytest.raises(UserError, match="has no parameter of the model"):
        other.train()


def test_evaluation_restores_the_mode_of_each_module():
    model = Model()
    model.norm.eval()
    with inference_context(model):
        assert not model.second.training
    assert model.training and model.second.training and not model.norm.training


def two_ranks(folder):
    """In each of two processes: what each case says, or the weights."""

    def outcome(*args, **kwargs):
        trainer, model = make(*args, **kwargs)
        try:
            trainer.train()
        except UserError as error:
            return str(error)
        return [p.tolist() for p in model.parameters()]

    def on_one_rank(do):
        return lambda trainer, model: do(trainer, model) if comm.get_rank() == 1 else None

    def move(_, model):
        with torch.no_grad():
            model.first.weight.mul_(2)

    def freeze_two(_, model):
        for name in (("first.weight", "norm.bias"), ("first.bias", "norm.weight"))[comm.get_rank()]:
            model.get_parameter(name).requires_grad_(False)

    main_alone = {"own": CallbackHook(after_step=lambda _: None)} if comm.is_main_process() else {}
    found = {
        "hook of one": outcome(more=main_alone),
        "partly shared": outcome(kind=PartlyShared)[2:6],
        "other two": outcome(freeze_two, find_unused_parameters=True),
        "last": outcome(on_one_rank(freeze("first")), at=3, find_unused_parameters=True),
        "unused": outcome(unused=True),
        "unused, found": outcome(unused=True, find_unused_parameters=True),
        "frozen": outcome(freeze("first")),
        "frozen, found": outcome(freeze("first"), find_unused_parameters=True, ema=True),
        "late": outcome(freeze("first", True), frozen=["first"], include_frozen=True),
        "one": outcome(on_one_rank(freeze("first")), find_unused_parameters=True),
        "moved": outcome(on_one_rank(move), at=0),
    }
    (folder / f"{comm.get_rank()}.json").write_text(json.dumps(found))


@pytest.mark.distributed
def test_two_processes_that_drift_apart_raise_an_error(tmp_path):
    with spawns_quick_python():
        launch(two_ranks, 2, args=(tmp_path,))
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert first == second
    assert isinstance(first["hook of one"], list) and isinstance(first["partly shared"], list)
    assert first["other two"].startswith("4 parameters are frozen in some of 2 processes")
    assert isinstance(first["last"], list)  # no step follows
    assert first["unused"].startswith("2 parameters got no gradient in iteration 0: extra.weight, extra.bias.")
    assert "set train.ddp.find_unused_parameters=True" in first["unused"]
    assert isinstance(first["unused, found"], list) and isinstance(first["frozen, found"], list)
    assert "froze 2 parameters (first.weight, first.bias). DDP would wait" in first["frozen"]
    assert "DDP does not synchronize first.weight, first.bias" in first["late"]
    assert first["one"].startswith("2 parameters are frozen in some of 2 processes and not in others: first.bias")
    assert "the weights differ between the processes, in 1 parameters: first.weight" in first["moved"]
