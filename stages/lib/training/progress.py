"""Progress of a long run, on a terminal or in a log."""

import time

from tqdm import tqdm

from stages.lib.training import distributed


class Progress:
    """A bar with the time left on a terminal, a plain line per epoch elsewhere.

    Args:
        name: of the run, printed with every line.
        epochs: number of epochs of the whole run.
        done: epochs that a killed run has finished before; a line says so.
    """

    def __init__(self, name: str, epochs: int, done: int = 0):
        if done and distributed.first():
            print(f"{name}: {done} of {epochs} epochs were done before, going on", flush=True)
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
