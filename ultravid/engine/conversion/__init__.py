"""Conversion of checkpoints and configs of the predecessor, of torchvision and of detectron2."""

from ultravid.engine.conversion.checkpoint import Conversion, convert_checkpoint
from ultravid.engine.conversion.description import ModelOfKeys, model_of_keys, published_model, values_of_yaml
from ultravid.engine.conversion.recipe import run_config

__all__ = [
    "Conversion",
    "ModelOfKeys",
    "convert_checkpoint",
    "model_of_keys",
    "published_model",
    "run_config",
    "values_of_yaml",
]
