"""Work on all cores: one job after the other in each process. If a job ends its process, only that job is lost."""

import multiprocessing
import os
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import forkserver

import cv2

from stages.lib.params import UserError

# Not by plain fork: a process in which OpenCV or torch have run threads leaves their locks to its children, which then hang.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["__main__", "cv2", "dvc.api", "pandas"])  # what takes long to import, once for all


def workers() -> int:
    """The number of processes: as many as there are cores, or what SONOPAIR_WORKERS says; it changes no result."""
    wanted = os.environ.get("SONOPAIR_WORKERS") or str(os.cpu_count())
    if not wanted.isdecimal() or int(wanted) == 0:
        raise UserError(f"SONOPAIR_WORKERS is {wanted!r}; it must be a number of processes, 1 or more")
    return int(wanted)


def each(work: Callable, jobs: dict[Hashable, tuple], count: int) -> Iterator[tuple[Hashable, object]]:
    """Do all jobs, in `count` processes, and yield (key, result) as they get done.

    Args:
        work: called as work(*job); it and the jobs can be pickled.
        jobs: key → arguments, in the order in which they start.

    Returns:
        For a job that raises, the exception as its result; for one that ends its process, a BrokenProcessPool. After
        such an end the jobs that may have caused it are done anew, each in a process of its own.
    """
    _start_server()
    pool = ProcessPoolExecutor(count, CONTEXT, cv2.setNumThreads, (1,))       # the cores are shared out by jobs, not by threads
    unfinished = dict(jobs)
    try:
        with ThreadPoolExecutor(1) as starter:      # a signal interrupts this thread, and must not leave the start half done
            futures = starter.submit(lambda: {pool.submit(work, *job): key for key, job in jobs.items()}).result()
        for future in as_completed(futures):
            error = future.exception()
            if not isinstance(error, BrokenProcessPool) or len(jobs) == 1:
                del unfinished[futures[future]]
                yield futures[future], error or future.result()
    except BaseException:       # a signal, a failure here, or no more results wanted: nothing to wait for
        for process in multiprocessing.active_children():
            process.kill()
        raise
    finally:
        pool.shutdown(cancel_futures=True)
    for key in list(unfinished)[: 2 * count + 1]:  # the pool hands out so many ahead of time
        yield from each(work, {key: unfinished.pop(key)}, 1)
    if unfinished:
        yield from each(work, unfinished, count)


def _start_server() -> None:
    """Start the server that forks the processes, without a terminal: decoders write there in spite of Python's settings, and so
    would a process that a signal ends while it starts.
    """
    terminal, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        forkserver.ensure_running()
    finally:
        os.dup2(terminal, 2)
        os.close(terminal)
        os.close(nowhere)
