"""What `--check` finds before anything is built: numbers out of range, unknown words, and parts of another kind."""

from typing import Annotated

import pytest

from tests.conftest import PHANTOM_CONFIG
from ultravid.config import ConfigError, LazyCall, Node, check, load_checked
from ultravid.utils.limits import Limits, as_limits

# the override, and what its message says
WRONG = {
    "train.eval_period=-3": "is -3, but ultravid.engine.hooks.evaluation.EvalHook takes int >= 0 for 'eval_period'",
    "train.max_iter=0": "takes int >= 1 for 'max_iter'",
    "train.log_period=0": "takes int >= 1 for 'period'",
    "train.checkpointer.period=-1": "takes int >= 0 for 'period'",
    "train.checkpointer.max_to_keep=-1": "takes int >= 1 | None for 'max_to_keep'",
    "train.checkpointer.keep_best=0": "takes int >= 1 for 'max_to_keep'",
    "train.checkpointer.on_error=foo": "takes 'stop' | 'continue' for 'on_error'",
    "train.hang_timeout_s=0": "takes float > 0 for 'timeout_s'",
    "train.wall_time_s=-5": "takes float > 0 | None for 'wall_time_s'",
    "train.amp.precision=bflaot16": "'float16' | 'bfloat16' | None for 'dtype'",
    "train.device=cdua": "is 'cdua', but ultravid.engine.defaults.prepare_model takes 'auto', 'cpu', 'cuda' or 'cuda:1'",
    "optimizer.lr=nan": "is nan, but torch.optim.adamw.AdamW takes number >= 0 and finite for 'lr'",
    "optimizer.weight_decay=-1": "takes float >= 0 for 'weight_decay'",
    "lr_multiplier.warmup_length=2": "takes float in [0, 1] for 'warmup_length'",
    "trainer.clip_grad.max_norm=-5": "takes float > 0 for 'max_norm'",
    "trainer.accumulation.num_batches=0": "takes int >= 1 for 'num_batches'",
    "dataloader.train.total_batch_size=0": "takes int >= 1 for 'total_batch_size'",
    "dataloader.train.num_workers=-1": "takes int >= 0 for 'num_workers'",
    "dataloader.train.fold=7": "takes 0 to 4 for 'fold', as dataloader.train.num_folds is 5",
    "dataloader.train.frame_sampler=foo": "takes ultravid.data.samplers.clips.FrameSampler for 'frame_sampler'",
    "dataloader.train.transforms[0].prob=3": "takes float in [0, 1] for 'prob'",
    "dataloader.train.transforms[1]=null": "takes ultravid.data.transforms.ClipTransform for 'transforms'",
    "dataloader.test=foo": "takes Iterable[list[dict[str, Any]]] for 'data_loader'",
    "+trainer.hooks.writer.writers.json.window_size=-1": "takes int >= 1 | None for 'window_size'",
    "train.num_threads=many": "is 'many', but must be 'auto' or a number of at least 1",
    "+model.backbone.depth=50": "takes either depth or num_blocks, which is (1, 1, 1) here; '~model.backbone.num_blocks' removes it",
    "trainer.hooks.progress=foo": "takes ultravid.engine.train_loop.HookBase | None for 'hooks'",
}


def test_every_value_out_of_range_is_reported_with_its_key_its_place_and_what_is_allowed():
    overrides = ["dataloader.train.num_folds=5", *WRONG]
    with pytest.raises(ConfigError) as caught:
        load_checked(PHANTOM_CONFIG, overrides)
    lines = str(caught.value).split("\n")[1:]
    assert len(lines) == len(WRONG)
    for number, (override, message) in enumerate(WRONG.items(), 2):
        key = override.partition("=")[0].lstrip("+")
        (line,) = (line for line in lines if line.startswith(f"  {key}: "))
        assert message in line
        assert line.endswith(f"(override {number}: {override})")


KINDS = f"""
from ultravid.config import LazyCall as L, LazyConfig, ref
from ultravid.engine.hooks import EvalHook
from ultravid.solver import IterationMultiplier

_base = LazyConfig.load({str(PHANTOM_CONFIG)!r})
data, dataloader, model, train = _base.data, _base.dataloader, _base.model, _base.train
prepared_model, checkpointer, trainer, optimizer = _base.prepared_model, _base.checkpointer, _base.trainer, _base.optimizer

def half_after_100(iteration):
    return 1.0 if iteration < 100 else 0.5

"""


def test_a_class_a_function_or_text_in_place_of_an_object_is_reported(tmp_path):
    (tmp_path / "run.py").write_text(
        f"{KINDS}\nlr_multiplier = half_after_100\ntrainer.hooks.eval = EvalHook\n"
        "dataloader.train = dict(batch=3)\ndataloader.train.videos = []\n"
    )
    with pytest.raises(ConfigError) as caught:
        load_checked(tmp_path / "run.py", ["trainer.hooks.checkpoint.checkpointer=best"])
    message = str(caught.value)
    assert "there is no 'lr_multiplier'. In that file it is a function" in message
    assert "IterationMultiplier(function=..., max_iter=${train.max_iter})" in message
    assert "trainer.hooks.eval: is <class 'ultravid.engine.hooks.evaluation.EvalHook'>" in message
    assert "dataloader.train: is a dict, but" in message
    assert "'trainer.hooks.checkpoint.checkpointer' is a call of" in message and "'best' is text" in message


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("lr_multiplier = 0.5", "In that file it is a float"),
        ("lr_multiplier = 'half'", "In that file it is a str"),
        ("trainer.hooks.lr.scheduler.multiplier = 0.5", "multiplier: is 0.5"),
        ("trainer.hooks.lr.scheduler.multiplier = 'half'", "multiplier: is 'half'"),
    ],
)
def test_a_number_or_text_in_place_of_a_schedule_gets_no_advice_for_functions(tmp_path, line, message):
    (tmp_path / "run.py").write_text(f"{KINDS}\n{line}\n")
    with pytest.raises(ConfigError, match=message) as caught:
        load_checked(tmp_path / "run.py")
    assert "IterationMultiplier" not in str(caught.value)


def test_a_run_needs_a_trainer_that_is_an_object():
    with pytest.raises(ConfigError, match="trainer: is None, but a run needs an object"):
        load_checked(PHANTOM_CONFIG, ["trainer=null"], objects=["trainer"])


def test_a_function_of_the_iteration_is_a_multiplier(tmp_path):
    import torch

    from ultravid.config import Builder
    from ultravid.solver import LRMultiplier

    (tmp_path / "run.py").write_text(
        f"{KINDS}\nlr_multiplier = L(IterationMultiplier)(function=half_after_100, max_iter=ref('train.max_iter'))\n"
    )
    multiplier = Builder(load_checked(tmp_path / "run.py")).build("lr_multiplier")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    with pytest.raises(TypeError, match=r"got function\. A function of the iteration is given as"):
        LRMultiplier(optimizer, lambda iteration: 0.5, max_iter=900)
    with pytest.raises(TypeError, match=r"got float\.$"):
        LRMultiplier(optimizer, 0.5, max_iter=900)
    scheduler = LRMultiplier(optimizer, multiplier, max_iter=900)
    rates = []
    for _ in range(900):
        rates.append(optimizer.param_groups[0]["lr"])
        scheduler.step()
    assert rates == [2.0] * 100 + [1.0] * 800


def whole(x: Annotated[int, Limits(ge=0, lt="n")], n: int | None = None) -> None: ...


def test_a_bound_may_be_another_argument():
    assert "takes 0 to 2 for 'x', as a.n is 3" in str(check(Node(a=LazyCall(whole)(x=3, n=3)))[0])
    assert "is 'maybe', but must be bool" in str(check(Node(train=Node(deterministic="maybe")))[0])
    assert "needs n with it" in str(check(Node(a=LazyCall(whole)(x=3)))[0])
    assert not check(Node(a=LazyCall(whole)(x=2, n=3)))


def test_bounds_of_the_package_annotated_types_are_read():
    annotated_types = pytest.importorskip("annotated_types")
    assert as_limits(annotated_types.Interval(ge=1, lt=3)) == Limits(ge=1, lt=3)
    assert as_limits(int) is None


def test_a_plain_value_sets_the_part_that_took_its_place_and_is_refused_in_code():
    import torch

    from ultravid.engine import SimpleTrainer

    cfg = load_checked(PHANTOM_CONFIG, ["trainer.precision=float16", "trainer.accumulation=2"])
    assert cfg.trainer.precision.dtype == "float16" and cfg.trainer.accumulation.num_batches == 2
    model = torch.nn.Linear(1, 1)
    with pytest.raises(TypeError, match=r"accumulation is 2, not an object of .*Accumulation\(2\)"):
        SimpleTrainer(model, [], torch.optim.SGD(model.parameters(), lr=1.0), accumulation=2)
