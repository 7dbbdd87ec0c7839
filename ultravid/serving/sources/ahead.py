"""Decoding in a thread, a few frames ahead of the code that uses them."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Generator, Iterator
from typing import Generic, TypeVar

__all__ = ["ReadAhead"]

T = TypeVar("T")


class ReadAhead(Iterator[T], Generic[T]):
    """The items of a generator, which runs in a thread and waits when it is ``depth`` items ahead.

    What it raises is raised where its next item is asked for.

    Args:
        items: is closed by the thread in the end.
        depth: how many items are kept at most.

    Attributes:
        wall_s: how long the generator was at work, without the waiting for room.
        cpu_s: the same of the processor's time.
    """

    def __init__(self, items: Generator[T], depth: int = 4) -> None:
        self._items = items
        self.wall_s = self.cpu_s = 0.0
        self._queue: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue(depth)
        self._is_stopped = threading.Event()
        self._is_over = False
        self._thread = threading.Thread(target=self._run, name="ultravid-decode", daemon=True)
        self._thread.start()

    def __next__(self) -> T:
        if self._is_over:
            raise StopIteration
        item, error = self._queue.get()
        if error is not None:
            self._is_over = True
            self._thread.join()
            raise error
        return item  # type: ignore[return-value]  # None comes with an error alone

    def close(self) -> None:
        """Stop the thread and wait for it; there are no more items then. Who waits for one in another thread waits no longer."""
        self._is_over = True
        self._is_stopped.set()
        while self._thread.is_alive():  # it may wait for room in the queue
            with contextlib.suppress(queue.Empty):
                self._queue.get(timeout=0.05)
        with contextlib.suppress(queue.Empty):
            while True:
                self._queue.get_nowait()
        self._queue.put_nowait((None, StopIteration()))

    def _run(self) -> None:
        end: BaseException = StopIteration()
        try:
            while True:
                wall, cpu = time.perf_counter(), time.thread_time()
                item = next(self._items)
                self.wall_s += time.perf_counter() - wall
                self.cpu_s += time.thread_time() - cpu
                if self._is_stopped.is_set():
                    break
                self._queue.put((item, None))
        except StopIteration:
            pass
        except BaseException as error:
            end = error
        finally:
            self._items.close()
        if not self._is_stopped.is_set():
            self._queue.put((None, end))
