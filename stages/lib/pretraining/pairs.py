"""Pairs of a method, for the report: the values of each pair, and pictures of the views that the loss sees.

pairs.csv  epoch, pair, clip, source, clip_frames (length of the recording, first to last kept frame), and the method's values
views.npy  uint8 [M, H, W], grey values before normalisation, times 255
views.csv  a line per picture: example (pictures of one clip and step), choice (spread, lowest_weight, highest_weight; halfway:
           with the curriculum in the middle of the run), clip, source, role, frames (numbers, within the recording, of the
           frames that are mixed), mix (their shares), share (of a negative from another clip), the method's values of the pair
"""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn

from stages.lib.clips import store
from stages.lib.pretraining.clip_set import ClipSet
from stages.lib.pretraining.method import ContrastiveMethod, View

EXAMINED = 64   # greatest number of clips whose pairs are computed
PICTURED = 8    # of these so many are pictured,
EXTREMES = 3    # and so many more with the lowest and the highest weights
ORDER = ["example", "choice", "clip", "source", "role", "frames", "mix", "share"]
FIRST = ["epoch", "pair", "clip", "source", "clip_frames"]


@torch.no_grad()
def pictures(model: ContrastiveMethod, train: ClipSet, draw: torch.Generator) -> tuple[np.ndarray, pd.DataFrame]:
    """Views of some training clips, as the loss takes them for the same `draw`: `views.npy` and `views.csv`.

    The clips are spread over the sources. If pairs differ in weight, those of least and greatest weight are pictured, too. If
    the method has a curriculum, frames are also picked as in the middle of the run. Of the model only its progress changes,
    which becomes that of the end. Under torchrun all processes must call this, because batch norm needs all of them.
    """
    greys, lines = [], []
    with batch_statistics(model):
        for progress in (0.5, 1.0) if model.curriculum() else (1.0,):
            model.progress = progress
            for grey, line in examined(model, train, draw):
                greys.append(grey)
                lines.append(line)
    table = pd.DataFrame(lines)
    table["example"] = table.groupby(["choice", "example"], sort=False).ngroup()
    table = table[ORDER + [name for name in table if name not in ORDER]]
    return torch.stack(greys).mul(255).round().clamp(0, 255).byte().cpu().numpy(), table.round(6)


@contextmanager
def batch_statistics(model: ContrastiveMethod) -> Iterator[None]:
    """Within it, batch norm uses the statistics of the batch and leaves the running ones; all else is in evaluation mode."""
    model.eval()
    norms = [part for part in model.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm) and part.track_running_stats]
    for part in norms:
        part.training, part.track_running_stats = True, False
    try:
        yield
    finally:
        for part in norms:
            part.training, part.track_running_stats = False, True


def examined(model: ContrastiveMethod, train: ClipSet, draw: torch.Generator) -> Iterator[tuple[torch.Tensor, dict]]:
    """Each picture [H, W] and its line, at the model's progress."""
    chosen = spread(train.table["source"], EXAMINED)
    frames, clips = train.batch(torch.tensor(chosen, device=train.first.device), model.pick, draw)
    state = draw.get_state()
    views = model.step_views(frames, clips, draw)
    terms = model.loss(frames, clips, draw.set_state(state))[1]
    values = pd.DataFrame({name: value.cpu() for name, value in terms.items() if value.dim() == 1}, index=range(len(chosen)))
    mined = (terms[name].tolist() if name in terms else [[]] * len(chosen) for name in ("mined_clip", "mined_share"))
    others = [by_clip(*pair) for pair in zip(*mined, strict=True)]
    numbers, names = clips.number.tolist(), train.table[["clip", "source"]]
    for example, (choice, place) in enumerate(examples(train.table["source"].iloc[chosen], values, model.progress)):
        common = {"example": example, "choice": choice} | {name: values.at[place, name] for name in values}
        for role, view in views.items():
            if view.counts is None or view.counts[place]:
                mixture = mixed_frames(view, place, numbers[place])
                line = names.iloc[chosen[place]].to_dict() | {"role": role, "share": None} | mixture
                yield view.grey[place, 0], common | line
        for row, share in others[place].items() if choice != "halfway" else ():     # the bank is that of the end of the run
            grey, line = middle(train, row)
            yield grey, common | names.loc[row].to_dict() | {"role": "cross-video negative", "share": round(share, 3)} | line


def spread(sources: pd.Series, most: int) -> list[int]:
    """Places of at most so many clips: equally many of each source (at least one), evenly spread over its clips."""
    each = max(1, most // sources.nunique())
    places = sources.groupby(sources.to_numpy()).indices.values()
    return [int(own[int((n + 0.5) * len(own) / min(each, len(own)))]) for own in places for n in range(min(each, len(own)))]


def examples(sources: pd.Series, values: pd.DataFrame, progress: float) -> list[tuple[str, int]]:
    """The clips to picture and the reason: some of each source; at the end also those of least and greatest weight."""
    if progress < 1:
        return [("halfway", place) for place in spread(sources, PICTURED // 2)]
    found = [("spread", place) for place in spread(sources, PICTURED)]
    if "weight" in values and values["weight"].nunique() > 1:
        order, number = values["weight"].argsort(kind="stable").tolist(), min(EXTREMES, len(values) // 2)
        found += [("lowest_weight", place) for place in order[:number]]
        found += [("highest_weight", place) for place in order[::-1][:number]]
    return found


def mixed_frames(view: View, place: int, numbers: list[int]) -> dict[str, str]:
    """The frames that a view of a clip is mixed from, by number within the recording, and their shares."""
    shares = view.shares[place].tolist() if view.shares is not None else []
    mix = defaultdict(float)
    for part, share in zip(view.places, [*shares, 1 - sum(shares)], strict=True):
        mix[numbers[part]] += share
    mix = {number: f"{share:.3f}" for number, share in mix.items() if share >= 5e-4}
    return {"frames": " ".join(map(str, mix)), "mix": " ".join(mix.values())}


def by_clip(rows: list[int], shares: list[float]) -> dict[int, float]:
    """The share of each clip that negatives were mined from, the greatest first; −1 is no clip."""
    found = defaultdict(float)
    for row, share in zip(rows, shares, strict=True):
        found[row] += share
    return dict(sorted(((row, share) for row, share in found.items() if row >= 0), key=lambda item: -item[1]))


def middle(train: ClipSet, row: int) -> tuple[torch.Tensor, dict[str, str]]:
    """The middle frame of the clip in this row of clips.csv; the bank of negatives does not record frames."""
    place = train.table.index.get_loc(row)
    within = train.clips.count[place] // 2
    return train.frames[train.first[place] + within][0], {"frames": str(int(train.clips.number[place, within])), "mix": "1.000"}


def write(folder: str | Path, pairs: list[dict], pictured: tuple[np.ndarray, pd.DataFrame], data: store.Store) -> None:
    """Write all three files in one move; a method without values of pairs gives a pairs.csv without lines."""
    tables = [pd.DataFrame(epoch).rename_axis("pair").reset_index() for epoch in pairs if set(epoch) - {"epoch", "index"}]
    table = pd.concat(tables or [pd.DataFrame(columns=["epoch", "pair", "index"])])
    numbers = data.frame_table.groupby("clip")["frame"]
    clips = data.clip_table.assign(clip_frames=data.clip_table["clip"].map(numbers.max() - numbers.min() + 1))
    table = table.join(clips[["clip", "source", "clip_frames"]], on="index").drop(columns="index")
    with store.replacing(folder) as partial:
        table[FIRST + [name for name in table if name not in FIRST]].round(6).to_csv(partial / "pairs.csv", index=False)
        np.save(partial / "views.npy", pictured[0])
        pictured[1].to_csv(partial / "views.csv", index=False)
