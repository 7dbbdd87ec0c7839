"""An error of the user's config or code, in a constructor or in a step, as the launcher reports it: one message, exit code 2."""

import pytest
import torch

from tests.conftest import PHANTOM_CONFIG, load_tool
from ultravid.engine import HookBase
from ultravid.utils.tool import run_tool

MINE = """
import torch
from torch import nn
from ultravid.engine import HookBase
from ultravid.modeling import BasicDet


class Net(nn.Module):
    def __init__(self, width=4, returns="loss", device="cpu"):
        super().__init__()
        self.first, self.second = nn.Linear(2, 4), nn.Linear(width, 1)
        if returns == "typo":
            self.first.wieght.zero_()
        self.returns, self.kept = returns, 0

    def forward(self, clips):
        loss = self.second(self.first(torch.ones(3, 2))).mean()
        if self.returns == "graph":
            self.kept = loss = loss + self.kept
        if self.returns == "key":
            return {"loss": self.losses["a"]}
        return {"loss": loss, "accuracy": 0.5} if self.returns == "float" else {"loss": loss}


class Hook(HookBase):
    def __init__(self, first=0):
        self.first = first

    def after_step(self):
        if self.trainer.iter >= self.first:
            return self.trainer.model.nothing


class Saved(HookBase):
    def __init__(self, state=None):
        self.state = state

    def state_dict(self):
        return {"state": self.state or print}

    def after_train(self):
        assert self.state != "asserted"


def nothing(**_):
    return None
"""


@pytest.fixture
def mine(small_run, tmp_path):
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "config.py").write_text(
        "from ultravid.config import LazyCall as L, LazyConfig\n"
        "from mine import Net\n"
        f"_base = LazyConfig.load({str(PHANTOM_CONFIG)!r})\n"
        "data, dataloader, train, prepared_model = _base.data, _base.dataloader, _base.train, _base.prepared_model\n"
        "checkpointer, trainer, optimizer = _base.checkpointer, _base.trainer, _base.optimizer\n"
        "lr_multiplier = _base.lr_multiplier\n"
        "model = L(Net)(width=4, returns='loss')\n"
    )
    return ["--config-file", str(tmp_path / "config.py"), *small_run[2:], "~trainer.hooks.eval", "~trainer.hooks.best"]


def place(text):
    return f'mine.py", line {MINE.splitlines().index(text) + 1}, in'


@pytest.mark.parametrize(
    ("overrides", "messages", "line"),
    [
        (["model.returns=typo"], ["AttributeError: 'Linear' object has no attribute 'wieght'", "While building model as mine.Net("],
         "            self.first.wieght.zero_()"),
        (["model.width=3"], ["Iteration 0 (the forward pass, module second (Linear), key 'model'): RuntimeError: mat1 and mat2"],
         "        loss = self.second(self.first(torch.ones(3, 2))).mean()"),
        (["model.returns=key"], ["the forward pass, module at the root (Net), key 'model'): AttributeError"],
         '            return {"loss": self.losses["a"]}'),
        (["model.returns=float"], ["The model (Net) returned a float (0.5) for the loss 'accuracy'"], None),
        (["+trainer.hooks.mine={_target_: mine.Hook}"],
         ["Iteration 0 (the hook 'mine', key 'trainer.hooks.mine'): AttributeError"],
         "            return self.trainer.model.nothing"),
        (["model.returns=graph"], ["Iteration 1 (the backward pass, key 'model'): RuntimeError: Trying to backward"], None),
        (["+trainer.hooks.mine={_target_: mine.Saved, state: asserted}"],
         ["Iteration 8 (the hook 'mine', key 'trainer.hooks.mine'): AssertionError"],
         '        assert self.state != "asserted"'),
        (["+trainer.hooks.mine={_target_: mine.Saved}"],
         ["The state 'trainer/hooks/mine/state' can't be saved", "state_dict() of the hook 'mine' may return"], None),
        (["dataloader.train={_target_: mine.nothing}"], ["data_loader is None, not an iterable of batches"], None),
        (["trainer.checkpointer=null"], ["This trainer has no checkpointer"], None),
    ],
    ids=range(10),
)  # fmt: skip
def test_an_error_of_the_users_config_or_code_is_one_message(
    mine, launch_run, tmp_path, capfd, overrides, messages, line
):
    assert launch_run([*mine, *overrides]) == 2
    error = capfd.readouterr().err
    assert all(message in error for message in messages), error
    assert line is None or place(line) in error
    assert "Traceback" not in error
    assert "asserted" in str(overrides) or not list(tmp_path.glob("run/model_*"))
    if line is not None:
        assert "Traceback (most recent call last)" in (tmp_path / "run/log.txt").read_text()


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        ("lazyconfig_train", ["--quick", "+trainer.hooks.mine={_target_: mine.Hook}"]),
        ("lazyconfig_train", ["--quick", "+trainer.hooks.mine={_target_: mine.Hook, first: 4}"]),
        ("lazyconfig_train", ["--eval-only"]),
        ("plain_train_net", []),
        ("plain_train_net", ["--eval-only"]),
        ("plain_train_net", ["--eval-only", "model.returns=typo"]),
    ],
)
def test_every_way_to_start_reports_it_in_one_message(mine, tmp_path, capfd, tool, arguments):
    if "--quick" not in arguments:
        arguments = ["model.width=3", *arguments]
    if "--eval-only" in arguments:
        shapes = {"first.weight": (4, 2), "first.bias": (4,), "second.weight": (1, 3), "second.bias": (1,)}
        torch.save({"model": {name: torch.zeros(shape) for name, shape in shapes.items()}}, tmp_path / "w.pth")
        arguments = [*arguments, f"train.init_checkpoint={tmp_path / 'w.pth'}"]
    assert run_tool(load_tool(tool).main, [*mine, *arguments]) == 2
    error = capfd.readouterr().err
    assert 'mine.py", line' in error and "Traceback" not in error


def test_a_bug_of_ultravids_keeps_its_traceback_and_says_where(small_run, launch_run, monkeypatch):
    def fail(*_):
        raise KeyError("a bug")

    monkeypatch.setattr(HookBase, "state_dict", fail)
    fail.__code__ = fail.__code__.replace(co_filename=str(PHANTOM_CONFIG.parents[3] / "ultravid/engine/x.py"))
    with pytest.raises(KeyError) as caught:
        launch_run([*small_run, "train.max_iter=2", "~trainer.hooks.eval", "~trainer.hooks.best"])
    assert caught.value.__notes__[-1] == "Iteration 1, the hook 'progress', key 'trainer.hooks.progress'"


def test_weights_that_fit_in_part_name_the_key_that_takes_them(small_run, launch_run, tmp_path, capfd):
    short = [*small_run, "train.max_iter=1", "~trainer.hooks.eval", "~trainer.hooks.best"]
    assert launch_run(short) == 0
    content = torch.load(tmp_path / "run/model_final.pth", weights_only=True)["model"]
    name = next(n for n, v in content.items() if v.dim() == 4)
    torch.save({**content, name: content[name][:1]}, tmp_path / "part.pth")
    (tmp_path / "page.pth").write_text("<!DOCTYPE html><html>")
    (tmp_path / "lfs.pth").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0")
    (tmp_path / "empty.pth").write_text("")
    capfd.readouterr()
    for file, message in (
        (
            "part",
            f"{len(content) - 1} of the model's {len(content)} weights fit: checkpointer.partial_init=true takes them",
        ),
        ("page", "is a web page, not a file of weights"),
        ("lfs", "is a pointer of git-lfs, not the file itself"),
        ("empty", "is empty"),
    ):
        assert launch_run([*short, f"train.init_checkpoint={tmp_path / file}.pth"]) == 2
        assert message in capfd.readouterr().err
    init = [f"train.init_checkpoint={tmp_path / 'part.pth'}", "checkpointer.partial_init=true"]
    assert launch_run([*short, *init]) == 0
    assert f"1 shapes differ ({name} is (1, " in capfd.readouterr().out


def test_the_loop_that_is_written_out_refuses_what_it_would_ignore_and_what_is_no_loss(mine, tmp_path, capfd):
    plain = load_tool("plain_train_net").main
    step = "trainer.hooks.lr.scheduler={_target_: torch.optim.lr_scheduler.StepLR, optimizer: '${optimizer}', step_size: 1}"
    arguments = [value for value in mine if not value.startswith("~")]
    for override, message in (
        ("model.returns=float", "The model (Net) returned a float (0.5) for the loss 'accuracy'"),
        ("model.returns=key", "Training (module at the root (Net), key 'model'): AttributeError"),
        ("model.returns=graph", "Training (the backward pass, key 'model'): RuntimeError: Trying to backward"),
        ("model.width=x", "model.width"),
        (step, "This loop uses lr_multiplier, not trainer.hooks.lr.scheduler"),
    ):
        assert run_tool(plain, [*arguments, override]) == 2
        error = capfd.readouterr().err
        assert message in error and "Traceback" not in error
    folder = tmp_path / "run"
    short = [*arguments, "train.max_iter=2", "dataloader.test=[]"]
    assert run_tool(plain, short) == 0
    changed = {"train.max_iter": 3, "optimizer.weight_decay": 0.5}
    allowed = ["--resume", "--allow-change", ",".join(changed)]
    assert run_tool(plain, [*short, *allowed, *(f"{key}={value}" for key, value in changed.items())]) == 0
    groups = torch.load(folder / "model_final.pth", weights_only=True)["optimizer"]["param_groups"]
    assert {group["weight_decay"] for group in groups} == {0.5}


def test_what_a_model_returns_in_evaluation_is_checked(mine, launch_run, capfd):
    arguments = [value for value in mine if not value.startswith("~")]
    assert launch_run([*arguments, "train.max_iter=1"]) == 2
    error = capfd.readouterr().err
    assert "In evaluation the model returned a dict with the keys 'loss' for 1 frames" in error
    assert "Traceback" not in error
