"""Any backbone of timm (Wightman, "PyTorch image models", github.com/huggingface/pytorch-image-models); an extra: ``pip install ultravid[timm]``.

Legend: ``N`` images, ``C, H, W`` channels, height, width; ``s`` the stride of the feature.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor, nn
from torch.nn import functional as F

from ultravid.checkpoint import CheckpointError, load_file
from ultravid.modeling.backbone.pretrained import WITHOUT_WEIGHTS, read_weights
from ultravid.utils.errors import UserError
from ultravid.utils.file_io import local_path
from ultravid.utils.limits import NotNegative, Positive

__all__ = ["TimmBackbone"]


class TimmBackbone(nn.Module):
    """One feature map of a timm model, as timm's ``features_only`` gives it; layers after it are left out.

    Images are padded with zeros at the right and bottom to a multiple of the stride: a patchify stem, as ConvNeXt's, drops what is left
    over otherwise. No weights are downloaded: timm's ``pretrained`` is off.

    Args:
        name: the name of the architecture in timm, as "convnext_tiny".
        stride: pixels from cell to cell; of several maps with this stride, the last. Give either this or ``out_index``.
        out_index: place of the map among those that timm offers, from 0.
        out_channels: a 1x1 convolution brings the map to this width, which the parts after the backbone may ask for; None: none does.
        weights: file or address of timm's weights of this architecture (``.safetensors``, ``.pth``, ``.bin``); "" for none.
        freeze_at: 0 freezes nothing, ``n`` all layers up to the ``n``-th map that timm offers: parameters get no gradient, and batch
            norm becomes frozen batch norm. With a ResNet that is `ResNet`'s numbering; with ConvNeXt 1 is the stem and the first stage.
        norm: "FrozenBN" freezes all batch norms with the values that they are loaded with; "" leaves them.
        kwargs: the keyword arguments of ``timm.create_model``, as ``drop_path_rate=0.1`` or, for transformers of a fixed size, ``dynamic_img_size=True``.

    Attributes:
        out_channels: width of the feature.
        stride: pixels from cell to cell.

    Raises:
        UserError: timm is not installed, or it has no such model, or the model no such map.
        CheckpointError: the weights can't be read, or don't fit.
    """

    def __init__(
        self,
        *,
        name: str,
        stride: Positive | None = None,
        out_index: NotNegative | None = None,
        out_channels: Positive | None = None,
        weights: str = "",
        freeze_at: NotNegative = 0,
        norm: Literal["", "FrozenBN"] = "",
        **kwargs: Any,
    ) -> None:
        super().__init__()
        if (stride is None) == (out_index is None):
            raise UserError("TimmBackbone needs either stride or out_index.")
        if norm not in ("", "FrozenBN"):
            raise UserError(f"norm={norm!r} of TimmBackbone is neither '' (the model's own norms) nor 'FrozenBN'.")
        index = _index_of_stride(name, stride, kwargs) if out_index is None else out_index
        self.body = _create(name, out_indices=(index,), **kwargs)
        info = _maps(self.body)
        self._drop_unused(index)
        if weights:
            _load(self.body, weights, name)
        self.stride = int(info[index]["reduction"])
        width = int(info[index]["num_chs"])
        self.projection = None if out_channels is None else nn.Conv2d(width, out_channels, 1)
        self.out_channels = width if out_channels is None else out_channels
        self._width = width
        if freeze_at > index + 1:
            raise UserError(f"freeze_at={freeze_at} of {name!r} is more than the {index + 1} maps that are computed.")
        if freeze_at:
            _freeze_until(self.body, str(info[freeze_at - 1]["module"]))
        if norm == "FrozenBN":
            self.body = _with_frozen_norms(self.body)

    def forward(self, x: Tensor) -> Tensor:
        """The feature map ``(N, C, ceil(H / s), ceil(W / s))`` of images ``x`` ``(N, 3, H, W)``, normalised; ``s`` is `stride`."""
        height, width = -x.shape[-2] % self.stride, -x.shape[-1] % self.stride
        if height or width:
            x = F.pad(x, (0, width, 0, height))
        out: Tensor = self.body(x)[0]
        if out.shape[1] != self._width:  # (N, H, W, C), as of Swin
            out = out.permute(0, 3, 1, 2).contiguous()
        return out if self.projection is None else self.projection(out)

    def _drop_unused(self, index: int) -> None:
        """Drop the blocks after the map where timm keeps them: their parameters would never get a gradient."""
        stage = _maps(self.body)[index].get("stage")
        blocks = getattr(self.body, "blocks", None)
        if isinstance(blocks, nn.Sequential) and isinstance(stage, int):
            self.body.blocks = blocks[:stage]


def _timm() -> Any:
    try:
        import timm
    except ImportError as error:
        raise UserError("TimmBackbone needs timm, which is not installed: pip install ultravid[timm]") from error
    return timm


def _create(name: str, **kwargs: Any) -> nn.Module:
    timm = _timm()
    if not timm.is_model(name):
        near = timm.list_models(f"*{name.partition('_')[0]}*")[:8]
        hint = f" It has {', '.join(near)}." if near else ""
        raise UserError(
            f"timm {timm.__version__} has no model {name!r}; weights are given separately, as a file.{hint}"
        )
    model: nn.Module = timm.create_model(name, pretrained=False, features_only=True, **kwargs)
    return model


def _maps(body: nn.Module) -> list[dict[str, Any]]:
    """What timm says of all maps of a model, those that are not computed too."""
    info: Any = body.feature_info
    return list(info.info)


def _index_of_stride(name: str, stride: int | None, kwargs: Mapping[str, Any]) -> int:
    strides = [int(one["reduction"]) for one in _maps(_create(name, **kwargs))]
    if stride not in strides:
        raise UserError(f"The maps of {name!r} have strides {', '.join(map(str, strides))}; there is none of {stride}.")
    return len(strides) - 1 - strides[::-1].index(stride)


def _plain(name: str) -> str:
    """A name without what ``features_only`` changes: it puts underscores in place of dots, and some models below ``model``."""
    return name.removeprefix("model.").replace(".", "_")


def _load(body: nn.Module, address: str, name: str) -> None:
    hub = getattr(_timm().get_pretrained_cfg(name), "hf_hub_id", None) or f"timm/{name}"
    hint = f"timm's weights of {name!r} are on the Hugging Face hub, as model.safetensors of {hub}. {WITHOUT_WEIGHTS}"
    found = {_plain(key): value for key, value in read_weights(address, hint, _read).items()}
    own = body.state_dict()
    fitting = {
        key: found[_plain(key)] for key in own if _plain(key) in found and found[_plain(key)].shape == own[key].shape
    }
    missing = [key for key in own if key not in fitting and not key.endswith("num_batches_tracked")]
    if missing:
        raise CheckpointError(
            f"{address} doesn't fit {name!r}: {len(missing)} of its {len(own)} weights are missing or of another shape "
            f"({', '.join(missing[:3])})."
        )
    body.load_state_dict(fitting, strict=False)


def _read(address: str) -> Mapping[str, Any]:
    if not address.endswith(".safetensors"):
        return load_file(address)
    from safetensors.torch import load_file as load_safetensors  # comes with timm

    file = local_path(address)
    if not file.exists():
        raise CheckpointError(f"Checkpoint {address} does not exist.")
    tensors: Mapping[str, Any] = load_safetensors(file)
    return tensors


def _freeze_until(body: nn.Module, module: str) -> None:
    """Freeze the layers up to a named one; timm's models register their layers in the order in which they are applied."""
    last = _plain(module) + "_"
    parameters = list(body.named_parameters())
    inside = [place for place, (name, _) in enumerate(parameters) if f"{_plain(name)}_".startswith(last)]
    names = {name for name, _ in parameters[: inside[-1] + 1]} if inside else _before_layer(body, last)
    for name, parameter in parameters:
        if name in names:
            parameter.requires_grad_(False)
    _freeze_norms(body)


def _before_layer(body: nn.Module, last: str) -> set[str]:
    """The parameters of the layers before one that has none, as an activation."""
    before: set[str] = set()
    for name, layer in body.named_modules():
        if f"{_plain(name)}_" == last:
            return before
        before |= {f"{name}.{key}" if name else key for key, _ in layer.named_parameters(recurse=False)}
    raise UserError(f"freeze_at can't be applied to this model: its layer {last.rstrip('_')!r} is not found.")


def _freeze_norms(module: nn.Module) -> None:
    """Freeze the batch norms whose parameters are frozen."""
    for name, child in module.named_children():
        if _is_batch_norm(child):
            if not any(p.requires_grad for p in child.parameters()):
                setattr(module, name, _with_frozen_norms(child))
        else:
            _freeze_norms(child)


def _is_batch_norm(module: nn.Module) -> bool:
    return isinstance(module, nn.BatchNorm2d | nn.SyncBatchNorm)


def _with_frozen_norms(module: nn.Module) -> nn.Module:
    _timm()
    from timm.layers import freeze_batch_norm_2d  # keeps the activation that timm joins to a norm

    frozen: nn.Module = freeze_batch_norm_2d(module)
    return frozen
