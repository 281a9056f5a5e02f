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
STAGES = {name: stage.get("do", stage) for name, stage in yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"].items()}
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


def declared(stage):
    """The code that a stage depends on, its matrix items and the chosen method filled in."""
    choices = {"${item}": PARAMS["extract_frames"]["sources"], "${pretrain.method}": sorted(PARAMS["methods"])}
    for dep in STAGES[stage]["deps"]:
        names = [dep]
        for key, values in choices.items():
            names = [name.replace(key, value) for name in names for value in (values if key in name else [""])]
        for name in names:
            path = ROOT / name
            yield from path.glob("*.py") if path.is_dir() and name.startswith("stages") else [path] * (path.suffix == ".py")


def test_scripts_stages_and_blocks_have_the_same_names():
    scripts = {path.stem for path in ROOT.glob("stages/*.py")}
    assert scripts == set(STAGES) == set(PARAMS) & set(STAGES)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_just_the_code_that_it_imports(stage):
    code = set(declared(stage))
    plugins = {path for path in code if path.parent.name in ("sources", "methods")}
    needed = set().union(*(closure(path) for path in {ROOT / f"stages/{stage}.py", *plugins}))
    assert code == needed


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


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_one_way(module):
    """Scripts → rooms, lib; rooms → lib or themselves; tools → scripts too; lib → lib. Special libraries where HOUSE says."""
    room = module.parent.name
    for path in imported(module):
        allowed = {"stages": True, "lib": path.parent.name == "lib", "methods": path.parent.name == "lib",
                   "tools": path.parent.name in ("lib", "tools", "stages")}
        assert allowed.get(room, path.parent.name in ("lib", room)), path
    packages = {alias.name.split(".")[0] for node in ast.walk(ast.parse(module.read_text()))
                if isinstance(node, ast.Import) for alias in node.names}
    packages |= {node.module.split(".")[0] for node in ast.walk(ast.parse(module.read_text()))
                 if isinstance(node, ast.ImportFrom)}
    assert "dvc" not in packages or module.name == "params.py"
    assert "matplotlib" not in packages or module.name in ("report.py", "figures.py")


def test_no_number_is_written_as_yaml_reads_text():
    def texts(node):
        for value in node.values() if isinstance(node, dict) else node if isinstance(node, list) else []:
            yield from [value] if isinstance(value, str) else texts(value)

    assert not [value for value in texts(PARAMS) if value.replace("e-", "").replace("e", "").replace(".", "").isdigit()]


@pytest.mark.slow
def test_the_whole_pipeline_on_tiny_phantoms(tmp_path):
    """`dvc repro` in a repository of its own; nothing to do the second time; another method trains and reports again."""
    for name in ("stages", "params.yaml", "dvc.yaml", ".dvc/config", ".dvc/plots", ".gitignore"):
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
