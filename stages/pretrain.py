"""The contrastive loop, the same for every method: clips → pretrained backbone.

reads   data/us4/                       frames.npy uint8 [N, size_px, size_px] and its tables
writes  models/pretrained.safetensors   backbone weights under torchvision's key names; the run's facts as metadata
        reports/pretrain.csv            a row per epoch: epoch, step, learning_rate, loss, the method's terms,
                                        held_out_loss, seconds
"""

import math
import time
from collections.abc import Callable, Iterable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import torch

from stages.lib import checkpoint, store
from stages.lib.clip_set import Clips, ClipSet
from stages.lib.method import ContrastiveMethod
from stages.lib.networks import Backbone
from stages.lib.params import UserError, checked, require, run
from stages.lib.resume import Resume
from stages.lib.training import autocast, descent, device, generator, progress, set_learning_rate
from stages.lib.views import Views

STAGES = Path(__file__).parent
KEEP = ("best_held_out_loss", "last_epoch")


def main(
    seed: int,
    method: str,
    arch: str,
    epochs: int,
    batch_size: int,
    steps_per_epoch: int | None,
    keep: str,
    methods: dict,
) -> None:
    """Pretrain `arch` on the clips of data/us4.

    Args:
        seed: of initial weights, order of clips, frames and views.
        method: file in stages/methods/ and block in `methods`.
        arch: any torchvision classifier that ends in a linear layer.
        epochs: passes over the training clips.
        batch_size: clips per step.
        steps_per_epoch: None visits every clip once.
        keep: weights of the epoch with the lowest held-out loss, or of the last one.
        methods: the method's block: {optimizer, views, and its own keyword arguments}.
    """
    require(epochs > 0, f"params.yaml: pretrain.epochs is {epochs}; it must be at least 1")
    require(keep in KEEP, f"params.yaml: pretrain.keep is {keep!r}; choose from {', '.join(KEEP)}")
    require(steps_per_epoch is None or steps_per_epoch > 0, "params.yaml: pretrain.steps_per_epoch: null, or 1 and more")
    torch.manual_seed(seed)
    where = device()
    train, held_out = (ClipSet(store.read("data/us4"), split, where) for split in ("train", "held_out"))
    require(2 <= batch_size <= len(train), f"params.yaml: pretrain.batch_size is {batch_size}; choose 2 to {len(train)}, "
            "the number of training clips")
    require(len(held_out) > 1 or keep == "last_epoch", f"clips held out: {len(held_out)}, too few to choose an epoch by: raise "
            "assemble_us4.held_out_fraction or set pretrain.keep to last_epoch")
    model = build(method, methods, Backbone(arch), train).to(where)
    steps = steps_per_epoch or math.ceil(len(train) / batch_size)
    settings = methods[method]["optimizer"]
    names = {key: f"methods.{method}.optimizer.{key}" for key in settings}
    fixed = {"parameters": model.parameters(), "steps": epochs * steps}
    optimizer, schedule = descent(**checked(descent, fixed | settings, names))
    draw = generator(seed, where)

    facts = {"seed": seed, "method": method, "arch": arch, "epochs": epochs, "batch_size": batch_size,
             "steps_per_epoch": steps, "keep": keep, "device": where.type, "params": methods[method]}
    code = [Path(__file__), STAGES / f"methods/{method}.py", *sorted(STAGES.glob("lib/*.py"))]
    resume = Resume("models/pretrain.unfinished", facts, [Path("data/us4/clips.csv"), Path("data/us4/frames.npy"), *code])
    rows, best = [], {}
    if state := resume.load():
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        draw.set_state(state["draw"])
        rows, best = state["rows"], state["best"]
        print(f"pretrain: {len(rows)} of {epochs} epochs were done before, going on", flush=True)

    for epoch in progress(range(len(rows), epochs), epochs, f"pretrain {method}: epoch"):
        start = time.perf_counter()
        row = {"epoch": epoch, "step": (epoch + 1) * steps, "learning_rate": schedule((epoch + 1) * steps - 1)}
        batches = train.batches(batch_size, model.pick, draw, steps_per_epoch)
        row |= train_epoch(model, batches, optimizer, schedule, epoch * steps, draw)
        if not math.isfinite(row["loss"]):
            raise UserError(f"the loss is {row['loss']} in epoch {epoch}; lower methods.{method}.optimizer.learning_rate")
        row |= {"held_out_loss": held_out_loss(model, held_out, batch_size, generator(seed, where))}
        rows.append(row | {"seconds": round(time.perf_counter() - start, 3)})
        if keep == "last_epoch" or not best or row["held_out_loss"] < best["held_out_loss"]:
            weights = {name: value.detach().to("cpu", copy=True) for name, value in model.backbone.network.state_dict().items()}
            best = {"epoch": epoch, "held_out_loss": row["held_out_loss"], "weights": weights}
        resume.save(model=model.state_dict(), optimizer=optimizer.state_dict(), draw=draw.get_state(), rows=rows, best=best)

    write(rows, best, facts | {"clips": len(train), "frames": len(train.frames), "size_px": train.frames.shape[-1]})
    resume.remove()


def build(method: str, methods: dict, backbone: Backbone, clip_set: ClipSet) -> ContrastiveMethod:
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
    for part in ("optimizer", "views"):
        require(part in block, f"params.yaml: {full}.{part} is missing")
    block.pop("optimizer")
    views = block.pop("views")
    views = Views(**checked(Views, views, {key: f"{full}.views.{key}" for key in views}))
    fixed = {"backbone": backbone, "clip_set": clip_set, "views": views}
    kind = import_module(f"stages.methods.{method}").Method
    return kind(**checked(kind, fixed | block, {key: f"{full}.{key}" for key in block}))


def train_epoch(
    model: ContrastiveMethod,
    batches: Iterable[tuple[torch.Tensor, Clips]],
    optimizer: torch.optim.Optimizer,
    schedule: Callable[[int], float],
    first_step: int,
    draw: torch.Generator,
) -> dict[str, float]:
    """One pass over `batches`; the means over clips of the loss and of its terms, read from the device once.

    Args:
        schedule: learning rate of each step of the run.
        first_step: number of the first step of this epoch in the run.
    """
    model.train()
    totals, seen = {}, 0
    for step, (frames, clips) in enumerate(batches, first_step):                # B x k x 1 x H x W
        set_learning_rate(optimizer, schedule(step))
        model.before_step(frames, optimizer)
        with autocast(frames.device):
            loss, terms = model.loss(frames, clips, draw)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        model.after_step()
        for name, value in {"loss": loss.detach(), **terms}.items():
            totals[name] = totals.get(name, 0) + value * len(frames)
        seen += len(frames)
    return {name: float(total) / seen for name, total in totals.items()}


@torch.no_grad()
def held_out_loss(model: ContrastiveMethod, held_out: ClipSet, batch_size: int, draw: torch.Generator) -> float:
    """The contrastive loss on the held-out clips, with running statistics and the same frames and views every epoch.

    Of a method with several terms it is `contrastive` that counts, as in USCL: labels must not choose the checkpoint.
    """
    if not len(held_out):
        return math.nan
    model.eval()
    total = 0.0
    for frames, clips in held_out.batches(batch_size, model.pick, draw):
        with autocast(frames.device):
            loss, terms = model.loss(frames, clips, draw)
        total += terms.get("contrastive", loss) * len(frames)
    return float(total) / len(held_out)


def write(rows: list[dict], best: dict, facts: dict) -> None:
    """The epochs as csv; the kept weights with the facts of the run."""
    Path("reports").mkdir(exist_ok=True)
    pd.DataFrame(rows).to_csv("reports/pretrain.csv", index=False)
    facts |= {"epoch": best["epoch"], "held_out_loss": best["held_out_loss"]}
    checkpoint.write(best["weights"], facts)
    print(f"{checkpoint.PRETRAINED}: {facts['arch']} after epoch {best['epoch']} of {facts['epochs']}, held-out loss "
          f"{best['held_out_loss']:.4f}; loss curves in reports/pretrain.csv")


if __name__ == "__main__":
    run(main, stage="pretrain")
