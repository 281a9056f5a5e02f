"""The parameters and the code behind the scores of an experiment, from dvc.lock: params.yaml may have changed since."""

import pandas as pd

SEEDS = ("seed", "finetune.seeds")
SCORED_ON = ("collection", "simulate.", "extract_frames.", "finetune.folds", "finetune.fold_seed", "copy_distance.")
PRETRAINING = ("pretrain.", "methods.", "views.", "assemble_us4.", "extract_frames.sources")    # random weights: the arch only
CODE = ("stages/", "data/raw/")     # besides the parameters, code and the user's clips decide the scores


def flat_parameters(values: dict) -> dict:
    """{"a": {"b": 1}} → {"a.b": 1}"""
    return pd.json_normalize(values).to_dict("records")[0] if values else {}


def simulated(lock: dict) -> dict:
    """The parameters of the phantoms, which the report does not declare."""
    return flat_parameters(lock.get("simulate", {}).get("params", {}).get("params.yaml", {}))


def deciding(flat: dict) -> dict:
    """The parameters that could change the scores, without the seeds."""
    pretrained = is_pretrained(flat)
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
            or (key.startswith(PRETRAINING) and key != "pretrain.arch" and not pretrained)
        )
        if not unused:
            kept[key] = value
    return kept


def is_pretrained(flat: dict) -> bool:
    """True if the pretrained weights are behind any of the scores."""
    return "pretrained" in (flat["finetune.init"], flat.get("segment.init") if flat.get("segment.tasks") else "")


def code_behind(lock: dict, flat: dict) -> dict[str, str]:
    """Checksums of the code and of the user's clips behind the scores, without those of stages that no longer run."""
    tasks = [*flat["finetune.tasks"], *flat.get("segment.tasks", [])]
    items = {*tasks, *(flat.get(f"tasks.{task}.source") or task for task in tasks)}
    items |= set(flat.get("extract_frames.sources", [])) if is_pretrained(flat) else set()
    left_out = ("report",) if is_pretrained(flat) else ("report", "pretrain", "assemble_us4")
    stages = [stage for name, stage in lock.items() if name not in left_out and name.partition("@")[2] in items | {""}]
    deps = [dep for stage in stages for dep in stage.get("deps", [])]
    return {dep["path"]: dep.get("md5", "") for dep in deps if dep["path"].startswith(CODE)}
