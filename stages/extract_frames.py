"""Clips of one source → frames cropped to the fan, square and grey, in a frame store.

reads   data/<collection>/<source>/        video files, folders of images, still images (see stages/sources/<source>.py)
writes  data/frames/<source>/frames.npy    uint8 [N, size_px, size_px], clips by id, the frames of a clip in time order
        data/frames/<source>/masks.npy     uint8 as frames.npy, where the source has masks: 0, or which lesion, from 1
        data/frames/<source>/frames.csv    row, clip, frame (number in the clip), time_s (empty where unknown)
        data/frames/<source>/clips.csv     a line per clip, left out or not: the source's table, with fps as used;
                                           COLUMNS; left_out, the reason in words
        data/frames/<source>/facts.json    how the frames were taken: the four parameters of the block
"""

import hashlib
import math
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor
from functools import partial
from importlib import import_module
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from tqdm import tqdm

from stages.lib.clips import catalogue, fan, sampling, store, workers
from stages.lib.params import UserError, require, run

# In clips.csv beside the source's table: size as delivered, in px; frames decoded, kept, and of those looked at the
# all-black and the undecodable ones; what the crop went by (stages/lib/clips/fan.py), its box in px; blake2b of the files; the
# probe's geometry in sides of the kept frames, the half angle in radians, empty where it could not be told.
COLUMNS = dict.fromkeys(("height", "width", "frames_read", "frames_kept", "frames_black", "frames_damaged"), 0)
COLUMNS |= {"crop": "", "crop_left": 0, "crop_top": 0, "crop_width": 0, "crop_height": 0, "checksum": ""}
COLUMNS |= dict.fromkeys(store.FAN, math.nan)
PLAUSIBLE_HZ = (1, 240)  # frame rates outside are slips of a video's header or time stamps
LEAP_S = 60  # so is a time stamp this far from the one before it


def main(
    source: str,
    collection: str,
    frame_rate_hz: float,
    max_frames_per_clip: int,
    assumed_frame_rate_hz: float,
    size_px: int,
) -> None:
    """Extract the frames of every clip of `source`, on all cores.

    Raises:
        UserError: an impossible parameter, an unknown source, its folder missing or empty, or no clip that can be used.
    """
    require(frame_rate_hz > 0, f"params.yaml: extract_frames.frame_rate_hz is {frame_rate_hz}; it must be above 0")
    for name, value, least in (("max_frames_per_clip", max_frames_per_clip, 1), ("size_px", size_px, 8)):
        require(value >= least, f"params.yaml: extract_frames.{name} is {value}; it must be {least} or more")
    low, high = PLAUSIBLE_HZ
    wrong = f"params.yaml: extract_frames.assumed_frame_rate_hz is {assumed_frame_rate_hz}; it must be {low} to {high}"
    require(_plausible(assumed_frame_rate_hz), wrong)
    known = sorted(path.stem for path in Path(__file__).with_name("sources").glob("*.py"))
    require(source in known, f"{source!r} is no source: take one of {', '.join(known)}, or add one in stages/sources")

    table = import_module(f"stages.sources.{source}").clips(Path("data", collection, source))
    table.loc[table["clip"].duplicated() & (table["left_out"] == ""), "left_out"] = "duplicate clip id: the first stays"
    with store.replacing(Path("data", "frames", source)) as folder:
        kept, frames = extract_all(
            table, folder, source, frame_rate_hz, max_frames_per_clip, assumed_frame_rate_hz, size_px
        )
    rest = f"; {len(table) - kept} left out (see clips.csv)" if kept < len(table) else ""
    print(f"data/frames/{source}: {kept} of {len(table)} clips, {frames:,} frames of {size_px} px{rest}")


def extract_all(
    table: pd.DataFrame,
    folder: Path,
    name: str,
    frame_rate_hz: float,
    max_frames_per_clip: int,
    assumed_frame_rate_hz: float,
    size_px: int,
) -> tuple[int, int]:
    """Write the clips of a source's table as a frame store into `folder`; return how many clips and frames it holds.

    Raises:
        UserError: no clip can be used.
    """
    todo = [clip for clip in table.itertuples() if not clip.left_out]
    todo.sort(key=lambda clip: -_bytes(Path(clip.path)))  # the longest first: no straggler at the end
    jobs = {clip.Index: (Path(clip.path), clip.fps, folder / f"{clip.Index}", _masks(clip)) for clip in todo}
    work = partial(
        extract, rate_hz=frame_rate_hz, most=max_frames_per_clip, assumed_hz=assumed_frame_rate_hz, size_px=size_px
    )
    results = workers.each(work, jobs, workers.workers())
    facts = dict(tqdm(results, desc=name, total=len(jobs), unit="clip", disable=None))
    clips = [row | COLUMNS | _columns(facts.get(index, {})) for index, row in enumerate(table.to_dict("records"))]
    store.write_facts(folder, frame_rate_hz=frame_rate_hz, max_frames_per_clip=max_frames_per_clip,
                      assumed_frame_rate_hz=assumed_frame_rate_hz, size_px=size_px)
    return _join(folder, clips, size_px)


def extract(
    path: Path, fps: float, target: Path, masks: list[Path], rate_hz: float, most: int, assumed_hz: float, size_px: int
) -> dict:
    """Write the frames of one clip to <target>.frames.npy, those of its masks (of a still image) to <target>.masks.npy.

    Returns:
        The clip's columns, and `rows`: (frame, time_s) of each frame.
    """
    if not path.exists():
        return {"left_out": "the file is missing"}
    if not _bytes(path):
        return {"left_out": "the folder holds no image" if path.is_dir() else "the file is empty (0 bytes)"}
    files = catalogue.images(path) if path.is_dir() else [path]
    sample, used_fps = read(files, fps, rate_hz, most, assumed_hz)
    facts = {"frames_read": sample.read, "frames_damaged": sample.damaged, "checksum": _checksum(files)}
    if not sample.frames:
        return facts | {"left_out": "no frame can be decoded: damaged, or no video or image file"}
    height, width = sample.frames[0].image.shape
    images = [_resized(frame.image, height, width) for frame in sample.frames]
    area = fan.find(images)
    facts |= {"fps": round(used_fps, 3), "height": height, "width": width, "crop": area.kind}
    facts |= dict(zip(("crop_left", "crop_top", "crop_width", "crop_height"), area.box, strict=True))
    facts |= dict(zip(store.FAN, np.round(fan.sector(area) or [math.nan] * 5, 4).tolist(), strict=True))
    squares = [fan.crop(image, area, size_px) for image in images]
    lit = [index for index, square in enumerate(squares) if square.max() > fan.DARK]
    facts["frames_black"] = len(squares) - len(lit)
    if not lit:
        return facts | {"left_out": "all frames are black"}
    chosen = sampling.spread(lit, most)
    if masks:
        np.save(f"{target}.masks.npy", lesions(masks, (height, width), area, size_px)[None])
    np.save(f"{target}.frames.npy", np.stack([squares[index] for index in chosen]))
    rows = [(sample.frames[index].number, sample.frames[index].time_s) for index in chosen]
    return facts | {"frames_kept": len(chosen), "rows": rows}


def lesions(masks: list[Path], shape: tuple[int, int], area: fan.Fan, size_px: int) -> np.ndarray:
    """The masks, cropped and scaled as their image, in one: 0, or the number of the lesion that covers half of the pixel.

    Lesions count from 1 in the order of their files; where two overlap, the later one has the pixel. uint8 [size_px, size_px].

    Raises:
        ValueError: a mask that cannot be decoded or has not the image's shape: it would lie elsewhere.
    """
    numbers = np.zeros((size_px, size_px), np.uint8)
    for number, path in enumerate(masks, 1):
        mask = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        if mask is None or mask.shape != shape:
            raise ValueError(f"its mask {path.name} is damaged or not of the image's size")
        binary = np.where(mask > 127, 255, 0).astype(np.uint8)
        numbers[fan.crop(binary, area, size_px) > 127] = number
    return numbers


def read(files: list[Path], fps: float, rate_hz: float, most: int, assumed_hz: float) -> tuple[sampling.Sample, float]:
    """Sample a clip, one video file or one or more images, and say at which frame rate.

    The source's own frame rate (`fps`, NaN if unknown) goes before a video's time stamps, these before its header, and
    this before `assumed_hz`; what the video says has to be plausible. The header's frame count is never asked. Images
    without a frame rate have no times.
    """
    if len(files) > 1 or catalogue.is_image(files[0]):
        decoders = (partial(cv2.imread, str(file), cv2.IMREAD_GRAYSCALE) for file in files)
        images = ((number / fps, decode) for number, decode in enumerate(decoders))
        return sampling.sample(images, sampling.interval(fps, rate_hz), most), fps
    video = _open(files[0])
    header = video.get(cv2.CAP_PROP_FPS)
    stated = fps if not math.isnan(fps) else header if _plausible(header) else assumed_hz
    every_s = sampling.interval(stated, rate_hz)
    sample = sampling.sample(_frames(video, stated, stamped=math.isnan(fps)), every_s, most)
    measured = (sample.read - 1) / sample.span_s if sample.read > 1 else stated
    if _plausible(measured) or not math.isnan(fps):
        return sample, measured
    return sampling.sample(_frames(_open(files[0]), stated, stamped=False), every_s, most), stated


def _open(file: Path) -> cv2.VideoCapture:
    return cv2.VideoCapture(str(file), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])


def _frames(video: cv2.VideoCapture, fps: float, stamped: bool) -> Iterator[tuple[float, Callable]]:
    """Time and decoder of each frame; where a time stamp is missing or impossible, a frame's length is added."""
    time = -1 / fps
    while video.grab():
        stamp = video.get(cv2.CAP_PROP_POS_MSEC) / 1000
        time = stamp if stamped and 0 < stamp - time < LEAP_S else time + 1 / fps
        yield time, partial(_retrieve, video)


def _retrieve(video: cv2.VideoCapture) -> np.ndarray | None:
    done, image = video.retrieve()
    return cv2.cvtColor(image, cv2.COLOR_BGR2GRAY) if done else None


def _resized(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Images of one folder can differ in size; they take that of the first."""
    return image if image.shape == (height, width) else cv2.resize(image, (width, height))


def _plausible(fps: float) -> bool:
    return PLAUSIBLE_HZ[0] <= fps <= PLAUSIBLE_HZ[1]


def _masks(clip: tuple) -> list[Path]:
    """The mask files that the source's table names for a clip, if it has such a column."""
    return [Path(name) for name in getattr(clip, "masks", "").split(";") if name]


def _bytes(path: Path) -> int:
    """Size on disk of a file, or of the images of a folder."""
    files = catalogue.images(path) if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.exists())


def _checksum(files: list[Path]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for file in files:
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def _columns(result: dict | Exception) -> dict:
    """What `extract` returned, or the reason why it returned nothing."""
    if isinstance(result, dict):
        return result
    if isinstance(result, BrokenExecutor):
        return {"left_out": "the decoder crashed on it: convert it to mp4 anew"}
    return {"left_out": f"could not be read ({type(result).__name__}: {' '.join(str(result).split())})"}


def _join(folder: Path, clips: list[dict], size_px: int) -> tuple[int, int]:
    """Write the files of the store from the clips' columns and npy files; return how many clips and frames."""
    rows = [(clip["clip"], *row) for clip in clips for row in clip.pop("rows", [])]
    if not rows:
        example = f"{clips[0]['path']}: {clips[0]['left_out']}"
        raise UserError(f"none of the {len(clips)} clips can be used; the first is {example}")
    kept = {index: clip["frames_kept"] for index, clip in enumerate(clips) if clip["frames_kept"]}
    for name in ("frames", "masks") if any(clip.get("masks") for clip in clips) else ("frames",):
        joined = np.lib.format.open_memmap(folder / f"{name}.npy", "w+", np.uint8, (len(rows), size_px, size_px))   # zeros
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
    pd.DataFrame(clips).to_csv(folder / "clips.csv", index=False, **save)
    return len(kept), len(rows)


if __name__ == "__main__":
    run(main, stage="extract_frames", item="source")
