"""Pictures of held-out clips for the page: data URIs of PNG, since the page needs nothing beside it."""

import base64
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from stages.lib.clips import store
from stages.lib.params import require
from stages.lib.report import overlay

FRAMES = 3      # of a clip, evenly spread
SIDE_PX = 112   # at most, half of the published size: the page holds many


def of_run(results: list[dict], count: int) -> dict[str, dict[str, list]]:
    """All pictures of held-out clips: `worst` and `explained`, by task; both empty where `count` is 0.

    Args:
        results: task, clips (as `patients.by_clip` gives them) of each task.
        count: of the worst clips of a task.
    """
    tasks = {result["task"]: result["clips"] for result in results} if count else {}
    explained = {task: looked_at(task) for task in tasks}
    return {"worst": {task: worst(task, clips, count) for task, clips in tasks.items()},
            "explained": {task: lines for task, lines in explained.items() if lines}}


def worst(task: str, clips: pd.DataFrame, count: int) -> list[dict]:
    """The clips that the networks find least probable to be what they are, with some of their frames.

    Args:
        clips: as `patients.by_clip` gives them.
        count: of clips, the lowest probability first.

    Returns:
        A line of `clips` each, and `pictures`: frame (number in the clip), source (data URI).
    """
    lowest = clips.sort_values(["probability", "clip"]).head(count)
    data, found = store.read(f"data/frames/{task}"), []
    for line in lowest.to_dict("records"):
        rows = data.frame_table[data.frame_table["clip"] == line["clip"]]
        places = np.unique(np.linspace(0, len(rows) - 1, FRAMES).round().astype(int)) if len(rows) else []
        pictures = [_picture(data, task, line["clip"], frame) for frame in rows["frame"].iloc[places]]
        found.append(line | {"pictures": pictures})
    return found


def looked_at(task: str) -> list[dict]:
    """The frames with a Grad-CAM map (evaluation/held_out_maps.py), correctly predicted ones first; empty if there is none.

    Returns:
        A line of maps.csv each, and `picture` and `overlay` as in `worst`, and `empty`: whether no place raised the score.
    """
    folder = Path("reports/grad_cam", task)
    if not (folder / "maps.csv").exists():
        return []
    lines, maps, data = store.table(folder / "maps.csv"), np.load(folder / "maps.npy"), store.read(f"data/frames/{task}")
    found = []
    for line, heat in zip(lines.to_dict("records"), maps, strict=True):
        picture = _picture(data, task, line["clip"], line["frame"], heat)
        found.append(line | picture | {"empty": not heat.any()})
    return sorted(found, key=lambda line: (not line["right"], -line["clip_probability"], line["clip"]))


def _picture(data: store.Store, task: str, clip: str, frame: int, heat: np.ndarray | None = None) -> dict:
    """One frame of the store: frame, source and, with a map (uint8 [S, S]), overlay."""
    table = data.frame_table
    rows = table.loc[(table["clip"] == clip) & (table["frame"] == frame), "row"]
    require(len(rows) == 1, f"data/frames/{task} has no frame {frame} of {clip}; run `dvc repro -f finetune@{task}`")
    grey = _small(data.frames[rows.iloc[0]])
    found = {"frame": frame, "source": uri(grey)}
    return found if heat is None else found | {"overlay": uri(overlay.blend(grey, _small(heat) / 255))}


def _small(picture: np.ndarray) -> np.ndarray:
    """The picture, uint8 [S, S], shrunk to SIDE_PX where it is larger."""
    size = (min(SIDE_PX, picture.shape[1]), min(SIDE_PX, picture.shape[0]))
    return cv2.resize(np.ascontiguousarray(picture), size, interpolation=cv2.INTER_AREA)


def uri(picture: np.ndarray) -> str:
    """A picture, grey [H, W] or blue first [H, W, 3], uint8, as the data URI of a PNG."""
    done, data = cv2.imencode(".png", picture)
    require(done, "a picture for the page cannot be written as PNG")
    return "data:image/png;base64," + base64.b64encode(data).decode()
