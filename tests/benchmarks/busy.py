"""Seconds per step of a training beside other processes, in four minutes: `python -m tests.benchmarks.busy`

A step is one of SimCLR's real loop (throughput.py): ResNet-18, batch 32, 64 px, made frames. Beside it run 0, 1 and 3 processes
that never wait. It computes with a fixed number of threads, or with threads by the load (lib/training/threads.py). `by the
load` starts beside the busy processes; `later` starts before them, and is measured from LATER_S after its start. The last row
is for two trainings side by side, as `dvc queue start -j 2` runs them, measured from LATER_S, too.

    slowdown  seconds per step / those that a fair share of the cores would take

The fair share is what the others leave, but no less than an equal part. Its time is that of as many threads on the idle
machine (half a core: twice the time of one thread; all cores: the fastest number). So the machine must be idle otherwise; the
first line says what other processes use.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator

import psutil
import torch

from stages.lib.training.threads import FIRST_LOOK_S, THREADS, fair_share
from tests.benchmarks.throughput import clip_sets, method_steps

BUSY = (0, 1, 3)
LATER_S = 10.0      # two looks at the load
NEVER_WAITING = "import os; parent = os.getppid()\nwhile os.getppid() == parent: pass"      # ends with the benchmark
CORES = psutil.cpu_count(logical=False) or psutil.cpu_count()


def work() -> None:
    """Train as the lines of standard input say: `<threads, 0: by the load> <seconds> <seconds before them>`.

    Prints the steps, the seconds that they took, and the threads at the end.
    """
    cpu = torch.device("cpu")
    steps = method_steps("simclr", "published", clip_sets(64, cpu), 32, cpu, True)
    for _ in range(2):
        next(steps)
    print("ready", flush=True)
    for line in sys.stdin:
        threads, least_s, before_s = line.split()
        THREADS.fixed = threads != "0"
        torch.set_num_threads(int(threads) or CORES)
        THREADS.start("busy")
        print("started", flush=True)
        make(steps, float(before_s))
        print("done", *make(steps, float(least_s), at_least=3), torch.get_num_threads(), flush=True)


def make(steps: Iterator, least_s: float, at_least: int = 0) -> tuple[int, float]:
    """Make steps for so long; returns their number and their seconds."""
    start, count = time.monotonic(), 0
    while count < at_least or time.monotonic() - start < least_s:
        THREADS.look()
        next(steps)
        count += 1
    return count, time.monotonic() - start


class Worker:
    """A training in a process of its own."""

    def __init__(self):
        command = [sys.executable, "-m", "tests.benchmarks.busy", "--work"]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        free = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
        self.process = subprocess.Popen(command, **pipes, env=free)
        self.wait("ready")

    def wait(self, word: str) -> list[str]:
        """What follows the word on the line that begins with it."""
        for line in self.process.stdout:
            if line.startswith(word):
                return line.split()[1:]
        raise RuntimeError("the training has ended")

    def start(self, *line: float) -> None:
        """Begin to train as the line says (`work`)."""
        self.process.stdin.write(" ".join(map(str, line)) + "\n")
        self.process.stdin.flush()

    def result(self) -> tuple[float, int]:
        """Seconds per step, and the threads at the end."""
        count, seconds, threads = self.wait("done")
        return float(seconds) / int(count), int(threads)


def beside(busy: int, workers: list[Worker], threads: int, seconds: float, later: bool = False) -> tuple[float, int]:
    """Seconds per step, and threads at the end, of the slowest training beside so many busy processes.

    Args:
        threads: of each training; 0: by the load.
        seconds: that it trains at least.
        later: the busy processes come when the first training has chosen its threads; it is measured from LATER_S after that.
    """
    def others() -> list[subprocess.Popen]:
        return [subprocess.Popen([sys.executable, "-c", NEVER_WAITING]) for _ in range(busy)]

    running = [] if later else others()
    try:
        for worker in workers:
            worker.start(threads, seconds, LATER_S if later else 0.0)
        if later:
            workers[0].wait("started")
            running = others()
        return max(worker.result() for worker in workers)
    finally:
        for process in running:
            process.kill()
            process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.busy", description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=10.0, help="of each row, at least; three steps are made in any case")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        return work()
    psutil.cpu_percent()
    time.sleep(FIRST_LOOK_S)
    print(f"other processes use {psutil.cpu_percent() / 100 * psutil.cpu_count():.1f} of {psutil.cpu_count()} cores; "
          f"torch {torch.__version__}", flush=True)
    shares = {busy: fair_share(CORES, [1.0] * busy) for busy in BUSY}
    counts = sorted({1, max(1, CORES // 2), CORES, *(max(1, round(share)) for share in shares.values())})
    one, two = Worker(), Worker()
    idle = {count: beside(0, [one], count, options.seconds)[0] for count in counts}
    fair = {busy: min(idle.values()) if share == CORES else idle[max(1, round(share))] * max(1, round(share)) / share
            for busy, share in shares.items()}
    print(f"{'busy':>4} {'threads':14}{'seconds a step':>15}{'slowdown':>10}")
    for busy in BUSY:
        ways = {"by the load": (0, False)} | ({"later": (0, True)} if busy else {})
        for name, (threads, later) in (ways | {f"{count}": (count, False) for count in counts}).items():
            step_s, used = ((idle[threads], threads) if threads and not busy else
                            beside(busy, [one], threads, options.seconds, later))
            label = name if threads else f"{name}: {used}"
            print(f"{busy:4} {label:14}{step_s:15.3f}{step_s / fair[busy]:10.2f}", flush=True)
    step_s, used = beside(0, [one, two], 0, options.seconds, later=True)
    print(f"two trainings: {used} {step_s:15.3f}{step_s / (idle[max(1, CORES // 2)]):10.2f}")
    for worker in (one, two):
        worker.process.kill()


if __name__ == "__main__":
    main()
