"""Seconds and memory of each stage against the number of clips: python -m tests.benchmarks.scale --help

Clips of speckle are made, uncompressed and of 64 px, in a temporary folder, one number of clips after the other:

    extract      all clips → frames, with an empty cache
    assemble     frames → pretraining set, the leak guard among it: every clip with every other
    pretrain     100 steps of SimCLR, batch 16
    finetune     one epoch, two folds, all frames
    extract+10   ten more clips, the others from the cache
    assemble+10  the same

Each stage is a process of its own. Seconds are those on the clock, and those of the processors, which other programs on the
machine change less; memory is the greatest sum over all its processes. --json keeps the rows; --plot draws all rows of that
file, so that the larger numbers can be run later, or elsewhere.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from importlib import import_module
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import psutil
import yaml

ROOT = Path(__file__).parents[2]
PARAMS = yaml.safe_load((ROOT / "params.yaml").read_text())
SIZE_PX, FPS, ADDED = 64, 10, 10
STAGES = ("extract", "assemble", "pretrain", "finetune", "extract+10", "assemble+10")
MODULES = {"extract": "extract_frames", "assemble": "assemble_us4", "pretrain": "pretrain", "finetune": "finetune"}
CLIPS = Path("data/raw/custom")
HEADER = """ObjectType = Image
NDims = 3
DimSize = {size} {size} {frames}
ElementType = MET_UCHAR
ElementDataFile = LOCAL
"""


def write_clips(first: int, beyond: int, frames: int) -> None:
    """Clips of drifting speckle in a fan, two of each patient, and the list of all."""
    CLIPS.mkdir(parents=True, exist_ok=True)
    y, x = np.mgrid[:SIZE_PX, :SIZE_PX] / SIZE_PX
    light, header = (np.abs(x - 0.5) < 0.2 + 0.3 * y) * (1.1 - 0.7 * y), HEADER.format(size=SIZE_PX, frames=frames)
    for number in range(first, beyond):
        rng = np.random.default_rng(number)
        scene = cv2.GaussianBlur(rng.normal(size=(2 * SIZE_PX, SIZE_PX + 2 * frames)), (0, 0), 2.5)
        scene = 90 + 30 * scene / scene.std()
        places = enumerate(rng.integers(0, SIZE_PX, frames))
        moved = np.stack([scene[down : down + SIZE_PX, 2 * t : 2 * t + SIZE_PX] for t, down in places])
        pixels = (moved * light).clip(8 * (light > 0), 255).astype(np.uint8)
        (CLIPS / f"{number:06}.mha").write_bytes(header.encode() + pixels.tobytes())
    table = pd.DataFrame({"path": [f"{number:06}.mha" for number in range(beyond)], "fps": FPS})
    table["patient"], table["label"] = [f"p{number // 2}" for number in table.index], np.where(table.index // 2 % 2, "a", "b")
    table.to_csv(CLIPS / "clips.csv", index=False)


def run(stage: str, frames: int, arch: str) -> None:
    """One stage, in the folder that has its input."""
    seed, distance, tasks = PARAMS["seed"], PARAMS["copy_distance"], {"custom": {"classes": ["a", "b"]}}
    if stage == "extract":
        block = PARAMS["extract_frames"] | {"frame_rate_hz": float(FPS), "max_frames_per_clip": frames, "size_px": SIZE_PX}
        block |= {"source": "custom", "collection": "raw"}
        del block["sources"]
    elif stage == "assemble":
        block = {"seed": seed, "copy_distance": distance, "sources": ["custom"], "held_out_fraction": 0.2, "classes": {}}
        block |= {"extract_frames": {"sources": ["custom"]}, "finetune": {"tasks": []}, "segment": {"tasks": []}, "tasks": {}}
    elif stage == "pretrain":
        block = {"seed": seed, "methods": PARAMS["methods"], "views": PARAMS["views"]} | PARAMS["pretrain"]
        block |= {"epochs": 1, "steps_per_epoch": 100, "arch": arch}
    else:
        block = {"seed": seed, "copy_distance": distance, "tasks": tasks, "task": "custom"} | PARAMS["finetune"]
        block |= {"tasks": tasks, "epochs": 1, "folds": 2}
    import_module(f"stages.{MODULES[stage]}").main(**block)


def measured(stage: str, frames: int, arch: str) -> dict[str, float]:
    """Seconds on the clock and of the processors, and GiB, of a stage in a process of its own and of those that it starts."""
    command = [sys.executable, "-m", "tests.benchmarks.scale", "--stage", stage, "--frames", str(frames), "--arch", arch]
    start, used, most = time.perf_counter(), {}, 0
    process = psutil.Popen(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL)
    while process.poll() is None:
        total = 0
        for member in [process, *process.children(recursive=True)]:
            try:
                used[member.pid] = sum(member.cpu_times()[:2])
                total += member.memory_info().rss
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        most = max(most, total)
        time.sleep(0.2)
    if process.returncode:
        sys.exit(f"{stage} failed")
    return {"seconds": time.perf_counter() - start, "processor_s": sum(used.values()), "gib": most / 2**30}


def rows(clips: int, frames: int, stages: list[str], arch: str) -> list[dict]:
    """What the stages cost with so many clips, in the current folder."""
    found, written = [], clips
    write_clips(0, clips, frames)
    for stage in stages:
        if stage.endswith("+10") and written == clips:
            write_clips(clips, clips + ADDED, frames)
            written += ADDED
        cost = measured(stage.removesuffix("+10"), frames, arch)
        load, _, _ = os.getloadavg()
        found.append({"stage": stage, "clips": clips, "frames": clips * frames, "load": round(load, 1)} | cost)
        print(f"{stage:12}{clips:8,}{clips * frames:11,}{cost['seconds']:9.1f}{cost['processor_s']:9.1f}{cost['gib']:7.2f}"
              f"{load:6.1f}", flush=True)
    return found


def draw(path: Path, found: list[dict]) -> None:
    """Processor seconds and memory of each stage against the number of frames, beside the slopes of N and N²."""
    plt = import_module("matplotlib.pyplot")        # only here, so that it takes no memory in the stages
    table = pd.DataFrame(found).drop_duplicates(["stage", "frames"], keep="last").sort_values("frames")
    figure, parts = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for axes, (column, label) in zip(parts, {"processor_s": "processor seconds", "gib": "memory, GiB"}.items(), strict=True):
        for stage, part in table.groupby("stage", sort=False):
            axes.loglog(part["frames"], part[column], marker="o", label=stage)
        ends = np.array([table["frames"].min(), table["frames"].max()])
        for power, style in ((1, ":"), (2, "--")):
            axes.plot(ends, table[column].min() * (ends / ends[0]) ** power, style, color="grey",
                      label=f"slope of N{'²' * (power - 1)}")
        axes.set(xlabel="frames", ylabel=label, ylim=(table[column].min() / 2, 2 * table[column].max()))
    parts[1].legend(fontsize="small")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, nargs="*", default=[100, 300, 1000, 3000, 10_000])
    parser.add_argument("--frames", type=int, default=100, help="of each clip")
    parser.add_argument("--stages", nargs="*", default=STAGES, choices=STAGES)
    parser.add_argument("--arch", default=PARAMS["pretrain"]["arch"], help="network of pretrain and finetune")
    parser.add_argument("--json", type=Path, help="add the rows to this file")
    parser.add_argument("--plot", type=Path, help="draw all rows of this file as a png")
    parser.add_argument("--stage", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.stage:
        run(options.stage, options.frames, options.arch)
        return
    kept = options.json.resolve() if options.json else None
    plot = options.plot.resolve() if options.plot else None
    found = json.loads(kept.read_text()) if kept and kept.exists() else []
    print(f"{'stage':12}{'clips':>8}{'frames':>11}{'seconds':>9}{'of CPUs':>9}{'GiB':>7}{'load':>6}")
    for clips in options.clips:
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            found += rows(clips, options.frames, options.stages, options.arch)
            os.chdir(ROOT)
        if kept:
            kept.write_text(json.dumps(found, indent=1) + "\n")
        if plot:
            draw(plot, found)


if __name__ == "__main__":
    main()
