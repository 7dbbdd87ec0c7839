"""The trainer of a `CfgNode`: detectron2's, whose methods a project overrides one by one."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ultravid.checkpoint import DetectionCheckpointer
from ultravid.config import CfgNode, ConfigError
from ultravid.engine import cfg_builders, hooks
from ultravid.engine.defaults import default_writers, prepare_model
from ultravid.engine.steps import Accumulation, NonfinitePolicy
from ultravid.engine.train_loop import AMPTrainer, HookBase, SimpleTrainer, TrainerBase
from ultravid.evaluation import (
    DatasetEvaluator,
    DatasetEvaluators,
    FramePictures,
    VideoDetectionEvaluator,
    inference_on_dataset,
    print_csv_format,
)
from ultravid.utils import comm
from ultravid.utils.events import EventWriter

__all__ = ["DefaultTrainer"]

logger = logging.getLogger(__name__)


class DefaultTrainer(TrainerBase):
    """Trains what a config describes; a project's subclass overrides a method.

    For example::

        class Trainer(DefaultTrainer):
            @classmethod
            def build_evaluator(cls, cfg, dataset_name):
                return MyEvaluator(dataset_name)


        trainer = Trainer(cfg)
        trainer.resume_or_load(resume=False)
        trainer.train()

    The constructor calls ``build_model``, ``build_optimizer``, ``build_train_loader``, ``build_lr_scheduler`` and
    ``build_hooks``, in this order; ``build_hooks`` calls ``build_writers``, and evaluation ``build_test_loader`` and
    ``build_evaluator``. Call `default_setup` before: it seeds, and the model's weights are drawn here.

    Args:
        cfg: see `ultravid.config.get_cfg`.

    Attributes:
        cfg: the config.
        model: on its device, wrapped for several processes.
        optimizer: its.
        scheduler: of the learning rate.
        checkpointer: of the model, and of this trainer.
        init_checkpoint: ``cfg.MODEL.WEIGHTS``.

    Raises:
        ConfigError: a value of the config is wrong.
        DataError: the training data can't be used.
    """

    def __init__(self, cfg: CfgNode) -> None:
        super().__init__()
        cfg_builders.check_values(cfg)
        self.cfg = cfg
        plain = self.build_model(cfg)
        model = prepare_model(model=plain, device=cfg.MODEL.DEVICE, ddp={"broadcast_buffers": False})
        optimizer = self.build_optimizer(cfg, model)
        data_loader = self.build_train_loader(cfg)
        self._trainer = self._build_step(model, data_loader, optimizer)
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        # A checkpointer and its trainer know each other; only one of the two may keep the other alive.
        self.checkpointer: DetectionCheckpointer = DetectionCheckpointer(
            model, cfg.OUTPUT_DIR, background=True, trainer=weakref.proxy(self)
        )
        self.seconds = self._trainer.seconds  # one ledger of both
        self.init_checkpoint: str = cfg.MODEL.WEIGHTS
        self.max_iter: int = cfg.SOLVER.MAX_ITER
        self._last_eval_results: dict[str, Any] = {}
        self.register_hooks(self.build_hooks())

    def _build_step(self, model: nn.Module, data_loader: Iterable[Any], optimizer: Optimizer) -> SimpleTrainer:
        solver = self.cfg.SOLVER
        settings: dict[str, Any] = {
            "seed": self.cfg.SEED if self.cfg.SEED >= 0 else None,
            "clip_grad": cfg_builders.build_gradient_clipper(self.cfg),
        }
        try:
            settings["accumulation"] = Accumulation(solver.ACCUMULATE)
            settings["nonfinite"] = NonfinitePolicy(solver.SKIP_NONFINITE, self.cfg.OUTPUT_DIR)
            if solver.AMP.ENABLED:
                return AMPTrainer(model, data_loader, optimizer, precision=solver.AMP.PRECISION, **settings)
            return SimpleTrainer(model, data_loader, optimizer, **settings)
        except ValueError as error:
            raise ConfigError(f"SOLVER: {error}") from error

    @property
    def model(self) -> nn.Module:
        """The prepared model."""
        return self._trainer.model

    @property
    def optimizer(self) -> Optimizer:
        """The optimizer."""
        return self._trainer.optimizer

    @property
    def data_loader(self) -> Iterable[Any]:
        """The training loader."""
        return self._trainer.data_loader

    def resume_or_load(self, resume: bool = True) -> None:
        """Go on from the newest checkpoint of ``cfg.OUTPUT_DIR`` if asked to and there is one, else load ``cfg.MODEL.WEIGHTS``.

        Raises:
            CheckpointError: a checkpoint can't be read or doesn't fit.
            UserError: the run is past ``cfg.SOLVER.MAX_ITER`` already.
        """
        super().resume_or_load(resume)

    def train(self, start_iter: int | None = None, max_iter: int | None = None) -> dict[str, Any]:  # type: ignore[override]
        """Train, by default from where `resume_or_load` says up to ``cfg.SOLVER.MAX_ITER``.

        Returns:
            figures of the last evaluation; empty where there was none, and in all processes but the main one.
        """
        # Gradients appear within the inner trainer's step, and it is the hooks of this one that want to see them.
        self._trainer.after_backward = self.after_backward  # type: ignore[method-assign]
        super().train(start_iter, max_iter)
        return self._last_eval_results

    def after_train(self) -> None:
        """Call the hooks; what they saved stands when this returns."""
        try:
            super().after_train()
        finally:
            self.checkpointer.wait()

    @property
    def step_skipped(self) -> bool:
        """Whether the last step was skipped, because a number was not finite."""
        return self._trainer.step_skipped

    def run_step(self) -> None:
        """One step of the inner trainer."""
        self._trainer.iter = self.iter
        self._trainer.run_step()
        self.num_samples = self._trainer.num_samples

    def state_dict(self) -> dict[str, Any]:
        """The inner trainer's, with this one's iteration and hooks: what `SimpleTrainer` saves for the same run."""
        return {**self._trainer.state_dict(), **super().state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take what `state_dict` gave."""
        super().load_state_dict(state_dict)
        self._trainer.load_state_dict({**state_dict, "hooks": {}})

    def build_hooks(self) -> list[HookBase | None]:
        """The hooks in their order: record, timer, learning rate, evaluation, best checkpoint, writers, checkpoint, stop.

        One that is put at the end comes after the checkpoint; to come before the writers, insert it before them.
        """
        cfg, test = self.cfg, self.cfg.TEST
        precise_bn = best = evaluation = None
        if test.PRECISE_BN.ENABLED:
            loader = self.build_train_loader(cfg)
            precise_bn = hooks.PreciseBN(test.EVAL_PERIOD, self.model, loader, test.PRECISE_BN.NUM_ITER)
        if cfg.DATASETS.TEST:
            evaluation = hooks.EvalHook(test.EVAL_PERIOD, self._test_and_keep_results)
        if cfg.DATASETS.TEST and test.BEST_METRIC:
            best = hooks.BestCheckpointer(test.EVAL_PERIOD, self.checkpointer, test.BEST_METRIC)
        return [
            hooks.ProgressBar(),
            hooks.RunRecord(cfg.OUTPUT_DIR, seed=cfg.SEED, datasets={"train": self.data_loader}),
            hooks.IterationTimer(),
            hooks.LRScheduler(self.optimizer, self.scheduler),
            precise_bn,
            evaluation,
            best,
            hooks.TimeBreakdown(cfg.LOG_PERIOD),
            hooks.PeriodicWriter(self.build_writers(), period=cfg.LOG_PERIOD),
            hooks.PeriodicCheckpointer(
                self.checkpointer, cfg.SOLVER.CHECKPOINT_PERIOD, max_to_keep=cfg.SOLVER.CHECKPOINTS_TO_KEEP or None
            ),
            hooks.StopOnSignal(self.checkpointer, wall_time_s=cfg.WALL_TIME_S or None),
            hooks.Watchdog(),
        ]

    def build_writers(self) -> list[EventWriter]:
        """Writers to the log, to ``metrics.json`` and to TensorBoard."""
        return default_writers(self.cfg.OUTPUT_DIR, self.max_iter)

    def _test_and_keep_results(self) -> dict[str, Any]:
        self._last_eval_results = self.test(self.cfg, self.model)
        return self._last_eval_results

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        """The plain model on its device; see `ultravid.engine.cfg_builders.build_model`."""
        model = cfg_builders.build_model(cfg)
        logger.info("Model:\n%s", model)
        return model

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> Optimizer:
        """The optimizer of a prepared model."""
        return cfg_builders.build_optimizer(cfg, model)

    @classmethod
    def build_lr_scheduler(cls, cfg: CfgNode, optimizer: Optimizer) -> LRScheduler:
        """The learning-rate schedule, stepped once an iteration."""
        return cfg_builders.build_lr_scheduler(cfg, optimizer)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> Iterable[Any]:
        """Batches of clips; any iterable of what the model takes in training will do."""
        return cfg_builders.build_train_loader(cfg)

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> Iterable[Any]:
        """Frames of a data set in order."""
        return cfg_builders.build_test_loader(cfg, dataset_name)

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> DatasetEvaluator | Sequence[DatasetEvaluator] | None:
        """The figures of lesion detection and pictures, to ``inference`` (with several data sets, a folder each in it)."""
        folder = Path(cfg.OUTPUT_DIR) / "inference"
        folder = folder / dataset_name if len(cfg.DATASETS.TEST) > 1 else folder
        return DatasetEvaluators([VideoDetectionEvaluator(folder), FramePictures(folder)])

    @classmethod
    def test(
        cls,
        cfg: CfgNode,
        model: nn.Module,
        evaluators: DatasetEvaluator | Sequence[DatasetEvaluator] | None = None,
    ) -> dict[str, Any]:
        """Evaluate a model on each data set of ``cfg.DATASETS.TEST``.

        Args:
            cfg: the config.
            model: plain or wrapped.
            evaluators: one for each data set; None lets ``build_evaluator`` make them.

        Returns:
            figures by name; with several data sets, by data set and name.

        Raises:
            ConfigError: no data set is named, or there is another number of evaluators.
        """
        names = cfg.DATASETS.TEST
        if not names:
            raise ConfigError(
                "DATASETS.TEST names no data set: give names of the DatasetCatalog, as ('phantom_test',)."
            )
        given = [evaluators] if isinstance(evaluators, DatasetEvaluator) else evaluators
        if given is not None and len(given) != len(names):
            raise ConfigError(f"{len(given)} evaluators were given for {len(names)} data sets, {', '.join(names)}.")
        plain = comm.unwrapped(model)
        results = {}
        for index, name in enumerate(names):
            evaluator = cls.build_evaluator(cfg, name) if given is None else given[index]
            logger.info("Evaluating on %s.", name)
            results[name] = inference_on_dataset(plain, cls.build_test_loader(cfg, name), evaluator)
            print_csv_format(results[name])
        return results[names[0]] if len(names) == 1 else results
