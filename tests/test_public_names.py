"""What others import: the names are promised."""

import importlib

import pytest

PROMISED = {
    "ultravid.config": "LazyConfig LazyCall LazyPartial Node Builder ref instantiate get_config check explain diff config_hash "
    "to_omegaconf MISSING CfgNode get_cfg global_cfg set_global_cfg",
    "ultravid.engine": "TrainerBase SimpleTrainer AMPTrainer HookBase hooks launch default_setup default_argument_parser "
    "default_writers create_ddp_model DefaultTrainer DefaultPredictor",
    "ultravid.data": "DatasetCatalog MetadataCatalog Metadata",
    "ultravid.engine.hooks": "IterationTimer LRScheduler PeriodicCheckpointer BestCheckpointer EvalHook PeriodicWriter "
    "CallbackHook HookBase PreciseBN AutogradProfiler TorchProfiler TorchMemoryStats StopOnSignal",
    "ultravid.utils.events": "EventStorage get_event_storage EventWriter JSONWriter CSVWriter TensorboardXWriter CommonMetricPrinter",
    "ultravid.utils.trackers": "WandbWriter MLflowWriter",
    "ultravid.utils.collect_env": "collect_env_info",
    "ultravid.engine.progress": "ProgressBar",
    "ultravid.utils.comm": "get_rank get_world_size get_local_rank is_main_process synchronize all_gather gather reduce_dict",
    "ultravid.checkpoint": "DetectionCheckpointer",
    "ultravid.solver": "get_default_optimizer_params WarmupParamScheduler LRMultiplier",
    "ultravid.structures": "Boxes BoxMode Instances ImageList Clip pairwise_iou",
    "ultravid.evaluation": "DatasetEvaluator DatasetEvaluators inference_on_dataset print_csv_format",
    "ultravid.modeling": "FasterRCNN BasicDet ResNet RPN RoIHeads",
}


@pytest.mark.parametrize("module", PROMISED)
def test_promised_names_are_public(module):
    found = importlib.import_module(module)
    assert set(PROMISED[module].split()) <= set(found.__all__)
    assert all(hasattr(found, name) for name in found.__all__)
