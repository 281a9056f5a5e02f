"""Extraction of the POCUS clips beside a bare OpenCV decode loop of the same clips, with one process and with two.

    US_CLIPS=<folder with pocus/> python -m tests.benchmarks.extraction [repetitions]

The bare loop calls cap.read() to the end of every clip and keeps nothing. Its decoder has one thread, as that of the
extraction, which shares the cores out by clips; a further row gives it the threads that OpenCV takes by itself. The
rows take turns, so that a busy machine slows all of them; medians are printed.
"""

import contextlib
import io
import os
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

import cv2

from stages import extract_frames
from stages.lib.clips import workers
from stages.sources import pocus


def bare(path: str, options: list[int]) -> int:
    """Decode a clip to its end; returns the number of frames."""
    video = cv2.VideoCapture(path, cv2.CAP_FFMPEG, options)
    frames = 0
    while video.read()[0]:
        frames += 1
    return frames


def bare_loop(paths: list[str], processes: int, options: list[int]) -> None:
    sum(frames for _, frames in workers.each(bare, {path: (path, options) for path in paths}, processes))


def extraction(processes: int) -> None:
    os.environ["SONOPAIR_WORKERS"] = str(processes)
    with contextlib.redirect_stdout(io.StringIO()):
        extract_frames.main("pocus", "raw", 3.0, 30, 25.0, 64, "fan")


def timed(work: Callable[[], None]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main(repetitions: int) -> None:
    """Print seconds, and the ratios of speeds."""
    clips = Path(os.environ["US_CLIPS"], "pocus").resolve()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        Path("data/raw").mkdir(parents=True)
        Path("data/raw/pocus").symlink_to(clips)
        paths = list(pocus.clips(Path("data/raw/pocus"))["path"])
        one_thread = [cv2.CAP_PROP_N_THREADS, 1]
        rows = {
            "bare loop, 1 process, OpenCV's threads": partial(bare_loop, paths, 1, []),
            "bare loop, 1 process": partial(bare_loop, paths, 1, one_thread),
            "bare loop, 2 processes": partial(bare_loop, paths, 2, one_thread),
            "extraction, 1 process": partial(extraction, 1),
            "extraction, 2 processes": partial(extraction, 2),
        }
        seconds = {name: [] for name in rows}
        for _ in range(repetitions):
            for name, work in rows.items():
                seconds[name].append(timed(work))
        threads, bare_1, bare_2, own_1, own_2 = (median(values) for values in seconds.values())
        for name, values in seconds.items():
            print(f"{name:40s} {median(values):6.2f} s ({min(values):.2f} to {max(values):.2f})")
        print(f"extraction / bare loop, speed: {bare_1 / own_1:.2f} with 1 process, {bare_2 / own_2:.2f} with 2, "
              f"{threads / own_1:.2f} where OpenCV takes its threads")
        print(f"2 processes / 1, speed: extraction {own_1 / own_2:.2f}, bare loop {bare_1 / bare_2:.2f}")
        os.chdir("/")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
