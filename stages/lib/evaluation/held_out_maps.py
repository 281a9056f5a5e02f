"""Grad-CAM of held-out frames, while the network that predicted them exists: the surest right and wrong clips of each fold."""

from pathlib import Path

import numpy as np
import pandas as pd
import torch

from stages.lib.clips import store
from stages.lib.evaluation.fine_tuning import Frames, Recipe
from stages.lib.networks.backbone import Classifier
from stages.lib.networks.grad_cam import grad_cam
from stages.lib.params import UserError, require

COLUMNS = ["seed", "fold", "clip", "patient", "frame", "label", "predicted", "probability", "clip_probability", "right"]


class HeldOutMaps:
    """Which held-out clips get a map, and their maps.

    Args:
        per_fold: so many clips that are predicted rightly and so many that are not; 0: no maps.
    """

    def __init__(self, per_fold: int):
        require(per_fold >= 0, f"params.yaml: finetune.grad_cam.per_fold is {per_fold}; choose 0 (no maps) or more")
        self.per_fold = per_fold

    def wanted(self, network: Classifier, frames: Frames, recipe: Recipe) -> bool:
        """Whether there are maps to make; says so where the network has none."""
        try:
            if self.per_fold:
                self._maps(network.to(frames.grey.device), frames, [0], [0], recipe)
        except UserError as error:
            print(f"no maps of where the network looks at held-out frames: {error}", flush=True)
            return False
        return self.per_fold > 0

    def of_fold(
        self, network: Classifier, frames: Frames, held_out: torch.Tensor, chances: torch.Tensor, recipe: Recipe
    ) -> list[dict]:
        """Lines of COLUMNS but seed and fold, each with its `map`, uint8 [S, S], 255 where it is highest.

        Args:
            network: that predicted; it is left in evaluation mode, as prediction leaves it, and draws nothing.
            held_out: rows of the frames, [n].
            chances: what it predicted of them, [n, classes]; of a network that diverged there are no maps.
        """
        if not chances.isfinite().all():
            return []
        table = frames.table.iloc[held_out.cpu().numpy()]
        chosen = self.choose(table, pd.DataFrame(chances.cpu().numpy(), table.index, recipe.classes))
        classes = [recipe.classes.index(name) for name in chosen["predicted"]]
        maps = self._maps(network, frames, chosen.index.tolist(), classes, recipe)
        return [line | {"map": heat} for line, heat in zip(chosen.to_dict("records"), maps, strict=True)]

    def choose(self, table: pd.DataFrame, chances: pd.DataFrame) -> pd.DataFrame:
        """The frames to explain, one of each chosen clip: that whose probability is nearest to the clip's.

        Args:
            table: clip, patient, frame, label of the held-out frames.
            chances: a column per class, lines as in `table`; a clip's are the means over its frames, as in the report.

        Returns:
            Lines of COLUMNS but seed and fold, the right ones first, the surer first; the index is that of the frames.
        """
        clips = chances.groupby(table["clip"]).mean()
        clips = pd.DataFrame({"predicted": clips.idxmax(axis=1), "clip_probability": clips.max(axis=1)}).reset_index()
        clips["right"] = clips["predicted"] == clips["clip"].map(table.groupby("clip")["label"].first())
        order = clips.sort_values(["right", "clip_probability", "clip"], ascending=[False, False, True])
        surest = order.groupby("right").head(self.per_fold)
        rows = [(chances.loc[table["clip"] == clip.clip, clip.predicted] - clip.clip_probability).abs().round(6).idxmin()
                for clip in surest.itertuples()]        # the earlier of two that are equally near, as those of a pair are
        surest = surest.set_axis(rows).join(table[["patient", "frame", "label"]])
        return surest.assign(probability=[float(chances.at[row, name]) for row, name in surest["predicted"].items()])

    def _maps(self, network: Classifier, frames: Frames, rows: list[int], classes: list[int], recipe: Recipe) -> torch.Tensor:
        """Maps of the classes, uint8 [K, S, S] on the CPU, each scaled to its highest place."""
        seen = recipe.views.normalise(frames.grey[rows].float() / 255)                          # K x 1 x S x S
        wanted = torch.tensor(classes, device=seen.device)
        maps = grad_cam(network.eval(), network.backbone.last_block(), seen, wanted)
        highest = maps.amax((1, 2), keepdim=True).clamp(min=torch.finfo(maps.dtype).tiny)
        return (255 * (maps / highest)).round().to("cpu", torch.uint8)


def write(folder: str | Path, lines: list[dict], size_px: int) -> None:
    """maps.csv with COLUMNS and maps.npy, uint8 [K, S, S], line by line the same; both empty where there is no map."""
    with store.replacing(folder) as partial:
        maps = [line["map"].numpy() for line in lines]
        np.save(partial / "maps.npy", np.stack(maps) if maps else np.empty((0, size_px, size_px), np.uint8))
        pd.DataFrame(lines, columns=COLUMNS).round(6).to_csv(partial / "maps.csv", index=False)
