"""Training loops, hooks, set-up and launch."""

from ultravid.config.command_line import default_argument_parser
from ultravid.engine import hooks
from ultravid.engine.default_trainer import DefaultTrainer
from ultravid.engine.defaults import (
    create_ddp_model,
    default_setup,
    default_writers,
    load_evaluation_weights,
    prepare_model,
    resolve_resume,
)
from ultravid.engine.launch import launch
from ultravid.engine.predictor import DefaultPredictor
from ultravid.engine.train_loop import (
    AMPTrainer,
    HookBase,
    SimpleTrainer,
    TrainerBase,
)
from ultravid.utils.errors import StopTraining
from ultravid.utils.tool import run_tool

__all__ = [
    "AMPTrainer",
    "DefaultPredictor",
    "DefaultTrainer",
    "HookBase",
    "SimpleTrainer",
    "StopTraining",
    "TrainerBase",
    "create_ddp_model",
    "default_argument_parser",
    "default_setup",
    "default_writers",
    "hooks",
    "launch",
    "load_evaluation_weights",
    "prepare_model",
    "resolve_resume",
    "run_tool",
]
