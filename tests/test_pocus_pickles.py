"""The published pickles: arrays come back exactly, code never runs, folds stay what they were."""

import pickle
import runpy
import shutil
import sys
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from stages import extract_frames
from stages.lib.clips import store
from stages.lib.clips.tasks import Task, groups
from stages.lib.evaluation.folds import GIVEN, divide
from stages.lib.params import UserError
from stages.tools import number_pickle, pocus_pickles

COUNTS = {1: (4, 2, 5), 2: (1, 3, 4), 3: (6, 2, 2), 4: (2, 2, 7), 5: (3, 1, 4)}     # images of each class in each test part


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A folder of five files of small images as published, and the test parts."""
    folder, rng = tmp_path_factory.mktemp("pickles"), np.random.default_rng(0)
    labels = {fold: rng.permutation(np.repeat(range(3), counts)) for fold, counts in COUNTS.items()}
    images = {fold: rng.integers(0, 256, (len(labels[fold]), 3, 24, 20), dtype=np.uint8) for fold in COUNTS}
    for fold in COUNTS:
        rest = [other for other in COUNTS if other != fold]
        train = [np.concatenate([part[other] for other in rest]) for part in (images, labels)]
        content = (*train, images[fold], list(labels[fold]) if fold == 2 else labels[fold])
        (folder / f"covid_data{fold}.pkl").write_bytes(pickle.dumps(content, protocol=[2, 3, 4, 5, 4][fold - 1]))
    return folder, images, labels


@pytest.fixture
def folder(published, tmp_path):
    """A copy of the files that the test may change."""
    return Path(shutil.copytree(published[0], tmp_path / "pickles"))


ARRAYS = [np.arange(24, dtype=np.uint8).reshape(2, 3, 4), np.asfortranarray(np.arange(6.0).reshape(2, 3)),
          np.array(7, np.int32), np.array([1.5, -2], ">f4"), np.array([True, False]), np.arange(10)[::3],
          np.arange(24, dtype=np.int16).reshape(2, 3, 4).transpose(2, 0, 1)]


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("old", [False, True])
def test_arrays_of_numbers_come_back_as_pickle_itself_reads_them(tmp_path, protocol, old):
    content = pickle.dumps({"arrays": ARRAYS, "scalars": (np.int64(3), np.float32(0.5), 4, None, "text")}, protocol)
    if old:     # the name of numpy's module before 2.0; the lengths of names are one byte before them from protocol 4 on
        content = content.replace(b"numpy._core", b"numpy.core") if protocol < 4 else content
        for end in (b".multiarray", b".numeric"):
            name = b"numpy._core" + end
            content = content.replace(bytes([len(name)]) + name, bytes([len(name) - 1]) + name.replace(b"_core", b"core"))
        content = content if protocol < 4 else content[:2] + content[11:]       # without the frame, whose length has changed
        assert b"numpy._core" not in content
    (tmp_path / "a.pkl").write_bytes(content)
    found = number_pickle.read(tmp_path / "a.pkl")
    for array, expected in zip(found["arrays"], ARRAYS, strict=True):
        assert array.dtype == expected.dtype and array.shape == expected.shape
        np.testing.assert_array_equal(array, expected)
    assert found["scalars"] == (3, 0.5, 4, None, "text")


class Runs:
    """Unpickled without care, it makes a folder."""

    def __init__(self, folder, how=Path.mkdir):
        self.folder, self.how = folder, how

    def __reduce__(self):
        return self.how, (self.folder,)


@pytest.mark.parametrize("protocol", range(6))
def test_code_in_a_pickle_is_not_run(folder, protocol, workspace):
    made = workspace / "made"
    content = pickle.dumps((np.zeros(3), [Runs(made)], 0, 0), protocol)
    (folder / "covid_data3.pkl").write_bytes(content)
    with pytest.raises(UserError) as error:
        pocus_pickles.main(folder, workspace / "out")
    assert str(error.value).startswith(f"{folder}/covid_data3.pkl is refused: it asks for ") and "\n" not in str(error.value)
    assert not made.exists() and not list(workspace.glob("out*"))
    pickle.loads(content)       # it would have been run
    assert made.exists()


@pytest.mark.parametrize("asked", [print, eval, np.load, np.frombuffer, np.fromfile, getattr])
def test_any_other_name_is_refused_also_of_numpy(tmp_path, asked):
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(Runs("x", asked)))
    with pytest.raises(UserError, match=rf"a.pkl is refused: it asks for [\w.]*{asked.__name__}, and"):
        number_pickle.read(tmp_path / "a.pkl")


class Forged:
    """numpy's own rebuilding, with a dtype of objects that claims to hold none: bytes become addresses."""

    def __reduce__(self):
        dtype = np.dtype("O", False, True)
        return np._core.multiarray._reconstruct, (np.ndarray, (0,), b"b"), (1, (1,), dtype, False, b"\x01" * 8)


@pytest.mark.parametrize("content", [Forged(), np.array([print], object), np.array(["text"]), np.zeros(2, "u1,f4"),
                                     np.array(["2020-01-01"], "M8[D]")])  # fmt: skip
def test_arrays_of_anything_but_numbers_are_refused(tmp_path, content):
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(UserError, match="a.pkl is refused: it asks for "):
        number_pickle.read(tmp_path / "a.pkl")


@pytest.mark.parametrize("content", [b"", b"text", b"\x80\x04", pickle.dumps(np.zeros(9))[:-20]])
def test_a_file_that_is_no_pickle_is_named(tmp_path, content):
    (tmp_path / "a.pkl").write_bytes(content)
    with pytest.raises(UserError, match="a.pkl cannot be read as a pickle of numpy arrays") as error:
        number_pickle.read(tmp_path / "a.pkl")
    assert "\n" not in str(error.value)


def test_images_come_back_exactly_and_the_folds_are_the_published_ones(published, workspace, monkeypatch, capsys):
    """Also where copies in the first two folds make their patients one group."""
    monkeypatch.setenv("SONOPAIR_WORKERS", "1")
    source, images, labels = published
    pocus_pickles.main(source, Path("data/raw/custom"))
    assert capsys.readouterr().out == "data/raw/custom: 48 images in 5 folds (16 covid, 10 pneumonia, 22 regular)\n"
    clips = pd.read_csv("data/raw/custom/clips.csv")
    for fold in COUNTS:
        part = clips[clips["patient"] == f"fold {fold}"]
        read = [cv2.cvtColor(cv2.imread(f"data/raw/custom/{path}"), cv2.COLOR_BGR2RGB) for path in part["path"]]
        np.testing.assert_array_equal(np.stack(read).transpose(0, 3, 1, 2), images[fold])
        assert list(part["label"]) == [pocus_pickles.CLASSES[label] for label in labels[fold]]

    extract_frames.main("custom", "raw", 3.0, 30, 25.0, 16, "fan")
    used = Task("custom", list(pocus_pickles.CLASSES)).clips()
    assert len(store.read("data/frames/custom").frames) == len(used) == 48 and not used["left_out"].any()
    for group in (groups(used), groups(used).replace("fold 2", "fold 1")):
        (name, fold), = divide(used.assign(group=group), "custom", "finetune", 5, [0, 1]).items()
        assert name == GIVEN and ("fold " + (fold + 1).astype(str)).tolist() == used["patient"].tolist()
    assert "the column fold of clips.csv puts clips of one patient on both sides" in capsys.readouterr().out


def test_training_parts_of_other_images_are_pointed_out(folder, published, capsys):
    train, test = published[1][1], published[1][2]
    content = (train, np.zeros(len(train), int), test, published[2][2])
    (folder / "covid_data2.pkl").write_bytes(pickle.dumps(content))
    pocus_pickles.main(folder, folder / "out")
    assert "covid_data2.pkl: the training part is not the other files' test parts together" in capsys.readouterr().out


@pytest.mark.parametrize(("content", "sentence"), [
    ([np.zeros(3)], "must hold X_train, y_train, X_test and y_test"),
    ((np.zeros((2, 3, 4, 4), np.uint8), [0, 1], np.zeros((2, 4, 4), np.uint8), [0, 1]), r"are uint8 \[2, 4, 4\] and \[2\]"),
    ((np.zeros((2, 3, 4, 4)), [0, 1], np.zeros((2, 3, 4, 4)), [0, 1]), "X must be uint8"),
    ((np.zeros((2, 3, 4, 4), np.uint8), [0, 1, 2]) * 2, r"and \[3\]"),
    ((np.zeros((2, 3, 4, 4), np.uint8), [0, 3]) * 2, r"y must be 0, 1 or 2 \(covid, pneumonia, regular\); it holds \[3\]"),
    ((np.zeros((0, 3, 4, 4), np.uint8), []) * 2, "of one image or more"),
])  # fmt: skip
def test_a_file_of_another_content_is_refused_and_nothing_is_written(folder, content, sentence):
    (folder / "covid_data4.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(UserError, match=f"covid_data4.pkl.*{sentence}"):
        pocus_pickles.main(folder, folder / "out")
    assert not list(folder.glob("out*"))


def test_the_command_touches_no_folder_that_is_there(folder, workspace, monkeypatch):
    Path("data/raw/custom").mkdir(parents=True)
    monkeypatch.setattr(sys, "argv", ["pocus_pickles", str(folder)])
    with pytest.raises(SystemExit, match="^error: data/raw/custom already exists"):
        runpy.run_path(pocus_pickles.__file__, run_name="__main__")
    (folder / "covid_data5.pkl").unlink()
    monkeypatch.setattr(sys, "argv", ["pocus_pickles", str(folder), "out"])
    with pytest.raises(SystemExit, match="^error: .*covid_data5.pkl cannot be read as a pickle"):
        runpy.run_path(pocus_pickles.__file__, run_name="__main__")
    assert list(Path("data/raw/custom").iterdir()) == [] and not list(Path().glob("out*"))
