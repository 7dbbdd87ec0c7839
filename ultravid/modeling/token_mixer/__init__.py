"""Parts that relate the objects of a frame to each other and to those of other frames."""

from ultravid.modeling.token_mixer.base import NoMixer, TokenMixer
from ultravid.modeling.token_mixer.flow_context import ContextAttention, FlowContextMixer
from ultravid.modeling.token_mixer.mega import MEGAMixer
from ultravid.modeling.token_mixer.relation import RelationMixer

__all__ = ["ContextAttention", "FlowContextMixer", "MEGAMixer", "NoMixer", "RelationMixer", "TokenMixer"]
