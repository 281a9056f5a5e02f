"""Progress of a long run, on a terminal or in a log."""

import csv
import time
from datetime import UTC, datetime
from pathlib import Path

from tqdm import tqdm

from stages.lib.training import distributed
from stages.lib.training.threads import THREADS

TRAININGS = Path("reports/trainings.csv")       # kept by neither git nor DVC: no two runs take the same time


class Progress:
    """A bar with the time left on a terminal, a plain line per epoch elsewhere; at the end a row in TRAININGS.

    It also sets the number of threads by the load of the machine (threads.py).

    Args:
        name: of the run, printed with every line.
        epochs: number of epochs of the whole run.
        done: epochs that a killed run has finished before; a line says so.
    """

    def __init__(self, name: str, epochs: int, done: int = 0):
        if done and distributed.first():
            print(f"{name}: {done} of {epochs} epochs were done before; continuing", flush=True)
        THREADS.start(name)
        self.bar = tqdm(desc=name, total=epochs, initial=done, unit="epoch", dynamic_ncols=True,
                        disable=None if distributed.first() else True)
        self.name, self.epochs, self.before, self.done, self.start = name, epochs, done, done, time.monotonic()

    def step(self, **numbers: float) -> None:
        """Count one more epoch and show its numbers."""
        self.done += 1
        if not self.bar.disable:
            self.bar.set_postfix({name: f"{value:.4g}" for name, value in numbers.items()}, refresh=False)
            self.bar.update()
            if self.done == self.epochs:
                self.bar.close()
        elif distributed.first():
            left_s = (time.monotonic() - self.start) / (self.done - self.before) * (self.epochs - self.done)
            parts = [f"epoch {self.done} of {self.epochs}", *(f"{name} {value:.4g}" for name, value in numbers.items())]
            print(f"{self.name}: {', '.join(parts)}, {tqdm.format_interval(left_s)} left", flush=True)
        if self.done == self.epochs and distributed.first():
            self._note()

    def _note(self) -> None:
        """Add when the run ended, what it was, its epochs since its start or restart, their seconds, and `THREADS.used`."""
        seconds, new = time.monotonic() - self.start, not TRAININGS.exists()
        TRAININGS.parent.mkdir(exist_ok=True)
        with open(TRAININGS, "a", encoding="utf-8", newline="") as file:
            rows = csv.writer(file, lineterminator="\n")
            if new:
                rows.writerow(["ended", "training", "epochs", "seconds", "least_threads", "most_threads"])
            rows.writerow([datetime.now(UTC).isoformat(timespec="seconds"), self.name, self.done - self.before,
                           round(seconds, 3), *THREADS.used])
