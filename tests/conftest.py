"""What all tests share: a thread each, the environment's commands on the path, small data sets."""

import os
import sys
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"         # before torch is imported, and for what a test starts: tests run side by side
os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"

import numpy as np
import pandas as pd
import pytest
import torch
from project import Project, cloned, started

from stages.lib.clips import store
from stages.lib.networks import backbone

CLIP_COLUMNS = ["clip", "path", "patient", "label", "subset", "fps", "height", "width", "frames_read", "frames_kept",
                "frames_black", "frames_odd", "frames_damaged", "crop_uncertain", "notes", "burned_in", "checksum", "left_out"]


def write_frame_store(folder, clips, size_px=32, seed=0):
    """A frame store as extract_frames writes it, of clips given as dicts: clip, label, patient, frames_kept, …"""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    table = pd.DataFrame(clips)
    defaults = {"path": table["clip"], "patient": "", "label": "", "subset": "", "fps": 25.0, "height": 200, "width": 200,
                "frames_kept": 4, "frames_black": 0, "frames_odd": 0, "frames_damaged": 0, "crop_uncertain": "",
                "notes": "", "burned_in": "", "left_out": ""}
    for name, value in defaults.items():
        table[name] = table[name].fillna(value) if name in table else value
    table["frames_kept"] = table["frames_kept"].where(table["left_out"] == "", 0).astype(int)
    table["frames_read"] = table["frames_kept"] + table["frames_black"]
    if "checksum" not in table:
        table["checksum"] = folder.name + table["clip"]
    counts = table["frames_kept"]
    rows = table.loc[table.index.repeat(counts), ["clip"]].reset_index(drop=True)
    rows["frame"] = rows.groupby("clip").cumcount()
    rows["time_s"] = rows["frame"] / 3
    rows.insert(0, "row", rows.index)
    numbers = pd.factorize(table["label"])[0].repeat(counts)
    texture = rng.normal(60, 10, (len(numbers), size_px, size_px)) + 40 * numbers[:, None, None]
    np.save(folder / "frames.npy", texture.clip(0, 255).astype(np.uint8))
    rows.to_csv(folder / "frames.csv", index=False)
    table[CLIP_COLUMNS].to_csv(folder / "clips.csv", index=False)
    store.write_facts(folder, frame_rate_hz=3.0, max_frames_per_clip=30, assumed_frame_rate_hz=25.0, size_px=size_px)


def write_us4(folder, clips, size_px=32, seed=0):
    """A pretraining set as assemble_us4 writes it, of (frames, pooled_class, split) per clip."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    table = pd.DataFrame(clips, columns=["frames", "pooled_class", "split"])
    table["clip"] = [f"source/{number}.mp4" for number in table.index]
    table["first"] = table["frames"].cumsum() - table["frames"]
    table = table.assign(source="source", patient="", label=table["pooled_class"], fps=25.0)
    scene = rng.integers(0, 256, (len(table), 8, 8)).repeat(size_px // 8, 1).repeat(size_px // 8, 2)
    frames = scene.repeat(table["frames"], 0) * 0.8 + rng.integers(0, 50, (table["frames"].sum(), size_px, size_px))
    np.save(folder / "frames.npy", frames.astype(np.uint8))
    rows = table.loc[table.index.repeat(table["frames"]), ["clip"]].reset_index(drop=True)
    rows["frame"] = rows.groupby("clip").cumcount()
    rows.assign(row=rows.index, time_s=rows["frame"] / 3)[["row", "clip", "frame", "time_s"]].to_csv(
        folder / "frames.csv", index=False)
    columns = ["clip", "source", "patient", "label", "pooled_class", "split", "fps", "first", "frames"]
    table[columns].to_csv(folder / "clips.csv", index=False)


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    """An empty folder that the stages take for the project's root. They compute on the CPU unless SONOPAIR_DEVICE says cuda."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SONOPAIR_DEVICE", os.environ.get("SONOPAIR_DEVICE", "cpu"))
    monkeypatch.setenv("SONOPAIR_CACHE_GIB", "0")           # each test computes what it looks at
    return tmp_path


@pytest.fixture(autouse=True)
def default_stream():
    """torch's default stream begins alike in every test, whatever the process has run before."""
    torch.manual_seed(0)


@pytest.fixture
def draw():
    """A random stream of the test's own."""
    return torch.Generator().manual_seed(0)


@pytest.fixture
def single_precision(monkeypatch):
    """Networks compute in single precision on any processor. In bfloat16 the size of a batch can change the third digit."""
    monkeypatch.setattr(backbone, "autocast", lambda device: torch.autocast(device.type, enabled=False))


@pytest.fixture(scope="session")
def default_run(tmp_path_factory) -> Project:
    """The project with the smallest phantoms after `make repro`, its results committed. Tests leave it as they find it."""
    project = started(tmp_path_factory.mktemp("default"))
    project.run("make repro")
    project.commit("Results")
    return project


@pytest.fixture(scope="session")
def fresh_clone(default_run, tmp_path_factory) -> Project:
    """A clone of it, in which `make repro` computed everything once more. Tests leave it as they find it."""
    project = cloned(default_run, tmp_path_factory.mktemp("fresh") / "clone")
    project.run("make repro")
    return project


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest begins first, so that no worker is left alone with it at the end. A file's tests stay together: they
    share fixtures, and one worker runs them all (`--dist loadfile`).
    """
    for markers in (("slow", "real", "browser"), ("recipes",)):
        first = {item.path for item in items if any(map(item.get_closest_marker, markers))}
        items.sort(key=lambda item: item.path not in first)
