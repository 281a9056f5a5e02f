"""What a user reads who sets a parameter wrong."""

import re

import pytest

from stages.lib.params import UserError, checked
from stages.lib.running.stage import run


def stage(rate: float, frames: int, names: list, steps: int | None):
    """Stands for a stage's main()."""


GOOD = {"rate": 3, "frames": 30, "names": [], "steps": None}


def test_the_right_arguments_pass_unchanged():
    assert checked(stage, GOOD, "extract") == GOOD


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"rat": 3}, "extract.rat is not a parameter; choose from frames, names, rate, steps"),
        ({"rate": "fast"}, "extract.rate is 'fast'; it must be a number"),
        ({"rate": True}, "extract.rate is True"),
        ({"frames": 2.5}, "extract.frames is 2.5; it must be a whole number"),
        ({"names": "pocus"}, "extract.names is 'pocus'; it must be a list"),
        ({"steps": "all"}, "extract.steps is 'all'; it must be a whole number or null"),
    ],
)
def test_a_wrong_argument_is_named(change, sentence):
    with pytest.raises(UserError, match=re.escape(sentence)):
        checked(stage, GOOD | change, "extract")


def test_a_missing_argument_is_named():
    with pytest.raises(UserError, match="extract.rate is missing"):
        checked(stage, {key: value for key, value in GOOD.items() if key != "rate"}, "extract")


def test_a_users_mistake_is_one_line_and_exit_status_1(monkeypatch):
    monkeypatch.setattr("dvc.api.params_show", lambda stages: {"seed": 0, "stage": {"frames": 0}})
    monkeypatch.setattr("sys.argv", ["stage"])

    def main(seed: int, frames: int):
        raise UserError("stage.frames is 0; it must be at least 1")

    with pytest.raises(SystemExit) as stop:
        run(main, "stage")
    assert stop.value.code == "error: stage.frames is 0; it must be at least 1"


def test_the_item_comes_from_the_command_line(monkeypatch):
    asked, called = [], []
    monkeypatch.setattr("dvc.api.params_show", lambda stages=None: asked.append(stages) or {"stage": {"frames": 1}})

    def main(source: str, frames: int):
        called.append((source, frames))

    monkeypatch.setattr("sys.argv", ["stage", "pocus"])
    run(main, "stage", item="source")
    assert asked == ["dvc.yaml:stage@pocus", None] and called == [("pocus", 1)]
    monkeypatch.setattr("sys.argv", ["stage"])
    with pytest.raises(SystemExit) as stop:
        run(main, "stage", item="source")
    assert stop.value.code == "error: name one source: python -m stages.stage <source>"
