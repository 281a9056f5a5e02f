"""One evaluation task: folds by patient, train on all but one, predict the held-out patients; then train on all of them.

reads   data/frames/<task>/              frame store of the source of the same name
        models/pretrained.safetensors    the backbone's architecture and, for `init: pretrained`, its weights
writes  data/folds/<task>.csv            clip, patient, label, fold (empty if left out), copy_of (clips of another patient or
                                         label that it looks like), left_out (the reason)
        reports/predictions/<task>.csv   a row per seed and held-out frame: seed, clip, patient, group (that of patients who
                                         share a copied clip is one), fold, frame, label, p_<class> …
        reports/probes/<task>.csv        a row per probe of the frozen features and held-out clip: probe, clip, patient, fold, …
        reports/features/<task>/         mean features of each clip before fine-tuning (stages/lib/networks/clip_features.py)
        reports/grad_cam/<task>/         Grad-CAM of some held-out frames by the networks that predicted them: maps.npy uint8
                                         [K, S, S]; maps.csv, a row each: seed, fold, clip, patient, frame, label,
                                         predicted (of the clip; the map is of this class), its probability in the frame
                                         and clip_probability, right
        reports/finetune/<task>.csv      a row per seed, fold and epoch: seed, fold, epoch, loss, inner_loss (empty without an
                                         inner part), held_out_correct, held_out_frames
        models/<task>.safetensors        the network trained on all patients, with its classifier, under torchvision's names
"""

from pathlib import Path

import pandas as pd

from stages.lib.clips import copies
from stages.lib.clips.tasks import task_clips
from stages.lib.evaluation import held_out_maps
from stages.lib.evaluation.cross_validation import cross_validate, on_all
from stages.lib.evaluation.fine_tuning import Recipe, load_frames
from stages.lib.evaluation.folds import parts, require_all, with_folds
from stages.lib.evaluation.frozen_probes import Probes, features
from stages.lib.evaluation.held_out_maps import HeldOutMaps
from stages.lib.networks import checkpoint, clip_features
from stages.lib.networks.initial import named_file
from stages.lib.params import from_params, require, run
from stages.lib.training.resume import Resume
from stages.lib.training.views import Views


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
    grad_cam: dict,
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
        grad_cam: {per_fold}: how many right and wrong clips of each fold get a map of where the network looked.
        assemble_us4: {copy_distance}: of clips that are taken for copies of each other.
        extract_frames: how frames were taken from clips, for the facts of the final network.
        tasks: classes and subsets of each task.
    """
    check_choices(select, inner_fraction, label_fraction, seeds, epochs, batch_size)
    probes = from_params(Probes, probes, "finetune.probes")
    maps = from_params(HeldOutMaps, grad_cam, "finetune.grad_cam")
    views = from_params(Views, views, "finetune.views")
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
    recipe.optimizer_and_schedule(initial, epochs)             # a wrong setting is known before a frame is read
    frames = load_frames(task, clips, classes)

    state = {"seeds": seeds, "folds": folds, "fold_seed": fold_seed, "inner_fraction": inner, "label_fraction": label_fraction}
    state |= {"copy_distance": same._asdict(), "maps": vars(maps)}
    resume = unfinished(task, recipe, state | {"device": frames.grey.device.type})
    maps = maps if maps.wanted(initial, frames, recipe) else None
    predicted, rows, looks = cross_validate(recipe, frames, runs, maps, resume, f"finetune {task}")
    frozen = features(initial.backbone.to(frames.grey.device), frames.grey, views)
    probed = probes.predict(frozen, frames.table, classes, [part for number, _, part in runs if number == seeds[0]])
    network = on_all(recipe, frames, stream, f"finetune {task}, all patients")

    write(task, clips, frames.table, classes, predicted, rows, probed)
    clip_features.write(f"reports/features/{task}", *clip_features.of_clips(frozen, frames.table))
    held_out_maps.write(f"reports/grad_cam/{task}", looks, frames.grey.shape[-1])
    facts = {key: getattr(recipe, key) for key in ("arch", "classes", "epochs", "init", "trainable")}
    facts |= {"task": task, "seed": seeds[0], "size_px": frames.grey.shape[-1], "mean": views.mean, "std": views.std}
    checkpoint.write(network.weights(), facts | extract_frames, Path(f"models/{task}.safetensors"))
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
    code = [Path(__file__), *sorted(Path(__file__).parent.glob("lib/**/*.py"))]
    facts = recipe._asdict() | {"views": vars(recipe.views)} | facts
    return Resume(f"models/finetune_{task}.unfinished", facts, [*inputs, *code])


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
