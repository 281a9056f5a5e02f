"""How many threads torch computes with on a machine that other processes use, too."""

import os
import time

import psutil
import torch

from stages.lib.training import distributed

LOOK_EVERY_S = 5.0


class Threads:
    """Gives torch one thread for each core that other processes leave free, and looks again while a training runs.

    An operation ends when its slowest thread ends. A thread that shares its core with another process therefore slows down all
    threads: beside a busy process two threads on two cores are slower than one. OMP_NUM_THREADS fixes the number; torchrun
    sets it for its processes.

    Args:
        name: of the training, printed with the number of threads.
    """

    def __init__(self, name: str):
        self.name, self.most, self.process = name, torch.get_num_threads(), psutil.Process()
        self.fixed = "OMP_NUM_THREADS" in os.environ
        if not self.fixed:
            self.process.cpu_percent()                                          # starts the measurement
            self._set(psutil.cpu_percent(interval=0.5))
            self._say("computes with")

    def look(self) -> None:
        """Change the number of threads if other processes have started or ended; does nothing more often than LOOK_EVERY_S."""
        if self.fixed or time.monotonic() - self.looked < LOOK_EVERY_S:
            return
        before = torch.get_num_threads()
        self._set(psutil.cpu_percent())
        if torch.get_num_threads() != before:
            self._say("goes on with")

    def _set(self, busy_percent: float) -> None:
        """Choose by the load since the last look; `busy_percent` is that of all cores, this process included."""
        cores = psutil.cpu_count()
        self.others = max(0.0, cores * busy_percent / 100 - self.process.cpu_percent() / 100)
        torch.set_num_threads(max(1, min(self.most, round(cores - self.others))))
        self.looked = time.monotonic()

    def _say(self, what: str) -> None:
        if distributed.first():
            count = torch.get_num_threads()
            print(f"{self.name}: {what} {count} {'thread' if count == 1 else 'threads'}, other processes use {self.others:.1f} "
                  f"of {psutil.cpu_count()} cores (OMP_NUM_THREADS fixes the number)", flush=True)
