"""Pictures of held-out clips as data URIs, so that the page is one file."""

import base64
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from stages.lib.clips import store
from stages.lib.params import require
from stages.lib.report import overlay

FRAMES = 3      # shown of a clip, evenly spread
SIDE_PX = 112   # at most, half of the published size: the page holds many pictures


def of_run(results: list[dict], count: int) -> dict[str, dict[str, list]]:
    """All pictures of held-out clips: {`worst`: {task: …}, `explained`: {task: …}}. Both are empty if `count` is 0.

    Args:
        results: task, source, clips (from `patients.by_clip`) of each task.
        count: how many of the worst clips of each task to show.
    """
    tasks = {result["task"]: result for result in results} if count else {}
    maps = {task: explained(task, result["source"]) for task, result in tasks.items()}
    return {"worst": {task: worst(result["source"], result["clips"], count) for task, result in tasks.items()},
            "explained": {task: lines for task, lines in maps.items() if lines}}


def worst(source: str, clips: pd.DataFrame, count: int) -> list[dict]:
    """The clips with the lowest probability of their true class, with some of their frames.

    Args:
        clips: from `patients.by_clip`.
        count: how many clips.

    Returns:
        The clip's line, and `pictures`: frame (number in the clip), source (data URI). The lowest probability comes first.
    """
    lowest = clips.sort_values(["probability", "clip"]).head(count)
    data, found = store.read(f"data/frames/{source}"), []
    for line in lowest.to_dict("records"):
        rows = data.frame_table[data.frame_table["clip"] == line["clip"]]
        places = np.unique(np.linspace(0, len(rows) - 1, FRAMES).round().astype(int)) if len(rows) else []
        pictures = [_picture(data, source, line["clip"], frame) for frame in rows["frame"].iloc[places]]
        found.append(line | {"pictures": pictures})
    return found


def explained(task: str, source: str) -> list[dict]:
    """The frames that have a Grad-CAM map (evaluation/held_out_maps.py), correct predictions first; empty if there are none.

    Returns:
        The line of maps.csv, `frame` and `source` as in `worst`, `overlay` (data URI of the frame under its map), and `empty`:
        True if no place raised the score.
    """
    folder = Path("reports/grad_cam", task)
    if not (folder / "maps.csv").exists():
        return []
    lines, maps, data = store.table(folder / "maps.csv"), np.load(folder / "maps.npy"), store.read(f"data/frames/{source}")
    found = []
    for line, heat in zip(lines.to_dict("records"), maps, strict=True):
        picture = _picture(data, source, line["clip"], line["frame"], heat)
        found.append(line | picture | {"empty": not heat.any()})
    return sorted(found, key=lambda line: (not line["right"], -line["clip_probability"], line["clip"]))


def small(picture: np.ndarray, side_px: int = SIDE_PX) -> np.ndarray:
    """A picture, uint8 [H, W], shrunk until both sides are at most `side_px`."""
    scale = side_px / max(picture.shape)
    picture = np.ascontiguousarray(picture)  # OpenCV takes no memory-mapped view
    return cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale < 1 else picture


def uri(picture: np.ndarray) -> str:
    """The data URI of a PNG of a picture, uint8: grey [H, W], or blue, green, red [H, W, 3]."""
    done, data = cv2.imencode(".png", picture)
    require(done, "a picture for the page cannot be written as PNG")
    return "data:image/png;base64," + base64.b64encode(data).decode()


def _picture(data: store.Store, source: str, clip: str, frame: int, heat: np.ndarray | None = None) -> dict:
    """One frame of the store: frame, source and, with a map (uint8 [S, S]), overlay."""
    table = data.frame_table
    rows = table.loc[(table["clip"] == clip) & (table["frame"] == frame), "row"]
    require(len(rows) == 1, f"data/frames/{source} has no frame {frame} of {clip}; run `dvc repro` to predict its frames again")
    grey = small(data.frames[rows.iloc[0]])
    found = {"frame": frame, "source": uri(grey)}
    return found if heat is None else found | {"overlay": uri(overlay.blend(grey, small(heat) / 255))}
