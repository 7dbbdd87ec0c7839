"""The stored results of earlier frames in a stream, so that a step computes only what is new.

Legend: ``N`` boxes of a frame, ``D`` width of a token, ``h`` heads, ``L`` layers, ``R`` frames of a window of queries, ``S >= R`` of
keys; both end with the newest frame.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ultravid.layers.relation import MASKED, Projections, TokenRelation
from ultravid.modeling.frame_window import FrameWindow
from ultravid.modeling.types import FrameTokens, State

__all__ = ["causal_state", "causal_step", "pair_weights_state", "push_pair_weights"]


def pair_weights_state(
    relation: TokenRelation, num_boxes: int, num_queries: int, num_keys: int, device: torch.device | None
) -> State:
    """The weights of no pair yet; ``num_queries`` is ``R``, ``num_keys`` is ``S``."""
    inner = len(relation.layers) - 1
    if not relation.has_geometry or inner == 0:
        return {}
    shape = (inner, relation.num_heads, num_queries * num_boxes, num_keys * num_boxes)
    return {"weights": torch.full(shape, MASKED, dtype=torch.float32, device=device)}


def push_pair_weights(
    relation: TokenRelation, state: State, boxes: Tensor, valid: Tensor, num_queries: int
) -> tuple[Tensor, Tensor, State]:
    """The weights of all pairs of a window, of which those of the newest frame are computed and the others were kept.

    Args:
        relation: the layers.
        state: the result of `pair_weights_state` or of the previous call; other keys are not read.
        boxes: ``(S, N, 4)``, the newest frame's last.
        valid: ``(S, N)`` bool, of each box; the pairs of other keys are masked.
        num_queries: ``R``.

    Returns:
        ``(L - 1, h, R * N, S * N)`` for all layers but the last; ``(h, N, S * N)`` for the last layer, which only the newest frame's
        tokens pass; and the next state. Without geometry, the axes of heads and queries have length 1.
    """
    keys, key_valid = boxes.flatten(0, 1), valid.flatten()[None]
    row = relation.log_weights(boxes[-1], keys, key_valid)  # (L, h, N, S * N)
    if "weights" not in state:
        return row[:-1], row[-1], {}
    earlier = boxes[-num_queries:-1].flatten(0, 1)
    column = relation.log_weights(earlier, boxes[-1], valid[-1][None], slice(0, -1))  # (L - 1, h, (R - 1) * N, N)
    num_boxes = boxes.shape[1]
    kept = state["weights"][:, :, num_boxes:, num_boxes:]
    weights = torch.cat((torch.cat((kept, column), dim=3), row[:-1]), dim=2)
    return weights, row[-1], {"weights": weights}


def causal_state(relation: TokenRelation, window: FrameWindow, num_boxes: int, device: torch.device | None) -> State:
    """The state before the first frame of `causal_step`."""
    f32 = torch.float32
    shapes = {f"{what}_{i}": ((num_boxes, relation.dim), f32) for i in range(len(relation.layers)) for what in _KEPT}
    return window.initial_state(device, **shapes, boxes=((num_boxes, 4), f32), box_valid=((num_boxes,), torch.bool))


def causal_step(
    relation: TokenRelation,
    window: FrameWindow,
    frame: FrameTokens,
    state: State,
    before: Callable[[int, Tensor], Tensor] | None = None,
) -> tuple[Tensor, State]:
    """``(N, D)``, the frame's tokens related to those of the window in each layer as they were in their own frame, and the next state.

    What a layer makes of an earlier frame does not change any more: its keys and values are kept.

    Args:
        relation: the layers.
        window: the frames.
        frame: the newest one.
        state: the result of `causal_state` or of the previous step.
        before: from a layer's number and the frame's tokens to what the layer is given; None: the tokens.
    """
    boxes = window.append(state["boxes"], frame.boxes)
    box_valid = window.append(state["box_valid"], frame.valid)
    log_weights = relation.log_weights(frame.boxes, boxes.flatten(0, 1), box_valid.flatten()[None])
    tokens, kept = frame.tokens, {"boxes": boxes, "box_valid": box_valid}
    for i, layer in enumerate(relation.stack()):
        tokens = tokens if before is None else before(i, tokens)
        newest = layer.project_key(tokens)
        rings = [window.append(state[f"{what}_{i}"], x) for what, x in zip(_KEPT, newest, strict=True)]
        kept.update({f"{what}_{i}": ring for what, ring in zip(_KEPT, rings, strict=True)})
        projected = Projections(layer.project_query(tokens), *(ring.flatten(0, 1) for ring in rings))
        tokens = layer.relate(tokens, projected, log_weights[i])
    return tokens, {**kept, "valid": window.append(state["valid"], state["valid"].new_ones(()))}


_KEPT = ("key", "value")
