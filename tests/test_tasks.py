"""Tasks: which clips of a source, which column holds the class, and what a wrong block is answered with."""

import datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import write_frame_store

from stages.lib.clips.tasks import Task, read_task
from stages.lib.evaluation.preparation import prepare
from stages.lib.params import UserError

TABLE = pd.DataFrame({
    "clip": list("abcdefgh"), "path": list("abcdefgh"), "patient": ["1", "1", "2", "2", "3", "3", "4", "4"], "label": "",
    "subset": ["x", "x", "x", "x", "x", "x", "y", "y"], "left_out": ["", "", "", "", "", "", "", "broken"],
    "severity": ["0.0", "1.0 ", "2.0", "3.0", "", "0.0", "2.0", "0.0"],
    "b_lines": ["no ", "yes", "yes", "no", "no", "", "yes", "no"],
    "pcr": ["0", "0", "1", "1", "0", "0", "1", "1"]})  # fmt: skip


@pytest.fixture
def source(workspace):
    path = Path("data/frames/lungs/clips.csv")
    path.parent.mkdir(parents=True)
    TABLE.to_csv(path, index=False)
    return workspace


def labels(task):
    clips = task.clips()
    return clips.loc[clips["left_out"] == ""].set_index("clip")["label"].to_dict()


def test_classes_take_in_values_of_a_column_of_the_source(source):
    block = {"source": "lungs", "target": "severity", "classes": {"mild": ["0.0", "1.0"], "severe": ["2.0", "3.0"]}}
    task = read_task("grade", {"grade": block})
    assert labels(task) == {"a": "mild", "b": "mild", "c": "severe", "d": "severe", "f": "mild", "g": "severe"}
    reasons = task.clips().set_index("clip")["left_out"]
    assert reasons["e"] == "severity missing is no class of the task" and reasons["h"] == "broken"
    assert labels(read_task("grade", {"grade": block | {"subsets": ["x"]}})).keys() == set("abcdf")


@pytest.mark.parametrize("values", [{"mild": [0, 1], "severe": [2, 3]}, {"mild": [0.0, 1.0], "severe": [2.0, "3.0"]}])
def test_numbers_without_quotes_are_numbers_in_any_spelling(source, values):
    task = Task("grade", values, source="lungs", target="severity")
    assert labels(task) == {"a": "mild", "b": "mild", "c": "severe", "d": "severe", "f": "mild", "g": "severe"}


def test_a_list_of_classes_names_the_values_themselves(source):
    assert labels(Task("test", [0, 1], source="lungs", target="pcr"))["c"] == "1"
    assert labels(Task("b", ["no", "yes"], source="lungs", target="b_lines"))["a"] == "no"


def test_the_old_form_has_the_source_of_its_name_and_the_column_label(source):
    TABLE.assign(label=["ill", "well"] * 4).to_csv("data/frames/lungs/clips.csv", index=False)
    task = read_task("lungs", {"lungs": {"classes": ["ill", "well"], "subsets": []}})
    assert (task.source, task.target, task.classes) == ("lungs", "label", ["ill", "well"])
    assert labels(task) == {clip: "ill" if number % 2 == 0 else "well" for number, clip in enumerate("abcdefg")}


@pytest.mark.parametrize(
    ("block", "sentence"),
    [
        ({"classes": ["a"]}, "classes is \\['a'\\]; name two classes or more"),
        ({"classes": ["a", "a", "b"]}, "classes names a more than once; write it once$"),
        ({"classes": [1, 1]}, 'names 1 more than once; write it once, or in quotes where zeros count: "001"'),
        ({"classes": {"a": ["x", "x"], "b": ["y"]}}, "classes.a names x more than once"),
        ({"classes": {"a": [], "b": ["y"]}}, "classes.a is empty; name one value or more"),
        ({"classes": [False, True]}, 'holds false, .* write it as the clip table has it, in quotes: "yes"'),
        ({"classes": {"no": [False], "yes": ["yes"]}}, "classes.no holds false, "),
        ({"classes": {True: ["no"], "yes": ["yes"]}}, "classes holds true, "),
        ({"classes": [None, "no"]}, "classes holds null, "),
        ({"classes": [datetime.date(2020, 1, 2), "no"]}, "classes holds 2020-01-02, "),
        ({"classes": {"a": [["x"]], "b": ["yes"]}}, "classes.a holds \\[x\\], "),
        ({"classes": ["no", "yes"], "subsets": ["z"]}, "names z, which is no subset of lungs; choose from x, y"),
        ({"classes": {"a": ["no"], "b": ["no", "yes"]}, "target": "b_lines"}, "no belongs to two classes"),
        ({"classes": ["a", "b"], "target": "grade"}, "target is grade; .*no such column, choose from clip, path"),
        ({"classes": ["a", "b"], "stratify": "grade"}, "stratify is grade; "),
        ({"classes": ["no", "perhaps"], "target": "b_lines"}, "no clip of class perhaps .*the column b_lines has .*no.*yes"),
        ({"classes": ["a", "b"], "colour": 1}, "tasks.lungs.colour is not a parameter"),
        ({"classes": ["a", "b"], "external": [{"source": "lungs"}]}, "is lungs, the task's own source"),
        ({"classes": ["a", "b"], "external": [{"classes": ["a", "b"]}]}, "tasks.lungs.external.0.source is missing"),
        ({"classes": ["a", "b"], "external": [{"source": "x", "classes": ["a", "c"]}]}, "names c; the task has"),
    ],
)
def test_a_wrong_block_is_one_sentence(source, block, sentence):
    with pytest.raises(UserError, match=sentence):
        read_task("lungs", {"lungs": block}).clips()


def test_a_column_of_empty_fields_is_one_sentence(source):
    TABLE.assign(label="").to_csv("data/frames/lungs/clips.csv", index=False)
    task = read_task("lungs", {"lungs": {"classes": ["a", "b"]}})
    with pytest.raises(UserError, match="no clip of class a, b .*the column label has only empty fields"):
        task.clips()


def test_a_task_without_a_block_is_one_sentence():
    with pytest.raises(UserError, match="there is no block tasks"):
        read_task("x", {})


def test_tasks_that_name_one_column_share_their_folds(workspace):
    """Twelve patients; each task leaves out clips that the other uses."""
    clips = [{"clip": f"{patient}-{number}", "patient": f"p{patient}", "frames_kept": 1}
             for patient in range(12) for number in range(3)]
    write_frame_store(Path("data/frames/lungs"), clips)
    table = pd.read_csv("data/frames/lungs/clips.csv", dtype=str, keep_default_na=False)
    table["severity"] = [str(number // 3 % 2) for number in range(36)]
    table["b_lines"] = [("yes", "no", "")[number % 3] for number in range(36)]
    table.to_csv("data/frames/lungs/clips.csv", index=False)
    frames = np.random.default_rng(0).integers(0, 256, (36, 32, 32), dtype="uint8")
    np.save("data/frames/lungs/frames.npy", frames)
    shared = {"source": "lungs", "stratify": "severity"}
    tasks = [Task("grade", ["0", "1"], target="severity", **shared), Task("b", ["no", "yes"], target="b_lines", **shared)]
    folds = [prepare("finetune", task, {"clips": 0.25, "stills": 0.15}, 3, [0]).divisions["0"] for task in tasks]
    assert folds[0].notna().all() and folds[1].isna().sum() == 12
    assert (folds[0] == folds[1])[folds[1].notna()].all()
