"""A copy of this project with the smallest phantoms, in which tests run commands as a user types them."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
PROGRAMS = {"python": "", "python3": "", "dvc": "-m dvc"}
MAKE = ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")     # with these, a make in the project says that it is called by `make test`
# What git tracks of the results of the default run.
MADE = ("dvc.lock", "data/dvc.lock", "reports/metrics.json", "reports/pretrain.csv", "reports/plots")


class Project:
    """A folder with the project and an environment of its own, whose programs are those of the running Python."""

    def __init__(self, folder: Path):
        self.folder = folder
        programs = folder / ".venv/bin"
        programs.mkdir(parents=True)
        for name, module in PROGRAMS.items():
            (programs / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {module} "$@"\n')
            (programs / name).chmod(0o755)
        (programs / ".installed").touch()                       # nothing to install, for make
        outside = {name: value for name, value in os.environ.items() if name not in MAKE}
        self.environment = outside | {
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", "SONOPAIR_DEVICE": "cpu", "COLUMNS": "80",
            "DVC_SITE_CACHE_DIR": str(folder / ".dvc/tmp/site"), "DVC_GLOBAL_CONFIG_DIR": str(folder / ".dvc/tmp/config")}

    def run(self, commands: str, code: int = 0) -> str:
        """Run lines of a shell script up to the first that fails. Returns what they print, errors after the rest.

        Args:
            code: the exit status that they must have.
        """
        done = subprocess.run(["bash", "-euo", "pipefail", "-c", commands], cwd=self.folder, env=self.environment,
                              capture_output=True, text=True)
        assert done.returncode == code, f"{commands}\n{done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    def read(self, path: str) -> str:
        return (self.folder / path).read_text(encoding="utf-8")

    def change(self, **values) -> None:
        """Write parameters into params.yaml; a name's dots are written as __."""
        params = yaml.safe_load(self.read("params.yaml"))
        for name, value in values.items():
            *blocks, key = name.split("__")
            block = params
            for part in blocks:
                block = block[part]
            block[key] = value
        (self.folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))

    def commit(self, message: str) -> None:
        self.run(f"git add --all && git commit --quiet --message '{message}'")


def files() -> list[str]:
    """Files of the project that git tracks, or would track."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
    return [name for name in names if name and (ROOT / name).is_file()]


def downloaded(folder: Path) -> Project:
    """The project as a download without git, before any run."""
    for name in files():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    return Project(folder)


def started(folder: Path) -> Project:
    """A repository whose only commit has the project with the smallest phantoms, and no results."""
    project = downloaded(folder)
    for name in MADE:
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    clips = yaml.safe_load(project.read("params.yaml"))["simulate"]["clips_per_class"]
    project.change(simulate__patients_per_class=3, simulate__images_per_class=4, simulate__seconds=0.5, simulate__max_frames=8,
                   simulate__clips_per_class=dict.fromkeys(clips, 2), extract_frames__size_px=32, pretrain__epochs=2,
                   pretrain__batch_size=4, finetune__epochs=1, finetune__folds=2, segment__epochs=1, segment__folds=2)
    configure(project)
    project.commit("The smallest phantoms")
    return project


def cloned(project: Project, folder: Path) -> Project:
    """A fresh clone, without DVC's cache."""
    project.run(f"git clone --quiet . '{folder}'")
    clone = Project(folder)
    configure(clone)
    return clone


def configure(project: Project) -> None:
    """Make it a repository if it is none, with an author for commits."""
    project.run("git init --quiet --initial-branch main; git config user.name test; git config user.email test@example.org")
