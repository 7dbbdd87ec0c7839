"""`tools/convert_checkpoint.py`: what it honours, what it refuses, and in which words."""

import pickle

import numpy as np
import pytest
import torch
import torchvision

from tests.conftest import load_tool
from ultravid.checkpoint import load_file
from ultravid.config import ConfigError, LazyConfig
from ultravid.config.check import check
from ultravid.engine import DefaultPredictor
from ultravid.engine.conversion import model_of_keys, run_config
from ultravid.utils.run_folder import RunFolder
from ultravid.utils.tool import run_tool

KEYS = {
    "MODEL.META_ARCHITECTURE": "TemporalRCNN",
    "MODEL.ROI_HEADS.NAME": "Res5TemporalROIBoxHeads",
    "MODEL.PIXEL_MEAN": [123.675, 116.28, 103.53],
    "MODEL.PIXEL_STD": [58.395, 57.12, 57.375],
    "MODEL.RPN.POST_NMS_TOPK_TEST": 16,
    "MODEL.BACKBONE.FREEZE_AT": 2,
}


def convert(capfd, *arguments):
    code = run_tool(load_tool("convert_checkpoint").main, list(map(str, arguments)))
    captured = capfd.readouterr()
    return code, captured.out, captured.err


def test_a_value_unlike_the_published_one_is_set_and_reported_by_its_key():
    given = {
        "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.1,
        "MODEL.ROI_BOX_HEAD.INTERVAL_PRE_TEST": 7,
        "MODEL.ANCHOR_GENERATOR.SIZES": [[16, 64]],
        "MODEL.RPN.BBOX_REG_WEIGHTS": "(2.0, 2.0, 1.0, 1.0)",
        "MODEL.RPN.POST_NMS_TOPK_TRAIN": 16,
    }
    found = model_of_keys({**KEYS, **given}, "a.yaml")
    assert {(argument, key) for argument, _, key in found.changed} == {
        ("box_predictor.score_threshold", "MODEL.ROI_HEADS.SCORE_THRESH_TEST"),
        ("token_mixer.context_frames", "MODEL.ROI_BOX_HEAD.INTERVAL_PRE_TEST"),
        ("proposal_head.anchor_generator.shapes.sizes", "MODEL.ANCHOR_GENERATOR.SIZES"),
        ("proposal_head.rpn_head.num_anchors", "MODEL.ANCHOR_GENERATOR"),
        ("proposal_head.box2box_transform.weights", "MODEL.RPN.BBOX_REG_WEIGHTS"),
    }
    assert found.model.proposal_head.rpn_head.num_anchors == 12 and found.training == ["MODEL.RPN.POST_NMS_TOPK_TRAIN"]
    del given["MODEL.RPN.POST_NMS_TOPK_TRAIN"]
    without = {key: value for key, value in KEYS.items() if "TOPK" not in key}
    assert model_of_keys(without, "a.yaml").model.proposal_head.post_nms_topk == 128  # the published code's default


def test_what_is_not_supported_is_refused_by_its_key_all_at_once():
    wrong = {"MODEL.ROI_HEADS.NUM_CLASSES": 3, "MODEL.RPN.NMS_TRESH": 0.5, "MODEL.ROI_BOX_HEAD.CAUSAL_RELATION": True}
    with pytest.raises(ConfigError) as caught:
        model_of_keys({**KEYS, **wrong, "MODEL.FPN.IN_FEATURES": ["res2"], "MODEL.FCOS.NORM": "BN"}, "a.yaml")
    text = str(caught.value)
    assert "NUM_CLASSES is 3 with boxes for each class" in text and "Did you mean MODEL.RPN.NMS_THRESH?" in text
    assert "CAUSAL_RELATION is True; BasicDet is supported only with False" in text
    assert "FPN" not in text and "FCOS" not in text  # keys of other models decide nothing
    with pytest.raises(ConfigError, match=r"META_ARCHITECTURE is 'TemporalRCN'.*Did you mean 'TemporalRCNN'"):
        model_of_keys({**KEYS, "MODEL.META_ARCHITECTURE": "TemporalRCN"}, "a.yaml")


@pytest.mark.parametrize("key", ["MODEL.META_ARCHITECTURE", "MODEL.ROI_HEADS.NAME"])
def test_a_name_that_is_a_list_is_refused_by_its_key(key):
    with pytest.raises(ConfigError, match=rf"{key} is \['X'\]"):
        model_of_keys({**KEYS, key: ["X"]}, "a.yaml")


def test_frames_of_other_channels_than_rgb_and_bgr_are_refused(tmp_path):
    values = {**KEYS, "INPUT.FORMAT": "L"}
    described = model_of_keys({key: value for key, value in values.items() if key.startswith("MODEL.")}, "a.yaml")
    with pytest.raises(ConfigError, match=r"INPUT\.FORMAT is 'L'"):
        run_config(described, values, tmp_path)


def test_the_fold_that_the_published_run_held_out_is_held_out_here(tmp_path):
    def recipe(**datasets):
        values = {**KEYS, **{f"DATASETS.{key}": value for key, value in datasets.items()}}
        return run_config(model_of_keys(values, "a.yaml"), values, tmp_path)

    cfg, not_carried = recipe(TEST_FOLDS="(2,)", NUM_FOLDS=5, SPLIT="trainval", SUFFIX="_cva")
    assert (cfg.dataloader.test.fold, cfg.dataloader.test.num_folds, cfg.data.splits) == (2, 5, ["trainval"])
    assert not_carried == ["DATASETS.SUFFIX"] and recipe()[0].dataloader.train.fold == 0
    with pytest.raises(ConfigError, match=r"TEST_FOLDS is 'none'; it lists the numbers of folds from 0, such as \[0\]"):
        recipe(TEST_FOLDS="none")
    (fault,) = [str(fault) for fault in check(recipe(TEST_FOLDS=[7])[0]) if fault.fatal]
    assert "takes 0 to 3 for 'fold'" in fault and "DATASETS.TEST_FOLDS, a.yaml" in fault


def test_a_key_that_several_parts_depend_on_reaches_each_of_them(tmp_path):
    def recipe(keys, frames=None, memory=None):
        clips = {"NUM_OUT_FRAMES": frames, "MEMORY_FRAMES": memory, "MEMORY_INTERVAL": 12}
        values = {**KEYS, **keys}
        values |= {f"INPUT.TRAIN_FRAME_SAMPLER.{key}": value for key, value in clips.items() if value is not None}
        cfg, not_carried = run_config(model_of_keys(values, "a.yaml"), values, tmp_path)
        return cfg.model, cfg.dataloader.train.frame_sampler, not_carried

    fgfa = {"MODEL.META_ARCHITECTURE": "FGFA", "MODEL.ROI_HEADS.NAME": "SingleFrameRes5ROIHeads"}
    fgfa |= {"MODEL.FLOWNET_METHOD": "FGFA", "MODEL.ROI_BOX_HEAD.INTERVAL_PRE_TEST": 3}
    model, sampler, not_carried = recipe(fgfa, frames=5)
    assert (model.feature_context.context_frames, sampler.num_frames, sampler.window) == (4, 5, 30)
    assert not_carried == ["INPUT.TRAIN_FRAME_SAMPLER.MEMORY_INTERVAL", "MODEL.ROI_BOX_HEAD.INTERVAL_PRE_TEST"]
    mega = {"MODEL.META_ARCHITECTURE": "MEGA", "MODEL.ROI_HEADS.NAME": "MEGAHeads"}
    mixer, sampler, not_carried = recipe(mega, frames="4", memory=3)[0].token_mixer, *recipe(mega, 4, 3)[1:]
    assert (mixer.local_frames, mixer.recent_memory_frames, mixer.memory_frames) == (4, 4, 7)
    assert (sampler.num_frames, sampler.num_memory, sampler.memory_interval, not_carried) == (4, 3, 12, [])
    cvanet = {"MODEL.META_ARCHITECTURE": "CVANet", "MODEL.DeformableDETR.WITH_BOX_REFINE": True}
    model, _, not_carried = recipe({**cvanet, "TEST.DETECTIONS_PER_IMAGE": 5})
    assert model.feature_context.lag == 16  # the published code's default
    assert "TEST.DETECTIONS_PER_IMAGE" in not_carried  # the two-stage models and RetinaNet alone have it
    transvod = {**cvanet, "MODEL.META_ARCHITECTURE": "TransVOD", "MODEL.DeformableDETR.NUM_CLASSES": 2}
    context = recipe({**transvod, "MODEL.DeformableDETR.DECODER_N_POINTS": 2})[0].query_context
    assert (context.num_classes, context.num_points) == (2, 2)
    with pytest.raises(ConfigError, match=r"NUM_OUT_FRAMES is 4 and .*MEMORY_FRAMES is 16; CVANet needs as many"):
        recipe(cvanet, frames=4)
    with pytest.raises(ConfigError, match=r"NUM_OUT_FRAMES is 0; it is a number of frames, 1 or more"):
        recipe(mega, frames=0)


def test_a_misspelt_key_of_the_folds_or_the_frames_is_refused(tmp_path):
    values = {**KEYS, "INPUT.FORMT": "RGB", "DATASETS.TEST_FOLD": [2]}
    described = model_of_keys({key: value for key, value in values.items() if key.startswith("MODEL.")}, "a.yaml")
    with pytest.raises(ConfigError, match=r"Did you mean INPUT.FORMAT\?\n  DATASETS.TEST_FOLD. Did you mean DATASETS"):
        run_config(described, values, tmp_path)
    others = {"INPUT.FIXED_AREA_TRAIN": 1, "SOLVER.WEIGHT_DECAY_NORM": 0.0, "INPUT.MASK_FORMAT": "polygon"}
    assert run_config(described, {**KEYS, **others}, tmp_path)[1] == sorted(others)


def test_nothing_frozen_is_minus_one_in_the_published_code_and_zero_here():
    assert model_of_keys({**KEYS, "MODEL.BACKBONE.FREEZE_AT": -1}, "a.yaml").model.backbone.freeze_at == 0


def test_a_resnet_fills_the_backbone_and_the_rest_is_said_to_be_untrained(tmp_path, capfd):
    resnet = torchvision.models.resnet18()
    of_ddp = {f"module.{name}": value for name, value in resnet.state_dict().items()}
    torch.save(of_ddp, tmp_path / "resnet18.pth")
    out = tmp_path / "an out"
    code, text, _ = convert(
        capfd, "--model", "FCOS", "--depth", 18, "--weights", tmp_path / "resnet18.pth", "--output", out
    )
    assert code == 0 and "holds only a backbone: 39 weights of the model" in text
    assert "do not say which fold they were not trained on" in text
    assert f"--config-file '{out / 'config.yaml'}' --eval-only" in text  # as a shell reads it
    assert "fc.bias" in text and "layer4.0.* (18)" in text
    assert DefaultPredictor(out)(np.zeros((64, 80, 3), np.uint8))["instances"].image_size == (64, 80)
    converted = load_file(out / "model_final.pth")["model"]  # a predictor's own weights have the norms folded in
    assert torch.equal(converted["backbone.res4.1.conv2.weight"], resnet.layer3[1].conv2.weight)
    assert LazyConfig.load(out / "config.yaml").train.init_checkpoint == str(out / "model_final.pth")


def test_a_pickle_of_detectron2_fills_the_backbone_unless_a_weight_is_missing_or_not_finite(
    tmp_path, capfd, phantom, launch_run
):
    named = {detectron2_name(k): v.numpy() for k, v in torchvision.models.resnet18().state_dict().items()}
    arguments = ("--model", "FCOS", "--depth", 18, "--weights", tmp_path / "r18.pkl", "--output")

    def convert_pickle(output, **changed):
        content = {"model": {**named, **changed}, "__author__": "torchvision", "matching_heuristics": True}
        (tmp_path / "r18.pkl").write_bytes(pickle.dumps(content))
        return convert(capfd, *arguments, output)

    code, text, _ = convert_pickle(tmp_path / "o")
    assert code == 0 and "holds only a backbone" in text and "stem.fc.* (2)" in text and "res5.0.* (15)" in text
    converted = load_file(tmp_path / "o/model_final.pth")["model"]
    assert np.array_equal(converted["backbone.res4.1.conv2.weight"], named["res4.1.conv2.weight"])
    on_phantom = [
        f"data.root={phantom}",
        "data.splits=[test]",
        "dataloader.train.fold=null",
        "dataloader.train.num_folds=null",
    ]
    frames = ["dataloader.test.area=null", "dataloader.test.num_workers=0"]
    command = ["--config-file", str(tmp_path / "o/config.yaml"), "--eval-only"]
    assert launch_run([*command, *on_phantom, *frames]) == 0
    assert '"count/lesion_boxes": 24' in RunFolder(tmp_path / "o/run").evaluation_metrics.read_text()
    broken = np.full_like(named["stem.conv1.norm.bias"], np.nan)
    code, _, error = convert_pickle(tmp_path / "nan", **{"stem.conv1.norm.bias": broken})
    assert code == 2 and "1 weight with values that are NaN or infinite (backbone.stem.conv1.norm.bias)" in error
    assert "/proc/o can't be written" in convert_pickle("/proc/o")[2]
    del named["stem.conv1.norm.bias"]
    code, _, error = convert_pickle(tmp_path / "nan")
    assert code == 2 and "it lacks" in error and "backbone.stem.conv1.norm" in error and not (tmp_path / "nan").exists()


def detectron2_name(name):
    """Of a weight of torchvision's ResNet, as detectron2's script for the conversion has it."""
    for old, new in (("downsample.0", "shortcut"), ("downsample.1", "shortcut.norm")):
        name = name.replace(old, new)
    for number in range(1, 4):
        name = name.replace(f"bn{number}", f"conv{number}.norm")
    for number in range(1, 5):
        name = name.replace(f"layer{number}", f"res{number + 1}")
    return name if name.startswith("res") else f"stem.{name}"


def test_a_file_of_another_model_is_refused_with_what_it_looks_like(tmp_path, capfd):
    file = tmp_path / "w.pth"
    names = [*(f"backbone.res3.{i}.conv1.weight" for i in range(4)), "embednet.x"]
    torch.save({"model": {f"module.{name}": torch.zeros(1) for name in names}}, file)
    arguments = ("--model", "YOLOX", "--depth", 18, "--weights", file, "--output", tmp_path / "out")
    code, _, error = convert(capfd, *arguments)
    assert code == 2 and error.count("\n") == 1 and "It looks like FGFA with ResNet-34." in error
    torch.save({"model": 3}, file)
    assert "holds no weights: its 'model' is 3." in convert(capfd, *arguments)[2]
    torch.save({"epoch": 3, "net": {"a": torch.zeros(1)}}, file)
    assert "its entries are 'epoch', 'net'. The tensors in 'net' may be the weights" in convert(capfd, *arguments)[2]
    torch.save({"state_dict": {"stem.\x1b[31m": torch.zeros(1)}}, file)
    error = convert(capfd, *arguments[:-1], "/proc/out")[2]
    assert "it lacks" in error and "\x1b" not in error
    file.write_text("no checkpoint")
    assert "can't be read" in convert(capfd, *arguments)[2]
    file.unlink()
    assert "does not exist" in convert(capfd, *arguments)[2]
    (tmp_path / "out").mkdir()
    (tmp_path / "out/config.yaml").write_text("mine: 1")
    assert "holds config.yaml, not from an earlier conversion" in convert(capfd, *arguments)[2]
    (tmp_path / "out/metrics.json").write_text("")
    assert "holds a run, which would be overwritten" in convert(capfd, *arguments)[2]
    assert "Did you mean 'YOLOX'?" in convert(capfd, "--model", "YOLOY", "--weights", tmp_path, "--output", tmp_path)[2]
