"""What can happen to a stage from outside: a second run beside it, a signal to stop, a full disk, no memory left.

The first two are met here. Of an error, `sentence` says in plain words what it means; outputs stay as they were, since stages
write them beside their places (lib/clips/store.py).
"""

import errno
import json
import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from filelock import FileLock, Timeout

LOCKS = Path(".dvc/tmp/stages")
GRACE_S = 8                 # schedulers kill what still runs some ten seconds after they asked it to stop
FULL_BYTES = 1 << 20        # of free space: less counts as a full disk
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)
UNCHANGED = "`dvc checkout` brings back the last results"


class Held(Exception):
    """Another process runs the stage; the text says which and since when."""


@contextmanager
def alone(name: str) -> Iterator[None]:
    """Hold the stage's lock; the system frees it when the process ends, however it ends.

    Of the processes that torchrun starts as one run only the first takes it.

    Raises:
        Held: another process holds it.
    """
    if os.environ.get("RANK", "0") != "0":
        yield
        return
    LOCKS.mkdir(parents=True, exist_ok=True)
    holder = LOCKS / f"{name}.json"
    try:
        with FileLock(LOCKS / f"{name}.lock", timeout=0):
            holder.write_text(json.dumps({"process": os.getpid(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}))
            yield
    except Timeout:
        try:
            known = json.loads(holder.read_text())
            who = f"process {known['process']} runs it since {known['since']}; stop it with `kill {known['process']}`, or wait"
        except (OSError, ValueError, KeyError):
            who = "another process runs it; wait for its end"
        raise Held(f"{name} runs already: {who}") from None


@contextmanager
def stoppable() -> Iterator[None]:
    """SIGTERM ends the block as Ctrl-C does, so that what is half done is cleared away; after GRACE_S it ends the process."""
    before = {number: signal.signal(number, action) for number, action in ((signal.SIGTERM, _stop), (signal.SIGALRM, _end))}
    try:
        yield
    finally:
        signal.alarm(0)
        for number, action in before.items():
            signal.signal(number, action)


def _stop(number: int, place: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.alarm(GRACE_S)
    raise KeyboardInterrupt


def _end(number: int, place: FrameType | None) -> None:
    for child in multiprocessing.active_children():
        child.kill()
    os._exit(128 + signal.SIGTERM)


def sentence(error: BaseException, lower: str) -> str:
    """What an error means that is no mistake in the code; '' for any other.

    Args:
        lower: the parameter that decides how much memory the stage needs.
    """
    if isinstance(error, KeyboardInterrupt):
        return "stopped; the next `dvc repro` goes on from the last epoch or fold that was done, if there is one"
    if _without_memory(error):
        place = "the GPU has" if "CUDA" in str(error) else "this machine has"
        return f"{place} too little memory; lower {lower} and run again; {UNCHANGED}"
    number = getattr(error, "errno", None)
    path = getattr(error, "filename", None) or "the project's folder"
    if number in FULL or shutil.disk_usage(".").free < FULL_BYTES:
        return f"the disk is full, nothing more could be written to {path}; free some space and run again; {UNCHANGED}"
    if number in REFUSED:
        return f"{path} may not be read or written ({os.strerror(number)}); change its permissions and run again; {UNCHANGED}"
    if isinstance(error, FileNotFoundError) and error.filename:
        return f"{path} is gone, or was never made; `dvc repro` makes what a stage has to make; {UNCHANGED}"
    return f"{path}: {error.strerror or error}; {UNCHANGED}" if isinstance(error, OSError) else ""


def _without_memory(error: BaseException) -> bool:
    """Python's and NumPy's MemoryError, torch's of the GPU and, an ordinary RuntimeError, of the CPU, OpenCV's."""
    text = str(error)
    named = type(error).__name__ == "OutOfMemoryError" or getattr(error, "errno", None) == errno.ENOMEM
    told = "DefaultCPUAllocator: can't allocate memory" in text or "Insufficient memory" in text or "out of memory" in text
    return isinstance(error, MemoryError) or named or told
