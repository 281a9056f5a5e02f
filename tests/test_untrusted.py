"""Files from elsewhere that mean harm: a sentence, little memory, nothing executed, nothing written beside the outputs."""

import json
import struct
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from recordings import speckle
from test_report import NASTY, Page

from stages import extract_frames
from stages.lib.clips import store
from stages.lib.networks import checkpoint
from stages.lib.networks.initial import read_weights
from stages.lib.params import UserError, refuse_aliases
from stages.lib.running import stage
from stages.lib.training.resume import Resume
from stages.tools.trained_network import restore

TERABYTES = 1 << 43


def safetensors(header, length=None):
    """The bytes of a file with a header and eight bytes of data."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + bytes(8)


def tensor(shape, start=0, end=8, kind="F32"):
    return {"a": {"dtype": kind, "shape": shape, "data_offsets": [start, end]}}


LYING = {
    "a header of terabytes": safetensors(tensor([2]), TERABYTES),
    "a header of nearly all numbers": safetensors(tensor([2]), (1 << 64) - 1),
    "a tensor of terabytes": safetensors(tensor([TERABYTES // 4], end=TERABYTES)),
    "a shape of terabytes": safetensors(tensor([TERABYTES])),
    "a product that overflows": safetensors(tensor([1 << 33, 1 << 33])),
    "an end before the start": safetensors(tensor([2], 8, 0)),
    "a negative place": safetensors(tensor([2], -8, 0)),
    "no such type": safetensors(tensor([2], kind="object")),
    "deep brackets": safetensors(b"[" * 100_000),
    "no JSON": safetensors(b"import os"),
    "nothing": b"",
}


@pytest.mark.parametrize("kind", LYING)
def test_a_header_that_lies_is_refused(tmp_path, kind):
    path = tmp_path / "a.safetensors"
    path.write_bytes(LYING[kind])
    for reads in (lambda: read_weights(str(path)), lambda: checkpoint.facts(path), lambda: checkpoint.weights(path),
                  lambda: restore(path)):
        with pytest.raises(UserError, match="a.safetensors cannot be read") as error:
            reads()
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("facts", ["no JSON", "[" * 100_000, "3", "null", "[]"])
def test_facts_that_are_none_are_refused(tmp_path, facts):
    path = tmp_path / "a.safetensors"
    path.write_bytes(safetensors({"__metadata__": {"sonopair": facts}} | tensor([2])))
    with pytest.raises(UserError, match="a.safetensors does not say in JSON how it was trained"):
        checkpoint.facts(path)


@pytest.mark.parametrize("arch", ["__import__", "../resnet18", "resnet18; rm", 3, None, ["resnet18"]])
def test_the_architecture_that_a_file_names_is_one_of_torchvisions(tmp_path, arch):
    path = tmp_path / "a.safetensors"
    path.write_bytes(safetensors({"__metadata__": {"sonopair": json.dumps({"arch": arch})}} | tensor([2])))
    with pytest.raises(UserError):
        restore(path)


class Runs:
    """Unpickled without care, it makes a folder."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return Path.mkdir, (self.folder,)


def test_code_in_the_state_of_an_unfinished_run_is_not_run(tmp_path):
    torch.save({"key": "k", "model": Runs(tmp_path / "made")}, tmp_path / "a.unfinished")
    with pytest.raises(UserError, match="a.unfinished is damaged, or not the state of a run"):
        Resume(tmp_path / "a.unfinished", {}, []).load()
    assert not (tmp_path / "made").exists()


def exploding(levels=12):
    """YAML of a few lines that stands for 9 ** levels values."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    return "\n".join(lines + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, levels)]) + "\n"


def test_aliases_that_explode_are_refused_before_they_are_followed(workspace, monkeypatch):
    Path("params.yaml").write_text("seed: 0\n" + exploding())
    monkeypatch.setattr("dvc.api.params_show", lambda **_: pytest.fail("followed"))
    monkeypatch.setattr("sys.argv", ["stage"])
    with pytest.raises(SystemExit, match="^error: params.yaml, line 3 has a YAML alias; write the value itself there$"):
        stage.run(lambda: None, "stage")
    with pytest.raises(SystemExit, match="has a YAML alias"):
        stage.run_tool(lambda seed: None)


@pytest.mark.parametrize("content", ["seed: 0\nnote: '*a & b'\nrest: a*b\n", "", "broken: [", None])
def test_other_files_are_left_to_dvc(workspace, content):
    if content is not None:
        Path("params.yaml").write_text(content)
    refuse_aliases()


NAMES = [NASTY, "..", "../../out", "/etc/passwd", "=cmd|' /C calc'!A0", "<img src=x onerror=alert(1)>", "a\nb\r\nc",
         "{{ 7 * 7 }}", "{% raw %}", "</section>", "n" * 4000, "\u202etxt.exe", "\x1b[2J", "'; drop table clips; --", "a\tb",
         "&amp;"]


def test_names_go_through_the_stage_as_texts(workspace):
    """As file names where the system takes them, and as ids, patients and labels."""
    folder = workspace / "data/raw/custom"
    (folder / "deep").mkdir(parents=True)
    rows, frames = [], speckle(len(NAMES))
    for number, (name, frame) in enumerate(zip(NAMES, frames, strict=True)):
        file = f"deep/{number} {name[:60].replace('/', ':')}.png"
        Image.fromarray(np.asarray(frame)).save(folder / file)
        rows.append({"path": file, "clip": f"{number}{name}", "patient": name, "label": name, "subset": name, "note": name})
    rows.append({"path": "../../../outside.png", "clip": "outside", "patient": "", "label": "", "subset": "", "note": ""})
    pd.DataFrame(rows).to_csv(folder / "clips.csv", index=False)
    before = {path for path in workspace.rglob("*")} | set(workspace.parent.iterdir())
    extract_frames.main("custom", "raw", 3.0, 30, 25.0, 32, "fan")

    made = {path for path in workspace.rglob("*")} | set(workspace.parent.iterdir())
    outputs = [workspace / "data/frames", workspace / "reports"]
    assert not [path for path in made - before if not any(path.is_relative_to(output) for output in outputs)]
    clips = store.read("data/frames/custom").clip_table.set_index("clip")
    assert list(clips.index[clips["left_out"] != ""]) == ["6a b c", "outside"]   # the first has a carriage return in its path
    for column in ("patient", "label", "note"):
        assert set(clips[column]) - {""} == {expected(name) for name in NAMES}
    source = (workspace / "reports/crops/custom.html").read_text(encoding="utf-8")
    Page(source)
    assert "<img src=x" not in source and "<script>alert" not in source and "{{ 7" in source


def expected(name):
    """A name in one line; one that a spreadsheet would run has a ' in front."""
    plain = " ".join(name.split())
    return f"'{plain}" if plain.startswith("=") else plain
