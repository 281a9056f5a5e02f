"""The section on pairs: pictures of the views that entered the loss, and figures of distances and weights."""

from pathlib import Path

import numpy as np
import pandas as pd

from stages.lib.params import require
from stages.lib.report import figures
from stages.lib.report.files import read
from stages.lib.report.pictures import small, uri

FOLDER = Path("reports/pairs")
SIDE_PX = 96    # of a picture on the page at most: a picture of speckle takes about 8 KB
TEXT = dict.fromkeys(["choice", "clip", "source", "role", "frames", "mix"], str)
AGAIN = "dvc repro -f pretrain"


def section(epochs: pd.DataFrame, pictured: bool = True) -> dict | None:
    """The values that the template needs; None if the run has no folder reports/pairs.

    Args:
        epochs: reports/pretrain.csv.
        pictured: show pictures of the views.

    Raises:
        UserError: a file of the folder is missing or cannot be read.
    """
    if not FOLDER.exists():
        return None
    pairs = read(FOLDER / "pairs.csv", lambda path: pd.read_csv(path, dtype={"clip": str, "source": str}), AGAIN)
    table = read(FOLDER / "views.csv", lambda path: pd.read_csv(path, dtype=TEXT), AGAIN)
    pictures = read(FOLDER / "views.npy", np.load, AGAIN)
    require(len(table) == len(pictures), f"{FOLDER}: views.csv and views.npy differ in length; run `{AGAIN}`")
    last = pairs[pairs["epoch"] == pairs["epoch"].max()]
    recorded = negative_distances(pairs)
    known = recorded.dropna()
    return {
        "sheets": sheets(table, pictures) if pictured else {},
        "roles": set(table["role"]),
        "weights": figures.pair_weights(last) if differ(last, "weight") else "",
        "by_source": quartiles(last, "weight") if differ(last, "weight") else [],
        "distances": figures.frame_distances(last) if differ(last, "frame_distance") else "",
        "distance_by_source": quartiles(last, "frame_distance") if differ(last, "frame_distance") else [],
        "negatives": figures.negative_distances(known, epochs) if len(known) else "",
        "curriculum": known.to_dict("records"),
        "last_epoch": recorded.iloc[-1].to_dict() if len(recorded) else {},
    }


def sheets(table: pd.DataFrame, pictures: np.ndarray) -> dict[str, list[dict]]:
    """choice → its examples in order: clip, source, the pair's values, and its pictures with label and alternative text."""
    found = {}
    for _, lines in table.assign(row=range(len(table))).groupby("example"):
        first = lines.iloc[0]
        example = {"clip": first["clip"], "source": first["source"], "pictures": []}
        example |= {name: first[name] for name in ("weight", "frame_distance") if name in table}
        for line in lines.to_dict("records"):
            of_other = line["clip"] != first["clip"]
            label = {"role": line["role"], "frames": mixture(line["frames"], line["mix"]), "share": line["share"],
                     "clip": line["clip"] if of_other else ""}
            example["pictures"].append(label | {"source": uri(small(pictures[line["row"]], SIDE_PX))})
        found.setdefault(first["choice"], []).append(example)
    return found


def mixture(frames: str, mix: str) -> list[str]:
    """[`frame 12`], or [`62 % frame 12`, `38 % frame 20`]. Frames whose share rounds to 0 are left out."""
    shares = {number: round(100 * float(share)) for number, share in zip(frames.split(), mix.split(), strict=True)}
    parts = {number: share for number, share in shares.items() if share > 0}
    return [f"{share} % frame {number}" if len(parts) > 1 else f"frame {number}" for number, share in parts.items()]


def differ(pairs: pd.DataFrame, column: str) -> bool:
    """True if the pairs have this column, with different values."""
    return column in pairs and pairs[column].nunique() > 1


def quartiles(pairs: pd.DataFrame, column: str) -> list[dict]:
    """Of each source: source, pairs (their number), and low, median, high (the quartiles of the column)."""
    parts = pairs.groupby("source")[column]
    table = parts.quantile([0.25, 0.5, 0.75]).unstack().set_axis(["low", "median", "high"], axis=1)
    return table.assign(pairs=parts.size()).reset_index().to_dict("records")


def negative_distances(pairs: pd.DataFrame) -> pd.DataFrame:
    """How far from the anchor the negatives of the same clip lie, as a fraction of the clip, in each recorded epoch.

    Returns:
        epoch; mean, low (5 %) and high (95 %) of the distance over clips, NaN if no clip had a negative; and `clips`, the
        fraction of the clips that had one. Empty if the method records no such distance.
    """
    if "negative_frame_distance" not in pairs:
        return pd.DataFrame()
    by_epoch = (pairs["negative_frame_distance"] / pairs["clip_frames"]).groupby(pairs["epoch"])
    found = {"mean": by_epoch.mean(), "low": by_epoch.quantile(0.05), "high": by_epoch.quantile(0.95)}
    return pd.DataFrame(found | {"clips": by_epoch.count() / by_epoch.size()}).reset_index()
