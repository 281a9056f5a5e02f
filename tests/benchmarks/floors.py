"""The floors of tasks over several divisions, without training: `python -m tests.benchmarks.floors <task> … [--divisions 5]`

Run it in a folder whose data/frames holds the sources of the tasks (`dvc repro extract_frames` makes them) and whose
params.yaml describes the tasks. Prints the balanced accuracy of clips, mean and standard deviation over the divisions.
"""

import argparse
from pathlib import Path

import yaml

from stages.lib.clips.tasks import read_task
from stages.lib.evaluation import floors, scores
from stages.lib.evaluation.cross_validation import list_trainings
from stages.lib.evaluation.preparation import load_frames, prepare
from stages.lib.networks.normalisation import RANDOM
from stages.lib.training.views import Views


def main(tasks: list[str], divisions: int, arch: str) -> None:
    """Print a line per floor and task."""
    params = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
    views = Views(**params["finetune"]["views"] | RANDOM._asdict())
    for name in tasks:
        task = read_task(name, params["tasks"])
        clips = prepare("finetune", task, params["copy_distance"], params["finetune"]["folds"], list(range(divisions)))
        frames = load_frames(task, clips.used)
        print(f"{name}: {clips.used['clip'].nunique()} clips, {clips.used['group'].nunique()} groups, {len(frames.table)} "
              f"frames, chance {1 / len(task.classes):.3f}", flush=True)
        found = floors.predict(clips, frames, list_trainings(clips, [params["seed"]], 1.0, 0.0), arch, views, params["seed"])
        for floor, part in found.groupby("floor", sort=False):
            values = scores.balanced_accuracies(part, task.classes)
            spread = f" ± {values.std(ddof=1):.3f}" if divisions > 1 else ""
            print(f"  {floor} {values.mean():.3f}{spread}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.floors", description=__doc__.splitlines()[0])
    parser.add_argument("tasks", nargs="+", metavar="task")
    parser.add_argument("--divisions", type=int, default=5, help="into folds, by the fold seeds 0, 1, … (default: 5)")
    parser.add_argument("--arch", default="resnet18", help="of the random network (default: resnet18)")
    main(**vars(parser.parse_args()))
