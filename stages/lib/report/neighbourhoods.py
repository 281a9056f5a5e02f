"""Features of held-out clips in two dimensions (t-SNE), for the page."""

from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits  # comes with scikit-learn

from stages.lib.networks import clip_features
from stages.lib.params import require
from stages.lib.report import figures

UNLABELLED = "unlabelled"
FEWEST = 6      # clips: fewer make no picture
PER_CLIPS = 3   # the perplexity is at most the clips by this; t-SNE looks at three times as many neighbours as the perplexity


class Map:
    """t-SNE (van der Maaten & Hinton 2008) as scikit-learn has it, from cosine distances and principal components.

    Args:
        perplexity: about how many neighbours count; of few clips a third of their number.
        seed: of the run.
    """

    def __init__(self, perplexity: float, seed: int):
        require(perplexity >= 1, f"params.yaml: report.tsne.perplexity is {perplexity}; it must be at least 1")
        self.perplexity, self.seed = perplexity, seed

    def places(self, features: np.ndarray) -> tuple[np.ndarray, float]:
        """Features [N, F] → places [N, 2] and the perplexity used; one thread, so that the sums have one order."""
        perplexity = min(self.perplexity, len(features) / PER_CLIPS)
        tsne = TSNE(perplexity=perplexity, metric="cosine", init="pca", random_state=self.seed)
        with threadpool_limits(1):
            return tsne.fit_transform(features), perplexity

    def of_run(self, results: list[dict]) -> dict[str, dict | None]:
        """What the page shows of each task's clips by class, those open that the fine-tuned network predicts wrongly; and of
        the clips held out from pretraining, `pretrain`, by source and by pooled class. See `drawn`.

        Args:
            results: task, classes, clips (as `patients.by_clip` gives them) of each task.
        """
        found = {"pretrain": self.drawn("reports/features/pretrain", {"source": None, "pooled_class": None}, None)}
        for result in results:
            task, right = result["task"], result["clips"].set_index("clip")["right"]
            found[task] = self.drawn(f"reports/features/{task}", {"label": result["classes"]}, right)
        return found

    def drawn(self, folder: str, orders: dict[str, list | None], right: pd.Series | None) -> dict | None:
        """The features in a folder, coloured in several ways; None where there are none, too few, or all are alike.

        Args:
            folder: as stages/lib/networks/clip_features.py writes it.
            orders: column of its clips.csv → the values to colour by, in order, or None for all; an empty one is unlabelled.
            right: of each clip (index); the others are drawn open.

        Returns:
            clips, perplexity, figures {column: {svg, counts {value: clips}}}; a column of one value has none.
        """
        if not Path(folder, "features.npy").exists():
            return None
        features, clips = clip_features.read(folder)
        if len(features) < FEWEST or not np.ptp(features, axis=0).any():
            return None
        same = right is None or set(clips["clip"]) == set(right.index)
        require(same, f"{folder} and the predictions are not of the same clips; run `dvc repro` to make both anew")
        places, perplexity = self.places(features)
        marks = pd.DataFrame(places, columns=["x", "y"])
        marks["right"] = True if right is None else right[clips["clip"]].to_numpy()
        found = {}
        for column, order in orders.items():
            count = clips[column].replace("", UNLABELLED).value_counts()
            order = [value for value in order or sorted(count.index.drop(UNLABELLED, errors="ignore")) if value in count]
            groups = [*order, UNLABELLED] if UNLABELLED in count else order
            if len(order) > 1:
                svg = figures.scatter(marks.assign(group=clips[column].replace("", UNLABELLED)), groups, f"{folder}/{column}")
                found[column] = {"svg": svg, "counts": {value: int(count[value]) for value in groups}}
        return {"clips": len(clips), "perplexity": perplexity, "figures": found} if found else None
