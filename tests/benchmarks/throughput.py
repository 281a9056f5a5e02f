"""Images a second of pretraining, beside what the hardware can do at most: python -m tests.benchmarks.throughput --help

    ceiling   forward, backward and step alone, on a fixed batch that is not augmented
    loop      the real loop: shuffling, picking, converting, augmenting, and the same
    ratio     loop / ceiling
    simclr    seconds of a step of the method / of SimCLR with the same batch
    memory    GiB: on a GPU the most that a step of the loop needed, beside the models of the other rows; on a CPU the most that
              the process has had so far, all rows together

With --pipeline semantic the views are those of `views.semantic`. Last comes the time of the published runs
(published_scale.py): extrapolated, or with --full run. With --others, on the same frames, what a user would otherwise write
in single precision: `lightly` (its SimCLR transform and loss, a DataLoader) and `torchvision` (the views of simclr's block as
its transforms, frame by frame, a DataLoader).
Needs no data: frames of the asked size are made. All kinds take turns, step by step, so that a busy machine
slows all of them; medians are printed. An image is a view that passes a backbone, be it a key encoder.
"""

import argparse
import json
import math
import resource
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torchvision
import torchvision.transforms as T
import yaml
from lightly.loss import NTXentLoss
from lightly.transforms import SimCLRTransform
from PIL import Image

from stages import pretrain
from stages.lib.clips import store
from stages.lib.clips.workers import workers
from stages.lib.networks.backbone import Backbone
from stages.lib.networks.heads import projection_head, unit
from stages.lib.pretraining.clip_set import ClipSet
from stages.lib.pretraining.losses import nt_xent
from stages.lib.training.device import device, generator
from stages.lib.training.optimizer import optimizer_and_schedule, set_learning_rate
from tests.benchmarks import published_scale

ROOT = Path(__file__).parents[2]
PARAMS = yaml.safe_load((ROOT / "params.yaml").read_text())
BLOCKS, VIEWS = PARAMS["methods"], PARAMS["views"]
CLIPS, FRAMES = 400, 6


def clip_sets(size_px: int, where: torch.device) -> list[ClipSet]:
    """Training and held-out clips of random frames."""
    table = pd.DataFrame({"clip": [f"clip {number}" for number in range(CLIPS)]})
    table["pooled_class"] = np.where(table.index % 2, "a", "b")
    table["split"] = np.where(table.index % 5, "train", "held_out")
    table = table.assign(source="random", fps=25.0, frames=FRAMES, first=table.index * FRAMES)
    rows = pd.DataFrame({"frame": np.tile(np.arange(FRAMES) * 8, CLIPS)})
    noise = np.random.default_rng(0).integers(0, 256, (len(rows), size_px, size_px), dtype=np.uint8)
    return [ClipSet(store.Store(noise, rows, table), split, where) for split in ("train", "held_out")]


def method_steps(
    name: str, pipeline: str, sets: list[ClipSet], batch: int, where: torch.device, augmented: bool
) -> Iterator[int]:
    """Steps of the real loop, or of its arithmetic alone; yields the images of each."""
    torch.manual_seed(0)
    model = pretrain.build(name, BLOCKS, VIEWS | {"pipeline": pipeline}, Backbone("resnet18"), *sets).to(where).train()
    model.progress = 1.0 - 1e-6         # the dearest part of a curriculum
    optimizer, schedule = optimizer_and_schedule(model.trained(), 10**6, **BLOCKS[name]["optimizer"])
    images = []
    for part in model.modules():
        if isinstance(part, Backbone):
            part.register_forward_pre_hook(lambda _, frames: images.append(math.prod(frames[0].shape[:-3])))
    draw = generator(0, where)
    batches = sets[0].batches(batch, model.pick, draw, steps=10**4)
    fixed = next(batches)
    if not augmented:
        model.augment = lambda frames, clips, generator, dim=0: frames
    while True:
        frames, clips = next(batches) if augmented else fixed
        set_learning_rate(optimizer, 1e-4 * schedule(0))
        model.before_step(frames, clips, optimizer, draw)
        loss, _ = model.loss(frames, clips, draw)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        model.after_step()
        yield sum(images)
        images.clear()


class Pairs(torch.utils.data.Dataset):
    """A frame of each clip as Pillow gives it, seen twice through a transform."""

    def __init__(self, clip_set: ClipSet, transform):
        self.frames = clip_set.frames[clip_set.first, 0].cpu().numpy()
        self.transform = transform

    def __len__(self):
        return 10**6

    def __getitem__(self, number):
        image = Image.fromarray(self.frames[number % len(self.frames)])
        return self.transform(image)


def loader_steps(kind: str, sets: list[ClipSet], size_px: int, batch: int, where: torch.device) -> Iterator[int]:
    """Steps of a SimCLR loop with a DataLoader."""
    views = BLOCKS["simclr"]["views"]
    if kind == "lightly":
        pair, criterion = SimCLRTransform(input_size=size_px), NTXentLoss(temperature=0.5)
        transform = T.Compose([T.Grayscale(3), pair])
    else:
        crop = T.RandomResizedCrop(size_px, views["crop_scale"], views["crop_ratio"])
        jitter = T.ColorJitter(views["brightness"], views["contrast"])
        flip, normalise = T.RandomHorizontalFlip(views["flip_probability"]), T.Normalize(views["mean"], views["std"])
        one = T.Compose([T.Grayscale(3), crop, flip, jitter, T.ToTensor(), normalise])
        transform, criterion = (lambda image: (one(image), one(image))), None
    data = torch.utils.data.DataLoader(
        Pairs(sets[0], transform), batch, num_workers=workers(), drop_last=True, pin_memory=where.type == "cuda"
    )
    torch.manual_seed(0)
    network = torchvision.models.resnet18()
    network.fc = projection_head(512, 512, BLOCKS["simclr"]["embedding_width"])
    network.to(where).train()
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-8)
    for pair in data:
        left, right = network(torch.cat(pair[:2]).to(where, non_blocking=True)).chunk(2)
        loss = criterion(left, right) if criterion else nt_xent(unit(left), unit(right), 0.5)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield 2 * len(left)


def measure(running: dict[str, Iterator[int]], repeats: int, where: torch.device) -> dict[str, tuple[float, int, float]]:
    """Median seconds, the images and the GiB of a step of each kind, after two that warm up."""
    seconds, images, memory = {name: [] for name in running}, {}, {}
    for repeat in range(repeats + 2):
        for name, stepping in running.items():
            if where.type == "cuda":
                torch.cuda.reset_peak_memory_stats()
            start = time.perf_counter()
            images[name] = next(stepping)
            if where.type == "cuda":
                torch.cuda.synchronize()
            if repeat > 1:
                seconds[name].append(time.perf_counter() - start)
            gpu = where.type == "cuda"
            memory[name] = (torch.cuda.max_memory_allocated() / 2**30 if gpu else
                            resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)     # Linux counts KiB
    return {name: (statistics.median(seconds[name]), images[name], memory[name]) for name in running}


def main() -> None:
    everything = sorted(path.stem for path in (ROOT / "stages/methods").glob("*.py"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default=str(device()))
    parser.add_argument("--sizes", type=int, nargs="*", default=[64, 112, 224])
    parser.add_argument("--batches", type=int, nargs="*", default=[32, 256])
    parser.add_argument("--methods", nargs="*", default=everything, choices=everything)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--others", action="store_true", help="also the loops of lightly and torchvision")
    parser.add_argument("--pipeline", default="published", choices=("published", "semantic"))
    parser.add_argument("--full", action="store_true", help="run the published runs in full")
    parser.add_argument("--json", type=Path, help="write the rows here, too")
    options = parser.parse_args()
    where, rows = torch.device(options.device), []
    print(f"{options.device}, {torch.get_num_threads()} threads, torch {torch.__version__}, medians of {options.repeats} steps")
    print(f"{'method':16}{'px':>5}{'batch':>6}{'ceiling':>9}{'loop':>9}{'ratio':>7}{'simclr':>8}{'memory':>8}   images/s, GiB")
    for size_px in options.sizes:
        sets = clip_sets(size_px, where)
        for batch in options.batches:
            running = {}
            for name in ["simclr", *(name for name in options.methods if name != "simclr")]:
                for kind in ("ceiling", "loop"):
                    running[f"{name} {kind}"] = method_steps(name, options.pipeline, sets, batch, where, kind == "loop")
            if options.others:
                running |= {name: loader_steps(name, sets, size_px, batch, where) for name in ("lightly", "torchvision")}
            times = measure(running, options.repeats, where)
            unit_step = times["simclr loop"][0]
            for name in dict.fromkeys(key.split()[0] for key in running):
                ceiling = times.get(f"{name} ceiling")
                step, images, memory = times.get(f"{name} loop", times.get(name))
                loop, most = images / step, ceiling[1] / ceiling[0] if ceiling else math.nan
                row = {"ceiling": most, "loop": loop, "ratio": loop / most, "simclr": step / unit_step, "memory_gib": memory}
                numbers = f"{most:9.0f}{loop:9.0f}{loop / most:7.2f}{step / unit_step:8.2f}{memory:8.1f}"
                print(f"{name:16}{size_px:5}{batch:6}{numbers}", flush=True)
                known = {key: value for key, value in row.items() if not math.isnan(value)}
                rows.append({"method": name, "size_px": size_px, "batch": batch, "device": options.device} | known)
    how = "run in full" if options.full else "extrapolated"
    for run, seconds in published_scale.times(where, PARAMS, options.full).items():
        print(f"{run}: {seconds:,.0f} s, {how}")
        rows.append({"run": run, "device": options.device, "seconds": seconds, "full": options.full})
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
