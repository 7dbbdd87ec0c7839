"""A trainer that builds all it needs from a config, each part in a method that a subclass may override."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ultravid.config import Builder, CfgNode, ConfigError, Node, as_config
from ultravid.config.cfg_translation import test_set_key
from ultravid.config.default_arguments import target_of
from ultravid.config.instantiate import as_user_error
from ultravid.config.migrations import RECOMPOSED, current_target
from ultravid.config.tree import CONTROL_KEYS, value_at
from ultravid.engine.steps import MixedPrecision
from ultravid.engine.train_loop import AMPTrainer, HookBase, SimpleTrainer
from ultravid.evaluation import DatasetEvaluator, inference_on_dataset, print_csv_format
from ultravid.evaluation.evaluated_run import EvaluatedRun, evaluating, named_data_set
from ultravid.utils import comm
from ultravid.utils.env import select_device
from ultravid.utils.events import EventWriter

__all__ = ["DefaultTrainer", "test_sets"]

logger = logging.getLogger(__name__)


class DefaultTrainer(SimpleTrainer):
    """A trainer that builds its parts from a config. A subclass can override each of its methods.

    For example::

        class Trainer(DefaultTrainer):
            @classmethod
            def build_evaluator(cls, cfg, dataset_name):
                return MyEvaluator(dataset_name)


        trainer = Trainer(cfg)
        trainer.resume_or_load(resume=False)
        trainer.train()

    The constructor calls ``build_model``, ``build_optimizer``, ``build_train_loader``, ``build_lr_scheduler`` and
    ``build_hooks``, in this order; ``build_hooks`` calls ``build_writers``, and evaluation calls ``build_test_loader`` and
    ``build_evaluator``. Each method gets the config that the constructor was given. Call `default_setup` first: it seeds, and
    the model's weights are drawn here.

    Args:
        cfg: a `CfgNode` (`ultravid.config.get_cfg`), or a config in nodes with the keys of ``configs_py/common/train.py``.

    Attributes:
        cfg: the given config.
        model: the model on its device, wrapped if there are several processes.
        optimizer: the optimizer of the model.
        scheduler: the learning-rate schedule.
        checkpointer: saves the model and this trainer.

    Raises:
        ConfigError: a value of the config is wrong.
        DataError: the training data can't be used.
    """

    def __init__(self, cfg: CfgNode | Node) -> None:
        self.cfg = cfg
        self._tree = as_config(cfg)
        self._builder = builder = Builder(self._tree)
        builder.provide("model", self.build_model(cfg))
        with as_user_error():
            model = builder.build("prepared_model")
        optimizer = builder.provide("optimizer", self.build_optimizer(cfg, model))
        data_loader = builder.provide("dataloader.train", self.build_train_loader(cfg))
        with as_user_error():
            super().__init__(model, data_loader, optimizer, **_step_settings(builder))
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self._last_eval_results: dict[str, Any] = {}
        self.register_hooks(self.build_hooks())

    def resume_or_load(self, resume: bool = True) -> None:
        """Resume from the newest checkpoint of the output folder if asked to and there is one, else load the initial weights.

        Args:
            resume: whether a checkpoint of the output folder is preferred to the initial weights.

        Raises:
            CheckpointError: a checkpoint can't be read or doesn't fit.
            UserError: the run is past its last iteration already.
        """
        super().resume_or_load(resume)

    def train(self, start_iter: int | None = None, max_iter: int | None = None) -> dict[str, Any]:  # type: ignore[override]
        """Train, by default from where `resume_or_load` says to the last iteration that the config sets.

        Args:
            start_iter: the first iteration; None is that of `resume_or_load`.
            max_iter: the iteration after the last one; None is that of the config.

        Returns:
            metrics of the last evaluation; empty if there was none, and in all processes but the main one.
        """
        self._refuse_bad_test_data()
        super().train(start_iter, max_iter)
        return self._last_eval_results

    def _refuse_bad_test_data(self) -> None:
        """Read the index of the test data, so that a wrong name or a missing file is reported before the training, not after it.

        A subclass that tests or loads in its own way decides itself when it reads.
        """
        mro = type(self).__mro__
        overridden = {name for own in mro[: mro.index(DefaultTrainer)] for name in vars(own)}
        if "eval" in self.named_hooks and not overridden & {"test", "build_test_loader"}:
            for name in test_sets(self._tree):
                self.build_test_loader(self.cfg, name)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` returned; version 0.1 stored the state of a hook under the name of its class."""
        present = {name: type(hook).__name__ for name, hook in self.named_hooks.items()}
        by_class = {kind: name for name, kind in present.items()}
        hooks = {}
        for name, state in state_dict.get("hooks", {}).items():
            kind = current_target(f"ultravid.engine.hooks.{name}").rpartition(".")[2]
            hooks[name if name in present else by_class.get(kind, name)] = state
        super().load_state_dict({**state_dict, "hooks": hooks})

    def build_hooks(self) -> list[HookBase | None]:
        """The hooks of ``trainer.hooks``, by rising ``order``: timer, schedule, evaluation, best checkpoint, writers, checkpoint.

        A hook that is appended to the list runs after the checkpoint; insert it before the writers to run before them.
        """
        tree, builder = self._tree, self._builder
        for key, part in (
            ("trainer.hooks.lr.scheduler", self.scheduler),
            ("trainer.hooks.eval.eval_function", self._test_and_keep_results),
            # The data sets that `build_test_loader` reads are not known here, and need not be in the catalog.
            ("trainer.hooks.record.datasets", {"train": self.data_loader}),
        ):
            if _has_node(tree, key):
                builder.provide(key, part)
        if _has_node(tree, "trainer.hooks.writer.writers"):
            builder.provide("trainer.hooks.writer.writers", self.build_writers())
        with as_user_error():
            built = builder.build("trainer.hooks")
        hooks = sorted(
            ((name, hook) for name, hook in built.items() if hook is not None), key=lambda pair: pair[1].order
        )
        for name, hook in hooks:
            self._name(hook, name)
        return [hook for _, hook in hooks]

    def build_writers(self) -> list[EventWriter]:
        """The writers of ``trainer.hooks.writer``: to the log, to ``metrics.json`` and to TensorBoard."""
        writers = self._builder.build("trainer.hooks.writer.writers")
        return list(writers.values() if isinstance(writers, dict) else writers)

    def _test_and_keep_results(self) -> dict[str, Any]:
        self._last_eval_results = self.test(self.cfg, self.model)
        return self._last_eval_results

    @classmethod
    def build_model(cls, cfg: CfgNode | Node) -> nn.Module:
        """The plain model on its device, with weights from scratch.

        Args:
            cfg: the config.
        """
        builder = Builder(as_config(cfg))
        with as_user_error():
            model: nn.Module = builder.build("model")
        logger.info("Model:\n%s", model)
        return model.to(select_device(builder.cfg.train.device))

    @classmethod
    def build_optimizer(cls, cfg: CfgNode | Node, model: nn.Module) -> Optimizer:
        """The optimizer of a prepared model.

        Args:
            cfg: the config.
            model: the model on its device, wrapped for several processes if there are any.
        """
        builder = Builder(as_config(cfg))
        builder.provide("prepared_model", model)
        with as_user_error():
            optimizer: Optimizer = builder.build("optimizer")
        return optimizer

    @classmethod
    def build_lr_scheduler(cls, cfg: CfgNode | Node, optimizer: Optimizer) -> LRScheduler:
        """The learning-rate schedule, which is stepped once an iteration.

        Args:
            cfg: the config.
            optimizer: the optimizer whose learning rates it sets.
        """
        builder = Builder(as_config(cfg))
        builder.provide("optimizer", optimizer)
        with as_user_error():
            scheduler: LRScheduler = builder.build("trainer.hooks.lr.scheduler")
        return scheduler

    @classmethod
    def build_train_loader(cls, cfg: CfgNode | Node) -> Iterable[Any]:
        """Batches of clips. An override may return any iterable of what the model takes in training.

        Args:
            cfg: the config.
        """
        with as_user_error():
            loader: Iterable[Any] = Builder(as_config(cfg)).build("dataloader.train")
        return loader

    @classmethod
    def build_test_loader(cls, cfg: CfgNode | Node, dataset_name: str) -> Iterable[Any]:
        """The frames of a data set, in order.

        Args:
            cfg: the config.
            dataset_name: a data set of the config, or the name of another one in the `DatasetCatalog`.
        """
        tree = as_config(cfg).copy()
        sets = test_sets(tree)
        loader = sets.get(dataset_name) or next(iter(sets.values()), tree.dataloader.test)
        if dataset_name not in sets:
            loader.videos = Node(_target_="ultravid.datasets.get_videos", names=[dataset_name])
        with as_user_error():
            frames: Iterable[Any] = Builder(tree).build_value(loader)
        return frames

    @classmethod
    def build_evaluator(
        cls, cfg: CfgNode | Node, dataset_name: str
    ) -> DatasetEvaluator | Sequence[DatasetEvaluator] | None:
        """The metrics of lesion detection and pictures, in ``inference`` (of several data sets: in a folder of it for each).

        Args:
            cfg: the config.
            dataset_name: the test data set that is evaluated.
        """
        tree = as_config(cfg)
        evaluator = tree.dataloader.evaluator
        if "_target_" not in evaluator:
            evaluator = evaluator[test_set_key(dataset_name)]
        with as_user_error():
            built: DatasetEvaluator = Builder(tree).build_value(evaluator)
        return built

    @classmethod
    def test(
        cls,
        cfg: CfgNode | Node,
        model: nn.Module,
        evaluators: DatasetEvaluator | Sequence[DatasetEvaluator] | None = None,
    ) -> dict[str, Any]:
        """Evaluate a model on each test data set of the config.

        Args:
            cfg: the config.
            model: plain or wrapped.
            evaluators: one for each data set; None calls ``build_evaluator``.

        Returns:
            metrics by name; with several data sets, by data set and name.

        Raises:
            ConfigError: no data set is named, or the number of evaluators is not that of data sets.
        """
        names = list(test_sets(as_config(cfg)))
        if not names:
            raise ConfigError(
                "DATASETS.TEST names no data set: give names of the DatasetCatalog, for example ('phantom_test',)."
            )
        given = [evaluators] if isinstance(evaluators, DatasetEvaluator) else evaluators
        if given is not None and len(given) != len(names):
            raise ConfigError(f"{len(given)} evaluators were given for {len(names)} data sets, {', '.join(names)}.")
        plain = comm.unwrapped(model)
        results = {}
        with evaluating(EvaluatedRun.of_config(as_config(cfg))):
            for index, name in enumerate(names):
                evaluator = cls.build_evaluator(cfg, name) if given is None else given[index]
                logger.info("Evaluating on %s.", name)
                with named_data_set(name if len(names) > 1 else ""):
                    results[name] = inference_on_dataset(plain, cls.build_test_loader(cfg, name), evaluator)
                print_csv_format(results[name])
        return results[names[0]] if len(names) == 1 else results


def test_sets(config: Node) -> dict[str, Node]:
    """The loaders of a config's test data sets, by the data set's name in the `DatasetCatalog`, else by its key.

    Args:
        config: with one loader at ``dataloader.test``, or several there by key.
    """
    test = config.dataloader.test
    loaders = [("test", test)] if "_target_" in test else test.items()
    return {name: loader for key, loader in loaders for name in _names(loader, key)}


def _names(loader: Node, key: str) -> Iterator[str]:
    videos = loader.get("videos")
    names = videos.get("names") if isinstance(videos, Node) else None
    if names is None:
        yield key
    elif len(names) > 0:
        yield names[0] if len(names) == 1 else key


_OWN_ARGUMENTS = CONTROL_KEYS | {"model", "data_loader", "optimizer", "hooks"}


def _step_settings(builder: Builder) -> dict[str, Any]:
    """The arguments of `SimpleTrainer` that a config's ``trainer`` has; those of `AMPTrainer` are made a precision."""
    trainer = builder.cfg.trainer
    settings = {key: builder.build(f"trainer.{key}") for key in trainer if key not in _OWN_ARGUMENTS}
    seed = settings.get("seed")
    settings["seed"] = None if seed is None or seed < 0 else seed  # a negative one is drawn by `default_setup`
    if issubclass(target_of(trainer), AMPTrainer):
        names = RECOMPOSED["ultravid.engine.AMPTrainer"].arguments
        mixed = {new: settings.pop(old) for old, new in names.items() if old in settings}
        settings["precision"] = MixedPrecision(**mixed)
    return settings


def _has_node(tree: Node, key: str) -> bool:
    try:
        return value_at(tree, key) is not None
    except ConfigError:
        return False
