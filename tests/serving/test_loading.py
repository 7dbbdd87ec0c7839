"""Loading a detector to serve it, and what a config that somebody else made may build."""

import json
import logging
import os
import sys

import pytest
import torch
import yaml

from tests.conftest import ROOT
from tests.serving.small_run import frames, write_run
from ultravid.checkpoint import CheckpointError, DetectionCheckpointer
from ultravid.config import ConfigError, LazyConfig, Node
from ultravid.config.kinds import load_config
from ultravid.config.serialize import dump_yaml
from ultravid.config.yaml_files import load_yaml
from ultravid.engine import DefaultPredictor
from ultravid.engine.conversion.description import published_model
from ultravid.engine.trusted import TrustError, trusted_targets
from ultravid.modeling.published import PUBLISHED_MODELS
from ultravid.serving import StreamingPredictor, load_detector
from ultravid.utils.errors import UserError


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("runs") / "run")


def changed_run(run, tmp_path, change):
    """A copy of a run with another config."""
    folder = tmp_path / "foreign"
    folder.mkdir()
    for path in run.iterdir():
        if path.is_file():
            (folder / path.name).write_bytes(path.read_bytes())
    content = yaml.safe_load((run / "config.yaml").read_text())
    change(content)
    (folder / "config.yaml").write_text(yaml.safe_dump(content))
    return folder


def as_data(config, tmp_path):
    """A config as it is read from the file that it was saved to."""
    path = tmp_path / "config.yaml"
    path.write_text(dump_yaml(config))
    return load_yaml(path, allow_pickle=False)


def test_every_model_that_ultravid_writes_is_built_of_parts_on_the_list(tmp_path):
    shipped = sorted((ROOT / "configs_py/common/models").glob("*.py"))
    models = {path.name: LazyConfig.load(path).model for path in shipped}
    models |= {name: published_model(name, 34) for name in PUBLISHED_MODELS}
    configs = [as_data(Node(model=model), tmp_path) for model in models.values()]
    saved = ROOT / "tests/saved/0.1"
    earlier = [*sorted((saved / "configs").glob("*.yaml")), saved / "yacs/config.yaml"]
    configs += [config for path in earlier if "model" in (config := load_config(path))]
    assert len(configs) >= 32 + len(PUBLISHED_MODELS) + 3
    for config in configs:
        assert trusted_targets(config, "model")


def test_all_targets_off_the_list_are_named_at_once_before_anything_runs(run, tmp_path, monkeypatch):
    (tmp_path / "own_module_of_a_stranger.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\ndef part(): pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("NAME_OF_A_CALL", "shutil.rmtree")
    touch = f"touch {tmp_path / 'ran'}"

    def change(content):
        content["command"] = {"_target_": "os.system", "command": touch}
        content["name"] = "posix"
        model = content["model"]
        model["backbone"]["norm"] = {"_target_": "os.popen", "_args_": [touch], "_partial_": True}
        model["pixel_mean"] = ["${command}", 1.0, 2.0]
        model["pixel_std"] = [{"_tuple_": [{"_target_": "${name}.system", "command": touch}]}, 1.0]
        model["organs"] = [{"_object_": "subprocess.call"}, {"_target_": "${oc.env:NAME_OF_A_CALL}", "path": "/x"}]
        model["organ_loss_weights"] = {
            "a": {"_target_": "torch.hub.load", "repo_or_dir": "x/y"},
            "b": {"_target_": "ultravid.modeling.detector.torch.hub.load"},
            "c": {"_target_": "own_module_of_a_stranger.part"},
            "d": {"_target_": f"{tmp_path}/own_module_of_a_stranger.py:part"},
            "e": {"_target_": {"_target_": "functools.partial", "_args_": [{"_object_": "os.remove"}]}},
            "f": {"_target_": "ultravid.modeling.TwoStage.__init__"},
            "g": {"_target_": "ultravid.checkpoint.DetectionCheckpointer", "_recursive_": False},
        }
        model["tracker"] = {
            "_target_": "ultravid.modeling.TimmBackbone",
            "name": "resnet18",
            "checkpoint_path": "x.pth",
        }

    foreign = changed_run(run, tmp_path, change)
    for predictor in (StreamingPredictor, lambda cfg: DefaultPredictor(cfg, trust=())):
        with pytest.raises(TrustError) as caught:
            predictor(foreign)
        text = str(caught.value)
        for key, name in (
            ("command._target_", "os.system"),
            ("model.backbone.norm._target_", "os.popen"),
            ("model.organs[0]._object_", "subprocess.call"),
            ("model.organs[1]._target_", "shutil.rmtree"),
            ("model.organ_loss_weights.e._target_._args_[0]._object_", "os.remove"),
            ("model.organ_loss_weights.e._target_._target_", "functools.partial"),
            ("model.tracker.checkpoint_path", "TimmBackbone.checkpoint_path"),
        ):
            assert f"{name}  (at {key})" in text
        for name in (
            "posix.system",
            "torch.hub.load",
            "ultravid.modeling.detector.torch.hub.load",
            "TwoStage.__init__",
        ):
            assert name in text
        assert "own_module_of_a_stranger.py:part" in text and "--trust os.system" in text and "trust=(" in text
    assert not (tmp_path / "ran").exists() and "own_module_of_a_stranger" not in sys.modules


def test_what_the_refusal_says_to_type_works(run, tmp_path):
    module = tmp_path / "project/my_parts_of_a_run.py"
    module.parent.mkdir()
    module.write_text("from ultravid.modeling import ResNet\nclass Mine(ResNet): pass\n")

    def change(content):
        content["model"]["backbone"]["_target_"] = "my_parts_of_a_run.Mine"
        content["project_folders"] = [str(module.parent)]

    own = changed_run(run, tmp_path, change)
    with pytest.raises(TrustError, match=r"(?s)1 target .*--trust my_parts_of_a_run.Mine \(in"):
        load_detector(own)
    loaded = load_detector(own, trust=("my_parts_of_a_run.Mine",))
    assert type(loaded.model.backbone).__name__ == "Mine"
    assert type(DefaultPredictor(own).cfg) is Node  # one's own runs need no list


def test_a_yaml_file_of_older_keys_may_name_no_file_of_code(tmp_path):
    (tmp_path / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    for keys in (
        {"CONFIG": "code.py"},
        {"CONFIG": str(tmp_path / "code.py")},
        {"META_ARCHITECTURE": "os.system"},
        {"BACKBONE": {"NAME": "subprocess.Popen"}},
        {"OPTS": ["backbone._target_=os.system"]},
    ):
        (tmp_path / "config.yaml").write_text(yaml.safe_dump({"MODEL": keys}))
        with pytest.raises(TrustError, match="--trust"):
            load_detector(tmp_path / "config.yaml")
    assert not (tmp_path / "ran").exists()


def test_a_checkpoint_in_shards_is_not_read_of_a_folder_of_unknown_origin(run, tmp_path):
    foreign = changed_run(run, tmp_path, lambda content: None)
    shards = foreign / "model_0000099.dcp"
    shards.mkdir()
    (shards / ".metadata").write_bytes(b"cos\nsystem\n(S'touch ran'\ntR.")
    (foreign / "last_checkpoint").write_text(shards.name)
    with pytest.raises(TrustError, match=r"pickle.*--trust model_0000099.dcp"):
        load_detector(foreign)
    with pytest.raises(TrustError, match=r"--trust model_0000099\.dcp"):
        load_detector(run, weights=shards)


def test_weights_of_backbones_are_not_asked_for_again(run, tmp_path):
    def change(content):
        content["model"]["backbone"]["weights"] = "https://nowhere.invalid/resnet34.pth"

    loaded = load_detector(changed_run(run, tmp_path, change))
    assert loaded.name == "foreign" and len(loaded.weights_sha256) == 64


def test_a_folder_a_yaml_file_a_python_file_and_a_config_give_the_same_detector(run, tmp_path):
    weights = run / "model_final.pth"
    (tmp_path / "mine.py").write_text(
        "from ultravid.config import get_config\nmodel = get_config('common/models/basicdet_small.py').model\n"
    )
    frame = frames(0)[0]
    found = []
    for cfg, given in (
        (run, None),
        (run, "final"),
        (run / "config.yaml", weights),
        (tmp_path / "mine.py", weights),
        (LazyConfig.load(run / "config.yaml"), weights),
    ):
        predictor = StreamingPredictor(cfg, weights=given, threads=1)
        assert predictor.class_names == ("lesion",) and predictor.detector.weights == weights.resolve()
        found.append(predictor(frame).pred_boxes.tensor)
    for cfg in (run, tmp_path / "mine.py"):
        shown = DefaultPredictor(cfg, weights=None if cfg is run else weights)(frame)["instances"]
        found.append(shown.pred_boxes.tensor)
    assert len(found[0]) and all(torch.equal(found[0], boxes) for boxes in found)


def test_a_run_in_training_a_missing_checkpoint_and_weights_of_another_model_have_one_clear_message(run, tmp_path):
    live = changed_run(run, tmp_path, lambda content: None)
    (live / "attempts/1").mkdir(parents=True)
    record = {"host": os.uname().nodename, "pid": os.getppid(), "process_started": None, "max_iter": 10}
    (live / "attempts/1/record.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match=r"still in training.*--weights") as caught:
        load_detector(live)
    assert load_detector(live, weights=str(caught.value).rpartition("--weights ")[2]).model is not None
    with pytest.raises(CheckpointError, match=r"no best checkpoint. It has model_final.pth"):
        load_detector(run, weights="best")
    with pytest.raises(CheckpointError, match=r"no checkpoint bst: .* It has model_final\.pth"):
        load_detector(run, weights="bst")
    with pytest.raises(UserError, match=rf"neither the folder of a run nor a config file\. Did you mean {run}\?"):
        load_detector(run.with_name(f"{run.name}s"))
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "config.yaml").write_bytes((run / "config.yaml").read_bytes())
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        load_detector(bare)
    with pytest.raises(ConfigError, match=r"not the folder of a run: it has no config.yaml\. It holds runs: .*bare"):
        load_detector(tmp_path)
    other = write_run(tmp_path / "other", "retinanet")
    with pytest.raises(CheckpointError, match="doesn't fit the model"):
        load_detector(run, weights=other / "model_final.pth")
    model = load_detector(run).model
    part = {name: value for name, value in model.state_dict().items() if name.startswith("backbone.")}
    torch.save({"model": part}, tmp_path / "backbone.pth")
    with pytest.raises(CheckpointError, match=r"holds a part of the model.*whole detector"):
        load_detector(run, weights=tmp_path / "backbone.pth")


def test_a_damaged_newest_checkpoint_gives_way_to_the_one_before(run, tmp_path, caplog):
    own = changed_run(run, tmp_path, lambda content: None)
    checkpointer = DetectionCheckpointer(load_detector(run).model, own)
    checkpointer.save("model_0000004", iteration=4)
    newest = checkpointer.save("model_0000009", iteration=9)
    newest.write_bytes(newest.read_bytes()[:1000])
    with caplog.at_level(logging.WARNING):
        assert load_detector(own).weights == (own / "model_0000004.pth").resolve()
    assert "model_0000009.pth" in caplog.text


def test_a_config_without_weights_is_served_untrained_with_a_warning(caplog):
    with caplog.at_level(logging.WARNING):
        loaded = load_detector(ROOT / "configs_py/common/models/fcos_small.py")
    assert loaded.weights is None and loaded.weights_sha256 == "" and "untrained" in caplog.text
    assert loaded.score_threshold == 0.01 and loaded.nms_threshold == 0.6 and loaded.name == "fcos_small"
