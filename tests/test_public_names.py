"""What others import: the names are promised."""

import importlib

import pytest

PROMISED = {
    "ultravid.config": "LazyConfig LazyCall LazyPartial Node Builder ref instantiate get_config check explain diff config_hash "
    "to_omegaconf MISSING CfgNode get_cfg global_cfg set_global_cfg configurable locate config_from_cfg_node",
    "ultravid.engine": "TrainerBase SimpleTrainer AMPTrainer HookBase hooks launch default_setup default_argument_parser "
    "default_writers create_ddp_model DefaultTrainer DefaultPredictor",
    "ultravid.data": "DatasetCatalog MetadataCatalog Metadata DatasetFromList MapDataset ToIterableDataset "
    "build_batch_data_loader build_detection_train_loader build_detection_test_loader get_detection_dataset_dicts",
    "ultravid.data.build": "build_batch_data_loader build_detection_train_loader build_detection_test_loader "
    "get_detection_dataset_dicts trivial_batch_collator worker_init_reset_seed build_video_train_loader build_video_test_loader",
    "ultravid.data.common": "DatasetFromList MapDataset ToIterableDataset AspectRatioGroupedDataset",
    "ultravid.data.samplers": "TrainingSampler RandomSubsetTrainingSampler RepeatFactorTrainingSampler InferenceSampler "
    "GroupedBatchSampler WindowFrameSampler StridedFrameSampler MemoryFrameSampler InfiniteClipSampler",
    "ultravid.layers": "ShapeSpec cat nonzero_tuple batched_nms nms ciou_loss diou_loss giou_loss Conv2d ConvTranspose2d Linear "
    "BatchNorm2d FrozenBatchNorm2d NaiveSyncBatchNorm get_norm CNNBlockBase DepthwiseSeparableConv2d ROIAlign roi_align "
    "move_device_like empty_input_loss_func_wrapper cross_entropy interpolate",
    "ultravid.utils.registry": "Registry locate",
    "ultravid.utils.env": "seed_all_rng TORCH_VERSION",
    "ultravid.engine.hooks": "IterationTimer LRScheduler PeriodicCheckpointer BestCheckpointer EvalHook PeriodicWriter "
    "CallbackHook HookBase PreciseBN AutogradProfiler TorchProfiler TorchMemoryStats StopOnSignal",
    "ultravid.utils.events": "EventStorage get_event_storage EventWriter JSONWriter CSVWriter TensorboardXWriter CommonMetricPrinter",
    "ultravid.utils.trackers": "WandbWriter MLflowWriter",
    "ultravid.utils.collect_env": "collect_env_info",
    "ultravid.engine.progress": "ProgressBar",
    "ultravid.utils.comm": "get_rank get_world_size get_local_rank is_main_process synchronize all_gather gather reduce_dict",
    "ultravid.checkpoint": "DetectionCheckpointer",
    "ultravid.solver": "get_default_optimizer_params WarmupParamScheduler LRMultiplier build_optimizer build_lr_scheduler "
    "reduce_param_groups maybe_add_gradient_clipping WarmupMultiStepLR WarmupCosineLR",
    "ultravid.solver.build": "build_optimizer build_lr_scheduler reduce_param_groups get_default_optimizer_params "
    "maybe_add_gradient_clipping",
    "ultravid.solver.lr_scheduler": "LRMultiplier WarmupParamScheduler WarmupMultiStepLR WarmupCosineLR",
    "ultravid.structures": "Boxes BoxMode Instances ImageList Clip pairwise_iou pairwise_ioa pairwise_intersection "
    "matched_pairwise_iou pairwise_point_box_distance",
    "ultravid.structures.boxes": "Boxes BoxMode pairwise_iou pairwise_ioa",
    "ultravid.evaluation": "DatasetEvaluator DatasetEvaluators inference_on_dataset print_csv_format",
    "ultravid.modeling": "FasterRCNN BasicDet ResNet RPN RoIHeads",
    "ultravid.modeling.matcher": "Matcher",
    "ultravid.modeling.box_regression": "Box2BoxTransform",
}


@pytest.mark.parametrize("module", PROMISED)
def test_promised_names_are_public(module):
    found = importlib.import_module(module)
    assert set(PROMISED[module].split()) <= set(found.__all__)
    assert all(hasattr(found, name) for name in found.__all__)
