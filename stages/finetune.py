"""One evaluation task: folds by patient, train on all but one, predict the held-out patients; then train on all of them.

reads   data/frames/<source>/            frame store of the task's source, and of the sources of its outside tests
        models/pretrained.safetensors    the backbone's architecture and, for `init: pretrained`, its weights
writes  data/folds/<task>.csv            clip, patient, label, fold (empty if left out; fold_<fold seed> of further divisions),
                                         copy_of (likely copies of another patient or label), left_out (the reason)
        reports/predictions/<task>.csv   a row per run and held-out frame: division (fold seed), seed, clip, patient, group
                                         (patients who share a copied clip are one group), fold, frame, label, p_<class> …
        reports/probes/<task>.csv        a row per probe of the frozen features, division and held-out clip: probe, division, …
        reports/floors/<task>.csv        a row per floor (lib/evaluation/floors.py), division and held-out clip: floor, …
        reports/external/<task>/         outside tests: predictions.csv, clips.csv (lib/evaluation/external.py)
        reports/features/<task>/         mean features of each held-out clip before fine-tuning (lib/networks/clip_features.py)
        reports/grad_cam/<task>/         Grad-CAM of some held-out frames by the networks that predicted them: maps.npy uint8
                                         [K, S, S]; maps.csv, a row each: seed, fold, clip, patient, frame, label,
                                         predicted (of the clip; the map is of this class), its probability in the frame
                                         and clip_probability, right
        reports/finetune/<task>.csv      a row per run, fold and epoch: division, seed, fold, epoch, loss, inner_loss (empty
                                         without an inner part), held_out_correct (in every measure_every-th epoch and
                                         the one that predicts), held_out_frames
        models/<task>.safetensors        the network trained on all patients, with its classifier, under torchvision's names
"""

from typing import Annotated, Literal

import pandas as pd
import torch
from annotated_types import Ge, Gt, Le, Lt

from stages.lib.clips import store
from stages.lib.clips.copies import CopyDistance
from stages.lib.clips.tasks import Task, read_task
from stages.lib.evaluation import external, floors, held_out_maps
from stages.lib.evaluation.cross_validation import Training, cross_validate, list_trainings, of_first_seed, on_all, table_of
from stages.lib.evaluation.external import outside_frames
from stages.lib.evaluation.fine_tuning import HeadBlock, Recipe, Statistics, Trainable
from stages.lib.evaluation.frozen_probes import FrozenFeatures, Probes
from stages.lib.evaluation.held_out_maps import HeldOutMaps
from stages.lib.evaluation.preparation import TaskClips, load_frames, prepare, unfinished_run, write_folds
from stages.lib.networks import checkpoint, clip_features
from stages.lib.networks.backbone import Backbone
from stages.lib.networks.initial import Init
from stages.lib.networks.normalisation import filled_in
from stages.lib.params import Count, Positive, Seed, Seeds, block_of, from_params
from stages.lib.running.stage import run
from stages.lib.training.optimizer import OptimizerBlock
from stages.lib.training.threads import THREADS
from stages.lib.training.views import Views, ViewsBlock


def main(
    seed: Seed, copy_distance: CopyDistance, tasks: dict, task: str, init: Init, trainable: Trainable,
    frozen_statistics: Statistics, head: HeadBlock, select: Literal["last_epoch", "inner_validation"],
    inner_fraction: Annotated[float, Gt(0), Lt(1)], label_fraction: Annotated[float, Gt(0), Le(1)],
    seeds: Seeds, folds: Annotated[int, Ge(2)], fold_seeds: Seeds,
    epochs: Count, min_steps: Annotated[int, Ge(0)], head_first: Annotated[float, Ge(0), Lt(1)], backbone_rate: Positive,
    measure_every: Count, batch_size: Annotated[int, Ge(2)], optimizer: OptimizerBlock, views: ViewsBlock,
    probes: block_of(Probes), grad_cam: block_of(HeldOutMaps),
) -> None:  # fmt: skip
    """Cross-validate one task; every patient is predicted once per division and seed, by a network that never saw them.

    Then train the network for use on all patients (whatever `label_fraction` says) to the last epoch, with the first seed.

    Args:
        task: its name; the other arguments are keys of params.yaml, which explains them.

    Raises:
        UserError: an impossible setting; nothing is written then.
    """
    arch = checkpoint.facts()["arch"]
    probes, maps = from_params(Probes, probes, "finetune.probes"), from_params(HeldOutMaps, grad_cam, "finetune.grad_cam")
    views = from_params(Views, filled_in(views, init, Backbone(arch), "finetune.init"), "finetune.views")
    clips, trainings = plan(task, tasks, seed, copy_distance, select, inner_fraction, label_fraction, seeds, folds, fold_seeds)
    task, seeds = clips.task, [seed + number for number in seeds]
    recipe = Recipe(arch, init, trainable, task.classes, epochs, min_steps, head_first, backbone_rate, measure_every,
                    batch_size, optimizer, views, frozen_statistics, **head)
    initial = recipe.network(trainings[0].stream)
    recipe.optimizer_and_schedule(initial, 1)      # a wrong setting stops the run before a frame is read
    tests, frames = outside_frames(clips, copy_distance), load_frames(task, clips.used)

    settings = recipe._asdict() | {"views": vars(views), "seeds": seeds, "folds": folds, "fold_seeds": fold_seeds,
                                   "select": select, "inner_fraction": inner_fraction, "label_fraction": label_fraction,
                                   "maps": vars(maps), "copy_distance": copy_distance, "device": frames.grey.device.type}
    resume = unfinished_run("finetune", task, init, settings, ["frames.npy", "clips.csv"])
    maps = maps if maps.possible(initial, frames, recipe) else None
    predicted, epoch_rows, explained = cross_validate(recipe, frames, trainings, maps, resume, f"finetune {task.name}")
    frozen, once = FrozenFeatures(initial.backbone, frames, views, init == "random"), of_first_seed(trainings)
    probed = probes.predict(frozen, frames.table, task.classes, once)
    floor_rows = floors.predict(clips, frames, once, arch, views, seeds[0])
    networks = {each: on_all(recipe, frames, each * trainings[0].folds, f"finetune {task.name}, all patients, seed {each}")
                for each in (seeds if tests else seeds[:1])}
    write_tables(task, clips, predictions=table_of(frames, trainings, predicted, task.classes), probes=probed,
                 floors=floor_rows, finetune=pd.DataFrame(epoch_rows).astype({"held_out_correct": "Int64"}))
    clip_features.write(f"reports/features/{task.name}", *clip_features.of_clips(*frozen.held_out(once)))
    held_out_maps.write(f"reports/grad_cam/{task.name}", explained, frames.grey.shape[-1])
    external.write(f"reports/external/{task.name}", tests, external.predictions(networks, tests, task, recipe))
    write_network(task, networks[seeds[0]], recipe, seeds[0])
    resume.remove()


def plan(
    task: str, tasks: dict, seed: int, copy_distance: dict, select: str, inner_fraction: float, label_fraction: float,
    seeds: list[int], folds: int, fold_seeds: list[int],
) -> tuple[TaskClips, list[Training]]:  # fmt: skip
    """The clips of a task in folds, and the trainings; arguments as in `main`. Pretraining calls it, too, so that settings
    which the clips do not allow stop the pipeline before the long work.
    """
    clips = prepare("finetune", read_task(task, tasks), copy_distance, folds, fold_seeds)
    inner = inner_fraction if select == "inner_validation" else 0.0
    return clips, list_trainings(clips, [seed + number for number in seeds], label_fraction, inner)


def write_tables(task: Task, clips: TaskClips, predictions: pd.DataFrame, **others: pd.DataFrame) -> None:
    """The folds, reports/<name>/<task>.csv for each table, and a printed line that says how many frames are right."""
    write_folds(task.name, clips)
    for name, table in {"predictions": predictions, **others}.items():
        store.write_csv(f"reports/{name}/{task.name}.csv", table)
    columns = [f"p_{name}" for name in task.classes]
    accuracy = (predictions[columns].to_numpy().argmax(1) == predictions["label"].map(task.classes.index)).mean()
    frames = len(predictions.drop_duplicates(["clip", "frame"]))
    print(f"reports/predictions/{task.name}.csv: {frames} held-out frames of {predictions['clip'].nunique()} clips, frame "
          f"accuracy {accuracy:.3f}; `dvc repro` goes on to reports/report.html")


def write_network(task: Task, network: torch.nn.Module, recipe: Recipe, seed: int) -> None:
    """models/<task>.safetensors: weights, classes, and how clips become frames and frames become the network's input."""
    facts = {key: getattr(recipe, key) for key in ("arch", "classes", "epochs", "init", "trainable")}
    facts |= {"task": task.name, "seed": seed, "mean": recipe.views.mean, "std": recipe.views.std, "threads": THREADS.used}
    checkpoint.write(network.weights(), facts | store.facts(f"data/frames/{task.source}"), checkpoint.finetuned(task.name))


if __name__ == "__main__":
    run(main, stage="finetune", item="task", lower="finetune.batch_size")
