"""Grad-CAM of held-out frames, made while the network that predicted them is at hand: the surest right and wrong clips."""

from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import torch
from annotated_types import Ge

from stages.lib.clips import store
from stages.lib.evaluation.fine_tuning import Recipe
from stages.lib.evaluation.preparation import TaskFrames
from stages.lib.networks.backbone import Classifier
from stages.lib.networks.grad_cam import grad_cam
from stages.lib.params import UserError

COLUMNS = ["seed", "fold", "clip", "patient", "frame", "label", "predicted", "probability", "clip_probability", "right"]


class HeldOutMaps:
    """Which held-out clips get a map, and their maps.

    Args:
        per_fold: number of rightly and number of wrongly predicted clips of each fold that get a map; 0: no maps.
    """

    def __init__(self, per_fold: Annotated[int, Ge(0)]):
        self.per_fold = per_fold

    def possible(self, network: Classifier, frames: TaskFrames, recipe: Recipe) -> bool:
        """True if maps are wanted and the network allows them; prints the reason if it does not."""
        try:
            if self.per_fold:
                self._maps(network.to(frames.grey.device), frames, [0], [0], recipe)
        except UserError as error:
            print(f"no Grad-CAM maps of held-out frames: {error}", flush=True)
            return False
        return self.per_fold > 0

    def of_fold(
        self, network: Classifier, frames: TaskFrames, held_out: torch.Tensor, probabilities: torch.Tensor, recipe: Recipe
    ) -> list[dict]:
        """Rows of COLUMNS without seed and fold, each with its `map`, uint8 [S, S], 255 at its highest place.

        Args:
            network: the one that predicted; it stays in evaluation mode, and nothing random is drawn.
            held_out: rows of the frames, [n].
            probabilities: its predictions, [n, classes].
        """
        table = frames.table.iloc[held_out.cpu().numpy()]
        selection = self.choose(table, pd.DataFrame(probabilities.cpu().numpy(), table.index, recipe.classes))
        classes = [recipe.classes.index(name) for name in selection["predicted"]]
        maps = self._maps(network, frames, selection.index.tolist(), classes, recipe)
        return [line | {"map": heat} for line, heat in zip(selection.to_dict("records"), maps, strict=True)]

    def choose(self, table: pd.DataFrame, probabilities: pd.DataFrame) -> pd.DataFrame:
        """The frames to explain: of each selected clip the frame whose probability is nearest to the clip's.

        Args:
            table: clip, patient, frame, label of the held-out frames.
            probabilities: a column per class, rows as in `table`; a clip has the means over its frames, as in the report.

        Returns:
            Rows of COLUMNS without seed and fold, right clips before wrong ones, the surest first; index as in `table`.
        """
        clips = probabilities.groupby(table["clip"]).mean()
        clips = pd.DataFrame({"predicted": clips.idxmax(axis=1), "clip_probability": clips.max(axis=1)}).reset_index()
        clips["right"] = clips["predicted"] == clips["clip"].map(table.groupby("clip")["label"].first())
        order = clips.sort_values(["right", "clip_probability", "clip"], ascending=[False, False, True])
        surest = order.groupby("right").head(self.per_fold)
        rows = [(probabilities.loc[table["clip"] == clip.clip, clip.predicted] - clip.clip_probability).abs().round(6).idxmin()
                for clip in surest.itertuples()]        # the earlier of two that are equally near, as those of a pair are
        surest = surest.set_axis(rows).join(table[["patient", "frame", "label"]])
        return surest.assign(probability=[float(probabilities.at[row, name]) for row, name in surest["predicted"].items()])

    def _maps(
        self, network: Classifier, frames: TaskFrames, rows: list[int], classes: list[int], recipe: Recipe
    ) -> torch.Tensor:
        """Maps of the classes, uint8 [K, S, S] on the CPU, each scaled to its highest place."""
        images = recipe.views.normalise(frames.grey[rows].float() / 255)                        # K x 1 x S x S
        maps = grad_cam(network.eval(), network.backbone.last_block(), images, torch.tensor(classes, device=images.device))
        highest = maps.amax((1, 2), keepdim=True).clamp(min=torch.finfo(maps.dtype).tiny)
        return (255 * (maps / highest)).round().to("cpu", torch.uint8)


def write(folder: str | Path, lines: list[dict], size_px: int) -> None:
    """maps.csv with COLUMNS, and maps.npy, uint8 [K, S, S], in the same order; both empty if there is no map."""
    with store.replacing(folder) as partial:
        maps = [line["map"].numpy() for line in lines]
        np.save(partial / "maps.npy", np.stack(maps) if maps else np.empty((0, size_px, size_px), np.uint8))
        pd.DataFrame(lines, columns=COLUMNS).round(6).to_csv(partial / "maps.csv", index=False)
