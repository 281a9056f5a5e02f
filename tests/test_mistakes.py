"""Every key of params.yaml, taken through every mistake: one sentence that names the key, before any data are read.

A stage runs in an empty folder, in this process, with the parameters that dvc.yaml declares for it. There, parameters that are
fine end in a sentence about missing data, so that a mistake that is only seen later shows itself.
"""

import copy
import math
import re
from importlib import import_module
from pathlib import Path

import pytest
import yaml

from stages.lib.params import UserError
from stages.lib.stage import run

ROOT = Path(__file__).parents[1]
PARAMS = yaml.safe_load((ROOT / "params.yaml").read_text())
STAGES = {name: stage for path in ("data/dvc.yaml", "dvc.yaml") for name, stage in yaml.safe_load((ROOT / path).read_text())["stages"].items()}
STAGES = {name: stage.get("do", stage)["params"] for name, stage in STAGES.items()}
ITEMS = {"extract_frames": "source", "finetune": "task", "segment": "task"}
HUGE = 10**20
FREE = ("methods", "tasks", "assemble_us4.classes")      # mappings whose keys are names that a user gives

# What is no mistake: key → values that a number or list may take besides those of its kind.
ZERO = """seed finetune.fold_seed finetune.fold_seeds finetune.seeds segment.fold_seed report.worst_clips finetune.grad_cam.per_fold
assemble_us4.copy_distance.clips assemble_us4.copy_distance.stills"""
ZERO_NAMES = """weight_decay warmup_fraction constant_fraction flip_probability brightness contrast mean std label_weight
probe_probability rotation_degrees shear_degrees local_contrast denoising blur_probability speckle noise"""


def leaves(value, path=()):
    """All keys of a mapping, those of the mappings in it too."""
    for key, inside in value.items():
        yield (*path, key)
        if isinstance(inside, dict):
            yield from leaves(inside, (*path, key))


KEYS = [".".join(path) for path in leaves(PARAMS)]


def get(params, key):
    for part in key.split("."):
        params = params[part]
    return params


def put(params, key, value):
    """A copy of the parameters in which the key has another value; DELETED takes it out."""
    params = copy.deepcopy(params)
    *path, last = key.split(".")
    block = get(params, ".".join(path)) if path else params
    if value is DELETED:
        del block[last]
    else:
        block[last] = value
    return params


DELETED = object()


def mistakes(key):
    """name → a wrong value of the key, by the value that it has."""
    value = get(PARAMS, key)
    yield "missing", DELETED
    if isinstance(value, bool):
        yield from {"text": "no such thing", "number": 3, "null": None}.items()
    elif isinstance(value, int | float) or value is None:
        yield from {"text": "no such thing", "mapping": {"a": 1}, "list": [1], "true": True, "negative": -1, "zero": 0,
                    "huge": HUGE, "NaN": math.nan, "infinite": math.inf}.items()
    elif isinstance(value, str):
        yield from {"unknown": "no such thing", "number": 3, "list": [value], "mapping": {"a": 1}, "null": None}.items()
    elif isinstance(value, list):
        yield from {"text": "no such thing", "number": 3, "mapping": {"a": 1}, "empty": [], "null": None,
                    "of mappings": [{"a": 1}], "of nothing": [None]}.items()
        if value and all(isinstance(item, int | float) for item in value):
            yield from {"of texts": ["a"] * len(value), "of NaN": [math.nan] * len(value), "negative": [-1] * len(value),
                        "huge": [HUGE] * len(value), "falling": sorted(value, reverse=True), "longer": [*value, value[-1]]}.items()
        else:
            yield from {"unknown": ["no such thing"], "twice": [*value, *value[:1]]}.items()
    else:
        yield from {"text": "no such thing", "number": 3, "list": [1], "null": None, "empty": {}}.items()
        if key not in FREE:
            yield "unknown key", value | {"no_such_key": 1}


def is_fine(key, name):
    """Whether the value that `mistakes` names so is none for this key."""
    value, last = get(PARAMS, key), key.rpartition(".")[2]
    if name == "zero":
        return key in ZERO.split() or last in ZERO_NAMES.split()
    return False


def owner(key):
    """The stage that should refuse a wrong value: that of the block, or the first one of the pipeline that reads the key."""
    readers = [stage for stage, names in STAGES.items() if any(under(key, name) or under(name, key) for name in names)]
    block = key.split(".")[0]
    return block if block in readers else readers[0]


def under(key, name):
    return (key + ".").startswith(re.sub(r"\$\{[^}]*\}.*", "", name).rstrip(".") + ".")


def declared(stage, params, item):
    """What dvc.api.params_show(stages=…) returns: the parameters that dvc.yaml declares for the stage."""
    found = {}
    for name in STAGES[stage]:
        name = name.replace("${item}", item).replace("${pretrain.method}", str(params["pretrain"]["method"]))
        *path, last = name.split(".")
        here, there = params, found
        for part in path:
            here = here.get(part) if isinstance(here, dict) else None
            there = there.setdefault(part, {})
        if isinstance(here, dict) and last in here:
            there[last] = here[last]
    return found


@pytest.fixture
def outcome(workspace, monkeypatch):
    """What a stage says when it is run with the parameters, in a folder without data."""

    def say(stage, params, item):
        main = import_module(f"stages.{stage}").main
        monkeypatch.setattr("dvc.api.params_show", lambda stages: copy.deepcopy(declared(stage, params, item)))
        monkeypatch.setattr("sys.argv", [stage, item] if stage in ITEMS else [stage])
        try:
            run(main, stage, ITEMS.get(stage))
        except SystemExit as stop:
            return stop.code
        except BaseException as error:
            return f"{type(error).__name__}: {error}"
        return "ran"

    monkeypatch.setattr("stages.simulate.replacing", no_data)
    return say


def no_data(*_):
    raise UserError("data/phantom is missing")


def item_of(key, stage):
    parts = key.split(".")
    if stage == "extract_frames":
        return "pocus"
    return parts[1] if parts[0] == "tasks" and len(parts) > 1 else "breast" if stage == "segment" else "pocus"


def prepared(key):
    """Parameters in which the key is read: with the method of its block."""
    params = copy.deepcopy(PARAMS)
    parts = key.split(".")
    params["segment"]["tasks"] = ["breast"]
    if parts[0] == "methods" and len(parts) > 1:
        params["pretrain"]["method"] = parts[1]
    if parts[0] == "views":
        params["views"]["pipeline"] = "semantic"
    if parts[:2] == ["methods", "ivpp"] and len(parts) > 3:
        params["methods"]["ivpp"]["objective"] = parts[2]
    return params
