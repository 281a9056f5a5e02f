"""Time of one training step of every method, as a ratio to SimCLR's in the same run: python -m tests.benchmarks.steps --help

Needs neither DVC nor data. The methods take turns, step by step, so that a busy machine slows all of them alike.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import yaml

from stages import pretrain
from stages.lib import store
from stages.lib.clip_set import ClipSet
from stages.lib.networks import Backbone
from stages.lib.training import descent, device, generator, set_learning_rate

ROOT = Path(__file__).parents[2]


def clip_sets(folder: Path, size_px: int, where: torch.device) -> list[ClipSet]:
    """Training and held-out clips of random frames."""
    frames = 12
    table = pd.DataFrame({"clip": [f"clip {number}" for number in range(160)]})
    table["pooled_class"] = np.where(table.index % 2, "a", "b")
    table["split"] = np.where(table.index % 5, "train", "held_out")
    table = table.assign(source="random", fps=25.0, frames=frames, first=table.index * frames)
    rows = pd.DataFrame({"frame": np.tile(np.arange(frames) * 8, len(table))})
    noise = np.random.default_rng(0).integers(0, 256, (len(rows), size_px, size_px), dtype=np.uint8)
    np.save(folder / "frames.npy", noise)
    data = store.Store(np.load(folder / "frames.npy", mmap_mode="r"), rows, table)
    return [ClipSet(data, split, where) for split in ("train", "held_out")]


def steps(name: str, sets: list[ClipSet], batch_size: int, where: torch.device):
    """A generator that takes a whole step of the real loop (picks, views, passes, optimiser) at each `next`."""
    torch.manual_seed(0)
    blocks = yaml.safe_load((ROOT / "params.yaml").read_text())["methods"]
    model = pretrain.build(name, blocks, Backbone("resnet18"), *sets).to(where).train()
    model.progress = 1.0 - 1e-6     # a curriculum's dearest part
    optimizer, schedule = descent(model.trained(), 10**6, **blocks[name]["optimizer"])
    draw = generator(0, where)
    for frames, clips in sets[0].batches(batch_size, model.pick, draw, steps=10**4):
        set_learning_rate(optimizer, 1e-4 * schedule(0))
        model.before_step(frames, clips, optimizer, draw)
        loss, _ = model.loss(frames, clips, draw)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        model.after_step()
        if where.type == "cuda":
            torch.cuda.synchronize()
        yield


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default=str(device()))
    parser.add_argument("--size_px", type=int, default=64)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--methods", nargs="*", default=sorted(path.stem for path in (ROOT / "stages/methods").glob("*.py")))
    options = parser.parse_args()
    where = torch.device(options.device)
    with tempfile.TemporaryDirectory() as folder:
        sets = clip_sets(Path(folder), options.size_px, where)
        names = ["simclr", *(name for name in options.methods if name != "simclr")]
        running = {name: steps(name, sets, options.batch_size, where) for name in names}
        seconds = {name: [] for name in names}
        for repeat in range(options.repeats + 2):
            for name, stepping in running.items():
                start = time.perf_counter()
                next(stepping)
                if repeat > 1:      # the first two warm up
                    seconds[name].append(time.perf_counter() - start)
    unit = statistics.median(seconds["simclr"])
    print(f"{options.size_px} px, {options.batch_size} clips, {options.device}, {torch.get_num_threads()} threads, "
          f"median of {options.repeats}")
    for name in names:
        median = statistics.median(seconds[name])
        print(f"{name:16} {1000 * median:8.1f} ms {median / unit:6.2f} x simclr")


if __name__ == "__main__":
    main()
