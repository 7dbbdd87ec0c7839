"""Training loops, hooks, set-up and launch."""

from ultravid.engine import hooks
from ultravid.engine.defaults import (
    create_ddp_model,
    default_argument_parser,
    default_setup,
    default_writers,
    prepare_model,
    run_tool,
)
from ultravid.engine.launch import launch
from ultravid.engine.train_loop import (
    AMPTrainer,
    HookBase,
    SimpleTrainer,
    StopTraining,
    TrainerBase,
)

__all__ = [
    "AMPTrainer",
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
    "prepare_model",
    "run_tool",
]
