"""The pipeline as a whole: one name for a stage everywhere, declared dependencies, directions, a run from end to end."""

import ast
import inspect
import json
import os
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pandas as pd
import pytest
import yaml

ROOT = Path(__file__).parents[1]
PARAMS = yaml.safe_load((ROOT / "params.yaml").read_text())
PIPELINES = ("data/dvc.yaml", "dvc.yaml")
STAGES = {name: stage.get("do", stage) for path in PIPELINES
          for name, stage in yaml.safe_load((ROOT / path).read_text())["stages"].items()}
MODULES = sorted(ROOT.glob("stages/**/*.py"))


def imported(module):
    """Project files that a module imports, at its top or inside a function."""
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("stages"):
            names = [f"{node.module}.{alias.name}" for alias in node.names] + [node.module]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        yield from (path for name in names if (path := ROOT / (name.replace(".", "/") + ".py")).exists())


def closure(module):
    """A module and all project files that it imports, directly or not."""
    found, waiting = set(), [module]
    while waiting:
        if (path := waiting.pop()) not in found:
            found.add(path)
            waiting += imported(path)
    return found


def place(module, code):
    """What dvc.yaml names for a module: the file itself if it is in `code`, else its folder of `stages`, or room of `lib`."""
    parts = module.relative_to(ROOT).parts
    path = "/".join(parts)
    depth = 3 if parts[1] == "lib" else 2
    return path if path in code or len(parts) <= depth else "/".join(parts[:depth])


def declared(stage):
    """The code that a stage depends on, its items and the chosen method filled in."""
    choices = {"${item}": PARAMS["extract_frames"]["sources"], "${pretrain.method}": sorted(PARAMS["methods"])}
    for dep in STAGES[stage]["deps"]:
        for key, values in choices.items():
            if dep.startswith("stages/") and key in dep:
                yield from (dep.replace(key, value) for value in values)
        if dep.startswith("stages/") and "$" not in dep:
            yield dep


def test_scripts_stages_and_blocks_have_the_same_names():
    scripts = {path.stem for path in ROOT.glob("stages/*.py")}
    assert scripts == set(STAGES) == set(PARAMS) & set(STAGES)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_just_the_rooms_that_it_imports(stage):
    code = set(declared(stage))
    scripts = {ROOT / path for path in code if path.endswith(".py")}
    for path in code & {"stages/sources", "stages/methods", "stages/phantoms"}:
        scripts |= set((ROOT / path).glob("*.py"))
    assert code == {place(path, code) for path in set().union(*(closure(path) for path in scripts))}


@pytest.mark.parametrize("stage", STAGES)
def test_declared_parameters_are_the_arguments_of_main(stage):
    declared = {name.removeprefix(f"{stage}.").split(".")[0] for name in STAGES[stage]["params"] if name != stage}
    if stage in STAGES[stage]["params"]:
        declared |= set(PARAMS[stage])
    arguments = set(inspect.signature(import_module(f"stages.{stage}").main).parameters)
    assert arguments - {"source", "task"} == declared


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_says_what_it_does(stage):
    assert STAGES[stage]["desc"]
    purpose = import_module(f"stages.{stage}").__doc__
    assert "reads " in purpose and "writes " in purpose


FLOORS = ["guard", "params", "revisions", "training", "clips", "networks", "pretraining", "evaluation", "segmentation",
          "report"]    # of lib
APART = {("pretraining", "evaluation"), ("pretraining", "segmentation")}         # rooms of one floor


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_down(module):
    """Scripts → methods, sources, lib; methods, sources → lib; tools → scripts too; lib: a room → rooms below it."""
    parts = module.relative_to(ROOT / "stages").with_suffix("").parts
    allowed = {"lib": {"lib"}, "methods": {"lib"}, "sources": {"lib"}, "phantoms": {"lib", "phantoms"}}.get(
        parts[0], {"lib", "sources", "phantoms"} | ({"tools", "script"} if parts[0] == "tools" else set()))
    for path in imported(module):
        target = path.relative_to(ROOT / "stages").with_suffix("").parts
        assert (target[0] if len(target) > 1 else "script") in allowed, path
        if parts[0] == target[0] == "lib":
            assert FLOORS.index(target[1]) <= FLOORS.index(parts[1]) and (target[1], parts[1]) not in APART, path


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_special_packages_stay_in_their_rooms(module):
    tree = list(ast.walk(ast.parse(module.read_text())))
    packages = {alias.name.split(".")[0] for node in tree if isinstance(node, ast.Import) for alias in node.names}
    packages |= {node.module.split(".")[0] for node in tree if isinstance(node, ast.ImportFrom)}
    name = str(module.relative_to(ROOT / "stages"))
    assert "dvc" not in packages or name in ("lib/params.py", "lib/revisions.py")
    assert "matplotlib" not in packages or name.startswith("lib/report/")


def test_rooms_stay_small():
    rooms = [path for path in (ROOT / "stages/lib").iterdir() if path.is_dir() and path.name != "__pycache__"]
    assert {path.name for path in rooms} == set(FLOORS) - {"guard", "params", "revisions"}
    for room in rooms:
        assert len(list(room.glob("*.py"))) <= 12, room


def test_no_number_is_written_as_yaml_reads_text():
    def texts(node):
        for value in node.values() if isinstance(node, dict) else node if isinstance(node, list) else []:
            yield from [value] if isinstance(value, str) else texts(value)

    assert not [value for value in texts(PARAMS) if value.replace("e-", "").replace("e", "").replace(".", "").isdigit()]


@pytest.mark.slow
def test_the_whole_pipeline_on_tiny_phantoms(tmp_path):
    """`dvc repro` in a repository of its own; nothing to do the second time; another method trains and reports again."""
    for name in ("stages", "params.yaml", *PIPELINES, ".dvc/config", ".dvc/plots", ".gitignore"):
        source, target = ROOT / name, tmp_path / name
        target.parent.mkdir(exist_ok=True)
        shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target)
    params = yaml.safe_load((tmp_path / "params.yaml").read_text())
    params["simulate"] |= {"patients_per_class": 3, "images_per_class": 4, "seconds": 0.5, "max_frames": 8}
    params["simulate"]["clips_per_class"] = dict.fromkeys(params["simulate"]["clips_per_class"], 2)
    params["extract_frames"]["size_px"] = 32
    params["pretrain"] |= {"epochs": 2, "batch_size": 4}
    params["finetune"] |= {"epochs": 1, "folds": 2}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))

    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "SONOPAIR_DEVICE": "cpu"}

    def shell(*command):
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    identity = ("-c", "user.name=test", "-c", "user.email=test@example.org")
    shell("git", "init", "--quiet")
    shell("dvc", "repro")
    metrics = json.loads((tmp_path / "reports/scores.json").read_text())
    assert set(metrics) == {"pocus", "gallbladder", "breast", "pretrain"}
    predictions = pd.read_csv(tmp_path / "reports/predictions/pocus.csv")
    assert metrics["pocus"]["clips"] == predictions["clip"].nunique()
    assert (tmp_path / "reports/report.html").read_text().startswith("<!doctype html>")
    audit = pd.read_csv(tmp_path / "reports/us4_audit.csv", keep_default_na=False)
    copies = pd.read_csv(tmp_path / "data/phantom/truth.csv", keep_default_na=False).query("duplicate_of != ''")
    assert len(copies) == audit[audit["reason"].str.contains("evaluation clip")]["clips"].sum() == 2
    assert "up to date" in shell("dvc", "repro")

    shell("git", "add", "--all")
    shell("git", *identity, "commit", "--quiet", "--message", "tiny")
    said = shell("dvc", "exp", "run", "--set-param", "pretrain.method=uscl", "--name", "uscl")
    assert "python -m stages.pretrain" in said and "python -m stages.simulate" not in said
    assert "classification" in (tmp_path / "reports/pretrain.csv").read_text()
    assert "held_out_loss" in shell("dvc", "metrics", "diff")
    said = shell("dvc", "exp", "run", "--set-param", "pretrain.method=simclr")
    assert "is cached - skipping run" in said and "> python -m stages.pretrain" not in said
