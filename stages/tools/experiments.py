"""Experiments as rows of a table: which are one configuration run with several seeds, and which were scored on the same clips.

What a result was made with is read from dvc.lock, not from params.yaml, which may have been edited since.
"""

import json
import math
from dataclasses import dataclass
from pathlib import PurePosixPath

import pandas as pd

SEEDS = ("seed", "finetune.seeds")
SCORED_ON = ("collection", "simulate.", "extract_frames.", "finetune.folds", "finetune.fold_seed", "assemble_us4.copy_distance")
PRETRAINING = ("pretrain.", "methods.", "views.", "assemble_us4.", "extract_frames.sources")  # no matter for random weights
OPTIONAL = (*PRETRAINING, "simulate.", "segment.", "tasks.")  # an experiment may do without
CODE = ("stages/", "data/raw/")  # what results come from beside the parameters: code, and clips of the user's


@dataclass
class Configuration:
    """Experiments that differ in nothing but their seeds.

    parameters: flat name → value of what could change the scores, seeds left out.
    code: file or folder → checksum, of what the stages before the report depend on.
    runs: a mapping for each: names and revisions (one result may be listed under several), metrics, and `trainings`, the
        pairs (seed of the pretraining, seed of the fine-tuning), one a cross-validation.
    """

    parameters: dict
    code: dict[str, str]
    runs: list[dict]

    @property
    def tasks(self) -> list[str]:
        return [task for task in self.parameters["finetune.tasks"] if all(task in run["metrics"] for run in self.runs)]

    @property
    def start(self) -> str:
        """The initial weights: the method where they were pretrained, else finetune.init."""
        init = self.parameters["finetune.init"]
        return self.parameters["pretrain.method"] if init == "pretrained" else init

    @property
    def trainings(self) -> list[tuple[int, int]]:
        return [pair for run in self.runs for pair in run["trainings"]]

    def mean(self, task: str, name: str) -> float:
        """A number of the metrics, averaged over all cross-validations; NaN where an experiment does not have it."""
        values = [run["metrics"].get(task, {}).get(name, math.nan) for run in self.runs]
        counts = [len(run["trainings"]) for run in self.runs]
        return sum(value * count for value, count in zip(values, counts, strict=True)) / sum(counts)

    def spread(self, task: str, name: str) -> float:
        """Its standard deviation over all cross-validations, from those that the experiments give; NaN for a single one."""
        count, mean, squares = len(self.trainings), self.mean(task, name), 0.0
        for run in self.runs:
            numbers, own = run["metrics"].get(task, {}), len(run["trainings"])
            within = (own - 1) * numbers.get(f"{name}_seed_sd", math.nan) ** 2 if own > 1 else 0.0
            squares += within + own * (numbers.get(name, math.nan) - mean) ** 2
        return math.sqrt(squares / (count - 1)) if count > 1 else math.nan


def configurations(experiments: list[dict]) -> tuple[list[Configuration], list[dict]]:
    """Merge the experiments that have scores and differ in seeds only; return the other experiments beside.

    A result that is listed twice (the workspace and its commit), or whose cross-validations are all part of another's
    (finetune.seeds [0] of [0, 1, 2]), counts once.

    Args:
        experiments: as `revisions.experiments` returns them.
    """
    found, others = {}, []
    for experiment in experiments:
        report = experiment["lock"].get("report", {}).get("params", {}).get("params.yaml")
        if not report or not set(experiment["metrics"]) - {"pretrain"}:
            others.append(experiment)
            continue
        flat = _flat(report)
        seeds = [flat["seed"] + number for number in flat.get("finetune.seeds", [0])]
        run = {"names": [experiment["name"]], "revisions": [experiment["revision"]], "metrics": experiment["metrics"],
               "trainings": [(flat["seed"] if _pretrained(flat) else number, number) for number in seeds]}
        parameters, code = _deciding(flat | _simulated(experiment["lock"])), _code(experiment["lock"], flat)
        key = json.dumps([parameters, code], sort_keys=True)
        found.setdefault(key, Configuration(parameters, code, [])).runs.append(run)
    for configuration in found.values():
        configuration.runs = _once(configuration.runs)
    return list(found.values()), others


def same_clips(configurations: list[Configuration]) -> list[tuple[str, list[Configuration]]]:
    """Divide by what decides which clips are scored and in which folds: (how a part differs from the others, its members)."""
    parts = {}
    for one in configurations:
        data = {key: value for key, value in one.parameters.items()
                if key.startswith(SCORED_ON) and key != "extract_frames.sources"}
        parts.setdefault(json.dumps(data, sort_keys=True), (data, []))[1].append(one)
    differ = _differing([data for data, _ in parts.values()])
    return [(_text({key: data[key] for key in differ if key in data}), members) for data, members in parts.values()]


def differences(configurations: list[Configuration]) -> list[str]:
    """For each, the parameters in which they differ, as -S takes them, and the code if it is not that of the first."""
    shown = ("pretrain.method", "finetune.init", "finetune.tasks")   # the initial weights and the columns, which stand beside
    differ = [key for key in _differing([one.parameters for one in configurations]) if key not in shown]
    texts = []
    for one in configurations:
        said = [_text({key: one.parameters[key] for key in differ if key in one.parameters})]
        reference = configurations[0].code
        files = [PurePosixPath(path).name for path, checksum in one.code.items() if reference.get(path, checksum) != checksum]
        if files:
            said.append(f"other code or clips than the first row: {', '.join(files[:3])}" + " …" * (len(files) > 3))
        texts.append("; ".join(filter(None, said)))
    return texts


def chosen(experiment: dict, reference: dict) -> str:
    """The parameters of an experiment without scores that are not those of the reference, as -S takes them."""
    asked, usual = _flat(experiment["params"]), _flat(reference["params"])
    return _text({key: value for key, value in asked.items() if usual.get(key, value) != value})


def _flat(values: dict) -> dict:
    """{"a": {"b": 1}} → {"a.b": 1}"""
    return pd.json_normalize(values).to_dict("records")[0] if values else {}


def _simulated(lock: dict) -> dict:
    """The parameters of the phantoms, which the report does not declare."""
    return _flat(lock.get("simulate", {}).get("params", {}).get("params.yaml", {}))


def _deciding(flat: dict) -> dict:
    """Those of the parameters that could change the scores, seeds left out."""
    pretrained = _pretrained(flat)
    tasks = [*flat["finetune.tasks"], *flat.get("segment.tasks", [])]
    kept = {}
    for key, value in flat.items():
        block, name = [*key.split("."), ""][:2]
        unused = (
            key in SEEDS or block == "report"
            or (block == "methods" and name != flat["pretrain.method"])
            or (block == "tasks" and name not in tasks)
            or (block == "segment" and not flat.get("segment.tasks"))
            or (block == "simulate" and flat["collection"] != "phantom")
            or (key.startswith("views.semantic") and flat["views.pipeline"] != "semantic")
            or (key.startswith(PRETRAINING) and not pretrained and not key.startswith(SCORED_ON[-1]))
        )
        if not unused:
            kept[key] = value
    return kept


def _pretrained(flat: dict) -> bool:
    """Whether any of the scores comes from the pretrained weights."""
    return "pretrained" in (flat["finetune.init"], flat.get("segment.init") if flat.get("segment.tasks") else "")


def _code(lock: dict, flat: dict) -> dict[str, str]:
    """Checksums of the code and of the user's clips behind the scores; dvc.lock also keeps stages that no longer run."""
    items = {*flat["finetune.tasks"], *flat.get("segment.tasks", [])}
    items |= set(flat.get("extract_frames.sources", [])) if _pretrained(flat) else set()
    left_out = ("report",) if _pretrained(flat) else ("report", "pretrain", "assemble_us4")
    stages = [stage for name, stage in lock.items() if name not in left_out and name.partition("@")[2] in items | {""}]
    deps = [dep for stage in stages for dep in stage.get("deps", [])]
    return {dep["path"]: dep.get("md5", "") for dep in deps if dep["path"].startswith(CODE)}


def _once(runs: list[dict]) -> list[dict]:
    """The runs without those whose result another has, or has as a part; their names go to that one."""
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
    return kept


def _differing(mappings: list[dict]) -> list[str]:
    """The keys that have several values; or that some mappings do without, where that is no matter of another key."""
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
