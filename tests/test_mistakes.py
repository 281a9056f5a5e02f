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
from conftest import write_frame_store

from stages.lib.networks import checkpoint
from stages.lib.networks.backbone import Backbone
from stages.lib.params import UserError
from stages.lib.running.stage import run
from stages.pretrain import LATER

ROOT = Path(__file__).parents[1]
PARAMS = yaml.safe_load((ROOT / "params.yaml").read_text())
STAGES = {}
for path in ("data/dvc.yaml", "dvc.yaml"):
    for name, stage in yaml.safe_load((ROOT / path).read_text())["stages"].items():
        STAGES[name] = stage.get("do", stage)["params"]
ITEMS = {"extract_frames": "source", "finetune": "task", "segment": "task"}
HUGE = 10**20
FREE = ("methods", "tasks", "assemble_us4.classes")      # mappings whose keys are names that a user gives

# What is no mistake: (name of the change, pattern of the key).
FINE = [(change, re.compile(pattern)) for change, pattern in (
    ("zero", "seed|copy_distance.(clips|stills)|(finetune|segment).fold_seed|report.worst_clips|finetune.grad_cam.per_fold"),
    ("zero", "finetune.(min_steps|head_first)"),
    ("zero", r".*\.(weight_decay|warmup_fraction|constant_fraction|key_momentum|label_weight|dropout|.*_from)"),
    ("zero", r"methods\..*\.label_fraction"),
    ("zero", r".*\.(.*_probability|brightness|contrast|mean|support_fraction|rotation_degrees|shear_degrees|local_contrast)"),
    ("zero", r"views\.semantic\.(denoising|speckle|noise)"),
    ("negative", r".*views\.(mean|semantic\.mean)"),
    ("falling", r"methods\.meta_uscl\.mixing_beta|segment\.anchors"),     # no ranges
    ("empty", r"assemble_us4.classes|(finetune|segment).tasks|report.baselines|tasks\.\w+\.subsets"),
    ("missing", r"assemble_us4\.classes\.\w+|tasks\.\w+\.classes\.\w+"),          # one name less
    ("text", r"tasks\.\w+\.classes\.\w+"), ("number", r"tasks\.\w+\.classes\.\w+"),        # a single value
    ("missing", r"finetune\.head\.\w+"), ("empty", r"finetune\.head"),
    ("missing", r"tasks\.\w+\.(source|target|subsets|stratify|external)"),         # there are defaults
    ("unknown", r"tasks\.\w+\.(source|target|subsets|stratify|classes\.\w+)|report\.baselines"),    # data or git must tell
    ("unknown key", r"tasks\.\w+\.classes"),                                       # a class of that name
)]


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
            for name, item in {"of texts": "a", "of NaN": math.nan, "negative": -1, "huge": HUGE}.items():
                yield name, [item] * len(value)
            yield "longer", [*value, value[-1]]
            if len(set(value)) > 1:
                yield "falling", sorted(value, reverse=True)
        else:
            yield "unknown", ["no such thing"]
            if value:
                yield "twice", [*value, value[0]]
    else:
        yield from {"text": "no such thing", "number": 3, "list": [1], "null": None, "empty": {}}.items()
        if key not in FREE:
            yield "unknown key", value | {"no_such_key": 1}


def is_fine(key, name):
    """Whether the value that `mistakes` names so is no mistake for this key."""
    return any(name == change and pattern.fullmatch(key) for change, pattern in FINE)


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
        pretrain = params.get("pretrain")
        method = pretrain.get("method") if isinstance(pretrain, dict) else None
        name = name.replace("${item}", item).replace("${pretrain.method}", str(method))
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
        monkeypatch.setattr("dvc.api.params_show", lambda stages=None: declared(stage, params, item) if stages else params)
        monkeypatch.setattr("sys.argv", [stage, item] if stage in ITEMS else [stage])
        with pytest.raises(SystemExit) as stop:
            run(main, stage, ITEMS.get(stage), later=LATER if stage == "pretrain" else {})
        return str(stop.value.code)

    monkeypatch.setattr("stages.simulate.replacing", no_data)
    return say


def no_data(*_):
    raise UserError("data/phantom is missing")


def prepared(key):
    """Parameters in which the key is read: with the method or the task of its block."""
    params = copy.deepcopy(PARAMS)
    block, name, *rest = [*key.split("."), "", ""]
    params["segment"]["tasks"] = ["breast"]
    if block == "methods" and name:
        params["pretrain"]["method"] = name
    if block == "tasks" and name:
        params["finetune"]["tasks"] = [name]
        source = params["tasks"][name].get("source", name)
        params["extract_frames"]["sources"] = list(dict.fromkeys([*params["extract_frames"]["sources"], source]))
    if block == "views":
        params["views"]["pipeline"] = "semantic"
    if (block, name) == ("methods", "ivpp") and rest[0] in ("simclr", "vicreg", "barlow_twins"):
        params["methods"]["ivpp"]["objective"] = rest[0]
    return params


def cases(key):
    """(name of the change, stage, parameters, item) of each mistake in a key."""
    for name, value in mistakes(key):
        if name == "unknown key":
            value = get(prepared(key), key) | {"no_such_key": 1}
        yield name, owner(key), put(prepared(key), key, value), "breast" if key.startswith("segment") else "pocus"


def test_there_are_three_hundred_cases_and_more():
    assert sum(len(list(mistakes(key))) for key in KEYS) > 300


def test_all_parameters_are_fine_as_they_are(outcome):
    for stage in STAGES:
        assert "is missing" in outcome(stage, prepared("segment"), "breast" if stage == "segment" else "pocus")


def slow(key):
    """Whether it belongs to a method that is not the default one: the same code checks it, for minutes."""
    return key.startswith("methods.") and not key.startswith(f"methods.{PARAMS['pretrain']['method']}")


@pytest.mark.parametrize("key", [pytest.param(key, marks=pytest.mark.slow) if slow(key) else key for key in KEYS])
def test_every_mistake_in_a_key_is_one_sentence_that_names_it(outcome, key):
    *block, last = key.split(".")
    for name, stage, params, item in cases(key):
        said = outcome(stage, params, item)
        assert said.startswith("error: ") and "\n" not in said, (name, said)
        named = "params.yaml: " in said and (key in said or ".".join(block) in said and last in said)
        assert named != is_fine(key, name), (name, said)


FOUND_LATER = [("missing", "views")]        # there is another block of that name


@pytest.mark.parametrize("key", [key for key in KEYS if owner(key) in LATER and key not in ITEMS])
def test_pretraining_says_what_a_later_stage_would_say(outcome, key):
    last = key.rpartition(".")[2]
    for name, stage, params, item in cases(key):
        said = outcome(stage, params, item)
        if "params.yaml: " in said and (name, last) not in FOUND_LATER:
            assert outcome("pretrain", params, item) == said, name


def test_pretraining_needs_no_block_of_a_stage_that_does_not_run(outcome):
    params = put(prepared("pretrain"), "segment", {"tasks": []})
    assert "data/us4" in outcome("pretrain", params, "pocus")


@pytest.mark.parametrize("key", [key for key in KEYS if key.endswith("optimizer") and not slow(key)])
def test_a_warm_up_and_a_constant_part_longer_than_the_run_are_refused_before_pretraining(outcome, key):
    params = prepared(key)
    for part, value in (("warmup_fraction", 0.6), ("constant_fraction", 0.5)):
        params = put(params, f"{key}.{part}", value)
    assert f"{key}.warmup_fraction is 0.6 and {key}.constant_fraction 0.5; together" in outcome("pretrain", params, "breast")


def test_dropout_without_a_hidden_layer_is_refused_before_pretraining(outcome):
    params = put(prepared("finetune.head.dropout"), "finetune.head.dropout", 0.4)
    assert "finetune.head.dropout is 0.4; it drops units of the hidden layer" in outcome("pretrain", params, "breast")


@pytest.mark.parametrize(("stage", "changes", "sentence"), [
    ("finetune", {"finetune.folds": 40}, "finetune.folds is 40; task breast has 8 patients"),
    ("finetune", {"finetune.folds": 4}, "which has 3 patients: choose 3 folds or fewer"),
    ("finetune", {"finetune.folds": 2, "finetune.select": "inner_validation", "finetune.label_fraction": 0.1},
     "leaves class benign, malignant of task breast without patients to train on"),
    ("segment", {"segment.folds": 40}, "segment.folds is 40; task breast has 8 patients"),
    ("segment", {"pretrain.arch": "mobilenet_v3_small"}, "segment needs a ResNet"),
    ("segment", {"segment.folds": 2}, "masks.npy is missing: the source breast has no masks"),
])
def test_what_the_clips_or_the_network_do_not_allow_is_refused_before_pretraining(outcome, workspace, stage, changes, sentence):
    """As the later stage says it. The task has five benign and three malignant patients."""
    clips = [{"clip": f"{number}.png", "patient": f"p{number}", "label": "benign" if number < 5 else "malignant"}
             for number in range(8)]
    write_frame_store(workspace / "data/frames/breast", clips)
    if changes != {"segment.folds": 2}:
        (workspace / "data/frames/breast/masks.npy").touch()
    params = put(put(prepared("finetune"), "finetune.tasks", ["breast"]), "finetune.folds", 2)
    params = put(put(params, "segment.folds", 2), "segment.tasks", ["breast"] if stage == "segment" else [])
    for key, value in changes.items():
        params = put(params, key, value)
    arch = params["pretrain"]["arch"]
    checkpoint.write(Backbone(arch).network.state_dict(), {"arch": arch, "mean": 0.5, "std": 0.25})
    said = outcome("pretrain", params, "breast")
    assert sentence in said and said == outcome(stage, params, "breast")
