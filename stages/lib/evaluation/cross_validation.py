"""Cross-validation of a task: for every seed and fold a network that never saw a frame of the patients it predicts."""

import math
from copy import deepcopy
from typing import NamedTuple

import pandas as pd
import torch

from stages.lib.evaluation.fine_tuning import Recipe, fit, inner_loss, predict
from stages.lib.evaluation.folds import GIVEN, check_apart, parts
from stages.lib.evaluation.held_out_maps import HeldOutMaps
from stages.lib.evaluation.preparation import TaskClips, TaskFrames
from stages.lib.networks.backbone import Classifier
from stages.lib.params import require
from stages.lib.training.progress import Progress
from stages.lib.training.resume import Resume

LOWER = "lower finetune.optimizer.learning_rate"


class Training(NamedTuple):
    """One training of the cross-validation: division, seed, held-out fold, and the clips of each part (`folds.parts`)."""

    division: str
    seed: int
    fold: int
    folds: int
    parts: dict[str, set[str]]

    @property
    def stream(self) -> int:
        """Seeds the random numbers of the training."""
        return self.seed * self.folds + self.fold


def list_trainings(clips: TaskClips, seeds: list[int], label_fraction: float, inner_fraction: float) -> list[Training]:
    """All trainings of a task: for every division and seed one per fold. Fractions and errors as in `folds.parts`."""
    found = []
    for division in clips.divisions:
        table = clips.in_folds(division)
        folds = int(table["fold"].max()) + 1
        for seed in seeds:
            for fold in range(folds):
                given = table, clips.task.name, seed, fold, label_fraction, inner_fraction
                found.append(Training(division, seed, fold, folds, parts(*given)))
    return found


def of_first_seed(trainings: list[Training]) -> list[Training]:
    """The trainings of the first seed, of every division."""
    return [training for training in trainings if training.seed == trainings[0].seed]


def cross_validate(
    recipe: Recipe, frames: TaskFrames, trainings: list[Training], maps: HeldOutMaps | None, resume: Resume, name: str
) -> tuple[dict[int, torch.Tensor], list[dict], list[dict]]:
    """Train and predict every fold that `resume` does not hold yet.

    Args:
        maps: makes Grad-CAM maps with the networks of the first division and seed; None for no maps.
        name: of the run, printed beside the progress.

    Returns:
        Class probabilities [n, classes] of the held-out frames of each training; a row of numbers per division, seed, fold and
        epoch; a row per map.
    """
    state = resume.load() or {"predicted": [], "rows": [], "maps": []}
    predicted, rows, made = (state[key] for key in ("predicted", "rows", "maps"))
    all_places = [rows_of(frames, training) for training in trainings]
    passes = sum(recipe.passes(len(places["training"])) for places in all_places)
    progress = Progress(name, passes, len(rows))
    for training, places in list(zip(trainings, all_places, strict=True))[len(predicted):]:
        division, seed, fold, *_ = training
        network, probabilities, lines = train_fold(recipe, frames, training, places, progress)
        first = maps is not None and (division, seed) == (trainings[0].division, trainings[0].seed)
        explained = maps.of_fold(network, frames, places["held_out"], probabilities, recipe) if first else []
        predicted.append(probabilities.cpu())
        rows += [{"division": division, "seed": seed, "fold": fold} | line for line in lines]
        made += [{"seed": seed, "fold": fold} | line for line in explained]
        resume.save(predicted=predicted, rows=rows, maps=made)
    return predicted, rows, made


def train_fold(
    recipe: Recipe, frames: TaskFrames, training: Training, places: dict[str, torch.Tensor], progress: Progress
) -> tuple[Classifier, torch.Tensor, list[dict]]:
    """Train one network and predict its held-out frames with the kept weights (`is_kept`).

    Args:
        places: the row numbers of each part's frames (`rows_of`).

    Returns:
        The network; class probabilities [n, classes] of the held-out frames; a row per epoch: epoch, loss, inner_loss,
        held_out_frames, held_out_correct (None but in every `recipe.measure_every`-th epoch and in the kept one).

    Raises:
        UserError: outputs are not finite.
    """
    rows, kept, passes = [], None, recipe.passes(len(places["training"]))

    def held_out() -> tuple[torch.Tensor, int]:
        """The probabilities of the held-out frames by the network as it is now, and how many frames they get right."""
        probabilities = predict(network, frames, places["held_out"], recipe.views).softmax(1)
        require(probabilities.isfinite().all(), f"outputs are not finite after epoch {len(rows) - 1}; {LOWER}")
        return probabilities, int((probabilities.argmax(1) == frames.labels[places["held_out"]]).sum())

    for network, loss in fit(recipe, frames, places["training"], training.stream):
        rows.append({"epoch": len(rows), "loss": loss, "inner_loss": inner_loss(network, frames, places["inner"], recipe.views),
                     "held_out_correct": None, "held_out_frames": len(places["held_out"])})
        if len(rows) % recipe.measure_every == 0:
            rows[-1]["held_out_correct"] = held_out()[1]
        if is_kept([row["inner_loss"] for row in rows], passes, len(places["inner"]) > 0):
            kept = rows[-1], deepcopy(network.state_dict())         # with its metadata, which MNASNet needs
        progress.step(fold=training.fold, loss=loss)
    row, weights = kept
    network.load_state_dict(weights)
    probabilities, row["held_out_correct"] = held_out()
    return network, probabilities, rows


def rows_of(frames: TaskFrames, training: Training) -> dict[str, torch.Tensor]:
    """The row numbers of each part's frames, on the device.

    Raises:
        AssertionError: a patient has frames in two parts; only a division that the clip table gives may do so.
    """
    inside = {name: frames.table["clip"].isin(clips).to_numpy() for name, clips in training.parts.items()}
    if training.division != GIVEN:
        check_apart(frames.table, inside)
    return {name: torch.from_numpy(mask.nonzero()[0]).to(frames.grey.device) for name, mask in inside.items()}


def is_kept(losses: list[float], epochs: int, inner: bool) -> bool:
    """True if the predictions of the epoch just done replace the earlier ones.

    Without an inner part the last epoch predicts, with one the first epoch of the lowest inner loss.

    Args:
        losses: inner losses so far; one that is not finite is higher than all others.
    """
    if not inner:
        return len(losses) == epochs
    finite = [loss if math.isfinite(loss) else math.inf for loss in losses]
    return len(losses) == 1 or finite[-1] < min(finite[:-1])


def table_of(frames: TaskFrames, trainings: list[Training], predicted: list[torch.Tensor], classes: list[str]) -> pd.DataFrame:
    """The prediction table: a row per division, seed and held-out frame, in the order of the frames.

    Args:
        predicted: class probabilities [n, classes] of the held-out frames of each training.
    """
    columns, parts = [f"p_{name}" for name in classes], []
    for training, probabilities in zip(trainings, predicted, strict=True):
        rows = frames.table.index[frames.table["clip"].isin(training.parts["held_out"])]
        part = frames.table.loc[rows, ["clip", "patient", "group", "frame", "label"]]
        part.insert(3, "fold", training.fold)
        part.insert(0, "seed", training.seed)
        part.insert(0, "division", training.division)
        parts.append(part.join(pd.DataFrame(probabilities.numpy().round(6), rows, columns)))
    runs = [(training.division, training.seed) for training in trainings]
    ordered = [pd.concat([part for part, other in zip(parts, runs, strict=True) if other == run]).sort_index()
               for run in dict.fromkeys(runs)]
    return pd.concat(ordered, ignore_index=True)


def on_all(recipe: Recipe, frames: TaskFrames, stream: int, name: str) -> Classifier:
    """The network for use: trained on all frames to the last epoch, with the random numbers of `stream`.

    Raises:
        UserError: outputs are not finite.
    """
    everyone = torch.arange(len(frames.grey), device=frames.grey.device)
    progress = Progress(name, recipe.passes(len(everyone)))
    for fitted in fit(recipe, frames, everyone, stream):        # the network and its loss, after every epoch
        progress.step(loss=fitted[1])
    network = fitted[0]
    finite = predict(network, frames, everyone, recipe.views).isfinite().all()
    require(finite, f"outputs of the network for use are not finite after its last epoch; {LOWER}")
    return network
