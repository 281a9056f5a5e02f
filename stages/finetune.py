"""One evaluation task: folds by patient, train on all but one, predict the held-out patients; then train on all of them.

reads   data/frames/<task>/              frame store of the source of the same name
        models/pretrained.safetensors    the backbone's architecture and, for `init: pretrained`, its weights
writes  data/folds/<task>.csv            clip, patient, label, fold (empty if left out), copy_of (clips of another patient or
                                         label that are likely copies), left_out (the reason)
        reports/predictions/<task>.csv   a row per seed and held-out frame: seed, clip, patient, group (patients who share a
                                         copied clip are one group), fold, frame, label, p_<class> …
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
from typing import Annotated, Literal

import pandas as pd
import torch
from annotated_types import Ge, Gt, Le, Lt

from stages.lib.clips import store
from stages.lib.evaluation import held_out_maps
from stages.lib.evaluation.cross_validation import Training, cross_validate, on_all
from stages.lib.evaluation.fine_tuning import Recipe, Trainable
from stages.lib.evaluation.folds import parts
from stages.lib.evaluation.frozen_probes import Probes, features
from stages.lib.evaluation.held_out_maps import HeldOutMaps
from stages.lib.evaluation.preparation import divided, load_frames, unfinished_run, write_csv, write_folds
from stages.lib.networks import checkpoint, clip_features
from stages.lib.params import Count, Seed, Seeds, from_params, run
from stages.lib.training.views import Views


def main(
    seed: Seed, copy_distance: dict, tasks: dict, task: str, init: str, trainable: Trainable,
    select: Literal["last_epoch", "inner_validation"], inner_fraction: Annotated[float, Gt(0), Lt(1)],
    label_fraction: Annotated[float, Gt(0), Le(1)], seeds: Seeds, folds: Annotated[int, Ge(2)], fold_seed: Seed, epochs: Count,
    batch_size: Annotated[int, Ge(2)], optimizer: dict, views: dict, probes: dict, grad_cam: dict,
) -> None:  # fmt: skip
    """Cross-validate one task; every patient is predicted once per seed, by a network that never saw one of their frames.

    Then train the network for use on all patients (whatever `label_fraction` says) to the last epoch, with the first seed.

    Args:
        task: its name; the other arguments are keys of params.yaml, which explains them.

    Raises:
        UserError: an impossible setting; nothing is written then.
    """
    probes = from_params(Probes, probes, "finetune.probes")
    maps = from_params(HeldOutMaps, grad_cam, "finetune.grad_cam")
    views = from_params(Views, views, "finetune.views")
    clips, classes = divided("finetune", task, tasks, copy_distance, folds, fold_seed), tasks[task]["classes"]
    seeds, inner = [seed + number for number in seeds], inner_fraction if select == "inner_validation" else 0.0
    trainings = [Training(number, fold, parts(clips, task, number, fold, label_fraction, inner))
                 for number in seeds for fold in range(folds)]
    recipe = Recipe(checkpoint.facts()["arch"], init, trainable, classes, epochs, batch_size, optimizer, views)
    initial = recipe.network(seeds[0] * folds)
    recipe.optimizer_and_schedule(initial, epochs)      # a wrong setting stops the run before a frame is read
    frames = load_frames(task, clips, classes)

    settings = recipe._asdict() | {"views": vars(views), "seeds": seeds, "folds": folds, "fold_seed": fold_seed,
                                   "inner_fraction": inner, "label_fraction": label_fraction, "maps": vars(maps),
                                   "copy_distance": copy_distance, "device": frames.grey.device.type}
    resume = unfinished_run("finetune", task, init, settings, ["frames.npy", "clips.csv"])
    maps = maps if maps.possible(initial, frames, recipe) else None
    predicted, epoch_rows, explained = cross_validate(recipe, frames, trainings, maps, resume, f"finetune {task}")
    frozen = features(initial.backbone.to(frames.grey.device), frames.grey, views)
    probed = probes.predict(frozen, frames.table, classes, [each.parts for each in trainings if each.seed == seeds[0]])
    network = on_all(recipe, frames, seeds[0] * folds, f"finetune {task}, all patients")

    write_folds(task, clips)
    write_csv(f"reports/probes/{task}.csv", probed)
    write_csv(f"reports/finetune/{task}.csv", pd.DataFrame(epoch_rows))
    write_predictions(task, frames.table, classes, predicted)
    clip_features.write(f"reports/features/{task}", *clip_features.of_clips(frozen, frames.table))
    held_out_maps.write(f"reports/grad_cam/{task}", explained, frames.grey.shape[-1])
    write_network(task, network, recipe, seeds[0])
    resume.remove()


def write_predictions(task: str, table: pd.DataFrame, classes: list[str], predicted: dict[int, torch.Tensor]) -> None:
    """reports/predictions/<task>.csv: the class probabilities [N, classes] of every seed beside the facts of the frames."""
    columns = [f"p_{name}" for name in classes]
    known = table[["clip", "patient", "group", "fold", "frame", "label"]]
    by_seed = {seed: known.join(pd.DataFrame(values.numpy().round(6), columns=columns)) for seed, values in predicted.items()}
    predictions = pd.concat(by_seed, names=["seed"]).reset_index("seed")
    write_csv(f"reports/predictions/{task}.csv", predictions)
    accuracy = (predictions[columns].to_numpy().argmax(1) == predictions["label"].map(classes.index)).mean()
    print(f"reports/predictions/{task}.csv: {len(table)} held-out frames of {table['clip'].nunique()} clips, frame accuracy "
          f"{accuracy:.3f}; `dvc repro` goes on to reports/report.html")


def write_network(task: str, network: torch.nn.Module, recipe: Recipe, seed: int) -> None:
    """models/<task>.safetensors: weights, classes, and how clips become frames and frames become the network's input."""
    facts = {key: getattr(recipe, key) for key in ("arch", "classes", "epochs", "init", "trainable")}
    facts |= {"task": task, "seed": seed, "mean": recipe.views.mean, "std": recipe.views.std}
    checkpoint.write(network.weights(), facts | store.facts(f"data/frames/{task}"), Path(f"models/{task}.safetensors"))


if __name__ == "__main__":
    run(main, stage="finetune", item="task")
