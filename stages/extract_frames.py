"""Clips of one source → frames cropped to the fan, square and grey, in a frame store.

reads   data/<collection>/<source>/        clips of every kind that docs/clips.md lists (see stages/sources/<source>.py);
                                           crops.csv, if there: crops that overrule those found (stages/lib/clips/crop/given.py)
writes  data/frames/<source>/frames.npy    uint8 [N, size_px, size_px], clips by id, the frames of a clip in time order
        data/frames/<source>/masks.npy     uint8 as frames.npy, where the source has masks: 0, or which lesion, from 1
        data/frames/<source>/frames.csv    row, clip, frame (number in the clip), time_s (empty where unknown)
        data/frames/<source>/clips.csv     a line per clip, left out or not: the source's table, with fps as used;
                                           COLUMNS of stages/lib/clips/extraction.py; left_out, the reason in words
        data/frames/<source>/facts.json    how the frames were taken: the parameters of the block
        reports/crops/<source>.html        the crops on the whole pictures, the uncertain ones first
"""

from collections.abc import Mapping
from concurrent.futures import BrokenExecutor
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pandas as pd
from annotated_types import Ge, Le
from tqdm import tqdm

from stages.lib.clips import store, workers
from stages.lib.clips.crop import given, sheet
from stages.lib.clips.extraction import COLUMNS, Recipe, extract
from stages.lib.clips.readers import kinds, times
from stages.lib.params import Count, Positive, UserError, require
from stages.lib.running import cache, faults
from stages.lib.running.stage import run

LOW_HZ, HIGH_HZ = times.PLAUSIBLE_HZ


def main(
    source: str,
    collection: Literal["phantom", "raw"],
    frame_rate_hz: Positive,
    max_frames_per_clip: Count,
    assumed_frame_rate_hz: Annotated[float, Ge(LOW_HZ), Le(HIGH_HZ)],
    size_px: Annotated[int, Ge(8)],
    geometry: Literal["fan", "beams", "stretched"],
) -> None:
    """Extract the frames of every clip of `source`, on all cores.

    Raises:
        UserError: an unknown source, its folder missing or empty, or no clip that can be used.
    """
    known = sorted(path.stem for path in Path(__file__).with_name("sources").glob("*.py"))
    require(source in known, f"{source!r} is no source: take one of {', '.join(known)}, or add one in stages/sources")
    recipe = Recipe(frame_rate_hz, max_frames_per_clip, assumed_frame_rate_hz, size_px, geometry)

    before = cache.of_room("clips")
    table = import_module(f"stages.sources.{source}").clips(Path("data", collection, source))
    crops = given.read(Path("data", collection, source), table["clip"])
    page = Path("reports", "crops", f"{source}.html")
    with store.replacing(Path("data", "frames", source)) as folder:
        kept, frames = extract_all(table, folder, source, recipe, crops, page, before)
    if before:
        before.trim()
    rest = f"; {len(table) - kept} left out (see clips.csv)" if kept < len(table) else ""
    print(f"data/frames/{source}: {kept} of {len(table)} clips, {frames:,} frames of {size_px} px{rest}")


def extract_all(
    table: pd.DataFrame,
    folder: Path,
    name: str,
    recipe: Recipe,
    crops: Mapping[str, given.Given] | None = None,
    contact_sheet: Path | None = None,
    known: cache.Cache | None = None,
) -> tuple[int, int]:
    """Write the clips of a source's table as a frame store into `folder`; return how many clips and frames it holds.

    Args:
        crops: the user's crops, by clip.
        contact_sheet: page that shows the crops; None: no page.
        known: clips that were extracted before.

    Raises:
        UserError: no clip can be used.
    """
    todo = [clip for clip in table.itertuples() if not clip.left_out]
    todo.sort(key=lambda clip: -_bytes(Path(clip.path)))  # the longest first: no straggler at the end
    jobs = {clip.Index: (Path(clip.path), clip.fps, folder / f"{clip.Index}", _masks(clip), (crops or {}).get(clip.clip))
            for clip in todo}
    work = partial(extract, recipe=recipe, pictured=bool(contact_sheet), cache=known)
    results = workers.each(work, jobs, workers.workers())
    facts = dict(tqdm(results, desc=name, total=len(jobs), unit="clip", disable=None))
    clips = [row | COLUMNS | _columns(facts.get(index, {})) for index, row in enumerate(table.to_dict("records"))]
    if contact_sheet:
        sheet.write(contact_sheet, name, [{"picture": ""} | clip for clip in clips])
    for clip in clips:
        clip.pop("picture", None)
    store.write_facts(folder, **recipe._asdict())
    return _join(folder, clips, recipe.size_px)


def _masks(clip: tuple) -> list[Path]:
    """The mask files that the source's table names for a clip, if it has such a column."""
    return [Path(name) for name in getattr(clip, "masks", "").split(";") if name]


def _bytes(path: Path) -> int:
    """Size on disk of a file, or of the images of a folder."""
    return sum(file.stat().st_size for file in kinds.files_of(path))


def _columns(result: dict | Exception) -> dict:
    """What `extract` returned, or the reason why it returned nothing; a full disk is no reason to leave a clip out."""
    if isinstance(result, dict):
        return result
    if faults.is_machines_fault(result):
        raise result
    if isinstance(result, BrokenExecutor):
        return {"left_out": "the decoder crashed on it, or it is too large for the memory: convert it to mp4 again"}
    return {"left_out": f"could not be read ({type(result).__name__}: {' '.join(str(result).split())})"}


def _join(folder: Path, clips: list[dict], size_px: int) -> tuple[int, int]:
    """Write the files of the store from the clips' columns and npy files; return how many clips and frames."""
    rows = [(clip["clip"], *row) for clip in clips for row in clip.pop("rows", [])]
    if not rows:
        example = f"{clips[0]['path']}: {clips[0]['left_out']}"
        raise UserError(f"none of the {len(clips)} clips can be used; the first is {example}")
    kept = {index: clip["frames_kept"] for index, clip in enumerate(clips) if clip["frames_kept"]}
    for name in ("frames", "masks") if any(clip.get("masks") for clip in clips) else ("frames",):
        joined = store.empty(folder / f"{name}.npy", (len(rows), size_px, size_px))
        start = 0
        for index, count in kept.items():
            part = folder / f"{index}.{name}.npy"
            if part.exists():
                joined[start : start + count] = np.load(part)
                part.unlink()
            start += count
        joined.flush()
    # a file name that is no UTF-8 must not stop the run at its end
    save = {"encoding": "utf-8", "errors": "backslashreplace"}
    table = pd.DataFrame(rows, columns=["clip", "frame", "time_s"]).round({"time_s": 4})
    table.to_csv(folder / "frames.csv", index_label="row", **save)
    pd.DataFrame(clips).replace("\r", " ", regex=True).to_csv(folder / "clips.csv", index=False, **save)
    return len(kept), len(rows)


if __name__ == "__main__":
    run(main, stage="extract_frames", item="source", lower="SONOPAIR_WORKERS (processes) or extract_frames.size_px")
