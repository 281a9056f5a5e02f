"""The contrastive loop, the same for every method: clips → pretrained backbone.

reads   data/us4/                       frames.npy uint8 [N, size_px, size_px] and its tables
writes  models/pretrained.safetensors   backbone weights under torchvision's key names; the run's facts as metadata
        reports/pretrain.csv            a row per epoch: epoch, step, learning_rate, loss, the method's terms, held_out_loss,
                                        every few epochs knn_accuracy, alignment, uniformity
        reports/features/pretrain/      features of the held-out clips by the kept weights (networks/clip_features.py),
                                        with source and pooled_class
        reports/pairs/                  pairs.csv, what the method says of each pair (frame_distance, weight, …) in those same
                                        epochs; views.npy and views.csv, what its loss sees (lib/pretraining/pairs.py)
"""

from collections.abc import Callable, Iterable
from importlib import import_module
from importlib.util import find_spec
from inspect import signature
from itertools import islice
from pathlib import Path

import pandas as pd
import torch

from stages.lib.clips import store
from stages.lib.networks import checkpoint, clip_features
from stages.lib.networks.backbone import Backbone
from stages.lib.networks.initial import initialise, named_file
from stages.lib.params import UserError, from_params, require, run
from stages.lib.pretraining import pairs
from stages.lib.pretraining.clip_set import Clips, ClipSet
from stages.lib.pretraining.measures import held_out_loss, kept_features, measures
from stages.lib.pretraining.method import ContrastiveMethod
from stages.lib.training import distributed
from stages.lib.training.device import device, generator
from stages.lib.training.optimizer import descent, set_learning_rate
from stages.lib.training.progress import Progress
from stages.lib.training.resume import Resume, restore, snapshot
from stages.lib.training.semantic_views import SemanticViews
from stages.lib.training.views import Views

STAGES = Path(__file__).parent
PIPELINES = ("published", "semantic")
KEEP = ("best_held_out_loss", "last_epoch")


def main(
    seed: int,
    method: str,
    arch: str,
    init: str,
    epochs: int,
    batch_size: int,
    steps_per_epoch: int | None,
    probe_every: int,
    methods: dict,
    views: dict,
) -> None:
    """Pretrain `arch` on the clips of data/us4.

    Args:
        seed: of initial weights, order of clips, frames and views.
        method: file in stages/methods/ and block in `methods`.
        arch: any torchvision classifier that ends in a linear layer.
        init: random | imagenet | a file of weights.
        epochs: passes over the training clips.
        batch_size: clips per step.
        steps_per_epoch: None visits every clip once.
        probe_every: epochs between two looks at the held-out clips' features and at the pairs.
        methods: the method's block: {optimizer, views, keep, and its own keyword arguments}.
        views: {pipeline: published (the method's own) | semantic, semantic: the settings of lib/training/semantic_views.py}.
    """
    require(epochs > 0, f"params.yaml: pretrain.epochs is {epochs}; it must be at least 1")
    require(probe_every > 0, f"params.yaml: pretrain.probe_every is {probe_every}; it must be at least 1")
    require(init != "pretrained", "params.yaml: pretrain.init is pretrained; choose from random, imagenet or a file of weights")
    require(steps_per_epoch is None or steps_per_epoch > 0, "params.yaml: pretrain.steps_per_epoch: null, or 1 and more")
    torch.manual_seed(seed)
    where = device()
    data = store.read("data/us4")
    train, held_out = (ClipSet(data, split, where) for split in ("train", "held_out"))
    backbone = distributed.synchronised(initialise(Backbone(arch), init, "pretrain.init"))
    model = build(method, methods, views, backbone, train, held_out).to(where)
    block, steps = methods[method], steps_per_epoch or train.steps(batch_size)
    check_sizes(method, block, train, held_out, batch_size)
    given = {"parameters": model.trained(), "steps": epochs * steps}
    optimizer, schedule = from_params(descent, block["optimizer"], f"methods.{method}.optimizer", **given)
    draw = generator(seed, where)

    facts = {"seed": seed, "method": method, "arch": arch, "init": init, "epochs": epochs, "batch_size": batch_size,
             "steps_per_epoch": steps, "probe_every": probe_every, "device": where.type, "params": block, "views": views}
    inputs = [Path("data/us4", name) for name in ("clips.csv", "frames.csv", "frames.npy")]
    inputs += [Path(__file__), STAGES / f"methods/{method}.py", *sorted(STAGES.glob("lib/**/*.py")), *named_file(init)]
    resume = Resume("models/pretrain.unfinished", facts, inputs)
    moving, done = {"model": model, "optimizer": optimizer}, {"rows": [], "pairs": [], "best": {}}
    if state := resume.load():
        restore(moving, draw, state)
        done = {name: state[name] for name in done}
        print(f"pretrain: {len(done['rows'])} of {epochs} epochs were done before, going on", flush=True)
    else:
        resume.save(**snapshot(moving, draw), **done)
    loss_of = distributed.loss_of(model)

    epochs_done = Progress(f"pretrain {method}", epochs, len(done["rows"]))
    for epoch in range(len(done["rows"]), epochs):
        row = {"epoch": epoch, "step": (epoch + 1) * steps, "learning_rate": schedule((epoch + 1) * steps - 1)}
        going = {"optimizer": optimizer, "schedule": schedule, "draw": draw}
        going |= {"loss_of": loss_of, "first_step": epoch * steps, "steps": epochs * steps}
        means, of_pairs, losses = train_epoch(model, train.batches(batch_size, model.pick, draw, steps_per_epoch), **going)
        if not losses.isfinite().all():
            restore(moving, draw, resume.load())
            batches = train.batches(batch_size, model.pick, draw, steps_per_epoch)
            raise UserError(diverged(model, batches, losses, going, data.clip_table["clip"])
                            + f"; lower methods.{method}.optimizer.learning_rate ({resume.path} keeps the state before)")
        row |= means | model.curriculum()
        row |= {"held_out_loss": held_out_loss(model, held_out, batch_size, generator(seed, where))}
        if (epoch + 1) % probe_every == 0 or epoch + 1 == epochs:
            row |= measures(model, train, held_out, generator(seed, where))
            done["pairs"].append({"epoch": epoch} | {name: value.cpu() for name, value in of_pairs.items()})
        done["rows"].append(row)
        done["best"] = better(done["best"], block["keep"], row, model)
        resume.save(**snapshot(moving, draw), **done)
        epochs_done.step(loss=row["loss"], held_out_loss=row["held_out_loss"])

    facts |= {"clips": len(train), "frames": len(train.frames), "size_px": train.frames.shape[-1]}
    facts |= {"about": " ".join(import_module(f"stages.methods.{method}").__doc__.split()), "torch": torch.__version__}
    pictured = pairs.pictures(model, train, generator(seed, where))
    if distributed.first():
        features, told = kept_features(model, done["best"]["weights"], train, held_out)
        known = ["clip", "source", "patient", "label", "pooled_class"]
        clip_features.write("reports/features/pretrain", features, held_out.table[known])
        write(done["rows"], done["best"], facts | told)
        pairs.write("reports/pairs", done["pairs"], pictured, data)
    resume.remove()


def check_sizes(method: str, block: dict, train: ClipSet, held_out: ClipSet, batch_size: int) -> None:
    """Stop where the clips are too few for the batch, the queue or the choice of an epoch."""
    require(len(train) > 1, f"clips to train on in data/us4: {len(train)}; contrast needs two or more, add clips or sources")
    require(2 <= batch_size <= len(train), f"params.yaml: pretrain.batch_size is {batch_size}; choose 2 to {len(train)}, "
            "the number of training clips")
    smallest = len(train) % batch_size if len(train) % batch_size > 1 else batch_size
    require(distributed.size() <= smallest, f"{distributed.size()} processes cannot share a batch of {smallest} clips; "
            "start fewer, or choose another pretrain.batch_size")
    keep, queue = block["keep"], block.get("queue_size", batch_size)
    require(keep in KEEP, f"params.yaml: methods.{method}.keep is {keep!r}; choose from {', '.join(KEEP)}")
    require(len(held_out) > 1 or keep == "last_epoch", f"clips held out: {len(held_out)}, too few to choose an epoch by: raise "
            f"assemble_us4.held_out_fraction or set methods.{method}.keep to last_epoch")
    require(queue >= batch_size, f"params.yaml: methods.{method}.queue_size is {queue}; it must hold a batch, {batch_size}")


def better(best: dict, keep: str, row: dict, model: ContrastiveMethod) -> dict:
    """The weights to keep after an epoch, with its number and held-out loss: those of before, or the model's."""
    if keep == "best_held_out_loss" and best and not row["held_out_loss"] < best["held_out_loss"]:
        return best
    weights = {name: value.detach().to("cpu", copy=True) for name, value in model.backbone.network.state_dict().items()}
    return {"epoch": row["epoch"], "held_out_loss": row["held_out_loss"], "weights": weights}


def augmentation(block: dict, views: dict, name: str) -> Views:
    """The views of a method's block, or the semantic ones with that block's normalisation."""
    own = from_params(Views, block, name)
    choice = views.get("pipeline")
    require(choice in PIPELINES, f"params.yaml: views.pipeline is {choice!r}; choose from {', '.join(PIPELINES)}")
    if choice == "published":
        return own
    return from_params(SemanticViews, views.get("semantic"), "views.semantic", mean=own.mean, std=own.std)


def build(
    method: str, methods: dict, views: dict, backbone: Backbone, clip_set: ClipSet, meta_set: ClipSet
) -> ContrastiveMethod:
    """The `Method` of stages/methods/<method>.py around the backbone, with the keyword arguments of its block.

    Raises:
        UserError: no such file or block, or keys in the block that do not fit the method.
    """
    found = find_spec(f"stages.methods.{method}") if method.isidentifier() else None
    choices = ", ".join(sorted(path.stem for path in STAGES.glob("methods/*.py")))
    require(found is not None, f"params.yaml: pretrain.method is {method!r}; choose from {choices}")
    require(method in methods, f"params.yaml: methods has no block {method!r}; add one with the settings of the method")
    block = dict(methods[method])
    full = f"methods.{method}"
    for part in ("optimizer", "views", "keep"):
        require(part in block, f"params.yaml: {full}.{part} is missing")
    own = [block.pop(part) for part in ("optimizer", "keep", "views")][-1]
    kind = import_module(f"stages.methods.{method}").Method
    fixed = {"backbone": backbone, "clip_set": clip_set, "views": augmentation(own, views, f"{full}.views")}
    if "meta_set" in signature(kind).parameters:
        fixed["meta_set"] = meta_set
    return from_params(kind, block, full, **fixed)


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
        The means over clips of the loss and of the method's other scalars; `index` (clip) and the method's values of each
        pair, [pairs]; the loss of every step.
    """
    model.train()
    scalars, vectors, sizes = {}, {}, []
    model.progress = first_step / steps
    with distributed.sharing():
        for step, (frames, clips) in enumerate(batches, first_step):            # B x k x 1 x H x W
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
                (vectors if value.dim() else scalars).setdefault(name, []).append(value)
    size = torch.tensor(sizes, dtype=torch.float64)
    columns = {name: torch.stack(values).double().cpu() for name, values in scalars.items()}
    means = {name: float((column * size).sum() / size.sum()) for name, column in columns.items()}
    return means, {name: torch.cat(values) for name, values in vectors.items()}, columns["loss"]


@torch.no_grad()
def diverged(
    model: ContrastiveMethod,
    batches: Iterable[tuple[torch.Tensor, Clips]],
    losses: torch.Tensor,
    going: dict,
    names: pd.Series,
) -> str:
    """At which step and clips an epoch went wrong; the model stands, and `batches` begin, where that epoch did.

    The clips are those whose features are not finite, or all of the step where their features are.
    """
    place = int((~losses.isfinite()).nonzero()[0])
    batches = iter(batches)
    if place:
        with torch.enable_grad():
            train_epoch(model, islice(batches, place), **going)
    frames, clips = next(batches)
    feature = model.eval().backbone(model.views.normalise(frames.flatten(0, 1))).unflatten(0, frames.shape[:2])
    broken = ~feature.isfinite().all((1, 2))
    which = names[(clips.index[broken] if broken.any() else clips.index).tolist()].tolist()
    some = ", ".join(which[:3]) + (f" and {len(which) - 3} more" if len(which) > 3 else "")
    step = going["first_step"] + place
    return f"the loss is {float(losses[place])} at step {step} (epoch {step // len(losses)}), clip {some}"


def write(rows: list[dict], best: dict, facts: dict) -> None:
    """The epochs as csv; the kept weights with the facts of the run."""
    Path("reports").mkdir(exist_ok=True)
    pd.DataFrame(rows).to_csv("reports/pretrain.csv", index=False)
    facts |= {"epoch": best["epoch"], "held_out_loss": best["held_out_loss"]}
    checkpoint.write(best["weights"], facts)
    print(f"{checkpoint.PRETRAINED}: {facts['arch']} after epoch {best['epoch']} of {facts['epochs']}, held-out loss "
          f"{best['held_out_loss']:.4f}; loss curves in reports/pretrain.csv")


if __name__ == "__main__":
    distributed.launch("stages.pretrain")
    with distributed.group(device()):
        run(main, stage="pretrain")
