"""What an earlier version saved or named goes on loading, with a note at each change."""

import base64
import logging
import pickle

import pytest

from tests.conftest import ROOT
from ultravid.config import (
    ConfigError,
    LazyCall,
    LazyConfig,
    Node,
    OverrideError,
    check,
    diff,
    explain,
    explain_text,
    get_config,
    instantiate,
    load_checked,
    locate,
    migrations,
    upgrade,
)
from ultravid.config.command_line import load_with_overrides
from ultravid.config.resume import significant_changes
from ultravid.config.tree import DELETED, full_key
from ultravid.datasets import load_cva_bus
from ultravid.engine import AMPTrainer, hooks
from ultravid.engine.hooks import Watchdog

SAVED = ROOT / "tests/saved/0.1"
CONFIGS = sorted((SAVED / "configs").glob("*.yaml"))


def notes_of(cfg):
    return {f.key: f.message for f in check(cfg) if not f.fatal}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_config_that_was_saved_loads_and_checks_clean(path):
    cfg = LazyConfig.load(path)
    faults = [f for f in check(cfg) if f.fatal]
    if path.stem.startswith("common"):  # a part of a config, which refers to the rest
        faults = [f for f in faults if "leads nowhere" not in f.message]
    assert faults == []
    if "trainer" in cfg:
        assert len(notes_of(cfg)) >= 3  # two hooks and an argument were renamed


@pytest.mark.parametrize(
    "path", [p for p in CONFIGS if (ROOT / f"projects/basicdet/configs/{p.stem}.py").is_file()], ids=lambda p: p.stem
)
def test_a_config_that_was_saved_means_the_same_as_the_one_of_today(path):
    old = LazyConfig.load(path)
    new = LazyConfig.load(ROOT / f"projects/basicdet/configs/{path.stem}.py")
    for key in old.data:
        if key in ("root", "train", "test"):
            new.data[key] = old.data.raw[key]
    # Arguments that have got a line or a key of their own since change nothing with their defaults.
    assert significant_changes(new, path) == []
    if "videos" in new.data:
        new.data.patients, new.data.class_agnostic = "folder", False
        videos = [f"data.{name}" for name in ("videos", "test_videos") if name in new.data]
        changed = {f"{name}.{key}" for name in videos for key in ("patients", "class_agnostic")}
        assert {d.key for d in significant_changes(new, path)} == changed


def test_a_config_that_was_brought_up_to_date_is_saved_with_the_names_of_today(tmp_path):
    cfg = LazyConfig.load(SAVED / "configs/tiny_run.yaml")
    LazyConfig.save(cfg, tmp_path / "new.yaml")
    text = (tmp_path / "new.yaml").read_text()
    for old in (
        "HangReport",
        "TimeLedger",
        "accumulate:",
        "skip_nonfinite",
        "capsule_dir",
        "ultravid.data.load_cva_bus",
    ):
        assert old not in text
    again = LazyConfig.load(tmp_path / "new.yaml")
    assert again == cfg and notes_of(again) == {}


def test_arguments_that_moved_into_an_object_keep_value_and_place():
    cfg = LazyConfig.load(SAVED / "configs/tiny_run.yaml")
    assert cfg.trainer.accumulation.num_batches == 2
    assert [s.value for s in explain(cfg, "trainer.accumulation.num_batches")] == [2]  # not the default before it
    assert cfg.trainer.nonfinite.max_skipped == 3
    assert cfg.trainer.nonfinite.raw.dump_dir == "${train.output_dir}"
    assert notes_of(cfg)["trainer.accumulation.num_batches"] == "was called 'trainer.accumulate'"
    line = next(
        n for n, t in enumerate((SAVED / "configs/tiny_run.yaml").read_text().splitlines(), 1) if "accumulate:" in t
    )
    for key in ("trainer.accumulation.num_batches", "trainer.accumulate"):
        text = explain_text(cfg, key)
        assert text.startswith("trainer.accumulation.num_batches = 2\n") and f"tiny_run.yaml:{line}" in text
        assert "note: trainer.accumulation.num_batches: was called 'trainer.accumulate'" in text


@pytest.mark.parametrize("name", (SAVED / "names.txt").read_text().split())
def test_a_name_of_a_class_or_function_is_still_found(name):
    assert locate(name) is not None


@pytest.mark.parametrize("name", ["AutogradProfiler", "TorchMemoryStats", "TorchProfiler"])
def test_a_hook_that_was_saved_by_the_name_of_its_module_equals_the_hook(name):
    hook = getattr(hooks, name)
    saved = Node(hook=Node(_target_=f"ultravid.engine.profiling.{name}"))
    upgrade.upgrade(saved)
    assert diff(saved, Node(hook=LazyCall(hook)())) == []


def test_a_loader_logs_each_change_once(caplog):
    cfg = LazyConfig.load(SAVED / "configs/tiny_run.yaml")
    messages = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert len(messages) == len(set(messages)) == len(notes_of(cfg)) >= 5
    assert any(
        "'ultravid.engine.hang.HangReport' is now called 'ultravid.engine.hooks.Watchdog'" in m for m in messages
    )


def test_the_launcher_logs_each_change_once(caplog):
    cfg = load_checked(SAVED / "configs/tiny_run.yaml", ["train.max_iter=3"])
    messages = [
        m
        for m in (r.getMessage() for r in caplog.records)
        if any(part in m for part in (" called ", " is written as ", " was not set"))
    ]
    assert len(messages) == len(set(messages)) == len(notes_of(cfg)) >= 5


def test_patients_that_an_earlier_version_took_from_names_are_still_taken_from_them(tmp_path, caplog):
    """The folds of a run of version 0.1 stay the same when it is resumed; what today's version saves means what it says."""
    for name, key in (("cva_bus", "videos"), ("common_data_organs", "tables"), ("phantom", "test_videos")):
        cfg = LazyConfig.load(SAVED / f"configs/{name}.yaml")
        assert cfg.data[key].patients == "stem_without_side"
    assert "patients: was not set, and its default was the name of the video's file without its side" in caplog.text
    text = (SAVED / "configs/cva_bus.yaml").read_text()
    (tmp_path / "table.yaml").write_text(text.replace("patients: null", "patients: table.json"))
    assert LazyConfig.load(tmp_path / "table.yaml").data.videos.patients == "table.json else stem_without_side"
    for target in (load_cva_bus, "ultravid.data.load_cva_bus"):
        LazyConfig.save(Node(videos=Node(_target_=target, root="r", patients=None)), tmp_path / "today.yaml")
        assert LazyConfig.load(tmp_path / "today.yaml").videos.patients is None


def write_config(folder, text):
    path = folder / "run.py"
    path.write_text(text)
    return path


def test_a_config_file_may_name_old_targets_as_strings(tmp_path):
    path = write_config(
        tmp_path,
        "from ultravid.config import LazyCall as L\n"
        "hook = L('ultravid.engine.hooks.HangReport')(timeout_s=5.0)\n"
        "reader = dict(_object_='ultravid.data.readers.open_source')\n",
    )
    cfg = load_checked(path)
    assert cfg.hook["_target_"] == "ultravid.engine.hooks.Watchdog"
    assert cfg.reader["_object_"] == "ultravid.datasets.readers.open_source"
    assert set(notes_of(cfg)) == {"hook._target_", "reader._object_"}
    assert "run.py:2" in str(next(f for f in check(cfg) if f.key == "hook._target_"))
    assert isinstance(
        instantiate(LazyConfig.load(path).hook), Watchdog
    )  # without the launcher it is found all the same


def test_a_config_file_may_set_an_argument_that_moved(tmp_path):
    path = write_config(
        tmp_path,
        "from ultravid.config import get_config, LazyCall as L\n"
        "from ultravid.engine import SimpleTrainer\n"
        "train = get_config('common/train.py').train\n"
        "trainer = get_config('common/train.py').trainer\n"
        "trainer.accumulate = 4\n"
        "plain = L(SimpleTrainer)(model=None, data_loader=None, optimizer=None, skip_nonfinite='${.max_iter}', max_iter=7)\n"
        "copied = dict(value='${plain.skip_nonfinite}', text='at most ${plain.skip_nonfinite}')\n",
    )
    cfg = load_with_overrides(path)
    assert cfg.trainer.accumulation.num_batches == 4 and "accumulate" not in cfg.trainer
    assert "run.py:5" in explain_text(cfg, "trainer.accumulation.num_batches")
    assert cfg.plain.nonfinite == {
        "_target_": "ultravid.engine.steps.NonfinitePolicy",
        "max_skipped": "${..max_iter}",
        "dump_dir": None,
    }
    assert (
        cfg.plain.nonfinite.max_skipped == cfg.copied.value == 7
    )  # a relative reference and references to the old key
    assert cfg.copied.text == "at most 7"


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("trainer.accumulate=2", "trainer.accumulation.num_batches", 2),
        ("+trainer.accumulate=2", "trainer.accumulation.num_batches", 2),
        ("++trainer.skip_nonfinite=3", "trainer.nonfinite.max_skipped", 3),
        ("trainer.capsule_dir=x", "trainer.nonfinite.dump_dir", '"x"'),
    ],
)
def test_an_override_may_use_an_old_key(override, key, value):
    train = get_config("common/train.py")
    cfg = LazyConfig.apply_overrides(train, [override])
    assert explain_text(cfg, key).startswith(f"{key} = {value}") and override in explain_text(cfg, key)
    old = override.lstrip("+").partition("=")[0]
    assert notes_of(cfg)[key] == f"was set as {old!r}, which is now called {key!r}"


def test_an_override_by_an_old_key_makes_the_object_that_it_needs():
    cfg = Node(trainer=LazyCall(AMPTrainer)(model=None, data_loader=None, optimizer=None, nonfinite=None))
    LazyConfig.apply_overrides(cfg, ["trainer.accumulate=2", "trainer.skip_nonfinite=1"])
    assert cfg.trainer.accumulation == {"_target_": "ultravid.engine.steps.Accumulation", "num_batches": 2}
    assert cfg.trainer.nonfinite.max_skipped == 1


def test_an_override_may_name_an_old_target():
    cfg = Node(hook=LazyCall("ultravid.engine.hooks.Watchdog")(timeout_s=5.0))
    LazyConfig.apply_overrides(
        cfg,
        [
            "hook._target_=ultravid.engine.hooks.HangReport",
            "++other={_target_: ultravid.engine.hooks.TimeLedger, period: 3}",
        ],
    )
    assert cfg.hook["_target_"] == "ultravid.engine.hooks.Watchdog"
    assert cfg.other["_target_"] == "ultravid.engine.hooks.TimeBreakdown"


def test_a_key_that_the_config_has_is_not_taken_for_an_old_one():
    cfg = Node(trainer=LazyCall("my.Trainer")(accumulate=1))
    LazyConfig.apply_overrides(cfg, ["trainer.accumulate=2"])
    assert cfg.trainer.accumulate == 2
    with pytest.raises(OverrideError, match=r"Unknown key 'trainer\.skip_nonfinite'"):
        LazyConfig.apply_overrides(cfg, ["trainer.skip_nonfinite=2"])


def test_a_renamed_key_is_moved_wherever_it_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(migrations.KEYS, "train.iterations", "train.max_iter")
    monkeypatch.setitem(migrations.KEYS, "log", "train.log")
    path = tmp_path / "saved.yaml"
    path.write_text("train:\n  iterations: 5\nlog:\n  period: 3\nother: ${train.iterations}\nthird: ${log.period}\n")
    cfg = LazyConfig.load(path)
    assert cfg == Node(
        train=Node(max_iter=5, log=Node(period=3)), other="${train.max_iter}", third="${train.log.period}"
    )
    assert cfg.other == 5 and cfg.third == 3
    assert notes_of(cfg) == {"train.max_iter": "was called 'train.iterations'", "train.log": "was called 'log'"}
    LazyConfig.apply_overrides(cfg, ["train.iterations=6", "log.period=4"])
    assert cfg.train.max_iter == 6 and cfg.third == 4
    assert "saved.yaml:2" in explain_text(cfg, "train.iterations")


def test_a_pickled_node_may_hold_an_old_name():
    node = pickle.loads(pickle.dumps(Node(hook={"_target_": "ultravid.engine.hooks.HangReport", "timeout_s": 5.0})))
    assert isinstance(instantiate(node.hook), Watchdog)


def test_a_saved_pickle_may_hold_a_class_that_was_renamed(tmp_path):
    pickled = base64.b64encode(b"cultravid.engine.hang\nHangReport\n.").decode()  # what pickle writes for the class
    (tmp_path / "saved.yaml").write_text(f"kind:\n  _pickle_: {pickled}\n")
    assert LazyConfig.load(tmp_path / "saved.yaml", allow_pickle=True).kind is Watchdog


def test_a_pickle_of_the_version_before_is_read():
    node = pickle.loads((SAVED / "node.pickle").read_bytes())
    assert node == Node(a=[1, "${b}"], b=2, t=(Node(c=1),))
    assert list(node.a) == [1, 2] and [s.value for s in explain(node, "b")] == [1, 2]
    assert [s.value for s in explain(node, "gone")] == [1, DELETED]


def test_the_tables_lead_to_names_that_exist():
    for old, new in {**migrations.TARGETS, **migrations.KEPT_TARGETS}.items():
        assert migrations.current_target(new) == new, f"{old} leads to {new}, which is an old name itself"
        locate(new)
    for target, arguments in migrations.ARGUMENTS.items():
        for new in arguments.values():
            part, dot, name = new.partition(".")
            assert not dot or name in migrations.PARTS[part], f"{target}: {new}"
    for part in migrations.PARTS.values():
        assert [f for f in check(Node(part=part)) if f.fatal] == []


def test_a_wrong_old_name_is_an_error_like_any_other():
    with pytest.raises(
        ConfigError, match=r"'ultravid\.datasets\.formats' has no 'load_cva_buss'.*Did you mean 'load_cva_bus'"
    ):
        locate("ultravid.data.datasets.load_cva_buss")
    assert upgrade.current_key(Node(a=1), "b.c[0]") == "b.c[0]"


def test_a_saved_amp_trainer_is_a_trainer_with_a_precision(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(
        "trainer:\n  _target_: ultravid.engine.AMPTrainer\n  enabled: ${train.amp}\n  precision: float16\n"
        "train: {amp: true, dtype: '${trainer.precision}'}\n"
    )
    cfg = LazyConfig.load(path)
    assert dict(cfg.trainer.raw) == {
        "_target_": "ultravid.engine.SimpleTrainer",
        "precision": {
            "_target_": "ultravid.engine.steps.MixedPrecision",
            "enabled": "${train.amp}",
            "dtype": "float16",
        },
    }
    assert (cfg.trainer.precision.enabled, cfg.train.dtype) == (True, "float16")
    assert set(notes_of(cfg)) == {"trainer._target_"}
    assert [s.where for s in explain(cfg, "trainer.precision.dtype")] == [f"{path}:4"]


def test_references_to_a_moved_value_are_redirected_however_they_are_written(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(r"""
    a:
    - {_target_: ultravid.engine.AMPTrainer, enabled: true, precision: float16, accumulate: 2, own: "${.precision}", model: m}
    - 7
    t:
      _tuple_: ["${a[0].precision}", 3, "x ${a.0.accumulate}", {_tuple_: [{k: "${....t[1]}"}, "${a[-2].precision}"]}, {k: "${a.0.enabled}"}]
    text: "${.a.0.precision}, ${ a.-2.enabled }, ${oc.decode:${a.0.accumulate}} \\${a.0.precision}"
    n: {up: "${..a[0].enabled}", l: ["${...a.0.precision}"], other: "${..a.1}"}
    alias: ${a[0]}
    through: ["${alias.precision}", "${alias.enabled}", "${alias.model}"]
    """)
    cfg = LazyConfig.load(path)
    assert cfg.a[0].own == "float16" and cfg.a[0].raw.own == "${.precision.dtype}"
    assert (*cfg.t[:3], cfg.t[3][0].k, cfg.t[3][1], cfg.t[4].k) == ("float16", 3, "x 2", 3, "float16", True)
    assert full_key(cfg.t[3][0]) == "t[3][0]"
    assert cfg.text == "float16, True, 2 ${a.0.precision}"
    assert list(cfg.through) == ["float16", True, "m"]
    assert (cfg.n.up, list(cfg.n.l), cfg.n.raw.other) == (True, ["float16"], "${..a.1}")


def test_the_old_key_of_a_trainers_precision_is_read(tmp_path):
    cfg = LazyConfig.apply_overrides(get_config("common/train.py"), ["trainer.enabled=true"])
    assert cfg.trainer.precision.enabled is True and "enabled" not in cfg.trainer
    path = write_config(
        tmp_path,
        "from ultravid.config import get_config\ntrainer = get_config('common/train.py').trainer\ntrainer.enabled = True\n",
    )
    cfg = LazyConfig.load(path)
    assert cfg.trainer.precision.enabled is True and "enabled" not in cfg.trainer


OWN_DETECTOR = """
from ultravid.config import LazyCall as L, get_config
from ultravid.layers import RelationModule
from ultravid.modeling import BasicDet, RoIHeads
parts = get_config("common/models/basicdet_small.py").model
model = L(BasicDet)(
    backbone=parts.backbone,
    proposal_generator=parts.proposal_head,
    roi_heads=L(RoIHeads)(
        box_pooler=parts.roi_pooler.box_pooler, box_head=parts.roi_pooler.head, box_predictor=parts.box_predictor,
        proposal_matcher=parts.roi_sampler.matcher, relation=L(RelationModule)(dim=128, geometry_dim=64), gt_copies=2,
    ),
    context_frames=3,
    causal=True,
)
train = dict(dim="${model.roi_heads.relation.dim}")
"""


def test_a_saved_detector_of_a_head_is_composed_of_its_parts(tmp_path):
    own = LazyConfig.load(write_config(tmp_path, OWN_DETECTOR))
    assert own.model.roi_heads.gt_copies == 2  # a user's own config is left as it is
    LazyConfig.save(own, tmp_path / "saved.yaml")
    saved = LazyConfig.load(tmp_path / "saved.yaml")
    assert list(saved.model) == [
        "_target_",
        "backbone",
        "proposal_head",
        *("roi_pooler", "roi_sampler"),
        "box_predictor",
        "token_mixer",
    ]
    assert saved.model.token_mixer == {
        "_target_": "ultravid.modeling.RelationMixer",
        "relation": {"_target_": "ultravid.layers.RelationModule", "dim": 128, "geometry_dim": 64},
        "context_frames": 3,
        "causal": True,
    }
    assert saved.train.dim == 128 and saved.model.roi_sampler.gt_copies == 2
    assert significant_changes(own, tmp_path / "saved.yaml") == []
    assert str(instantiate(saved.model)) == str(instantiate(own.model))
    text = (tmp_path / "saved.yaml").read_text().replace("    gt_copies", "    my_argument: 1\n    gt_copies")
    (tmp_path / "saved.yaml").write_text(text)
    assert "roi_heads" in LazyConfig.load(tmp_path / "saved.yaml").model  # nothing is known of such an argument


def test_keys_of_a_detector_of_a_head_lead_to_those_of_its_parts(tmp_path):
    overrides = [
        "model.context_frames=3",
        "model.roi_heads.relation.num_heads=4",
        "model.proposal_generator.loss_weight=2",
    ]
    cfg = LazyConfig.apply_overrides(
        get_config("common/models/basicdet_small.py"), [*overrides[:2], f"+{overrides[2]}", "~model.causal"]
    )
    mixer = cfg.model.token_mixer
    assert (mixer.context_frames, mixer.relation.num_heads, cfg.model.proposal_head.loss_weight) == (3, 4, 2)
    assert "causal" not in mixer
    path = write_config(
        tmp_path,
        "from ultravid.config import get_config\nmodel = get_config('common/models/basicdet_small.py').model\n"
        "model.context_frames = 0\nmodel.proposal_generator = dict(a=1)\n",
    )
    own = LazyConfig.load(path).model
    assert own.token_mixer.context_frames == 0 and "context_frames" not in own and own.proposal_head == {"a": 1}
    with pytest.raises(OverrideError, match=r"'model\.token_mixer' is None"):
        LazyConfig.apply_overrides(get_config("common/models/faster_rcnn.py"), ["model.context_frames=3"])
