"""`CfgNode`: values, files based on others, and errors."""

import pickle
import subprocess
import sys

import pytest

from tests.conftest import ROOT
from ultravid.config import CfgNode, ConfigError, OverrideError, UnknownKeyError, get_cfg, global_cfg, set_global_cfg
from ultravid.config.cfg_node import place_of
from ultravid.utils.errors import UserError

YAMLS = sorted((ROOT / "projects").glob("*/configs/*.yaml"))


def write(folder, **files):
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text)
    return folder


def test_reading_a_yaml_config_imports_no_torch_and_a_python_config_no_yacs():
    code = f"""
import sys, ultravid.config
assert 'yacs' not in sys.modules
cfg = ultravid.config.get_cfg()
cfg.merge_from_file({str(YAMLS[0])!r})
assert 'yacs.config' in sys.modules and 'torch' not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_file_overrides_the_files_that_it_is_based_on_however_long_the_chain(tmp_path):
    (tmp_path / "below").mkdir()
    write(
        tmp_path / "below",
        one="SOLVER: {BASE_LR: 1, MAX_ITER: 1, GAMMA: 0.5}\nMODEL: {WEIGHTS: r18.pth}\n",
        two="_BASE_: one.yaml\nSOLVER: {BASE_LR: 2, MAX_ITER: 2}\n",
        other="SEED: 7\nSOLVER: {MAX_ITER: 9}\n",
    )
    write(tmp_path, three="_BASE_: [below/other.yaml, below/two.yaml]\nSOLVER:\n  BASE_LR: 3\n")
    cfg = get_cfg()
    cfg.merge_from_file(tmp_path / "three.yaml")
    assert (cfg.SOLVER.BASE_LR, cfg.SOLVER.MAX_ITER, cfg.SOLVER.GAMMA, cfg.MODEL.WEIGHTS) == (3.0, 2, 0.5, "r18.pth")
    assert cfg.SEED == 7 and cfg.SOLVER.MOMENTUM == get_cfg().SOLVER.MOMENTUM
    merged = CfgNode.load_yaml_with_base(tmp_path / "three.yaml")
    assert merged["SOLVER"] == {"BASE_LR": 3, "MAX_ITER": 2, "GAMMA": 0.5} and "_BASE_" not in merged


@pytest.mark.parametrize("path", YAMLS, ids=lambda p: p.stem)
def test_the_yaml_configs_of_projects_fit_the_defaults_and_are_read_back_from_their_dump(path, tmp_path):
    cfg = get_cfg()
    cfg.merge_from_file(path)
    assert cfg != get_cfg()
    (tmp_path / "saved.yaml").write_text(cfg.dump())
    again = get_cfg()
    again.merge_from_file(tmp_path / "saved.yaml")
    assert again == cfg and again.dump() == cfg.dump()


def test_values_from_the_command_line_take_the_type_of_what_they_replace():
    cfg = get_cfg()
    given = {
        "SOLVER.BASE_LR": "1",
        "SOLVER.WEIGHT_DECAY": "1e-4",
        "SOLVER.AMP.ENABLED": "true",
        "SOLVER.STEPS": "[10, 20]",
        "SOLVER.WEIGHT_DECAY_NORM": "0.5",
        "DATASETS.TRAIN": "('a', 'b')",
        "OUTPUT_DIR": "2024",
        "SEED": "-1",
    }
    cfg.merge_from_list([part for pair in given.items() for part in pair])
    solver = cfg.SOLVER
    assert (type(solver.BASE_LR), solver.BASE_LR, solver.WEIGHT_DECAY) == (float, 1.0, 1e-4)
    assert solver.AMP.ENABLED is True and solver.STEPS == (10, 20) and solver.WEIGHT_DECAY_NORM == 0.5
    assert cfg.DATASETS.TRAIN == ("a", "b") and cfg.OUTPUT_DIR == "2024" and cfg.SEED == -1


def test_a_string_in_a_file_that_is_a_number_in_python_is_one(tmp_path):
    write(tmp_path, lr="SOLVER: {BASE_LR: 1e-4, BETAS: '(0.9, 0.95)'}\n")  # YAML 1.1 reads 1e-4 as a text
    cfg = get_cfg()
    cfg.merge_from_file(tmp_path / "lr.yaml")
    assert cfg.SOLVER.BASE_LR == 1e-4 and cfg.SOLVER.BETAS == (0.9, 0.95)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("SOLVER.BASE_LRR", "1", "Unknown key 'SOLVER.BASE_LRR'. Did you mean 'SOLVER.BASE_LR'?"),
        ("SOLVE.BASE_LR", "1", "Unknown key 'SOLVE'. Did you mean 'SOLVER'?"),
        ("BASE_LR", "1", "Unknown key 'BASE_LR'. Did you mean 'SOLVER.BASE_LR'?"),
        ("SOLVER.NUM_WORKERS", "1", "Did you mean 'DATALOADER.NUM_WORKERS'?"),
        ("SOLVER.MAX_ITER", "2.5", "SOLVER.MAX_ITER takes an int (10000), got a float (2.5)."),
        ("SOLVER.MAX_ITER", "true", "SOLVER.MAX_ITER takes an int (10000), got a str ('true')."),
        ("SOLVER.STEPS", "3", "SOLVER.STEPS takes a tuple ((6000, 8000)), got an int (3)."),
        ("SOLVER.AMP", "true", "SOLVER.AMP is a group of keys (ENABLED, PRECISION), got 'true'."),
        ("VERSION", "2", "VERSION is 2; this ultravid reads configs of version 1."),
        ("_BASE_", "x.yaml", "_BASE_ can be used in a file only."),
    ],
)
def test_a_mistake_on_the_command_line_names_the_key_and_what_would_be_right(key, value, message):
    cfg = get_cfg()
    with pytest.raises(OverrideError) as caught:
        cfg.merge_from_list(["SEED", "5", key, value])
    assert str(caught.value).startswith(f"override '{key} {value}': ") and message in str(caught.value)
    assert cfg == get_cfg()  # nothing was changed, the right part neither


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["SOLVER.MAX_ITER=5"], "write SOLVER.MAX_ITER 5, without '='"),
        (["SOLVER.MAX_ITER=5", "SEED=1"], "write SOLVER.MAX_ITER 5, without '='"),
        (["SEED", "1", "SOLVER.MAX_ITER"], "'SOLVER.MAX_ITER' has no value"),
    ],
)
def test_overrides_that_are_not_pairs_are_refused(given, message):
    with pytest.raises(OverrideError, match=message):
        get_cfg().merge_from_list(given)


def test_all_faults_of_a_chain_are_reported_at_once_each_with_its_own_file_and_line(tmp_path):
    write(
        tmp_path,
        base="SEED: 1\nSOLVER:\n  BASE_LR: 0.1\n  MAX_ITR: 5\n",
        top="_BASE_: base.yaml\n# a comment\nTEST:\n  EVAL_PERIOD: often\n",
    )
    cfg = get_cfg()
    with pytest.raises(ConfigError) as caught:
        cfg.merge_from_file(tmp_path / "top.yaml")
    first, second = str(caught.value).splitlines()
    assert first == f"{tmp_path}/base.yaml:4: Unknown key 'SOLVER.MAX_ITR'. Did you mean 'SOLVER.MAX_ITER'?"
    assert second == f"{tmp_path}/top.yaml:4: TEST.EVAL_PERIOD takes an int (1000), got a str ('often')."
    assert cfg == get_cfg()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gone", r"gone.yaml does not exist"),
        ("hollow", r"baze.yaml does not exist \(_BASE_ of .*hollow.yaml\). Did you mean 'base.yaml'\?"),
        ("circle", "leads in a circle, back to circle.yaml"),
        ("broken", "broken.yaml:2: is not YAML: expected ',' or ']'"),
        ("rows", "rows.yaml: holds a list, not keys and values"),
        ("number", "number.yaml:1: _BASE_ must be a file name or a list of them"),
        ("unsafe", "unsafe.yaml:2: could not determine a constructor for the tag .*python/object/apply"),
    ],
)
def test_a_file_that_can_not_be_read_is_named_with_the_reason(tmp_path, name, message):
    write(
        tmp_path,
        base="SEED: 1\n",
        hollow="_BASE_: baze.yaml\n",
        circle="_BASE_: back.yaml\n",
        back="_BASE_: circle.yaml\n",
        broken="SEED: [1\n",
        rows="- 1\n",
        number="_BASE_: 3\n",
        unsafe="SEED: 1\nOUTPUT_DIR: !!python/object/apply:os.getcwd []\n",
    )
    with pytest.raises(UserError, match=message):
        get_cfg().merge_from_file(tmp_path / f"{name}.yaml")


def test_python_tags_are_built_only_if_that_is_asked_for_by_name(tmp_path):
    write(tmp_path, tag="SOLVER: {STEPS: !!python/tuple [1, 2]}\n")
    cfg = get_cfg()
    with pytest.raises(ConfigError, match="allow_unsafe=True"):
        cfg.merge_from_file(tmp_path / "tag.yaml")
    cfg.merge_from_file(tmp_path / "tag.yaml", allow_unsafe=True)
    assert cfg.SOLVER.STEPS == (1, 2)


def test_nothing_changes_a_frozen_config_and_a_clone_is_independent():
    cfg = get_cfg()
    cfg.freeze()
    with pytest.raises(AttributeError):
        cfg.SOLVER.MAX_ITER = 5
    with pytest.raises(ConfigError, match="frozen"):
        cfg.merge_from_list(["SOLVER.MAX_ITER", "5"])
    clone = cfg.clone()
    clone.defrost()
    clone.SOLVER.MAX_ITER = 5
    assert cfg == get_cfg() and clone != cfg
    assert pickle.loads(pickle.dumps(cfg)) == cfg


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("MODEL.RPN.NMS_TRESH 0.6", "Unknown key 'MODEL.RPN.NMS_TRESH'. Did you mean 'MODEL.RPN.NMS_THRESH'?"),
        ("MODEL.RPN.NMS_THRESH high", "MODEL.RPN.NMS_THRESH takes a float (0.7), got a str ('high')."),
        ("MODEL.RPN 3", "MODEL.RPN is a group of keys (IOU_THRESHOLDS, "),
    ],
)
def test_keys_of_model_parts_of_earlier_versions_are_checked_as_they_were(given, message):
    with pytest.raises(OverrideError) as caught:
        get_cfg().merge_from_list(given.split())
    assert message in str(caught.value)


def test_keys_of_model_parts_of_earlier_versions_are_read_with_a_warning_that_says_what_to_write(tmp_path, caplog):
    write(tmp_path, old="MODEL:\n  RPN: {NMS_THRESH: 0.6}\nTEST: {DETECTIONS_PER_IMAGE: 50}\n")
    cfg = get_cfg()
    cfg.merge_from_file(tmp_path / "old.yaml")
    cfg.merge_from_list(["MODEL.RPN.POST_NMS_TOPK", "8", "MODEL.RPN.NMS_THRESH", "1"])
    assert cfg.MODEL.RPN == {"NMS_THRESH": 1.0, "POST_NMS_TOPK": 8} and cfg.TEST.DETECTIONS_PER_IMAGE == 50
    first, second = [record.getMessage() for record in caplog.records]
    assert first.startswith(f"{tmp_path}/old.yaml: ") and "proposal_head.nms_threshold=0.6" in first
    assert "MODEL.OPTS" in first and "proposal_head.post_nms_topk=8" in second
    again = get_cfg()
    again.merge_from_other_cfg(cfg.clone())
    assert again == cfg


def test_a_key_of_a_model_part_that_code_reads_says_where_it_is_now():
    with pytest.raises(
        UnknownKeyError, match=r"'ROI_HEADS': parts of the model are configured by MODEL.CONFIG and MODEL.OPTS"
    ):
        get_cfg().MODEL.ROI_HEADS.NUM_CLASSES = 2


def test_a_value_remembers_the_file_and_line_that_set_it(tmp_path):
    write(tmp_path, base="SEED: 1\nSOLVER:\n  BASE_LR: 0.1\n  MAX_ITER: 5\n", top="_BASE_: base.yaml\nSEED: 2\n")
    cfg = get_cfg()
    cfg.merge_from_file(tmp_path / "top.yaml")
    cfg.merge_from_list(["SOLVER.MAX_ITER", "7"])
    cfg = pickle.loads(pickle.dumps(cfg.clone()))
    assert place_of(cfg, "SOLVER.BASE_LR") == f"SOLVER.BASE_LR, {tmp_path}/base.yaml:3"
    assert place_of(cfg, "SEED") == f"SEED, {tmp_path}/top.yaml:2"
    assert place_of(cfg, "SOLVER.MAX_ITER") == "SOLVER.MAX_ITER, command line"
    cfg.SOLVER.MAX_ITER = 8  # in code: where is not known
    assert place_of(cfg, "SOLVER.MAX_ITER") == "SOLVER.MAX_ITER" and place_of(cfg, "LOG_PERIOD") == "LOG_PERIOD"


def test_reading_an_unknown_key_names_the_nearest():
    with pytest.raises(UnknownKeyError, match=r"Unknown key 'BASE_LRR'\. Did you mean 'BASE_LR'\?"):
        get_cfg().SOLVER.BASE_LRR  # noqa: B018
    assert not hasattr(get_cfg(), "NOTHING")


def test_a_project_adds_its_own_keys_as_in_detectron2():
    cfg = get_cfg()
    cfg.MODEL.MINE = CfgNode({"WIDTH": 3})
    cfg.merge_from_list(["MODEL.MINE.WIDTH", "4"])
    assert cfg.MODEL.MINE.WIDTH == 4
    cfg.MODEL.MINE.set_new_allowed(True)
    cfg.merge_from_list(["MODEL.MINE.DEPTH", "2"])
    assert cfg.MODEL.MINE.DEPTH == 2
    cfg.register_renamed_key("MODEL.OLD", "MODEL.MINE")
    with pytest.raises(OverrideError, match=r"MODEL.OLD was renamed to MODEL.MINE"):
        cfg.merge_from_list(["MODEL.OLD", "1"])


def test_the_global_config_holds_the_config_it_was_given():
    cfg = get_cfg()
    set_global_cfg(cfg)
    try:
        assert global_cfg.SOLVER.MAX_ITER == cfg.SOLVER.MAX_ITER
    finally:
        global_cfg.clear()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("DETERMINISTIC", "no", "Write false."),
        ("DETERMINISTIC", "1", "Write true."),
        ("SOLVER.MAX_ITER", "1e4", "Write 10000."),
        ("SOLVER.BASE_LR", "3e563", "takes a float"),
        ("SOLVER.STEPS", "('a',)", "takes a tuple"),
        ("SOLVER.STEPS", "5", "Write '[5]'."),
        ("MODEL.OPTS", "[backbone.depth=18]", """Write "['backbone.depth=18']"."""),
    ],
)
def test_a_value_of_another_kind_is_refused_with_what_to_write(key, value, message):
    with pytest.raises(OverrideError) as caught:
        get_cfg().merge_from_list([key, value])
    assert message in str(caught.value)


def test_text_and_numbers_keep_their_kind():
    cfg = get_cfg()
    cfg.merge_from_list(["OUTPUT_DIR", "1e3", "SOLVER.BASE_LR", "1", "INPUT.SCALE.FACTOR", "(1, 2)"])
    assert (cfg.OUTPUT_DIR, repr(cfg.SOLVER.BASE_LR), repr(cfg.INPUT.SCALE.FACTOR)) == ("1e3", "1.0", "[1.0, 2.0]")
