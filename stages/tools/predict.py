"""Predict clips with a fine-tuned network: `python -m stages.tools.predict [--task TASK] [--cam] <clip> …`

For research only, not for diagnosis. `--help` shows all options.

reads   models/<task>.safetensors; video files, images, and folders of both
writes  <out>/clips.csv    a line per clip: clip, frames, p_<class> … (mean over the frames), predicted, left_out (the reason),
                           overlay (its file), note
        <out>/frames.csv   a line per frame: clip, frame (number in the clip), time_s, p_<class> …
        <out>/<number>_<name>.mp4, or .png for a clip without times: with --cam, the frames and Grad-CAM of the predicted class

Every image is a clip of its own; with --recording, the images of a folder are the frames of one clip. Masks are no clips:
images in a folder `masks` or `GT`, and `<name>_mask.png`, `<name>_mask_1.png` … beside an image `<name>`.
"""

import argparse
import os
import re
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
from stages.lib.running.stage import run_tool
from stages.lib.training.device import device
from stages.tools.trained_network import restore_classifier

NOTE = "for research only, not for diagnosis"
MASK = r"(.+)_mask(_\d+)?"              # the name of a mask beside its image, without suffix
MASK_FOLDERS = {"masks", "gt"}
NAME_LENGTH = 80                        # of an overlay, beside number and suffix: file systems allow 255 bytes


def main(paths: list[Path], task: str | None, out: Path | None, recording: bool, cam: bool) -> None:
    """Predict all clips that can be read, and name the others with the reason.

    Args:
        task: None: that of the only network.
        out: folder to write to; None: reports/predict/<task>.

    Raises:
        UserError: no network of the task, or no clip that can be read. Nothing is written then.
    """
    task = chosen(task)
    out = out or Path("reports/predict", task)
    require(not out.exists() or out.is_dir(), f"--out {out} is a file; name a folder")
    network, facts = restore_classifier(checkpoint.finetuned(task))
    network.to(device())
    columns = [f"p_{name}" for name in facts["classes"]]
    with tempfile.TemporaryDirectory() as folder:
        recipe = Recipe(**{key: facts[key] for key in Recipe._fields if key in facts})
        extract_all(table(paths, recording), Path(folder), f"predict {task}", recipe)
        data = store.read(folder)
        found = pd.DataFrame(probabilities(network, data.frames, facts), columns=columns)
        by_frame = data.frame_table[["clip", "frame", "time_s"]].join(found)
        clips = by_clip(by_frame, data.clip_table, columns)
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out) as unfinished:
            if cam:
                shown = clips[clips["left_out"] == ""]
                clips["overlay"] = pd.Series({clip.name: draw(network, data.frames, by_frame, clip, facts, Path(unfinished))
                                              for _, clip in shown.iterrows()})  # fmt: skip
            save = {"encoding": "utf-8", "errors": "backslashreplace"}
            by_frame.round(6).to_csv(Path(unfinished, "frames.csv"), index=False, **save)
            clips.drop(columns="number").round(6).to_csv(Path(unfinished, "clips.csv"), **save)
            replace(Path(unfinished), out)
    tell(clips, facts, out)


def replace(new: Path, out: Path) -> None:
    """Move the files in `new` to `out`, in place of those of the last call. Other files in `out` stay."""
    if (out / "clips.csv").exists():
        before = pd.read_csv(out / "clips.csv", dtype=str, keep_default_na=False)
        for name in before.get("overlay", []):
            if name and Path(name).name == name:                # the overlays of the last call lie in `out` itself
                (out / name).unlink(missing_ok=True)
    for path in new.iterdir():
        os.replace(path, out / path.name)


def chosen(task: str | None) -> str:
    """The task that the user names, or that of the only fine-tuned network.

    Raises:
        UserError: there is no network, none of that task, or several; the sentence names them with their classes.
    """
    names = [path.stem for path in checkpoint.there() if path != checkpoint.PRETRAINED]
    require(bool(names), "models/ has no fine-tuned network; run `dvc repro` to make one")
    if task in names or (task is None and len(names) == 1):
        return task or names[0]
    classes = [checkpoint.facts(checkpoint.finetuned(name)).get("classes", ["classes unknown"]) for name in names]
    known = "; ".join(f"{name} ({', '.join(labels)})" for name, labels in zip(names, classes, strict=True))
    wrong = "models/ has networks for several tasks" if task is None else f"models/ has no network for --task {task}"
    raise UserError(f"{wrong}; choose one, for example `--task {names[0]}`: {known}")


def table(paths: list[Path], recording: bool) -> pd.DataFrame:
    """A line per clip at or below the paths, as a source gives them."""
    rows = []
    for path in paths:
        parts = catalogue.recordings(path) if path.is_dir() else [path]
        found = [clip for part in parts for clip in split(part, path, recording)]
        rows += [catalogue.row(path, clip, "", clip=clip.as_posix()) for clip in found]
        rows += [] if found else [catalogue.row(path, path, "", clip=path.as_posix(), left_out="the folder holds no clip")]
    return pd.DataFrame(rows).drop_duplicates("clip", ignore_index=True)


def split(clip: Path, top: Path, recording: bool) -> list[Path]:
    """A video or image stays as it is; of a folder its images, or with `recording` the folder itself. Masks are left out.

    Args:
        top: the path that the user gave. Names above it say nothing about masks.
    """
    if not clip.is_dir():
        return [clip]
    if MASK_FOLDERS & {part.lower() for part in clip.relative_to(top).parts}:
        return []
    images = catalogue.images(clip)
    names = {image.stem for image in images}
    masks = {image for image in images if (match := re.fullmatch(MASK, image.stem)) and match[1] in names}
    return [clip] if not images or (recording and not masks) else [image for image in images if image not in masks]


def prepared(frames: np.ndarray, facts: dict) -> torch.Tensor:
    """Frames uint8 [N, S, S], normalised as in training: [N, 1, S, S], on the device."""
    return (torch.tensor(frames, device=device()).unsqueeze(1) / 255 - facts["mean"]) / facts["std"]


@torch.no_grad()
def probabilities(network: Classifier, frames: np.ndarray, facts: dict) -> np.ndarray:
    """Class probabilities [N, classes] of frames uint8 [N, S, S]."""
    logits = [network(prepared(frames[start : start + 256], facts)) for start in range(0, len(frames), 256)]
    return torch.cat(logits).softmax(1).cpu().numpy()


def by_clip(by_frame: pd.DataFrame, clip_table: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """A line per clip, also for clips that were left out. Probabilities are means over the frames, as in the report."""
    means = by_frame.groupby("clip")[columns].mean()
    clips = clip_table.set_index("clip")[["frames_kept", "left_out"]].rename(columns={"frames_kept": "frames"}).join(means)
    clips["predicted"] = means.idxmax(axis=1).str.removeprefix("p_")
    clips["overlay"], clips["note"], clips["number"] = "", NOTE, range(1, len(clips) + 1)
    return clips[["frames", *columns, "predicted", "left_out", "overlay", "note", "number"]]


def draw(network: Classifier, frames: np.ndarray, by_frame: pd.DataFrame, clip: pd.Series, facts: dict, folder: Path) -> str:
    """Write the overlay of one clip into `folder`; each clip's map is scaled to its maximum. Returns the file's name."""
    rows = by_frame[by_frame["clip"] == clip.name]
    chosen = torch.full((len(rows),), facts["classes"].index(clip["predicted"]), device=device())
    maps = grad_cam(network, network.backbone.last_block(), prepared(frames[rows.index], facts), chosen).cpu().numpy()
    heat = maps / max(maps.max(), 1e-12)        # empty maps stay empty
    column, panels = f"p_{clip['predicted']}", []
    for row, place in zip(rows.itertuples(), heat, strict=True):
        time = "" if np.isnan(row.time_s) else f", {row.time_s:.2f} s"
        text = f"{clip['predicted']}: clip {clip[column]:.2f}, frame {row.frame}{time}: {rows.at[row.Index, column]:.2f}"
        panels.append(overlay.panel(frames[row.Index], place, [text, NOTE]))
    name = f"{clip['number']:03d}_{Path(clip.name).stem[:NAME_LENGTH]}"
    span_s = rows["time_s"].iloc[-1] - rows["time_s"].iloc[0]
    if len(rows) > 1 and span_s > 0:
        overlay.write_video(folder / f"{name}.mp4", panels, (len(rows) - 1) / span_s)     # at the speed of the recording
        return f"{name}.mp4"
    overlay.write_sheet(folder / f"{name}.png", panels)
    return f"{name}.png"


def tell(clips: pd.DataFrame, facts: dict, out: Path) -> None:
    """Print what was left out and why, what was written, and where the scores of the network stand."""
    left_out = clips[clips["left_out"] != ""]
    for clip, reason in left_out["left_out"].items():
        print(f"left out: {clip}: {reason}")
    print(f"{out}/clips.csv, frames.csv: {len(clips) - len(left_out)} of {len(clips)} clips by {facts['arch']}, fine-tuned for "
          f"{facts['task']} ({', '.join(facts['classes'])}); its scores: models/README.md\n"
          "For research only, not for diagnosis.")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m stages.tools.predict", description=f"{__doc__.splitlines()[0]} ({NOTE})")
    parser.add_argument("paths", nargs="+", type=Path, metavar="clip", help="video file, image, or folder of either")
    parser.add_argument("--task", help="which network: models/<task>.safetensors; needed if there are several")
    parser.add_argument("--out", type=Path, help="folder to write to; default: reports/predict/<task>")
    parser.add_argument("--recording", action="store_true", help="the images of a folder are the frames of one clip")
    parser.add_argument("--cam", action="store_true", help="a video or picture of each clip, with Grad-CAM")
    run_tool(main, lower="SONOPAIR_WORKERS (processes)", **vars(parser.parse_args()))
