"""Extraction of the POCUS clips beside a bare OpenCV decode loop of the same clips, with one process and with two.

    US_CLIPS=<folder with pocus/> python -m tests.benchmarks.extraction [repetitions]

The bare loop calls cap.read() to the end of every clip and keeps nothing. Its decoder has one thread, as that of the
extraction, which shares the cores out by clips; a further row gives it the threads that OpenCV takes by itself. The
rows take turns, so that a busy machine slows all of them; medians are printed. Processor seconds, of all processes together,
say less about the wait of a user and more about a machine that others use, too.
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
import psutil

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


def timed(work: Callable[[], None]) -> tuple[float, float]:
    """Seconds on the clock, and of the processors."""
    start, before = time.perf_counter(), processor_s()
    work()
    return time.perf_counter() - start, processor_s() - before


def processor_s() -> float:
    """Of this process, of those that it has started, and of those that have ended and were theirs."""
    family = [psutil.Process(), *psutil.Process().children(recursive=True)]
    return sum(sum(process.cpu_times()[:4]) for process in family)


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
        seconds, processor = {name: [] for name in rows}, {name: [] for name in rows}
        extraction(1)  # once before, so that no row reads the clips from the disk
        for _ in range(repetitions):
            for name, work in rows.items():
                clock_s, used_s = timed(work)
                seconds[name].append(clock_s)
                processor[name].append(used_s)
        threads, bare_1, bare_2, own_1, own_2 = (median(values) for values in seconds.values())
        for name, values in seconds.items():
            print(f"{name:40s} {median(values):6.2f} s ({min(values):.2f} to {max(values):.2f}), processors "
                  f"{median(processor[name]):6.2f} s ({min(processor[name]):.2f} to {max(processor[name]):.2f})")
        _, bare_used, _, own_used, _ = (median(values) for values in processor.values())
        print(f"extraction / bare loop, 1 process, by processor seconds: {bare_used / own_used:.2f}")
        print(f"extraction / bare loop, speed: {bare_1 / own_1:.2f} with 1 process, {bare_2 / own_2:.2f} with 2, "
              f"{threads / own_1:.2f} where OpenCV takes its threads")
        print(f"2 processes / 1, speed: extraction {own_1 / own_2:.2f}, bare loop {bare_1 / bare_2:.2f}")
        os.chdir("/")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
