"""What a fine-tuned network says of clips: `python -m stages.tools.predict [--task TASK] [--out FOLDER] [--cam] <clip> …`

For research only, not for diagnosis.

reads   models/<task>.safetensors; video files, images, and folders (whose images together are one clip)
writes  <out>/clips.csv    a line per clip: clip, frames, p_<class> … (mean over the frames), predicted, left_out (the reason),
                           overlay (its file), note
        <out>/frames.csv   a line per frame: clip, frame (number in the clip), time_s, p_<class> …
        <out>/<number>_<name>.mp4, or .png where a clip has no times: with --cam, the frames and Grad-CAM of the class predicted
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from stages.extract_frames import extract_all
from stages.lib.clips import catalogue, store
from stages.lib.clips.extraction import Recipe
from stages.lib.networks import checkpoint
from stages.lib.networks.backbone import Classifier
from stages.lib.networks.grad_cam import grad_cam
from stages.lib.params import UserError, require
from stages.lib.report import overlay
from stages.lib.training.device import device
from stages.tools.trained_network import restore_classifier

NOTE = "for research only, not for diagnosis"


def main(paths: list[Path], task: str, out: Path, cam: bool) -> None:
    """Predict all clips that can be read, and say which cannot.

    Raises:
        UserError: no network of the task, or no clip that can be read; nothing is written then.
    """
    require(not out.exists() or out.is_dir(), f"--out {out} is a file; name a folder")
    network, facts = restore_classifier(checkpoint.finetuned(task))
    network.to(device())
    columns = [f"p_{name}" for name in facts["classes"]]
    with tempfile.TemporaryDirectory() as folder:
        recipe = Recipe(**{key: facts[key] for key in Recipe._fields if key in facts})
        extract_all(table(paths), Path(folder), f"predict {task}", recipe)
        data = store.read(folder)
        found = pd.DataFrame(probabilities(network, data.frames, facts), columns=columns)
        by_frame = data.frame_table[["clip", "frame", "time_s"]].join(found)
        clips = by_clip(by_frame, data.clip_table, columns)
        out.mkdir(parents=True, exist_ok=True)
        if cam:
            shown = clips[clips["left_out"] == ""]
            clips["overlay"] = pd.Series({clip.name: draw(network, data.frames, by_frame, clip, facts, out)
                                          for _, clip in shown.iterrows()})  # fmt: skip
    by_frame.round(6).to_csv(out / "frames.csv", index=False, encoding="utf-8", errors="backslashreplace")
    clips.drop(columns="number").round(6).to_csv(out / "clips.csv", encoding="utf-8", errors="backslashreplace")
    tell(clips, facts, out)


def only_task() -> str:
    """The task of the only fine-tuned network."""
    known = sorted({path.stem for path in Path("models").glob("*.safetensors")} - {checkpoint.PRETRAINED.stem})
    require(len(known) == 1, f"--task: choose from {', '.join(known)}" if known else "models/ holds no fine-tuned network; run "
            "`dvc repro` to make one")
    return known[0]


def table(paths: list[Path]) -> pd.DataFrame:
    """A line for each clip that the paths name, as a source gives them."""
    rows = []
    for path in paths:
        found = catalogue.recordings(path) if path.is_dir() else [path]
        rows += [catalogue.row(path, clip, "", clip=clip.as_posix()) for clip in found]
        rows += [] if found else [catalogue.row(path, path, "", clip=path.as_posix(), left_out="the folder holds no clip")]
    return pd.DataFrame(rows).drop_duplicates("clip", ignore_index=True)


def prepared(frames: np.ndarray, facts: dict) -> torch.Tensor:
    """Frames uint8 [N, S, S] as the network was trained on them: [N, 1, S, S], normalised, on the device."""
    return (torch.tensor(frames, device=device()).unsqueeze(1) / 255 - facts["mean"]) / facts["std"]


@torch.no_grad()
def probabilities(network: Classifier, frames: np.ndarray, facts: dict) -> np.ndarray:
    """Class probabilities [N, classes] of frames uint8 [N, S, S]."""
    logits = [network(prepared(frames[start : start + 256], facts)) for start in range(0, len(frames), 256)]
    return torch.cat(logits).softmax(1).cpu().numpy()


def by_clip(by_frame: pd.DataFrame, clip_table: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """A line per clip, read or not, by clip id: probabilities are means over the frames, as in the report."""
    means = by_frame.groupby("clip")[columns].mean()
    clips = clip_table.set_index("clip")[["frames_kept", "left_out"]].rename(columns={"frames_kept": "frames"}).join(means)
    clips["predicted"] = means.idxmax(axis=1).str.removeprefix("p_")
    clips["overlay"], clips["note"], clips["number"] = "", NOTE, range(1, len(clips) + 1)
    return clips[["frames", *columns, "predicted", "left_out", "overlay", "note", "number"]]


def draw(network: Classifier, frames: np.ndarray, by_frame: pd.DataFrame, clip: pd.Series, facts: dict, out: Path) -> str:
    """Write the overlay of one clip, its map scaled to its highest place; returns the file's name."""
    rows = by_frame[by_frame["clip"] == clip.name]
    chosen = torch.full((len(rows),), facts["classes"].index(clip["predicted"]), device=device())
    maps = grad_cam(network, network.backbone.last_block(), prepared(frames[rows.index], facts), chosen).cpu().numpy()
    heat = maps / max(maps.max(), 1e-12)
    column, panels = f"p_{clip['predicted']}", []
    for row, place in zip(rows.itertuples(), heat, strict=True):
        time = "" if np.isnan(row.time_s) else f", {row.time_s:.2f} s"
        said = f"{clip['predicted']}: clip {clip[column]:.2f}, frame {row.frame}{time}: {rows.at[row.Index, column]:.2f}"
        panels.append(overlay.panel(frames[row.Index], place, [said, NOTE]))
    name = f"{clip['number']:03d}_{Path(clip.name).stem}"
    span_s = rows["time_s"].iloc[-1] - rows["time_s"].iloc[0]
    if len(rows) > 1 and span_s > 0:
        overlay.write_video(out / f"{name}.mp4", panels, (len(rows) - 1) / span_s)     # at the speed of the recording
        return f"{name}.mp4"
    overlay.write_sheet(out / f"{name}.png", panels)
    return f"{name}.png"


def tell(clips: pd.DataFrame, facts: dict, out: Path) -> None:
    """Print what was left out and why, what was written, how good the network is, and what it is not for."""
    left_out = clips[clips["left_out"] != ""]
    for clip, reason in left_out["left_out"].items():
        print(f"left out: {clip}: {reason}")
    score = facts.get("balanced_accuracy")
    score = "" if score is None else f", balanced accuracy in cross-validation {score:.3f}"
    print(f"{out}/clips.csv, frames.csv: {len(clips) - len(left_out)} of {len(clips)} clips by {facts['arch']}, fine-tuned for "
          f"{facts['task']} ({', '.join(facts['classes'])}){score}\nFor research only, not for diagnosis.")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m stages.tools.predict", description=f"{__doc__.splitlines()[0]} ({NOTE})")
    parser.add_argument("paths", nargs="+", type=Path, metavar="clip", help="video file, image, or folder of either")
    parser.add_argument("--task", help="whose network: models/<task>.safetensors; default: the only one")
    parser.add_argument("--out", type=Path, help="folder to write to; default: reports/predict/<task>")
    parser.add_argument("--cam", action="store_true", help="a video or picture of each clip, with Grad-CAM")
    try:
        given = parser.parse_args()
        task = given.task or only_task()
        main(given.paths, task, given.out or Path("reports/predict", task), given.cam)
    except UserError as error:
        sys.exit(f"error: {error}")
