"""One evaluation task: folds by patient, train on all but one, predict the held-out patients.

reads   data/frames/<task>/                 frame store of the source of the same name
        models/pretrained.safetensors       the backbone's architecture and, for `init: pretrained`, its weights
writes  data/folds/<task>.csv               clip, patient, label, fold (empty if left out), left_out (the reason)
        reports/predictions/<task>.csv      a row per held-out frame: clip, patient, fold, frame, label, p_<class> …
        reports/finetune/<task>.csv         a row per fold and epoch: fold, epoch, loss, held_out_correct, held_out_frames
"""

import math
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import torch
import torch.nn.functional as F

from stages.lib import checkpoint
from stages.lib.folds import check_apart, load_frames, require_all, with_folds
from stages.lib.initial import initialise, named_file
from stages.lib.networks import Backbone, Classifier
from stages.lib.params import checked, require, run
from stages.lib.resume import Resume
from stages.lib.tasks import task_clips
from stages.lib.training import descent, device, generator, progress, set_learning_rate
from stages.lib.views import Views


def main(
    seed: int,
    task: str,
    init: str,
    trainable: str,
    folds: int,
    fold_seed: int,
    epochs: int,
    batch_size: int,
    optimizer: dict,
    views: dict,
    tasks: dict,
) -> None:
    """Cross-validate one task; every patient is predicted once, by the network that never saw one of their frames.

    Args:
        seed: of initial weights, order of frames and views.
        task: name of the task, its source and its block in `tasks`.
        init: random | imagenet | pretrained | a file: the backbone's weights before fine-tuning.
        trainable: last_block | head | all; what trains beside the new classifier.
        folds: into how many parts the patients are divided.
        fold_seed: of the division, apart from `seed`, so that runs of several seeds share their folds.
        epochs: passes over the training frames; the last epoch's weights predict.
        batch_size: frames per step.
        optimizer: {name, learning_rate, weight_decay, constant_fraction}.
        views: augmentation of the training frames.
        tasks: classes and subsets of each task.
    """
    arch = checkpoint.facts()["arch"]
    initialise(Backbone(arch), init, "finetune.init")
    require(epochs > 0, f"params.yaml: finetune.epochs is {epochs}; it must be at least 1")
    require(batch_size > 1, f"params.yaml: finetune.batch_size is {batch_size}; it must be at least 2")
    clips = with_folds(task_clips(task, tasks), task, folds, fold_seed, "finetune")
    classes = tasks[task]["classes"]
    require_all(clips, task, classes)
    where = device()
    frames, table = load_frames(task, clips)
    frames = frames.to(where)                                                   # N x 1 x H x W, uint8
    labels = torch.tensor([classes.index(label) for label in table["label"]], device=where)
    views = Views(**checked(Views, views, {key: f"finetune.views.{key}" for key in views}))

    facts = {"seed": seed, "folds": folds, "fold_seed": fold_seed, "init": init, "trainable": trainable, "epochs": epochs,
             "batch_size": batch_size, "optimizer": optimizer, "views": vars(views), "classes": classes, "device": where.type}
    inputs = [checkpoint.PRETRAINED, *named_file(init)]
    inputs += [Path(f"data/frames/{task}/{name}") for name in ("frames.npy", "clips.csv")]
    code = [Path(__file__), *sorted(Path(__file__).parent.glob("lib/*.py"))]
    resume = Resume(f"models/finetune_{task}.unfinished", facts, [*inputs, *code])
    state = resume.load() or {"predicted": torch.zeros(len(table), len(classes)), "rows": []}
    predicted, rows = state["predicted"], state["rows"]

    steps_done = progress(range(len(rows), folds * epochs), folds * epochs, f"finetune {task}: epoch")
    for fold in range(len(rows) // epochs, folds):
        held_out = torch.tensor(table["fold"].to_numpy(dtype=int) == fold, device=where)
        check_apart(table, held_out.cpu().numpy())
        torch.manual_seed(seed * folds + fold)
        network = Classifier(initialise(Backbone(arch), init, "finetune.init"), len(classes)).to(where)
        network.train_only(trainable)
        draw = generator(seed * folds + fold, where)
        epoch_losses = train(network, frames, labels, ~held_out, views, optimizer, epochs, batch_size, draw)
        for epoch, loss in enumerate(epoch_losses):
            probabilities = predict(network, frames[held_out], views)
            correct = int((probabilities.argmax(1) == labels[held_out]).sum())
            rows.append({"fold": fold, "epoch": epoch, "loss": loss, "held_out_correct": correct,
                         "held_out_frames": int(held_out.sum())})
            next(steps_done)
        predicted[held_out.cpu()] = probabilities.cpu()                         # of the last epoch, whatever the others gave
        resume.save(predicted=predicted, rows=rows)

    write(task, clips, table, classes, predicted, rows)
    resume.remove()


def train(
    network: Classifier,
    frames: torch.Tensor,
    labels: torch.Tensor,
    training: torch.Tensor,
    views: Views,
    settings: dict,
    epochs: int,
    batch_size: int,
    draw: torch.Generator,
) -> Iterator[float]:
    """Train on the frames where `training` [N] holds; yields the mean loss after every epoch."""
    rows = training.nonzero().flatten()
    rows_per_epoch = len(rows) - (len(rows) % batch_size == 1)                  # batch norm cannot take a batch of one
    steps = math.ceil(rows_per_epoch / batch_size)
    fixed = {"parameters": network.parameters(), "steps": epochs * steps}
    names = {key: f"finetune.optimizer.{key}" for key in settings}
    optimizer, schedule = descent(**checked(descent, fixed | settings, names))
    for epoch in range(epochs):
        network.train()
        order = rows[torch.randperm(len(rows), generator=draw, device=draw.device)[:rows_per_epoch]]
        total = 0.0
        for step, chosen in enumerate(order.split(batch_size), epoch * steps):
            set_learning_rate(optimizer, schedule(step))
            seen = views.normalise(views(frames[chosen].float() / 255, draw))   # B x 1 x H x W
            loss = F.cross_entropy(network(seen), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.detach() * len(chosen)
        yield float(total) / rows_per_epoch


@torch.no_grad()
def predict(network: Classifier, frames: torch.Tensor, views: Views) -> torch.Tensor:
    """Class probabilities [N, classes] of frames [N, 1, H, W] uint8, as they are: no augmentation, running statistics."""
    network.eval()
    logits = [network(views.normalise(part.float() / 255)) for part in frames.split(256)]
    return torch.cat(logits).softmax(1)


def write(
    task: str, clips: pd.DataFrame, table: pd.DataFrame, classes: list, predicted: torch.Tensor, rows: list[dict]
) -> None:
    """The folds, the predictions and the epochs of a task, as csv."""
    columns = {f"p_{name}": predicted[:, number].numpy().round(6) for number, name in enumerate(classes)}
    predictions = table[["clip", "patient", "fold", "frame", "label"]].assign(**columns)
    outputs = {
        f"data/folds/{task}.csv": clips[["clip", "patient", "label", "fold", "left_out"]],
        f"reports/predictions/{task}.csv": predictions,
        f"reports/finetune/{task}.csv": pd.DataFrame(rows),
    }
    for path, output in outputs.items():
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        output.to_csv(path, index=False)
    accuracy = (predictions[list(columns)].to_numpy().argmax(1) == table["label"].map(classes.index)).mean()
    print(f"reports/predictions/{task}.csv: {len(table)} held-out frames of {table['clip'].nunique()} clips, frame accuracy "
          f"{accuracy:.3f}; `dvc repro` goes on to reports/report.html")


if __name__ == "__main__":
    run(main, stage="finetune", item="task")
