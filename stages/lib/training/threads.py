"""How many threads torch computes with on a machine that other processes use, too.

An operation ends when its slowest thread ends. A thread that shares its core with another process therefore slows down all
threads: beside a busy process two threads on two cores are slower than one. So a training takes its fair share of the cores, as
the operating system divides them: what others leave free, but no less than an equal part. Several trainings on one machine
share its cores in this way without knowing of each other.

Results differ by the number of threads: sums are rounded in another order, and a training multiplies the difference.
"""

import math
import os
import time

import psutil
import torch

from stages.lib.training import distributed

LOOK_EVERY_S = 5.0
FIRST_LOOK_S = 0.5


class Threads:
    """Sets torch's number of threads by the load of the machine, at the start of a training and while it runs.

    OMP_NUM_THREADS fixes the number; torchrun sets it for its processes.

    Attributes:
        used: the least and the most threads that trainings of this process have computed with.
    """

    def __init__(self):
        self.fixed, self.limit = "OMP_NUM_THREADS" in os.environ, torch.get_num_threads()
        self.name, self.used = None, []

    def start(self, name: str) -> None:
        """Choose the number for a training, after a look of FIRST_LOOK_S; print it beside the name."""
        self.name, self.allowed = name, self.limit
        if not self.fixed:
            self._loads()                                                       # starts the measurement
            time.sleep(FIRST_LOOK_S)
            self._choose()
            self._say("computes with")
        self._note()

    def look(self) -> None:
        """Change the number if others have started or ended. Called in every step; looks every LOOK_EVERY_S."""
        if self.fixed or self.name is None or time.monotonic() - self.looked < LOOK_EVERY_S:
            return
        before = torch.get_num_threads()
        self._choose()
        if torch.get_num_threads() != before:
            self._say("goes on with")
            self._note()

    def _choose(self) -> None:
        """Set the number by the load since the last look: fewer at once, more only if the look before allowed them, too."""
        cores, (self.others, loads) = psutil.cpu_count(), self._loads()
        unseen = max(0.0, self.others - sum(loads))         # of processes that have ended, or in other containers
        allowed = max(1, min(self.limit, math.ceil(fair_share(cores - unseen, loads) - 0.5)))
        torch.set_num_threads(min(allowed, self.allowed))
        self.allowed, self.looked = allowed, time.monotonic()

    def _loads(self) -> tuple[float, list[float]]:
        """The cores that all other processes together, and each of them, have used since the last call."""
        everyone = psutil.cpu_percent() / 100 * psutil.cpu_count()
        loads = {process.pid: (process.info["cpu_percent"] or 0.0) / 100 for process in psutil.process_iter(["cpu_percent"])}
        own = loads.pop(os.getpid(), 0.0)
        return max(0.0, everyone - own), [load for load in loads.values() if load > 0]

    def _note(self) -> None:
        counts = [*self.used, torch.get_num_threads()]
        self.used = [min(counts), max(counts)]

    def _say(self, what: str) -> None:
        if distributed.first():
            count = torch.get_num_threads()
            print(f"{self.name}: {what} {count} {'thread' if count == 1 else 'threads'}, other processes use {self.others:.1f} "
                  f"of {psutil.cpu_count()} cores (OMP_NUM_THREADS fixes the number)", flush=True)


def fair_share(cores: float, loads: list[float]) -> float:
    """The cores for one more process if nobody takes more from the others than it has itself (max-min fairness).

    Args:
        cores: to be shared.
        loads: cores that each of the others uses. One that uses more than half a core may wait for the rest of it, so it counts
            as a whole one.
    """
    wanted = sorted(max(load, float(round(load))) for load in loads)
    for place, load in enumerate(wanted):
        equal = cores / (len(wanted) - place + 1)
        if load >= equal:
            return equal
        cores -= load
    return cores


THREADS = Threads()         # one for the process, as torch has one number for the process
