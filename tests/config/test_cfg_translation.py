"""From the keys of a `CfgNode` to the config of a run, and earlier keys and saved configs."""

import logging
from pathlib import Path

import pytest

from tests.conftest import ROOT
from ultravid.config import (
    ConfigError,
    LazyConfig,
    Node,
    OverrideError,
    as_config,
    check,
    config_from_cfg_node,
    diff,
    explain_text,
    get_cfg,
    get_config,
    instantiate,
)
from ultravid.config.cfg_keys import MODEL_KEYS, TOP_KEYS
from ultravid.config.cfg_translation import with_tree_keys
from ultravid.config.kinds import config_to_save
from ultravid.config.resume import check_resume_config, significant_changes
from ultravid.modeling import NoMixer, RelationMixer

CONFIGS = ROOT / "projects/basicdet/configs"
NAMES = ("phantom", "phantom_one_frame", "cva_bus")

SMALL_IN_EARLIER_KEYS = """
MODEL:
  META_ARCHITECTURE: BasicDet
  BACKBONE: {NAME: ResNet, FREEZE_AT: 0}
  RESNETS: {DEPTH: 0, NUM_BLOCKS: [1, 1, 1], NORM: BN, STEM_OUT_CHANNELS: 16, OUT_CHANNELS: [16, 32, 64], STRIDES: [1, 2, 1]}
  ANCHOR_GENERATOR: {SHAPES: [[10, 7], [18, 12], [28, 18], [60, 16]], OFFSET: 0.5}
  RPN: {IOU_THRESHOLDS: [0.3, 0.6], BATCH_SIZE_PER_IMAGE: 64, PRE_NMS_TOPK: 64, POST_NMS_TOPK: 10}
  ROI_HEADS: {BATCH_SIZE_PER_IMAGE: 12, GT_COPIES: 2, GT_JITTER: 0.1, ROI_SCALE: 2.0}
  ROI_BOX_HEAD: {NAME: FCBoxHead, POOLER_RESOLUTION: 7, POOLER_SAMPLING_RATIO: 1, DIM: 128, CLS_LOSS_WEIGHT: 2.0,
                 BBOX_REG_LOSS_WEIGHT: 0.5}
  RELATION: {GEOMETRY_DIM: 64}
  CONTEXT: {STRIDE: 2, CAUSAL: true}
"""


def read(text_or_path, *overrides, folder=None):
    if isinstance(text_or_path, str):
        path = folder / "given.yaml"
        path.write_text(text_or_path)
    else:
        path = text_or_path
    cfg = get_cfg()
    cfg.merge_from_file(path)
    cfg.merge_from_list(list(overrides))
    return cfg


def translated(*args, **kwargs):
    return config_from_cfg_node(read(*args, **kwargs))


@pytest.mark.parametrize("name", NAMES)
def test_a_yaml_config_is_translated_to_what_its_python_config_says_but_for_the_data(name):
    config, python = translated(CONFIGS / f"{name}.yaml"), LazyConfig.load(CONFIGS / f"{name}.py")
    assert [fault for fault in check(config) if fault.fatal] == []
    allowed = ("data", "dataloader.", "lr_multiplier.scheduler.")
    assert [str(d) for d in diff(python, config) if not d.key.startswith(allowed)] == []
    differing = {d.key.rpartition(".")[2] for d in diff(python, config) if d.key.startswith("dataloader.")}
    assert differing <= {"videos", "fold", "num_folds", "foreign_context", "image_format"}


def test_the_known_top_keys_are_those_of_the_defaults():
    assert {"_BASE_", *get_cfg()} == TOP_KEYS


def test_each_translation_is_a_fresh_config_and_leaves_the_keys_as_they_are():
    cfg = read(CONFIGS / "phantom.yaml")
    before = cfg.clone()
    first = config_from_cfg_node(cfg)
    first.train.max_iter = 1
    first.model.token_mixer.context_frames = 1
    assert (
        config_from_cfg_node(cfg).train.max_iter == 900
        and config_from_cfg_node(cfg).model.token_mixer.context_frames == 15
    )
    assert cfg == before and as_config(first) is first


def test_model_opts_are_overrides_of_the_model_that_model_config_names(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from ultravid.config import get_config\nmodel = get_config('common/models/basicdet_small.py').model\n"
        "model.token_mixer.causal = False\n"
    )
    opts = "[backbone.norm=GN, ~token_mixer.causal, +extra=1, '+box_predictor.score_threshold=0.05']"
    model = translated(f"MODEL: {{CONFIG: mine.py, OPTS: {opts}}}\n", folder=tmp_path).model
    expected = get_config("common/models/basicdet_small.py").model
    expected.backbone.norm = "GN"
    expected.box_predictor.score_threshold = 0.05
    expected.extra = 1
    del expected.token_mixer.causal
    assert model == expected


def test_a_list_that_is_null_is_empty(tmp_path):
    tree = translated("MODEL: {OPTS: null}\nDATASETS: {TEST: null}\nSOLVER: {STEPS: null}", folder=tmp_path)
    assert tree == translated("DATASETS: {TEST: []}\nSOLVER: {STEPS: []}", folder=tmp_path)


@pytest.mark.parametrize(
    ("text", "messages"),
    [
        (
            "MODEL: {CONFIG: none.py}",
            ["MODEL.CONFIG is 'none.py': there is no such file, and no shipped config", ":1)"],
        ),
        (
            "MODEL:\n  CONFIG: common/optim.py",
            ["optim.py has no model, which MODEL.CONFIG needs", "(MODEL.CONFIG, ", ":2)"],
        ),
        (
            "MODEL:\n  OPTS: [token_mixer.causal=true, backbone.dpth=18, 'x=']",
            [
                "Unknown key 'backbone.dpth'. Did you mean 'backbone.depth'? To add a key, write '+backbone.dpth=18'.",
                "(MODEL.OPTS[1] 'backbone.dpth=18'; MODEL.OPTS, ",
                ":2)",
                "(MODEL.OPTS[2] ",
            ],
        ),
        (
            "MODEL:\n  RPN: {NMS_THRESH: 0.5}\n  CONFIG: mine.py",
            ["MODEL.RPN.NMS_THRESH is 0.5, but the model of MODEL.CONFIG has no 'proposal_head'.", ":2)"],
        ),
        (
            "SOLVER:\n  MAX_ITER: 0\nLOG_PERIOD: 0",
            ["SOLVER.MAX_ITER is 0, not at least 1. (SOLVER.MAX_ITER, ", ":2)", ":3)"],
        ),
        (
            "SOLVER:\n  MAX_ITER: null\n  GAMMA:\nSEED: null",
            ["SOLVER.MAX_ITER is None, not a number. (SOLVER.MAX_ITER, ", ":2)", "SOLVER.GAMMA is None"],
        ),
        ("MODEL: {CONFIG: null}", ["MODEL.CONFIG is None: there is no such file"]),
        (
            "INPUT: {SCALE: {ENABLED: true, FACTOR: [2, 1]}}",
            ["INPUT.SCALE.FACTOR is [2.0, 1.0], not a range [low, high]."],
        ),
        (
            "MODEL: {META_ARCHITECTURE: BasicDett}",
            ["MODEL.META_ARCHITECTURE is 'BasicDett'.", "Did you mean 'BasicDet'?"],
        ),
        (
            "MODEL: {ROI_BOX_HEAD: {NAME: Res4}}",
            ["MODEL.ROI_BOX_HEAD.NAME is 'Res4'. Known here: FCBoxHead, Res5Head."],
        ),
    ],
)
def test_faults_name_the_yaml_key_with_its_file_and_line(tmp_path, text, messages):
    (tmp_path / "mine.py").write_text("model = dict(_target_='torch.nn.Linear', in_features=1, out_features=1)\n")
    with pytest.raises(ConfigError) as caught:
        translated(text, folder=tmp_path)
    text = str(caught.value)
    assert [message for message in messages if message not in text] == [] and "given.yaml:" in text


def test_the_check_of_the_translated_config_names_the_yaml_key_that_set_a_value():
    config = translated(CONFIGS / "phantom.yaml", "SOLVER.BETAS", "(0.9,)")
    (fault,) = [fault for fault in check(config) if fault.fatal]
    assert fault.key.startswith("optimizer.betas") and str(fault).endswith("(SOLVER.BETAS, command line)")
    assert f"900  from SOLVER.MAX_ITER, {CONFIGS}/phantom.yaml:" in explain_text(config, "train.max_iter")
    one_frame = translated(CONFIGS / "phantom_one_frame.yaml")
    place = f"override MODEL.OPTS[0] 'token_mixer.context_frames=0'; MODEL.OPTS, {CONFIGS}/phantom_one_frame.yaml:3"
    assert f"0  from {place}" in explain_text(one_frame, "model.token_mixer.context_frames")


def test_earlier_keys_of_model_parts_describe_the_model_that_they_described(tmp_path):
    small = get_config("common/models/basicdet_small.py").model
    model = translated(SMALL_IN_EARLIER_KEYS, folder=tmp_path).model
    assert str(instantiate(model)) == str(instantiate(small))
    config, expected = Node(model=model), Node(model=small)
    rest = {str(d) for d in diff(expected, config)}
    # Defaults of the classes, which the full-size model writes and the small one leaves out.
    assert rest == {
        "+ model.backbone.depth = None",
        "+ model.backbone.freeze_at = 0",
        "+ model.box_predictor.score_threshold = 0.0",
        "+ model.box_predictor.nms_threshold = 0.5",
    }


def test_earlier_keys_with_their_defaults_change_nothing():
    overrides = [part for key, known in MODEL_KEYS.items() for part in (key, known.default)]
    assert translated(CONFIGS / "cva_bus.yaml", *overrides) == translated(CONFIGS / "cva_bus.yaml")


def test_each_earlier_key_changes_the_argument_that_the_table_names(caplog):
    other = {bool: True, int: 3, float: 0.25, str: "GN"}
    for key, known in MODEL_KEYS.items():
        if not known.path or "NAME" in key or key.startswith(("MODEL.ANCHOR_GENERATOR.S", "MODEL.ANCHOR_GENERATOR.A")):
            continue
        value = (
            [other[type(v)] for v in known.default] or [2, 2, 2] if isinstance(known.default, list | tuple) else None
        )
        value = other[type(known.default)] if value is None else value
        model: object = translated(CONFIGS / "cva_bus.yaml", key, value).model
        for step in known.path.split("."):
            model = model[step]
        assert (list(model) if isinstance(value, list) else model) == value, key


def test_earlier_keys_choose_among_heads_detectors_and_anchors(tmp_path):
    small = CONFIGS / "phantom.yaml"
    res5 = translated(
        small, "MODEL.ROI_BOX_HEAD.NAME", "Res5Head", "MODEL.ROI_BOX_HEAD.RES5_NORM", "BN"
    ).model.roi_pooler
    assert instantiate(res5.head) is not None and res5.head.norm == "BN" and res5.head.out_channels == 128
    frames = translated(small, "MODEL.META_ARCHITECTURE", "FasterRCNN").model
    assert isinstance(instantiate(frames).token_mixer, NoMixer)
    video = translated(
        "MODEL: {CONFIG: common/models/faster_rcnn.py, META_ARCHITECTURE: BasicDet}", folder=tmp_path
    ).model
    assert isinstance(instantiate(video).token_mixer, RelationMixer) and video.token_mixer.relation.num_layers == 2
    sizes = ["MODEL.ANCHOR_GENERATOR.SHAPES", "[]", "MODEL.ANCHOR_GENERATOR.SIZES", "[[8, 16]]"]
    anchors = translated(small, *sizes, "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS", "[1.0]").model.proposal_head
    assert anchors.rpn_head.num_anchors == 2 == len(instantiate(anchors.anchor_generator.shapes))
    strides = translated(small, "MODEL.RESNETS.STRIDES", "[1, 2, 2]").model
    assert strides.proposal_head.anchor_generator.stride == 16 and strides.roi_pooler.box_pooler.spatial_scale == 1 / 16


def test_a_file_of_either_kind_is_a_config_of_a_run(tmp_path):
    python, yaml_file = as_config(CONFIGS / "phantom.py"), as_config(CONFIGS / "phantom.yaml")
    assert python.train.max_iter == yaml_file.train.max_iter == 900
    assert LazyConfig.load(CONFIGS / "phantom_one_frame.yaml").model.token_mixer.context_frames == 0
    cfg = read(CONFIGS / "phantom.yaml", "SOLVER.MAX_ITER", "7")
    LazyConfig.save(config_to_save(cfg), tmp_path / "config.yaml")
    saved = as_config(tmp_path)
    assert diff(saved, config_from_cfg_node(cfg)) == [] and saved.train.max_iter == 7
    assert "cfg_node" not in config_to_save(saved)  # its values may have been changed since


def test_a_saved_config_is_read_as_keys_too(tmp_path):
    cfg = read(CONFIGS / "phantom_one_frame.yaml", "SOLVER.MAX_ITER", "7", "MODEL.RPN.POST_NMS_TOPK", "8")
    path = tmp_path / "config.yaml"
    LazyConfig.save(config_to_save(cfg), path)
    again = read(path)
    assert again == cfg
    text = path.read_text().replace("MAX_ITER: 7", "MAX_ITR: 7")
    path.write_text(text)
    line = next(i for i, row in enumerate(text.splitlines(), start=1) if "MAX_ITR" in row)
    with pytest.raises(ConfigError, match=rf"config.yaml:{line}: Unknown key 'SOLVER.MAX_ITR'"):
        read(path)


def test_the_saved_config_of_a_python_run_has_no_keys_and_says_so(tmp_path):
    LazyConfig.save(config_to_save(as_config(CONFIGS / "phantom.py")), tmp_path / "config.yaml")
    with pytest.raises(
        ConfigError, match=r"config.yaml is the config of a run .* it has no YAML keys.*LazyConfig\.load"
    ):
        get_cfg().merge_from_file(tmp_path / "config.yaml")


def saved_run(folder, text):
    folder.mkdir()
    (folder / "config.yaml").write_text(text)
    (folder / "model_0000001.pth").write_bytes(b"")
    return folder


def test_a_run_that_saved_earlier_keys_is_resumed_under_the_config_of_today(tmp_path, caplog):
    cfg = read(CONFIGS / "phantom.yaml", "OUTPUT_DIR", str(tmp_path / "run"), "DATALOADER.NUM_WORKERS", "0")
    earlier = read(f"{SMALL_IN_EARLIER_KEYS}", folder=tmp_path)
    dump = cfg.clone()
    dump.MODEL = earlier.MODEL
    saved_run(tmp_path / "run", dump.dump())
    assert check_resume_config(cfg) == []
    cfg.merge_from_list(["SOLVER.BASE_LR", "2e-3", "MODEL.OPTS", "['causal=false']"])
    assert [d.key for d in significant_changes(cfg, tmp_path / "run/config.yaml")] == [
        "model.token_mixer.causal",
        "optimizer.lr",
    ]
    with pytest.raises(ConfigError, match=r"optimizer\.lr"):
        check_resume_config(cfg)
    allowed = with_tree_keys(config_from_cfg_node(cfg), ["SOLVER.BASE_LR", "MODEL.OPTS"])
    assert [d.key for d in check_resume_config(cfg, allowed)] == ["model.token_mixer.causal", "optimizer.lr"]


def test_allowed_changes_may_be_given_as_yaml_keys():
    config = translated(CONFIGS / "phantom.yaml")
    assert with_tree_keys(config, ["SOLVER.MAX_ITER"]) == ["train.max_iter", "lr_multiplier"]
    assert with_tree_keys(config, ["train.max_iter", "LOG_PERIOD"]) == ["train.max_iter", "train.log_period"]
    assert {"optimizer.lr", "optimizer.betas"} <= set(with_tree_keys(config, ["SOLVER"]))


def test_steps_past_the_end_are_ignored_with_one_warning(caplog):
    cfg = read(CONFIGS / "phantom.yaml", "SOLVER.MAX_ITER", "601", "SOLVER.STEPS", "(300, 601)")
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert list(config_from_cfg_node(cfg).lr_multiplier.scheduler.milestones) == [300]
    assert [record.getMessage() for record in caplog.records] == [
        "SOLVER.STEPS at or past SOLVER.MAX_ITER=601 are ignored."
    ]


def test_overrides_on_a_translated_config_are_those_of_any_config():
    config = LazyConfig.apply_overrides(
        translated(CONFIGS / "phantom.yaml"), ["optimizer.lr=2e-3", "~trainer.hooks.best"]
    )
    assert config.optimizer.lr == 2e-3 and "best" not in config.trainer.hooks
    with pytest.raises(OverrideError, match=r"optimizer\.lrr"):
        LazyConfig.apply_overrides(config, ["optimizer.lrr=1"])


def test_a_model_file_beside_the_yaml_file_is_found_from_everywhere(tmp_path, monkeypatch):
    folder = tmp_path / "configs"
    folder.mkdir()
    (folder / "m.py").write_text("model = dict(_target_='torch.nn.Linear', in_features=1, out_features=1)\n")
    cfg = read("MODEL: {CONFIG: m.py}\n", folder=folder)
    monkeypatch.chdir("/")
    assert Path(cfg.MODEL.CONFIG) == folder / "m.py"
    assert instantiate(config_from_cfg_node(cfg).model).in_features == 1
