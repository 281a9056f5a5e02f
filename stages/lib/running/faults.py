"""Errors that are no mistake in the code: a signal, a full disk, missing permissions or memory; the sentence for each."""

import errno
import os
import shutil

FULL_BYTES = 1 << 20        # of free space: less counts as a full disk
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
FULL_WORDS = ("No space left on device", "Disk quota exceeded", "requested and", "PytorchStreamWriter failed writing")
MEMORY_WORDS = ("out of memory", "can't allocate memory", "Insufficient memory", "Cannot allocate memory", "bad_alloc",
                "could not create a primitive", "can't start new thread")       # of torch, OpenCV, C++, oneDNN, Python
REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)
REFUSED_WORDS = {os.strerror(number): number for number in REFUSED}     # in torch's and safetensors' errors, without a number
STOPPED = "stopped"
UNCHANGED = "`dvc checkout` brings back the last results"       # after a stage that failed
RESUMED = "the next `dvc repro` goes on from the last epoch or fold that was done, if there is one"    # after one that stopped


def first_cause(error: BaseException) -> BaseException:
    """The machine's fault or the signal in whose handling the error arose; else the error itself."""
    chain = [error]
    while following := chain[-1].__cause__ or chain[-1].__context__:
        chain.append(following)
    signals = [each for each in chain if isinstance(each, KeyboardInterrupt)]
    return next(iter([*filter(is_machines_fault, chain), *signals]), error)


def sentence(error: BaseException, lower: str) -> str:
    """What an error means that is no mistake in the code; '' for any other.

    Args:
        lower: the parameter that decides how much memory the stage needs; '' if there is none.
    """
    if isinstance(error, KeyboardInterrupt):
        return STOPPED
    if without_memory(error):
        place = "the GPU has" if "CUDA" in str(error) else "this machine has"
        return f"{place} too little memory; {f'lower {lower}' if lower else 'end other programs'} and run again"
    told = [REFUSED_WORDS[words] for words in REFUSED_WORDS if words in str(error)]
    number = getattr(error, "errno", None) or next(iter(told), None)
    path = getattr(error, "filename", None) or "the project's folder"
    if without_space(error):
        return f"the disk is full, nothing more could be written to {path}; free some space and run again"
    if number in REFUSED:
        return f"{path} may not be read or written ({os.strerror(number)}); change its permissions and run again"
    if isinstance(error, FileNotFoundError) and error.filename:
        return f"{path} is missing; if it is an output of a stage, `dvc repro` makes it"
    return f"{path}: {error.strerror or error}" if isinstance(error, OSError) else ""


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
