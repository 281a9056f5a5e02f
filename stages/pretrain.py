"""The contrastive loop, the same for every method: clips → pretrained backbone.

reads   data/us4/                       frames.npy uint8 [N, size_px, size_px] and its tables
writes  models/pretrained.safetensors   backbone weights under torchvision's key names; the run's facts as metadata
        reports/pretrain.csv            a row per epoch: epoch, step, learning_rate, loss, the method's terms, held_out_loss,
                                        every few epochs knn_accuracy, alignment, uniformity
        reports/features/pretrain/      features of the held-out clips by the kept weights, with source and
                                        pooled_class (lib/networks/clip_features.py)
        reports/pairs/                  pairs.csv: the method's values of each pair (frame_distance, weight, …) in the same
                                        epochs; views.npy and views.csv: views as the loss sees them (lib/pretraining/pairs.py)
"""

from collections.abc import Callable, Iterable
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from inspect import signature
from pathlib import Path
from typing import Annotated

import pandas as pd
import torch
from annotated_types import Ge

from stages.lib.clips import store
from stages.lib.networks import checkpoint, clip_features
from stages.lib.networks.backbone import Arch, Backbone
from stages.lib.networks.initial import initial, initialise, named_file
from stages.lib.params import Count, Seed, UserError, block_of, from_params, require
from stages.lib.pretraining import pairs
from stages.lib.pretraining.clip_set import Clips, ClipSet
from stages.lib.pretraining.divergence import divergence
from stages.lib.pretraining.measures import better, held_out_loss, kept_features, measures
from stages.lib.pretraining.method import ContrastiveMethod, check_settings, own_settings
from stages.lib.running.stage import one_sentence, run
from stages.lib.training import distributed
from stages.lib.training.device import device, generator
from stages.lib.training.optimizer import optimizer_and_schedule, set_learning_rate
from stages.lib.training.progress import Progress
from stages.lib.training.resume import TrainingState, unfinished
from stages.lib.training.semantic_views import ViewChoice, chosen_views
from stages.lib.training.threads import THREADS

METHODS = Path(__file__).parent / "methods"
LATER = {"finetune": "task", "segment": "task", "report": None}


def main(
    seed: Seed, method: str, arch: Arch, init: initial("random", "imagenet"), epochs: Count, batch_size: Annotated[int, Ge(2)],
    steps_per_epoch: Count | None, measure_every: Count, methods: dict, views: block_of(ViewChoice),
) -> None:
    """Pretrain `arch` on the clips of data/us4; params.yaml explains the arguments."""
    find_method(method, methods, views)
    torch.manual_seed(seed)
    data, hardware = store.read("data/us4"), device()
    train, held_out = (ClipSet(data, split, hardware) for split in ("train", "held_out"))
    backbone = distributed.synchronised(initialise(Backbone(arch), init, "pretrain.init"))
    backbone.require_size(train.frames.shape[-1])
    model = build(method, methods, views, backbone, train, held_out).to(hardware)
    settings, steps = methods[method], steps_per_epoch or train.steps(batch_size)
    check_sizes(f"methods.{method}.keep", settings["keep"], len(train), len(held_out), batch_size)
    optimizer, schedule = from_params(optimizer_and_schedule, settings["optimizer"], f"methods.{method}.optimizer",
                                      parameters=model.trained(), steps=epochs * steps)
    draw = generator(seed, hardware)
    facts = {"seed": seed, "method": method, "arch": arch, "init": init, "epochs": epochs, "batch_size": batch_size,
             "steps_per_epoch": steps, "measure_every": measure_every, "device": hardware.type}
    facts |= {"params": settings, "views": views}
    inputs = [Path("data/us4", name) for name in ("clips.csv", "frames.csv", "frames.npy")]
    resume = unfinished("pretrain", facts, [*inputs, METHODS / f"{method}.py", *named_file(init)], __file__)
    records = {"rows": [], "pairs": [], "best": {}}
    state = TrainingState(resume, {"model": model, "optimizer": optimizer}, draw, records)
    train_one = partial(train_epoch, model, optimizer=optimizer, schedule=schedule, draw=draw, steps=epochs * steps,
                        loss_of=distributed.loss_of(model))
    progress = Progress(f"pretrain {method}", epochs, len(state.records["rows"]))
    for epoch in range(len(state.records["rows"]), epochs):
        batches = partial(train.batches, batch_size, model.pick, draw, steps_per_epoch)
        means, values, losses = train_one(batches(), first_step=epoch * steps)
        if not losses.isfinite().all():
            state.load()
            replay = partial(train_one, first_step=epoch * steps)
            place, sentence = divergence(model, batches(), losses, replay, data.clip_table["clip"])
            raise UserError(f"step {epoch * steps + place} (epoch {epoch}): {sentence}; lower methods.{method}.optimizer."
                            f"learning_rate ({resume.path} keeps the state before this epoch)")
        row = {"epoch": epoch, "step": (epoch + 1) * steps, "learning_rate": schedule((epoch + 1) * steps - 1)} | means
        row |= model.curriculum() | {"held_out_loss": held_out_loss(model, held_out, batch_size, generator(seed, hardware))}
        if (epoch + 1) % measure_every == 0 or epoch + 1 == epochs:
            row |= measures(model, train, held_out, generator(seed, hardware))
            state.records["pairs"].append({"epoch": epoch} | {name: value.cpu() for name, value in values.items()})
        state.records["rows"].append(row)
        state.records["best"] = better(state.records["best"], settings["keep"], row, model)
        state.save()
        progress.step(loss=row["loss"], held_out_loss=row["held_out_loss"])
    pictures = pairs.pictures(model, train, generator(seed, hardware))     # by all processes, for the batch norm
    if distributed.first():
        write(state.records, pictures, facts, model, data, train, held_out)
    resume.remove()


def find_method(method: str, methods: dict, views: dict) -> type[ContrastiveMethod]:
    """The `Method` of stages/methods/<method>.py; raises UserError unless its block and the block `views` fit it."""
    found = find_spec(f"stages.methods.{method}") if method.isidentifier() else None
    choices = ", ".join(sorted(path.stem for path in METHODS.glob("*.py")))
    require(found is not None, f"params.yaml: pretrain.method is {method!r}; choose from {choices}")
    require(method in methods, f"params.yaml: methods has no block {method!r}; add one with the settings of the method")
    kind = import_module(f"stages.methods.{method}").Method
    check_settings(kind, methods[method], views, f"methods.{method}")
    return kind


def build(
    method: str, methods: dict, views: dict, backbone: Backbone, clip_set: ClipSet, held_out: ClipSet
) -> ContrastiveMethod:
    """The method around the backbone, with the keyword arguments of its block; errors as in `find_method`."""
    kind, name = find_method(method, methods, views), f"methods.{method}"
    parts = {"backbone": backbone, "clip_set": clip_set, "held_out": held_out}
    parts["views"] = chosen_views(methods[method]["views"], views, f"{name}.views")
    parts = {key: part for key, part in parts.items() if key in signature(kind).parameters}
    return from_params(kind, own_settings(methods[method]), name, **parts)


def check_sizes(key: str, keep: str, clips: int, held_out: int, batch_size: int) -> None:
    """Stop if there are too few clips for the batch or for the choice of an epoch."""
    require(clips > 1, f"clips to train on in data/us4: {clips}; contrast needs two or more, add clips or sources")
    require(batch_size <= clips, f"params.yaml: pretrain.batch_size is {batch_size}; choose 2 to {clips}, the number of "
            "training clips")
    smallest = clips % batch_size if clips % batch_size > 1 else batch_size
    require(distributed.size() <= smallest, f"{distributed.size()} processes cannot share a batch of {smallest} clips; "
            "start fewer, or choose another pretrain.batch_size")
    require(held_out > 1 or keep == "last_epoch", f"clips held out: {held_out}, too few to choose an epoch by: raise "
            f"assemble_us4.held_out_fraction or set {key} to last_epoch")


def train_epoch(
    model: ContrastiveMethod,
    batches: Iterable[tuple[torch.Tensor, Clips]],
    optimizer: torch.optim.Optimizer,
    schedule: Callable[[int], float],
    draw: torch.Generator,
    loss_of: Callable,
    first_step: int,
    steps: int,
) -> tuple[dict[str, float], dict[str, torch.Tensor], torch.Tensor]:
    """One pass over `batches`; nothing is read from the device before its end.

    Args:
        schedule: learning rate of each step of the run.
        loss_of: the model's loss (`lib/training/distributed.py`).
        first_step: number of the first step of this epoch in the run.
        steps: of the whole run.

    Returns:
        Means over clips of the loss and of the method's other scalars; `index` (clip) and the method's values of each pair,
        [pairs]; the loss of every step.
    """
    model.train()
    scalars, vectors, sizes = {}, {}, []
    model.progress = first_step / steps
    with distributed.sharing():
        for step, (frames, clips) in enumerate(batches, first_step):            # B x k x 1 x H x W
            THREADS.look()
            set_learning_rate(optimizer, schedule(step))
            model.before_step(frames, clips, optimizer, draw)
            loss, terms = loss_of(frames, clips, draw)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            model.progress = (step + 1) / steps
            model.after_step()
            sizes.append(len(clips.index))
            for name, value in {"loss": loss.detach(), "index": clips.index, **terms}.items():
                if value.dim() < 2:
                    (vectors if value.dim() else scalars).setdefault(name, []).append(value)
    size = torch.tensor(sizes, dtype=torch.float64)
    columns = {name: torch.stack(values).double().cpu() for name, values in scalars.items()}
    means = {name: float((column * size).sum() / size.sum()) for name, column in columns.items()}
    return means, {name: torch.cat(values) for name, values in vectors.items()}, columns["loss"]


def write(
    records: dict, pictures: tuple, facts: dict, model: ContrastiveMethod, data: store.Store, train: ClipSet, held_out: ClipSet
) -> None:
    """Write the epochs, the pictures of views, the kept weights with the facts of the run, and their features."""
    best = records["best"]
    features, accuracies = kept_features(model, best["weights"], train, held_out)
    clip_features.write("reports/features/pretrain", features,
                        held_out.table[["clip", "source", "patient", "label", "pooled_class"]])
    store.write_csv("reports/pretrain.csv", pd.DataFrame(records["rows"]))
    pairs.write("reports/pairs", records["pairs"], pictures, data)
    facts |= {"clips": len(train), "frames": len(train.frames), "size_px": train.frames.shape[-1], "mean": model.views.mean,
              "std": model.views.std, "torch": torch.__version__, "threads": THREADS.used}
    facts["about"] = " ".join(import_module(f"stages.methods.{facts['method']}").__doc__.split())
    checkpoint.write(best["weights"], facts | accuracies | {name: best[name] for name in ("epoch", "held_out_loss")})
    print(f"{checkpoint.PRETRAINED}: {facts['arch']}, weights of epoch {best['epoch']} (counted from 0), held-out "
          f"loss {best['held_out_loss']:.4f}; loss curves in reports/pretrain.csv")


if __name__ == "__main__":
    distributed.launch("stages.pretrain")
    with one_sentence(), distributed.group(device()):
        run(main, stage="pretrain", lower="pretrain.batch_size or extract_frames.size_px", later=LATER)
