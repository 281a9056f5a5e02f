"""Seconds to the same held-out loss of SimCLR, by our loop, lightly's and torchvision's transforms: --help

Run it in a folder with data/us4 (`dvc repro assemble_us4`). All three start from the same weights, with the optimiser, constant
learning rate and views of simclr's block of params.yaml; only lightly's crops have its own range of width / height. They take
turns, step by step, so that a busy machine slows all of them. The held-out loss is always measured by our code, and its time
is not counted. Compared is the lowest loss that all three reach.
"""

import argparse
import time
from collections.abc import Iterator

import numpy as np
import torch
import torchvision
import torchvision.transforms as T
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
from stages.lib.pretraining.measures import held_out_loss
from stages.lib.pretraining.method import ContrastiveMethod
from stages.lib.training.device import device, generator
from stages.lib.training.optimizer import optimizer_and_schedule, set_learning_rate
from tests.benchmarks.throughput import BLOCKS, VIEWS

BLOCK = BLOCKS["simclr"]
KINDS = ("ours", "lightly", "torchvision")


def build(sets: list[ClipSet], arch: str, seed: int) -> ContrastiveMethod:
    """SimCLR with the weights that all start from."""
    torch.manual_seed(seed)
    return pretrain.build("simclr", BLOCKS, VIEWS, Backbone(arch), *sets).to(device())


def our_steps(model: ContrastiveMethod, train: ClipSet, batch: int, seed: int) -> Iterator[dict]:
    """Train the model by the loop of the stage; yields its weights after each step."""
    optimizer, _ = optimizer_and_schedule(model.trained(), 1, **BLOCK["optimizer"])
    set_learning_rate(optimizer, BLOCK["optimizer"]["learning_rate"])
    draw = generator(seed, device())
    while True:
        for frames, clips in train.batches(batch, model.pick, draw):
            loss, _ = model.train().loss(frames, clips, draw)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            yield model.state_dict()


class Pairs(torch.utils.data.Dataset):
    """A random frame of each clip, as Pillow gives it, seen twice."""

    def __init__(self, clip_set: ClipSet, transform):
        self.frames, self.transform = clip_set.frames[torch.arange(len(clip_set.frames))].cpu(), transform
        self.first, self.count = clip_set.first.tolist(), clip_set.clips.count.tolist()

    def __len__(self):
        return len(self.first)

    def __getitem__(self, clip):
        frame = self.frames[self.first[clip] + int(torch.randint(self.count[clip], ()))]
        return self.transform(Image.fromarray((frame[0].numpy() * 255).round().astype(np.uint8)))


def views(kind: str, size_px: int):
    """The views of simclr's block, by the transforms of a library: Pillow image → two tensors."""
    given = BLOCK["views"]
    if kind == "lightly":
        jitter = {"cj_prob": given["jitter_probability"], "cj_strength": 1.0, "cj_bright": given["brightness"],
                  "cj_contrast": given["contrast"], "cj_sat": 0.0, "cj_hue": 0.0}
        pair = SimCLRTransform(size_px, **jitter, min_scale=given["crop_scale"][0], random_gray_scale=0.0, gaussian_blur=0.0,
                               hf_prob=given["flip_probability"],
                               normalize={"mean": [given["mean"]] * 3, "std": [given["std"]] * 3})
        return T.Compose([T.Grayscale(3), pair])
    one = T.Compose([T.Grayscale(3), T.RandomResizedCrop(size_px, given["crop_scale"], given["crop_ratio"]),
                     T.RandomHorizontalFlip(given["flip_probability"]), T.ColorJitter(given["brightness"], given["contrast"]),
                     T.ToTensor(), T.Normalize(given["mean"], given["std"])])
    return lambda image: (one(image), one(image))


def library_steps(kind: str, model: ContrastiveMethod, train: ClipSet, batch: int) -> Iterator[dict]:
    """Train a copy of the model's network in single precision with a DataLoader; yields its weights, by our names."""
    network, where = torchvision.models.get_model(model.backbone.arch), device()
    head = projection_head(model.backbone.feature_width, model.backbone.feature_width, BLOCK["embedding_width"])
    network.set_submodule(model.backbone.classifier, head)
    ends = {f"{model.backbone.classifier}.{name}": value for name, value in model.projection_head.state_dict().items()}
    network.load_state_dict(model.backbone.network.state_dict() | ends)
    network.to(where).train()
    rate = {"lr": BLOCK["optimizer"]["learning_rate"], "weight_decay": BLOCK["optimizer"]["weight_decay"]}
    optimizer = torch.optim.Adam(network.parameters(), **rate)
    criterion = NTXentLoss(temperature=BLOCK["temperature"]) if kind == "lightly" else (
        lambda left, right: nt_xent(unit(left), unit(right), BLOCK["temperature"]))
    data = torch.utils.data.DataLoader(Pairs(train, views(kind, train.frames.shape[-1])), batch, shuffle=True, drop_last=True,
                                       num_workers=workers(), persistent_workers=True, pin_memory=where.type == "cuda")
    while True:
        for pair in data:
            loss = criterion(*network(torch.cat(pair[:2]).to(where, non_blocking=True)).chunk(2))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            body = {f"backbone.network.{name}": value for name, value in network.state_dict().items()
                    if not name.startswith(f"{model.backbone.classifier}.")}
            yield body | {f"projection_head.{name}": value for name, value in head.state_dict().items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="resnet18")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0, help="of weights, clips and views")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--every", type=int, default=20, help="steps between two measurements of the held-out loss")
    options = parser.parse_args()
    data = store.read("data/us4")
    sets = [ClipSet(data, split, device()) for split in ("train", "held_out")]
    judge = build(sets, options.arch, options.seed)
    running = {"ours": our_steps(build(sets, options.arch, options.seed), sets[0], options.batch, options.seed)}
    running |= {kind: library_steps(kind, judge, sets[0], options.batch) for kind in KINDS[1:]}
    seconds, curves, weights = dict.fromkeys(KINDS, 0.0), {kind: [] for kind in KINDS}, {}
    print(f"{device().type}, {torch.get_num_threads()} threads, {len(sets[0])} clips, batch {options.batch}, {options.arch}; "
          "after so many steps: seconds, held-out loss")
    for step in range(1, options.steps + 1):
        for kind, stepping in running.items():
            start = time.perf_counter()
            weights[kind] = next(stepping)
            if device().type == "cuda":
                torch.cuda.synchronize()
            seconds[kind] += time.perf_counter() - start
        if step % options.every == 0:
            for kind in KINDS:
                judge.load_state_dict(weights[kind])
                curves[kind].append((seconds[kind], held_out_loss(judge, sets[1], options.batch, generator(0, device()))))
            print(f"{step:5}  " + "   ".join(f"{kind} {curves[kind][-1][0]:7.1f} {curves[kind][-1][1]:6.3f}" for kind in KINDS),
                  flush=True)
    aim = max(min(loss for _, loss in curve) for curve in curves.values())
    needed = {kind: next(passed for passed, loss in curve if loss <= aim) for kind, curve in curves.items()}
    for kind in KINDS:
        print(f"held-out loss {aim:.3f}: {kind} {needed[kind]:.1f} s, {needed[kind] / needed['ours']:.2f} times ours")


if __name__ == "__main__":
    main()
