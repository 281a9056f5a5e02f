"""A loss that is not finite: at which step it occurred, and with which clips."""

from collections.abc import Callable, Iterable
from itertools import islice

import pandas as pd
import torch

from stages.lib.pretraining.clip_set import Clips
from stages.lib.pretraining.method import ContrastiveMethod


@torch.no_grad()
def divergence(
    model: ContrastiveMethod,
    batches: Iterable[tuple[torch.Tensor, Clips]],
    losses: torch.Tensor,
    train: Callable[[Iterable], object],
    names: pd.Series,
) -> tuple[int, str]:
    """The first step with a loss that is not finite, counted within the epoch, and a sentence about its loss and clips.

    Named are clips whose features are not finite, or all clips of the step if their features are finite.

    Args:
        model: in its state before the epoch; the steps before the first bad one are trained again.
        batches: of the epoch.
        losses: of every step of the epoch.
        train: trains the model on batches.
        names: of the clips, by row of clips.csv.
    """
    step = int((~losses.isfinite()).nonzero()[0])
    batches = iter(batches)
    if step:
        with torch.enable_grad():
            train(islice(batches, step))
    frames, clips = next(batches)
    feature = model.eval().backbone(model.views.normalise(frames.flatten(0, 1))).unflatten(0, frames.shape[:2])
    broken = ~feature.isfinite().all((1, 2))
    found = names[(clips.index[broken] if broken.any() else clips.index).tolist()].tolist()
    more = f" and {len(found) - 3} more" if len(found) > 3 else ""
    return step, f"the loss is {float(losses[step])}, clip {', '.join(found[:3])}{more}"
