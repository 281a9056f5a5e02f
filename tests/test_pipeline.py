"""The pipeline as a whole: one name for a stage everywhere, declared dependencies, directions, a run from end to end."""

import ast
import inspect
import json
import re
import subprocess
import sys
from importlib import import_module

import pandas as pd
import pytest
import yaml
from project import ROOT, downloaded, files

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


FLOORS = ["params", "running", "revisions", "training", "clips", "networks", "pretraining", "evaluation",
          "segmentation", "report"]    # of lib
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
    assert "dvc" not in packages or name in ("lib/running/stage.py", "lib/revisions.py")
    assert "matplotlib" not in packages or name.startswith("lib/report/")


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_command_ends_in_one_sentence(module):
    """Whatever stops it: lib/running/stage.py says how."""
    _, begins, command = module.read_text().partition('if __name__ == "__main__":')
    assert not begins or re.search(r"\b(run|run_tool|one_sentence)\(", command)


def test_rooms_stay_small():
    rooms = [path for path in (ROOT / "stages/lib").iterdir() if path.is_dir() and path.name != "__pycache__"]
    assert {path.name for path in rooms} == set(FLOORS) - {"params", "revisions"}
    for room in {path.parent for path in (ROOT / "stages/lib").rglob("*.py")}:
        assert len(list(room.glob("*.py"))) <= 12, room


def test_no_number_is_written_as_yaml_reads_text():
    def texts(node):
        for value in node.values() if isinstance(node, dict) else node if isinstance(node, list) else []:
            yield from [value] if isinstance(value, str) else texts(value)

    numbers = [value for value in texts(PARAMS) if value.replace("e-", "").replace("e", "").replace(".", "").isdigit()]
    assert not [value for value in numbers if "e" in value]


@pytest.mark.slow
def test_the_whole_pipeline_on_tiny_phantoms(default_run):
    """Every task has scores; what is copied from evaluation clips is left out; nothing is left to do."""
    metrics = json.loads(default_run.read("reports/scores.json"))
    assert set(metrics) == {"pocus", "gallbladder", "breast", "pretrain"}
    predictions = pd.read_csv(default_run.folder / "reports/predictions/pocus.csv")
    assert metrics["pocus"]["clips"] == predictions["clip"].nunique()
    assert default_run.read("reports/report.html").startswith("<!doctype html>")
    audit = pd.read_csv(default_run.folder / "reports/us4_audit.csv", keep_default_na=False)
    copies = pd.read_csv(default_run.folder / "data/phantom/truth.csv", keep_default_na=False).query("duplicate_of != ''")
    assert len(copies) == audit[audit["reason"].str.contains("evaluation clip")]["clips"].sum() == 2
    trained = {f"finetune {task}" for task in ("pocus", "gallbladder", "breast")} | {"pretrain simclr"}
    trainings = pd.read_csv(default_run.folder / "reports/trainings.csv")["training"]
    assert {name.partition(",")[0] for name in trainings} == trained
    assert "up to date" in default_run.run("make repro")


@pytest.mark.slow
def test_a_fresh_clone_stays_clean(fresh_clone):
    """The same code, parameters and seed give the same bytes in another folder, dvc.lock and the page among them."""
    assert fresh_clone.run("git status --short") == fresh_clone.run("dvc metrics diff") == ""


@pytest.mark.slow
def test_another_method_trains_and_reports_again_and_the_first_is_kept(default_run):
    said = default_run.run("dvc exp run --set-param pretrain.method=uscl --name uscl")
    assert "python -m stages.pretrain" in said and "python -m stages.simulate" not in said
    assert "classification" in default_run.read("reports/pretrain.csv")
    assert "held_out_loss" in default_run.run("dvc metrics diff")
    said = default_run.run("dvc exp run --set-param pretrain.method=simclr")
    assert "is cached - skipping run" in said and "> python -m stages.pretrain" not in said
    assert default_run.run("git status --short -- dvc.lock data reports") == ""     # DVC may fold lines of params.yaml anew
    default_run.run("git checkout --quiet params.yaml")


def test_git_tracks_no_import():
    """One that nobody has fetched makes `dvc exp apply` fail and `dvc exp save` download; data/raw/README.md has commands."""
    assert not [name for name in files() if name.endswith(".dvc")]


@pytest.mark.slow
def test_experiments_are_saved_and_applied_without_a_network(default_run):
    nothing = "http://127.0.0.1:9"
    offline = f"export GIT_ALLOW_PROTOCOL=file http_proxy={nothing} https_proxy={nothing} all_proxy={nothing}; "
    before = default_run.read("params.yaml")
    default_run.change(report__worst_clips=3)
    changed = default_run.read("params.yaml")
    default_run.run(offline + "dvc exp save --name saved && git checkout --quiet params.yaml dvc.lock")
    assert default_run.read("params.yaml") == before
    default_run.run(offline + "dvc exp apply saved")
    assert default_run.read("params.yaml") == changed
    default_run.run("git checkout --quiet params.yaml dvc.lock && dvc exp remove saved")
    assert default_run.run("git status --short") == ""


def test_a_download_without_git_gets_one_sentence(tmp_path):
    """`git init` is all that it needs."""
    project = downloaded(tmp_path)
    for command, code in (("make repro", 2), ("python -m stages.simulate", 1), ("python -m stages.tools.compare a b", 1)):
        said = [line for line in project.run(command, code).splitlines() if not line.startswith("make:")]
        assert len(said) == 1 and "git init" in said[0], said
    project.run("git init --quiet && dvc stage list")


@pytest.mark.slow
def test_stages_stand_faults_at_random_moments(default_run):
    """A short form of the fault campaign, `python -m tests.faults`."""
    faults = ["killed", "SIGTERM", "Ctrl-C", "deleted", "clock back", "worker killed"]
    chosen = ["--stages", "extract_frames", "pretrain", "--faults", *faults, "--runs", str(len(faults))]
    command = [sys.executable, "-m", "tests.faults", "--project", default_run.folder, *chosen]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "runs with the same bytes / runs" in done.stdout
