"""How a stage runs: with the parameters that dvc.yaml declares for it, once at a time, and with one sentence where it stops.

A second run beside it waits for no one and says who runs. A signal to stop clears away what is half done. A full disk, missing
permissions or memory are told in plain words. Outputs stay as they were, since stages write them beside their places
(lib/clips/store.py).
"""

import errno
import inspect
import json
import multiprocessing
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import dvc.api
from dvc.exceptions import DvcException
from dvc.scm import SCMError
from dvc.stage.exceptions import StageNotFound
from filelock import FileLock, Timeout

from stages.lib.params import UserError, checked, refuse_aliases, require

LOCKS = Path(".dvc/tmp/stages")
GRACE_S = 8                 # schedulers kill what still runs some ten seconds after they asked it to stop
FULL_BYTES = 1 << 20        # of free space: less counts as a full disk
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
FULL_WORDS = ("No space left on device", "Disk quota exceeded", "requested and", "PytorchStreamWriter failed writing")
MEMORY_WORDS = ("out of memory", "can't allocate memory", "Insufficient memory", "Cannot allocate memory", "bad_alloc",
                "could not create a primitive", "can't start new thread")       # of torch, OpenCV, C++, oneDNN, Python
REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)
REFUSED_WORDS = {os.strerror(number): number for number in REFUSED}     # in torch's and safetensors' errors, without a number
NO_GIT = "this folder is no git repository, and DVC works only in one; run `git init`"       # a download without .git
UNCHANGED = "`dvc checkout` brings back the last results"


def run(main: Callable, stage: str, item: str | None = None, lower: str = "", pipeline: str = "dvc.yaml") -> None:
    """Call `main` with the parameters that dvc.yaml declares for `stage`; what stops it becomes one line and exit status 1.

    Args:
        main: the stage's function. Its keyword arguments are the keys of the params block named like the stage, and the
            top-level parameters and blocks that the stage declares beside it (`seed`, `collection`, …).
        stage: the name in dvc.yaml, without the item of a `foreach`.
        item: the argument of `main` that is this item and comes from the command line: source, task.
        lower: the parameter that a user lowers where the memory is too small.
        pipeline: the file that describes the stage.
    """
    try:
        named = sys.argv[1:] if item else []
        require(not item or len(named) == 1, f"name one {item}: python -m stages.{stage} <{item}>")
        arguments = {item: named[0]} if item else {}
        shared = _declared("@".join([stage, *named]), pipeline)
        block = shared.pop(stage, {})
        arguments |= checked(main, shared, "", inspect.signature(main).parameters.keys() - shared.keys())
        arguments |= checked(main, block, stage, arguments)
        with stoppable(), alone("_".join([stage, *named])):
            main(**arguments)
    except UserError as error:
        sys.exit(f"error: {error}")
    except (Exception, KeyboardInterrupt) as error:
        if meaning := sentence(first_cause(error), lower):
            sys.exit(f"error: {meaning}")
        raise


def show() -> dict:
    """All parameters of the workspace, for a tool that is no stage."""
    refuse_aliases()
    try:
        return dvc.api.params_show()
    except SCMError:
        raise UserError(NO_GIT) from None
    except DvcException as error:
        raise UserError(f"params.yaml cannot be read ({error}); run this in the project's folder") from None


def _declared(stage: str, pipeline: str) -> dict:
    """The parameters that the pipeline's file declares for the stage."""
    refuse_aliases()
    try:
        return dvc.api.params_show(stages=f"{pipeline}:{stage}")
    except SCMError:
        raise UserError(NO_GIT) from None
    except StageNotFound:
        raise UserError(f"{pipeline} has no stage {stage}; `dvc stage list` shows all, params.yaml lists their items") from None


@contextmanager
def alone(name: str) -> Iterator[None]:
    """Hold the stage's lock; the system frees it when the process ends, however it ends.

    Of the processes that torchrun starts as one run only the first takes it.

    Raises:
        UserError: another process holds it.
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
        raise UserError(f"{name} runs already: {who}") from None


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


def first_cause(error: BaseException) -> BaseException:
    """A signal, or the machine's fault, in whose handling the error arose; else the error itself."""
    chain = [error]
    while chain[-1].__context__ is not None:
        chain.append(chain[-1].__context__)
    return next((each for each in chain if isinstance(each, KeyboardInterrupt) or is_machines_fault(each)), error)


def sentence(error: BaseException, lower: str) -> str:
    """What an error means that is no mistake in the code; '' for any other.

    Args:
        lower: the parameter that decides how much memory the stage needs.
    """
    if isinstance(error, KeyboardInterrupt):
        return "stopped; the next `dvc repro` goes on from the last epoch or fold that was done, if there is one"
    if without_memory(error):
        place = "the GPU has" if "CUDA" in str(error) else "this machine has"
        return f"{place} too little memory; lower {lower} and run again; {UNCHANGED}"
    told = [REFUSED_WORDS[words] for words in REFUSED_WORDS if words in str(error)]
    number = getattr(error, "errno", None) or next(iter(told), None)
    path = getattr(error, "filename", None) or "the project's folder"
    if without_space(error):
        return f"the disk is full, nothing more could be written to {path}; free some space and run again; {UNCHANGED}"
    if number in REFUSED:
        return f"{path} may not be read or written ({os.strerror(number)}); change its permissions and run again; {UNCHANGED}"
    if isinstance(error, FileNotFoundError) and error.filename:
        return f"{path} is gone, or was never made; `dvc repro` makes what a stage has to make; {UNCHANGED}"
    return f"{path}: {error.strerror or error}; {UNCHANGED}" if isinstance(error, OSError) else ""


def is_machines_fault(error: BaseException) -> bool:
    """Whether an error tells of the machine, which has too little memory or space, and not of the file that was read."""
    return without_memory(error) or without_space(error)


def without_space(error: BaseException) -> bool:
    """Also NumPy's, torch's and safetensors' errors about a file that could not be written to its end; they have no number."""
    told = any(words in str(error) for words in FULL_WORDS)
    return getattr(error, "errno", None) in FULL or told or shutil.disk_usage(".").free < FULL_BYTES


def without_memory(error: BaseException) -> bool:
    """Python's and NumPy's MemoryError, the system's, and what libraries say in ordinary errors."""
    named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    told = isinstance(error, Exception) and any(words in str(error) for words in MEMORY_WORDS)
    return named or told or getattr(error, "errno", None) == errno.ENOMEM
