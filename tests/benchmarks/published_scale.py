"""How long the published runs take on this device: USCL on a set of US-4's size, and the fine-tuning of POCUS.

Random frames, of the published number and size. Unless they are run in full, a few steps and one look at the held-out part are
timed, and multiplied.
"""

import time
from collections.abc import Callable

import numpy as np
import pandas as pd
import torch

from stages import pretrain
from stages.lib.clips import store
from stages.lib.evaluation.fine_tuning import Recipe, fit, predict
from stages.lib.evaluation.preparation import TaskFrames
from stages.lib.networks.backbone import Backbone, Classifier
from stages.lib.networks.normalisation import RANDOM
from stages.lib.pretraining.clip_set import ClipSet
from stages.lib.pretraining.measures import held_out_loss
from stages.lib.training.device import generator
from stages.lib.training.optimizer import optimizer_and_schedule
from stages.lib.training.views import Views

SIZE_PX, BATCH = 224, 32
US4_CLIPS, US4_FRAMES, US4_EPOCHS = 1051, 23231, 300            # Chen et al. 2021
POCUS_FRAMES, POCUS_FOLDS, POCUS_EPOCHS = 2116, 5, 100          # 2,116 frames in the published files


def noise(frames: int) -> np.ndarray:
    """Random frames, uint8 [frames, SIZE_PX, SIZE_PX]; the first thousand repeat."""
    some = np.random.default_rng(0).integers(0, 256, (1000, SIZE_PX, SIZE_PX), dtype=np.uint8)
    return some[np.arange(frames) % 1000]


def clip_sets(clips: int, frames: int, where: torch.device) -> list[ClipSet]:
    """Training and held-out clips (four to one) of random frames that share them out evenly."""
    table = pd.DataFrame({"clip": [f"clip {number}" for number in range(clips)], "source": "random", "fps": 25.0})
    table["pooled_class"] = np.where(table.index % 2, "a", "b")
    table["split"] = np.where(table.index % 5, "train", "held_out")
    table["first"] = np.arange(clips) * frames // clips
    table["frames"] = np.diff([*table["first"], frames])
    rows = pd.DataFrame({"frame": np.arange(frames) - table["first"].repeat(table["frames"]).to_numpy()})
    return [ClipSet(store.Store(noise(frames), rows, table), split, where) for split in ("train", "held_out")]


def seconds(where: torch.device, work: Callable) -> float:
    """Wall-clock time of a call, until the device is done."""
    start = time.perf_counter()
    work()
    if where.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def pretraining(where: torch.device, blocks: dict, views: dict, full: bool) -> float:
    """Seconds of USCL's 300 epochs of ResNet-18 on US-4, the held-out loss after each among them."""
    train, held_out = clip_sets(US4_CLIPS, US4_FRAMES, where)
    torch.manual_seed(0)
    model = pretrain.build("uscl", blocks, views, Backbone("resnet18"), train, held_out).to(where)
    steps = train.steps(BATCH)
    optimizer, schedule = optimizer_and_schedule(model.trained(), US4_EPOCHS * steps, **blocks["uscl"]["optimizer"])
    draw = generator(0, where)
    going = {"optimizer": optimizer, "schedule": schedule, "draw": draw, "loss_of": model.loss, "steps": US4_EPOCHS * steps}

    def epoch(number: int, most: int | None = None) -> None:
        pretrain.train_epoch(model, train.batches(BATCH, model.pick, draw, most), first_step=number * steps, **going)

    def look() -> None:
        held_out_loss(model, held_out, BATCH, generator(0, where))

    if full:
        return seconds(where, lambda: [(epoch(number), look()) for number in range(US4_EPOCHS)])
    epoch(0, 2)
    return US4_EPOCHS * (seconds(where, lambda: epoch(0, 5)) / 5 * steps + seconds(where, look))


def finetuning(where: torch.device, settings: dict, full: bool) -> float:
    """Seconds of POCUS's five folds of 100 epochs, the last block alone, the held-out fold predicted after every epoch."""
    views = Views(**settings["views"] | RANDOM._asdict())
    classes, rows = ["covid", "pneumonia", "regular"], torch.arange(POCUS_FRAMES, device=where)
    given = {key: value for key, value in settings.items() if key in Recipe._fields}
    recipe = Recipe(**given | {"arch": "resnet18", "init": "random", "trainable": "last_block", "classes": classes,
                               "epochs": POCUS_EPOCHS, "batch_size": BATCH, "views": views})
    frames = TaskFrames(torch.from_numpy(noise(POCUS_FRAMES)).unsqueeze(1).to(where), rows % len(classes), pd.DataFrame())

    def look(network: Classifier, fold: int) -> None:
        predict(network, frames, rows[rows % POCUS_FOLDS == fold], views)

    def fold(number: int) -> None:
        for network, _ in fit(recipe, frames, rows[rows % POCUS_FOLDS != number], number):
            look(network, number)

    if full:
        return seconds(where, lambda: [fold(number) for number in range(POCUS_FOLDS)])
    epochs = fit(recipe, frames, rows[: 6 * BATCH], 0)              # of six steps each
    network, _ = next(epochs)
    steps = POCUS_FRAMES * (POCUS_FOLDS - 1) / POCUS_FOLDS / BATCH
    epoch = seconds(where, lambda: next(epochs)) / 6 * steps + seconds(where, lambda: look(network, 0))
    return POCUS_FOLDS * POCUS_EPOCHS * epoch


def times(where: torch.device, params: dict, full: bool) -> dict[str, float]:
    """Seconds of each published run, with its name."""
    size = f"ResNet-18, {SIZE_PX} px"
    return {
        f"USCL, US-4 size ({US4_CLIPS:,} clips, {US4_FRAMES:,} frames), {size}, {US4_EPOCHS} epochs":
            pretraining(where, params["methods"], params["views"], full),
        f"POCUS fine-tuning ({POCUS_FRAMES:,} frames), {size}, {POCUS_FOLDS} folds of {POCUS_EPOCHS} epochs":
            finetuning(where, params["finetune"], full),
    }
