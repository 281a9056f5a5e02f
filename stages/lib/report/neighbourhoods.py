"""Features of held-out clips in two dimensions (t-SNE), for the page."""

from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
from annotated_types import Ge
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits  # comes with scikit-learn

from stages.lib.networks import clip_features
from stages.lib.params import Seed, require
from stages.lib.report import figures

UNLABELLED = "unlabelled"
FEWEST = 6      # clips in a figure
PER_CLIPS = 3   # the perplexity is at most clips / 3, since t-SNE uses three times as many neighbours as the perplexity


class Map:
    """t-SNE (van der Maaten & Hinton 2008), as scikit-learn has it, with cosine distances, started from principal components.

    Args:
        perplexity: of t-SNE; at most clips / 3 is used.
        seed: of the run.
    """

    def __init__(self, perplexity: Annotated[float, Ge(1)], seed: Seed):
        self.perplexity, self.seed = perplexity, seed

    def places(self, features: np.ndarray) -> tuple[np.ndarray, float]:
        """Features [N, F] → places [N, 2] and the perplexity used. One thread: sums in a fixed order give the same bytes."""
        perplexity = min(self.perplexity, len(features) / PER_CLIPS)
        tsne = TSNE(perplexity=perplexity, metric="cosine", init="pca", random_state=self.seed)
        with threadpool_limits(1):
            return tsne.fit_transform(features), perplexity

    def of_run(self, results: list[dict]) -> dict[str, dict | None]:
        """Figures of the clips of each task, and, as `pretrain`, of the clips held out from pretraining.

        The clips of a task are coloured by class; the mark is open if the fine-tuned network predicts the clip wrongly. The
        clips held out from pretraining are coloured by source and by pooled class.

        Args:
            results: task, classes, clips (from `patients.by_clip`) of each task.

        Returns:
            For each what `drawn` returns; an empty dictionary if nothing can be drawn.
        """
        found = {"pretrain": self.drawn("reports/features/pretrain", {"source": None, "pooled_class": None}, None)}
        for result in results:
            task, right = result["task"], result["clips"].set_index("clip")["right"]
            found[task] = self.drawn(f"reports/features/{task}", {"label": result["classes"]}, right)
        return found if any(found.values()) else {}

    def drawn(self, folder: str, orders: dict[str, list | None], right: pd.Series | None) -> dict | None:
        """Draw the features in a folder, once for each way of colouring.

        Args:
            folder: see stages/lib/networks/clip_features.py.
            orders: column of clips.csv → its values in the order of the legend, or None for all values. Clips with an empty
                value are drawn as unlabelled.
            right: clip → True for a filled mark, False for an open one.

        Returns:
            clips, perplexity, figures {column: {svg, counts {value: clips}}}, without columns that have one value only. None
            if there are no features, too few clips, or all clips have the same features.

        Raises:
            UserError: the folder and `right` have different clips.
        """
        if not Path(folder, "features.npy").exists():
            return None
        features, clips = clip_features.read(folder)
        if len(features) < FEWEST or not np.ptp(features, axis=0).any():
            return None
        same = right is None or set(clips["clip"]) == set(right.index)
        require(same, f"{folder} and the predictions have different clips; run `dvc repro` to make both again")
        places, perplexity = self.places(features)
        marks = pd.DataFrame(places, columns=["x", "y"])
        marks["right"] = True if right is None else right[clips["clip"]].to_numpy()
        found = {}
        for column, order in orders.items():
            values = clips[column].replace("", UNLABELLED)
            count = values.value_counts()
            order = [value for value in order or sorted(count.index.drop(UNLABELLED, errors="ignore")) if value in count]
            groups = [*order, UNLABELLED] if UNLABELLED in count else order
            if len(order) > 1:
                svg = figures.scatter(marks.assign(group=values), groups, f"{folder}/{column}")
                found[column] = {"svg": svg, "counts": {value: int(count[value]) for value in groups}}
        return {"clips": len(clips), "perplexity": perplexity, "figures": found} if found else None
