"""Signals that ask a run to stop, in this process; tests/launch has them in real runs."""

import faulthandler
import os
import signal

import pytest

from tests.engine.test_train_loop import make
from ultravid.checkpoint import DetectionCheckpointer
from ultravid.engine import HookBase, StopTraining, hooks
from ultravid.engine.stop_signals import STOP_SIGNALS, StopSignals, installed_signals


class Sends(HookBase):
    """Sends a signal to this process in an iteration, or in the evaluation at the end."""

    def __init__(self, number, iteration):
        self.number, self.iteration = number, iteration

    def after_step(self):
        if self.trainer.iter == self.iteration:
            os.kill(os.getpid(), self.number)

    def after_train(self):
        if self.trainer.iter == self.iteration == self.trainer.max_iter:
            os.kill(os.getpid(), self.number)


def trainer_with(tmp_path, *more):
    trainer = make(max_iter=6)
    checkpointer = DetectionCheckpointer(trainer.model, tmp_path)
    trainer.checkpointer = checkpointer
    trainer.register_hooks({"stop": hooks.StopOnSignal(checkpointer), **{f"hook{i}": h for i, h in enumerate(more)}})
    return trainer


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_each_signal_saves_a_checkpoint_and_stops_and_leaves_no_handler(tmp_path, capfd, number):
    before = [signal.getsignal(n) for n in STOP_SIGNALS]
    trainer = trainer_with(tmp_path, Sends(number, 3))
    with pytest.raises(StopTraining, match=signal.Signals(number).name):
        trainer.train()
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000003.pth"
    assert f"{signal.Signals(number).name}: finishing this iteration" in capfd.readouterr().err
    assert [signal.getsignal(n) for n in STOP_SIGNALS] == before and installed_signals() is None


def test_a_signal_to_a_training_that_is_stopping_stops_the_next_one_of_the_process_too(tmp_path):
    signals = StopSignals()
    signals.install()  # as `launch` does
    try:
        for number, last in ((signal.SIGUSR1, 3), (signal.SIGUSR2, 0)):
            trainer = trainer_with(tmp_path, Sends(number, 3))
            with pytest.raises(StopTraining, match="SIGUSR1"):
                trainer.train()
            assert trainer.iter == last
    finally:
        signals.remove()


def test_in_the_last_evaluation_a_signal_lets_the_run_finish(tmp_path, capfd):
    trainer = trainer_with(tmp_path, Sends(signal.SIGUSR1, 6))
    trainer.train()
    assert trainer.failure is None and "training is done; finishing the last evaluation" in capfd.readouterr().err


def test_handlers_of_others_are_left_and_named_and_an_ignored_signal_stays_ignored(tmp_path, caplog):
    def requeue(number, frame):
        pass

    old = {n: signal.getsignal(n) for n in STOP_SIGNALS}
    try:
        signal.signal(signal.SIGUSR2, requeue)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nohup
        faulthandler.register(signal.SIGUSR1)
        trainer = trainer_with(tmp_path, Sends(signal.SIGUSR2, 1), Sends(signal.SIGHUP, 2))
        trainer.train()
        assert signal.getsignal(signal.SIGUSR2) is requeue and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        faulthandler.unregister(signal.SIGUSR1)
        for number, handler in old.items():
            signal.signal(number, handler)
    assert "SIGUSR2 keeps its handler, test_handlers_of_others" in caplog.text
    assert "SIGUSR1 keeps its handler, a handler that Python's signal module does not know" in caplog.text
    assert "SIGHUP" not in caplog.text


def test_outside_of_training_a_signal_ends_the_process_in_order_and_a_forked_one_leaves_it_to_the_run():
    signals = StopSignals()
    signals.install()
    try:
        with pytest.raises(SystemExit) as end:
            signal.raise_signal(signal.SIGUSR1)
        assert end.value.code == 75
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        signals._owner = -1  # as in a forked process
        signal.raise_signal(signal.SIGUSR2)
    finally:
        signals.remove()
