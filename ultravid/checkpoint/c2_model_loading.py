"""`align_and_update_state_dicts` under the module path that it has in detectron2."""

from ultravid.checkpoint.weights import align_and_update_state_dicts

__all__ = ["align_and_update_state_dicts"]
