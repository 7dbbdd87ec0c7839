"""A small Deformable DETR for images of about 128 px: stride 8, 0.7 M parameters, trained from scratch on a CPU."""

from ultravid.config import LazyCall as L
from ultravid.config import get_config
from ultravid.modeling import ResNet

model = get_config("common/models/deformable_detr.py").model
model.backbone = L(ResNet)(num_blocks=(1, 1, 1), channels=(16, 32, 64), strides=(1, 2, 1), stem_channels=16, norm="BN")
model.encoder.in_channels = 64
model.encoder.num_layers = 1
model.decoder.num_layers = 3
model.decoder.num_queries = 8
for _part in (model.encoder, model.decoder):
    _part.dim = 96
    _part.ffn_dim = 256
    _part.dropout = 0.0
