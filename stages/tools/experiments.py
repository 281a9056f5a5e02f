"""Experiments as rows of a table: which of them differ in seeds only, and which were scored on the same clips."""

import json
import math
from dataclasses import dataclass
from pathlib import PurePosixPath

from stages.tools.dvc_lock import PRETRAINING, SCORED_ON, code_behind, deciding, flat_parameters, is_pretrained, simulated

OPTIONAL = (*PRETRAINING, "simulate.", "segment.", "tasks.")  # an experiment may lack these


@dataclass
class Configuration:
    """Experiments that differ only in their seeds.

    parameters: flat name → value of every parameter that could change the scores, without the seeds.
    code: file or folder → checksum, of what the stages before the report depend on.
    runs: a mapping for each: names and revisions (one result may be listed under several), metrics, and `trainings`,
        (seed of the pretraining, seed of the fine-tuning, fold seed) of each cross-validation that no other run counts;
        `counted`: the seeds of the fine-tuning that another one does.
    """

    parameters: dict
    code: dict[str, str]
    runs: list[dict]

    @property
    def tasks(self) -> list[str]:
        return [task for task in self.parameters["finetune.tasks"] if all(task in run["metrics"] for run in self.runs)]

    @property
    def start(self) -> str:
        """The initial weights: the pretraining method if they were pretrained, else finetune.init."""
        init = self.parameters["finetune.init"]
        return self.parameters["pretrain.method"] if init == "pretrained" else init

    @property
    def trainings(self) -> list[tuple[int, int, int]]:
        return [pair for run in self.runs for pair in run["trainings"]]

    def mean(self, task: str, name: str) -> float:
        """A number of the metrics, averaged over all cross-validations; NaN if an experiment lacks it."""
        values = [run["metrics"].get(task, {}).get(name, math.nan) for run in self.runs]
        counts = [len(run["trainings"]) for run in self.runs]
        return sum(value * count for value, count in zip(values, counts, strict=True)) / sum(counts)

    def spread(self, task: str, name: str) -> float:
        """Its standard deviation over all cross-validations, pooled from the experiments; NaN for a single one."""
        count, mean, squares = len(self.trainings), self.mean(task, name), 0.0
        for run in self.runs:
            numbers, own = run["metrics"].get(task, {}), len(run["trainings"])
            within = (own - 1) * numbers.get(f"{name}_seed_sd", math.nan) ** 2 if own > 1 else 0.0
            squares += within + own * (numbers.get(name, math.nan) - mean) ** 2
        return math.sqrt(squares / (count - 1)) if count > 1 else math.nan


def configurations(experiments: list[dict]) -> tuple[list[Configuration], list[dict]]:
    """Merge the experiments that have scores and differ in seeds only; also return the experiments without scores.

    A result counts once if it is listed twice (the workspace and its commit), and so does a cross-validation that several
    experiments hold (finetune.seeds [0] and [0, 1, 2], or [0, 1] and [1, 2]).

    Args:
        experiments: as `revisions.experiments` returns them.
    """
    found, others = {}, []
    for experiment in experiments:
        report = experiment["lock"].get("report", {}).get("params", {}).get("params.yaml")
        if not report or not set(experiment["metrics"]) - {"pretrain"}:
            others.append(experiment)
            continue
        flat = flat_parameters(report)
        seeds = [flat["seed"] + number for number in flat.get("finetune.seeds", [0])]
        divisions = flat.get("finetune.fold_seeds", [flat.get("finetune.fold_seed", 0)])
        run = {"names": [experiment["name"]], "revisions": [experiment["revision"]], "metrics": experiment["metrics"],
               "trainings": [(flat["seed"] if is_pretrained(flat) else number, number, division)
                             for division in divisions for number in seeds]}
        parameters, code = deciding(flat | simulated(experiment["lock"])), code_behind(experiment["lock"], flat)
        key = json.dumps([parameters, code], sort_keys=True)
        found.setdefault(key, Configuration(parameters, code, [])).runs.append(run)
    for configuration in found.values():
        configuration.runs = _once(configuration.runs)
    return list(found.values()), others


def same_clips(configurations: list[Configuration]) -> list[tuple[str, list[Configuration]]]:
    """Divide by what decides the scored clips and their folds: pairs (how a part differs from the others, its members)."""
    parts = {}
    for one in configurations:
        data = {key: value for key, value in one.parameters.items()
                if key.startswith(SCORED_ON) and key != "extract_frames.sources"}
        parts.setdefault(json.dumps(data, sort_keys=True), (data, []))[1].append(one)
    differ = _differing([data for data, _ in parts.values()])
    return [(_text({key: data[key] for key in differ if key in data}), members) for data, members in parts.values()]


def differences(configurations: list[Configuration]) -> list[str]:
    """For each, the parameters in which they differ, as -S takes them, and the code if it differs from the first one's."""
    shown = ("pretrain.method", "finetune.init", "finetune.tasks")   # other columns of the table show these
    differ = [key for key in _differing([one.parameters for one in configurations]) if key not in shown]
    texts = []
    for one in configurations:
        words = [_text({key: one.parameters[key] for key in differ if key in one.parameters})]
        reference = configurations[0].code
        files = [PurePosixPath(path).name for path, checksum in one.code.items() if reference.get(path, checksum) != checksum]
        if files:
            words.append(f"other code or clips than the first row: {', '.join(files[:3])}" + " …" * (len(files) > 3))
        texts.append("; ".join(filter(None, words)))
    return texts


def changed_parameters(experiment: dict, reference: dict) -> str:
    """The parameters in which an experiment without scores differs from the reference, as -S takes them."""
    own, usual = flat_parameters(experiment["params"]), flat_parameters(reference["params"])
    return _text({key: value for key, value in own.items() if usual.get(key, value) != value})


def _once(runs: list[dict]) -> list[dict]:
    """Merge a run into another one that has the same result or holds all of its cross-validations. Of runs that share some of
    them, the longest counts these. Equal lists with different results are two results.
    """
    kept = []
    for run in sorted(runs, key=lambda run: -len(run["trainings"])):
        own = set(run["trainings"])
        for other in kept:
            same = own == set(other["trainings"]) and run["metrics"] == other["metrics"]
            if same or own < set(other["trainings"]):
                other["names"] += run["names"]
                other["revisions"] += run["revisions"] if same else []
                break
        else:
            kept.append(run)
    lists = [set(run["trainings"]) for run in kept]
    for place, run in enumerate(kept):
        counted = set().union(*(other for other in lists[:place] if other != lists[place]))
        run["counted"] = {seed for _, seed, _ in lists[place] & counted}
        run["trainings"] = [training for training in run["trainings"] if training not in counted]
    return kept


def _differing(mappings: list[dict]) -> list[str]:
    """The keys with several values, and those that some mappings lack though they are not OPTIONAL."""
    differ = []
    for key in dict.fromkeys(key for mapping in mappings for key in mapping):
        values = {json.dumps(mapping[key]) for mapping in mappings if key in mapping}
        missing = not key.startswith(OPTIONAL) and any(key not in mapping for mapping in mappings)
        if len(values) > 1 or missing:
            differ.append(key)
    return differ


def _text(parameters: dict) -> str:
    """key=value, as -S takes them."""
    return ", ".join(f"{key}={_plain(value)}" for key, value in parameters.items())


def _plain(value) -> str:
    return f"[{','.join(map(_plain, value))}]" if isinstance(value, list) else "null" if value is None else str(value)
