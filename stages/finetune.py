"""One evaluation task: folds by patient, train on all but one, predict the held-out patients; then train on all of them.

reads   data/frames/<task>/              frame store of the source of the same name
        models/pretrained.safetensors    the backbone's architecture and, for `init: pretrained`, its weights
writes  data/folds/<task>.csv            clip, patient, label, fold (empty if left out), copy_of (clips of another patient or
                                         label that it looks like), left_out (the reason)
        reports/predictions/<task>.csv   a row per seed and held-out frame: seed, clip, patient, group (that of patients who
                                         share a copied clip is one), fold, frame, label, p_<class> …
        reports/probes/<task>.csv        a row per probe of the frozen features and held-out clip: probe, clip, patient, fold, …
        reports/finetune/<task>.csv      a row per seed, fold and epoch: seed, fold, epoch, loss, inner_loss (empty without an
                                         inner part), held_out_correct, held_out_frames
        models/<task>.safetensors        the network trained on all patients, with its classifier, under torchvision's names
"""

from pathlib import Path

import pandas as pd
import torch

from stages.lib import checkpoint, copies
from stages.lib.fine_tuning import Frames, Recipe, fit, inner_loss, load_frames, predict
from stages.lib.folds import check_apart, parts, require_all, with_folds
from stages.lib.frozen_probes import Probes, features
from stages.lib.initial import named_file
from stages.lib.params import checked, require, run
from stages.lib.resume import Resume
from stages.lib.tasks import task_clips
from stages.lib.training import Progress
from stages.lib.views import Views


def main(
    seed: int,
    task: str,
    init: str,
    trainable: str,
    select: str,
    inner_fraction: float,
    label_fraction: float,
    seeds: list,
    folds: int,
    fold_seed: int,
    epochs: int,
    batch_size: int,
    optimizer: dict,
    views: dict,
    probes: dict,
    assemble_us4: dict,
    extract_frames: dict,
    tasks: dict,
) -> None:
    """Cross-validate one task; every patient is predicted once per seed, by a network that never saw one of their frames.

    Then train the network for use, on all patients whatever `label_fraction` says, to the last epoch, with the first seed.

    Args:
        seed: of initial weights, order of frames and views, and of who is drawn into the inner part and the labelled fraction:
            each of `seeds` is added to it.
        task: name of the task, its source and its block in `tasks`.
        init: random | imagenet | pretrained | a file: the backbone's weights before fine-tuning.
        trainable: last_block | head | all; what trains beside the new classifier.
        select: last_epoch | inner_validation: the epoch whose weights predict. The latter is the one of the lowest
            cross-entropy on frames of patients set aside from the training folds; the held-out fold has no part in it.
        inner_fraction: of each class's training patients, set aside for inner_validation.
        label_fraction: of each class's training patients that are used; the held-out folds stay whole.
        seeds: one cross-validation each.
        folds: into how many parts the patients are divided.
        fold_seed: of the division, apart from `seed`, so that runs of several seeds share their folds.
        epochs: passes over the training frames.
        batch_size: frames per step.
        optimizer: {name, learning_rate, weight_decay, constant_fraction}.
        views: augmentation of the training frames.
        probes: {neighbours, regularisation} of the probes of the frozen features.
        assemble_us4: {copy_distance}: of clips that are taken for copies of each other.
        extract_frames: how frames were taken from clips, for the facts of the final network.
        tasks: classes and subsets of each task.
    """
    check_choices(select, inner_fraction, label_fraction, seeds, epochs, batch_size)
    probes = Probes(**checked(Probes, probes, {key: f"finetune.probes.{key}" for key in probes}))
    views = Views(**checked(Views, views, {key: f"finetune.views.{key}" for key in views}))
    same = copies.limits(assemble_us4["copy_distance"])
    clips = copies.mark(task_clips(task, tasks), f"data/frames/{task}", same)
    clips = with_folds(clips, task, folds, fold_seed, "finetune")
    classes = tasks[task]["classes"]
    require_all(clips, task, classes)
    seeds, inner = [seed + number for number in seeds], inner_fraction if select == "inner_validation" else 0.0
    pairs = [(number, fold) for number in seeds for fold in range(folds)]
    runs = [(*pair, parts(clips, task, *pair, label_fraction, inner)) for pair in pairs]
    recipe = Recipe(checkpoint.facts()["arch"], init, trainable, classes, epochs, batch_size, optimizer, views)
    stream = seeds[0] * folds
    initial = recipe.network(stream)
    recipe.descent(initial, epochs)             # a wrong setting is known before a frame is read
    frames = load_frames(task, clips, classes)

    state = {"seeds": seeds, "folds": folds, "fold_seed": fold_seed, "inner_fraction": inner, "label_fraction": label_fraction}
    state |= {"copy_distance": same._asdict()}
    resume = unfinished(task, recipe, state | {"device": frames.grey.device.type})
    predicted, rows = cross_validate(recipe, frames, runs, resume, f"finetune {task}")
    probed = probes.predict(features(initial.backbone.to(frames.grey.device), frames.grey, views), frames.table, classes,
                            [part for number, _, part in runs if number == seeds[0]])
    everyone = torch.arange(len(frames.grey), device=frames.grey.device)
    epochs_done = Progress(f"finetune {task}, all patients", epochs)
    for fitted in fit(recipe, frames, everyone, stream):        # the network and its loss, after every epoch
        epochs_done.step(loss=fitted[1])

    write(task, clips, frames.table, classes, predicted, rows, probed)
    facts = {key: getattr(recipe, key) for key in ("arch", "classes", "epochs", "init", "trainable")}
    facts |= {"task": task, "seed": seeds[0], "size_px": frames.grey.shape[-1], "mean": views.mean, "std": views.std}
    checkpoint.write(fitted[0].weights(), facts | extract_frames, Path(f"models/{task}.safetensors"))
    resume.remove()


def check_choices(
    select: str, inner_fraction: float, label_fraction: float, seeds: list, epochs: int, batch_size: int
) -> None:
    """Raise UserError unless each of these settings of `finetune` is possible."""
    choices = ("last_epoch", "inner_validation")
    require(select in choices, f"params.yaml: finetune.select is {select!r}; choose from {', '.join(choices)}")
    require(0 < inner_fraction < 1, f"params.yaml: finetune.inner_fraction is {inner_fraction}; it must lie between 0 and 1")
    require(0 < label_fraction <= 1, f"params.yaml: finetune.label_fraction is {label_fraction}; choose above 0 "
            "(no class without patients) up to 1 (all of them)")
    whole = all(isinstance(number, int) and not isinstance(number, bool) and number >= 0 for number in seeds)
    require(bool(seeds) and whole and len(set(seeds)) == len(seeds), f"params.yaml: finetune.seeds is {seeds}; it needs whole "
            "numbers from 0, one or several, each once")
    require(epochs > 0, f"params.yaml: finetune.epochs is {epochs}; it must be at least 1")
    require(batch_size > 1, f"params.yaml: finetune.batch_size is {batch_size}; it must be at least 2")


def unfinished(task: str, recipe: Recipe, facts: dict) -> Resume:
    """The state of a killed run of the same parameters, data and code."""
    inputs = [checkpoint.PRETRAINED, *named_file(recipe.init)]
    inputs += [Path(f"data/frames/{task}/{name}") for name in ("frames.npy", "clips.csv")]
    code = [Path(__file__), *sorted(Path(__file__).parent.glob("lib/*.py"))]
    facts = recipe._asdict() | {"views": vars(recipe.views)} | facts
    return Resume(f"models/finetune_{task}.unfinished", facts, [*inputs, *code])


def cross_validate(
    recipe: Recipe, frames: Frames, runs: list[tuple[int, int, dict]], resume: Resume, what: str
) -> tuple[dict[int, torch.Tensor], list[dict]]:
    """Train and predict every seed and fold that `resume` does not hold yet.

    Args:
        runs: seed, fold and `folds.parts` of each training.
        what: to write beside the progress.

    Returns:
        Class probabilities [N, classes] by seed, and a row of numbers per seed, fold and epoch.
    """
    empty = {seed: torch.zeros(len(frames.table), len(recipe.classes)) for seed, _, _ in runs}
    state = resume.load() or {"predicted": empty, "rows": []}
    predicted, rows = state["predicted"], state["rows"]
    folds = 1 + max(fold for _, fold, _ in runs)
    epochs_done = Progress(what, len(runs) * recipe.epochs, len(rows))
    for seed, fold, part in runs[len(rows) // recipe.epochs:]:
        inside = {name: frames.table["clip"].isin(clips).to_numpy() for name, clips in part.items()}
        check_apart(frames.table, inside)
        places = {name: torch.from_numpy(where.nonzero()[0]).to(frames.grey.device) for name, where in inside.items()}
        probabilities, losses = [], []
        for network, loss in fit(recipe, frames, places["training"], seed * folds + fold):
            probabilities.append(predict(network, frames, places["held_out"], recipe.views).softmax(1))
            losses.append(inner_loss(network, frames, places["inner"], recipe.views))
            correct = int((probabilities[-1].argmax(1) == frames.labels[places["held_out"]]).sum())
            rows.append({"seed": seed, "fold": fold, "epoch": len(losses) - 1, "loss": loss, "inner_loss": losses[-1],
                         "held_out_correct": correct, "held_out_frames": len(places["held_out"])})
            epochs_done.step(fold=fold, loss=loss)
        chosen = min(range(recipe.epochs), key=losses.__getitem__) if part["inner"] else -1     # the earlier of equals
        predicted[seed][places["held_out"].cpu()] = probabilities[chosen].cpu()
        resume.save(predicted=predicted, rows=rows)
    return predicted, rows


def write(
    task: str, clips: pd.DataFrame, table: pd.DataFrame, classes: list, predicted: dict, rows: list[dict], probed: pd.DataFrame
) -> None:
    """The folds, the predictions, the probes and the epochs of a task, as csv."""
    names = [f"p_{name}" for name in classes]
    known = table[["clip", "patient", "group", "fold", "frame", "label"]]
    by_seed = {seed: known.join(pd.DataFrame(values.numpy().round(6), columns=names)) for seed, values in predicted.items()}
    predictions = pd.concat(by_seed, names=["seed"]).reset_index("seed")
    outputs = {
        f"data/folds/{task}.csv": clips[["clip", "patient", "label", "fold", "copy_of", "left_out"]],
        f"reports/predictions/{task}.csv": predictions,
        f"reports/probes/{task}.csv": probed,
        f"reports/finetune/{task}.csv": pd.DataFrame(rows),
    }
    for path, output in outputs.items():
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        output.to_csv(path, index=False)
    accuracy = (predictions[names].to_numpy().argmax(1) == predictions["label"].map(classes.index)).mean()
    print(f"reports/predictions/{task}.csv: {len(table)} held-out frames of {table['clip'].nunique()} clips, frame accuracy "
          f"{accuracy:.3f}; `dvc repro` goes on to reports/report.html")


if __name__ == "__main__":
    run(main, stage="finetune", item="task")
