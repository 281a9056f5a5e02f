"""Progress of a long run, on a terminal or in a log."""

import time

from tqdm import tqdm

from stages.lib.training import distributed


class Progress:
    """How far a long run is: on a terminal a bar with the time left, elsewhere a plain line per epoch.

    Args:
        what: is run.
        epochs: in all.
        done: of them before, by a run that was killed.
    """

    def __init__(self, what: str, epochs: int, done: int = 0):
        self.bar = tqdm(desc=what, total=epochs, initial=done, unit="epoch", dynamic_ncols=True,
                        disable=None if distributed.first() else True)
        self.what, self.epochs, self.before, self.done, self.start = what, epochs, done, done, time.monotonic()

    def step(self, **numbers: float) -> None:
        """An epoch is done; `numbers` say how it went."""
        self.done += 1
        if not self.bar.disable:
            self.bar.set_postfix({name: f"{value:.4g}" for name, value in numbers.items()}, refresh=False)
            self.bar.update()
            if self.done == self.epochs:
                self.bar.close()
        elif distributed.first():
            left_s = (time.monotonic() - self.start) / (self.done - self.before) * (self.epochs - self.done)
            said = [f"epoch {self.done} of {self.epochs}", *(f"{name} {value:.4g}" for name, value in numbers.items())]
            print(f"{self.what}: {', '.join(said)}, {tqdm.format_interval(left_s)} left", flush=True)
