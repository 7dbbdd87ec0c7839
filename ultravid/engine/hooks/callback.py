"""A hook made of functions."""

from __future__ import annotations

from collections.abc import Callable

from ultravid.engine.train_loop import HookBase, TrainerBase

__all__ = ["CallbackHook"]


class CallbackHook(HookBase):
    """Calls a function with the trainer at each of the named places; None calls nothing.

    Args:
        before_train: called before the first step.
        after_train: called after the last step.
        before_step: called before each step.
        after_step: called after each step.
    """

    def __init__(
        self,
        *,
        before_train: Callable[[TrainerBase], None] | None = None,
        after_train: Callable[[TrainerBase], None] | None = None,
        before_step: Callable[[TrainerBase], None] | None = None,
        after_step: Callable[[TrainerBase], None] | None = None,
    ) -> None:
        self._before_train = before_train
        self._after_train = after_train
        self._before_step = before_step
        self._after_step = after_step

    @property
    def runs_users_code(self) -> bool:
        """Always."""
        return True

    def before_train(self) -> None:
        """Call the function of this place."""
        if self._before_train:
            self._before_train(self.trainer)

    def after_train(self) -> None:
        """Call the function of this place."""
        if self._after_train:
            self._after_train(self.trainer)

    def before_step(self) -> None:
        """Call the function of this place."""
        if self._before_step:
            self._before_step(self.trainer)

    def after_step(self) -> None:
        """Call the function of this place."""
        if self._after_step:
            self._after_step(self.trainer)
