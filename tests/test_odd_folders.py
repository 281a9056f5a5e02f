"""Folders as people have them: what may not be read, pipes, names that break tables. No file stops the others."""

import multiprocessing
import os
import tempfile
from concurrent.futures import ProcessPoolExecutor
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from recordings import speckle

from stages.extract_frames import extract_all
from stages.lib.clips import catalogue, store
from stages.lib.clips.extraction import Recipe
from stages.tools import predict

NOBODY = 65534


@pytest.fixture
def open_folder():
    """A folder that every user may enter."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        yield Path(name)


def as_a_user(work, *arguments):
    """What `work` returns in a process that permissions hold for, as they do not for root."""
    work(*arguments)  # loads what it imports, which lies in a folder of root's
    with ProcessPoolExecutor(1, multiprocessing.get_context("fork"), _be_a_user) as pool:
        return pool.submit(work, *arguments).result(timeout=60)


def _be_a_user():
    if os.geteuid() == 0:
        os.setuid(NOBODY)


def left_out(source, folder):
    table = import_module(f"stages.sources.{source}").clips(folder)
    return dict(zip(table["clip"], table["left_out"], strict=True))


def write(path, content=b"\x08\0\x05\0rest"):
    """A file that begins like DICOM, if not told otherwise."""
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)


@pytest.mark.parametrize("source", ["dicom", "custom"])
def test_what_may_not_be_read_is_left_out_alone(open_folder, monkeypatch, source):
    monkeypatch.setenv("SONOPAIR_SALT", "x" * 16)
    write(open_folder / "a.dcm")
    write(open_folder / "b.dcm")
    write(open_folder / "locked" / "c.dcm")
    write(open_folder / "clips.csv", b"path,patient,label\na.dcm,,x\nb.dcm,,x\nlocked,,x\nlocked/c.dcm,,x\n")
    os.chmod(open_folder / "b.dcm", 0)
    os.chmod(open_folder / "locked", 0)
    hidden = "the file is missing, or its folder may not be read"
    assert as_a_user(left_out, source, open_folder) == {
        "a.dcm": "", "b.dcm": "it may not be read", "locked": "it may not be read", "locked/c.dcm": hidden}  # fmt: skip


@pytest.mark.parametrize("locked", ["normal", "normal/b"])
def test_a_folder_that_may_not_be_read_is_named(open_folder, locked):
    for name in ("malignant/a.mp4", "normal/b/c.mp4"):
        (open_folder / name).parent.mkdir(parents=True, exist_ok=True)
        (open_folder / name).touch()
    os.chmod(open_folder / locked, 0)
    found = as_a_user(classes, open_folder)
    assert found == [(open_folder / "malignant/a.mp4", "malignant", ""), (open_folder / locked, "normal", "")]
    table = as_a_user(predict.table, [open_folder], False)
    assert table["left_out"].tolist() == ["", "it may not be read"]


def classes(folder):
    return list(catalogue.by_class(folder, ("malignant", "normal")))


def test_a_pipe_named_like_an_image_does_not_stop_the_search(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    assert catalogue.images(tmp_path) == []


def test_a_line_break_in_a_name_does_not_break_the_table(tmp_path):
    """As in `Icon` with a carriage return, which a Macintosh puts into folders."""
    folder, out = tmp_path / "clips", tmp_path / "out"
    out.mkdir()
    for name in ("a", "b\rc", "d\ne"):
        (folder / name).mkdir(parents=True)
        Image.fromarray(speckle(1)[0]).save(folder / name / "1.png")
        (folder / name / "Icon\r").touch()
        (folder / name / "else\r.mp4").touch()
    rows = [catalogue.row(folder, folder / name, "x") for name in ("a", "b\rc", "d\ne")]
    extract_all(catalogue.table(rows, folder, "clips"), out, "custom", Recipe(3, 10, 25, 32))
    table = store.table(out / "clips.csv")
    assert table["clip"].tolist() == ["a", "b c", "d\ne"]
    assert table["frames_kept"].tolist() == [1, 0, 1]
    assert table["notes"][0] == "not still images, left out: else .mp4"
    assert "rename it" in table["left_out"][1] and not table["left_out"][[0, 2]].any()
    assert np.array_equal(store.read(out).frames[0], store.read(out).frames[1])
