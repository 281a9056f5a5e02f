"""A stage that is asked to stop clears away what is half done, and ends soon, whatever its threads and processes do."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from stages.lib.running import faults

FAILED: list[BaseException] = []    # in another thread
GRACE_S = 8                 # schedulers kill what still runs some ten seconds after they asked it to stop


@contextmanager
def stoppable() -> Iterator[None]:
    """SIGTERM ends the block as Ctrl-C does, so that what is half done is cleared away; after GRACE_S both end the process.

    So does a thread that fails, such as that of a pool of processes, for whose results the block would wait for ever.
    """
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGALRM)
    before = {number: signal.signal(number, _stop) for number in numbers}
    hook, threading.excepthook = threading.excepthook, _stop_for
    try:
        yield
    finally:
        signal.alarm(0)
        threading.excepthook = hook
        for number, action in before.items():
            signal.signal(number, action)


def _stop(number: int, place: FrameType | None) -> None:
    while place is not None:
        if place.f_code.co_name == "__del__":           # Python drops what is raised in there: try again soon
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            return
        place = place.f_back
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, _end)
    signal.alarm(GRACE_S)
    raise KeyboardInterrupt from (FAILED.pop() if FAILED else None)


def _stop_for(failed: threading.ExceptHookArgs) -> None:
    if not faults.is_machines_fault(failed.exc_value):
        threading.__excepthook__(failed)
    FAILED.append(failed.exc_value)
    signal.pthread_kill(threading.main_thread().ident, signal.SIGTERM)


def end_soon() -> None:
    """End the process after GRACE_S: without memory threads neither start nor end, and Python's end would wait for them."""
    signal.signal(signal.SIGALRM, lambda number, place: os._exit(1))
    signal.alarm(GRACE_S)


def _end(number: int, place: FrameType | None) -> None:
    for child in multiprocessing.active_children():
        child.kill()
    os._exit(128 + signal.SIGTERM)
