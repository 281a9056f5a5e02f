"""The pairs as the method saw them, for the report: pictures by clip, labels, figures of distances and weights."""

import base64
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from stages.lib.params import UserError
from stages.lib.report import figures

FOLDER = Path("reports/pairs")
SIDE_PX = 96    # of a picture on the page at most: one of speckle takes about 8 KB
TEXT = dict.fromkeys(["choice", "clip", "source", "role", "frames", "mix"], str)


def section(epochs: pd.DataFrame, pictured: bool = True) -> dict | None:
    """What the section shows; None for a run that has no such folder.

    Args:
        epochs: reports/pretrain.csv.
        pictured: whether views may be shown.

    Raises:
        UserError: a file of the folder is missing or cannot be read.
    """
    if not FOLDER.exists():
        return None
    try:
        pairs = pd.read_csv(FOLDER / "pairs.csv", dtype={"clip": str, "source": str})
        table = pd.read_csv(FOLDER / "views.csv", dtype=TEXT)
        pictures = np.load(FOLDER / "views.npy")
    except FileNotFoundError as error:
        raise UserError(f"{error.filename} is missing; run `dvc repro` to make it") from None
    except (ValueError, EOFError) as error:
        raise UserError(f"a file in {FOLDER} cannot be read ({error}); run `dvc repro -f pretrain`") from None
    if len(table) != len(pictures):
        raise UserError(f"{FOLDER}: views.csv and views.npy differ in length; run `dvc repro -f pretrain`")
    last = pairs[pairs["epoch"] == pairs["epoch"].max()]
    looks = negative_distances(pairs)
    known = looks.dropna()
    return {
        "sheets": sheets(table, pictures) if pictured else {},
        "roles": set(table["role"]),
        "weights": figures.pair_weights(last) if differ(last, "weight") else "",
        "by_source": quartiles(last, "weight") if differ(last, "weight") else [],
        "distances": figures.frame_distances(last) if differ(last, "frame_distance") else "",
        "distance_by_source": quartiles(last, "frame_distance") if differ(last, "frame_distance") else [],
        "negatives": figures.negative_distances(known, epochs) if len(known) else "",
        "curriculum": known.to_dict("records"),
        "last_look": looks.iloc[-1].to_dict() if len(looks) else {},
    }


def sheets(table: pd.DataFrame, pictures: np.ndarray) -> dict[str, list[dict]]:
    """choice → examples in their order: clip, source, the values of the pair, and its pictures with label and alt text."""
    found = {}
    for _, lines in table.assign(row=range(len(table))).groupby("example"):
        first = lines.iloc[0]
        example = {"clip": first["clip"], "source": first["source"], "pictures": []}
        example |= {name: first[name] for name in ("weight", "frame_distance") if name in table}
        for line in lines.to_dict("records"):
            of_other = line["clip"] != first["clip"]
            label = {"role": line["role"], "frames": mixture(line["frames"], line["mix"]), "share": line["share"],
                     "clip": line["clip"] if of_other else ""}
            example["pictures"].append(label | {"source": picture(pictures[line["row"]])})
        found.setdefault(first["choice"], []).append(example)
    return found


def mixture(frames: str, mix: str) -> list[str]:
    """[`frame 12`], or [`62 % frame 12`, `38 % frame 20`]; shares that round to 0 are left out."""
    shares = {number: round(100 * float(share)) for number, share in zip(frames.split(), mix.split(), strict=True)}
    parts = {number: share for number, share in shares.items() if share > 0}
    return [f"{share} % frame {number}" if len(parts) > 1 else f"frame {number}" for number, share in parts.items()]


def picture(grey: np.ndarray) -> str:
    """A uint8 picture [H, W] as the address of a PNG that lies in the page."""
    if max(grey.shape) > SIDE_PX:
        scale = SIDE_PX / max(grey.shape)
        grey = cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return "data:image/png;base64," + base64.b64encode(cv2.imencode(".png", grey)[1]).decode()


def differ(pairs: pd.DataFrame, column: str) -> bool:
    """Whether the pairs have such a value and not all the same."""
    return column in pairs and pairs[column].nunique() > 1


def quartiles(pairs: pd.DataFrame, column: str) -> list[dict]:
    """Of each source: pairs, median and quartiles of the column."""
    parts = pairs.groupby("source")[column]
    table = parts.quantile([0.25, 0.5, 0.75]).unstack().set_axis(["low", "median", "high"], axis=1)
    return table.assign(pairs=parts.size()).reset_index().to_dict("records")


def negative_distances(pairs: pd.DataFrame) -> pd.DataFrame:
    """Distance of a clip's own negatives from the anchor, as a fraction of the clip: epoch, mean, low, high (5 % and 95 %).

    Beside them `clips`, the fraction of the clips that had a negative; where none had, the others are NaN.
    """
    if "negative_frame_distance" not in pairs:
        return pd.DataFrame()
    by_epoch = (pairs["negative_frame_distance"] / pairs["clip_frames"]).groupby(pairs["epoch"])
    found = {"mean": by_epoch.mean(), "low": by_epoch.quantile(0.05), "high": by_epoch.quantile(0.95)}
    return pd.DataFrame(found | {"clips": by_epoch.count() / by_epoch.size()}).reset_index()
