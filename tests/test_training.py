"""What a user sees of a run while it goes on, and the threads that it computes with."""

import ast
import io
import math
import os
import runpy
import sys
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from project import ROOT

from stages import pretrain
from stages.lib.params import UserError
from stages.lib.training import distributed, progress, threads
from stages.lib.training.device import device


@pytest.fixture(autouse=True)
def project(workspace):
    return workspace


@pytest.fixture
def clock(monkeypatch):
    """Two seconds pass between two looks at the clock."""
    seconds = iter(range(0, 1000, 2))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(seconds))


def test_a_line_per_epoch_where_the_output_is_no_terminal(clock, capsys):
    bar = progress.Progress("pretrain uscl", epochs=5, done=2)
    for loss in (3.0, 2.5, 0.123456):
        bar.step(loss=loss, held_out_loss=2 * loss)
    assert capsys.readouterr().out.splitlines() == [
        "pretrain uscl: 2 of 5 epochs were done before; continuing",
        "pretrain uscl: epoch 3 of 5, loss 3, held_out_loss 6, 00:04 left",
        "pretrain uscl: epoch 4 of 5, loss 2.5, held_out_loss 5, 00:02 left",
        "pretrain uscl: epoch 5 of 5, loss 0.1235, held_out_loss 0.2469, 00:00 left",
    ]


def test_a_bar_with_the_time_left_on_a_terminal(monkeypatch, capsys):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    bar = progress.Progress("pretrain uscl", epochs=2)
    bar.bar.mininterval = 0
    bar.step(loss=1.5)
    bar.step(loss=1.25)
    shown = sys.stderr.getvalue()
    assert "pretrain uscl" in shown and "1/2" in shown and "loss=1.25" in shown and "<" in shown
    assert capsys.readouterr().out == ""


def test_only_the_first_process_of_several_speaks(monkeypatch, capsys):
    monkeypatch.setattr(distributed, "first", lambda: False)
    progress.Progress("pretrain uscl", epochs=1).step(loss=1.0)
    out = capsys.readouterr()
    assert out.out == out.err == ""


def test_every_training_leaves_a_row_of_its_time(clock):
    for name, epochs, done in (("pretrain uscl", 3, 0), ("finetune pocus", 5, 3)):
        bar = progress.Progress(name, epochs, done)
        for _ in range(epochs - done):
            bar.step()
    rows = pd.read_csv(progress.TRAININGS)
    assert rows["training"].tolist() == ["pretrain uscl", "finetune pocus"] and rows["epochs"].tolist() == [3, 2]
    assert (rows["seconds"] > 0).all() and (rows[["least_threads", "most_threads"]] == torch.get_num_threads()).all(axis=None)
    assert (pd.Timestamp.now("UTC") - pd.to_datetime(rows["ended"])).between("-1s", "1h").all()


@pytest.fixture
def machine(monkeypatch):
    """A machine whose load the test sets: cores, those that each process uses, by pid, and those of hidden processes."""
    load = SimpleNamespace(cores=4, uses={os.getpid(): 0.0}, hidden=0.0, threads=4, now=0.0)
    processes = lambda _: [SimpleNamespace(pid=pid, info={"cpu_percent": 100 * use}) for pid, use in load.uses.items()]  # noqa: E731
    fake = SimpleNamespace(cpu_count=lambda: load.cores, process_iter=processes,
                           cpu_percent=lambda: 100 * (sum(load.uses.values()) + load.hidden) / load.cores)
    monkeypatch.setattr(threads, "psutil", fake)
    monkeypatch.setattr(threads, "time", SimpleNamespace(monotonic=lambda: load.now, sleep=lambda _: None))
    monkeypatch.setattr(torch, "get_num_threads", lambda: load.threads)
    monkeypatch.setattr(torch, "set_num_threads", lambda count: setattr(load, "threads", count))
    monkeypatch.delenv("OMP_NUM_THREADS")
    return load


@pytest.mark.parametrize(("others", "hidden", "count"), [
    ([], 0.0, 4), ([0.3], 0.0, 4), ([1.0], 0.0, 3), ([0.8] * 3, 0.0, 1), ([1.0] * 4, 0.0, 1),
    ([4.0], 0.0, 2), ([2.0, 2.0], 0.0, 1), ([0.1] * 40, 0.0, 1),        # equal parts: of two, of three, of forty-one
    ([], 3.0, 1), ([1.0], 1.0, 2),
])  # fmt: skip
def test_a_training_takes_what_others_leave_free_but_no_less_than_an_equal_part(machine, capsys, others, hidden, count):
    machine.uses |= dict(enumerate(others, start=10**9))
    machine.hidden = hidden
    threads.Threads().start("pretrain uscl")
    assert machine.threads == count
    said = capsys.readouterr().out
    assert said.startswith(f"pretrain uscl: computes with {count} thread")
    assert f"use {sum(others) + hidden:.1f} of 4 cores" in said


@pytest.mark.parametrize("cores", [2, 3, 4, 8, 64])
@pytest.mark.parametrize("busy", [0, 1, 3])
@pytest.mark.parametrize("trainings", [1, 2, 3])
def test_trainings_share_the_cores_without_knowing_of_each_other(trainings, busy, cores):
    """A scheduler that gives every thread the same; trainings start one after the other and look in turns.

    They end with equal parts of what the busy processes of one thread, each with its fair part, leave.
    """
    running = []

    def uses():
        wanted = running + [1] * busy
        return [want * min(1, cores / sum(wanted)) for want in wanted]

    for turn in range(60):
        place = turn % trainings
        if place == len(running):
            running.append(cores)
        others = uses()
        del others[place]
        running[place] = max(1, math.ceil(threads.fair_share(cores, others) - 0.5))
    equal = min((cores - min(busy, cores * busy / (busy + trainings))) / trainings, cores)
    assert all(abs(count - max(1, equal)) < 1 for count in running), running
    assert sum(running) + busy <= max(cores + 1, trainings + busy)


def test_threads_follow_the_load_and_their_own_work_is_no_load(machine, capsys):
    running = threads.Threads()
    running.start("pretrain uscl")
    seen = []
    for own, other, now in [(4, 0, 3), (4, 0, 6), (2, 2, 12), (2, 0, 18), (2, 2, 24), (2, 0, 30), (2, 0, 33), (2, 0, 36)]:
        machine.uses, machine.now = {os.getpid(): own, 10**9: other}, now
        running.look()
        seen.append(machine.threads)
    assert seen == [4, 4, 2, 2, 2, 2, 2, 4]     # no sooner than LOOK_EVERY_S after the last look; more after two free looks
    said = [line.split(",")[0] for line in capsys.readouterr().out.splitlines()]
    assert said == [f"pretrain uscl: {words} threads" for words in ("computes with 4", "goes on with 2", "goes on with 4")]
    assert running.used == [2, 4]


def test_a_later_training_may_use_all_cores_again(machine):
    """Though an earlier one of the same process ended with fewer threads."""
    running = threads.Threads()
    machine.uses[10**9] = 3.0
    running.start("finetune pocus")
    assert machine.threads == 2
    machine.uses[10**9] = 0.0
    running.start("finetune pocus, all patients")
    assert machine.threads == 4


def test_a_fixed_number_of_threads_stays(machine, monkeypatch, capsys):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    machine.threads, machine.uses[10**9] = 3, 4.0
    running = threads.Threads()
    running.start("pretrain uscl")
    machine.now = 60
    running.look()
    assert machine.threads == 3 and running.used == [3, 3] and capsys.readouterr().out == ""


@pytest.fixture
def deterministic(monkeypatch):
    """Puts back what a GPU as device sets for the whole process; says whether torch is set to deterministic algorithms."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    yield torch.are_deterministic_algorithms_enabled
    torch.use_deterministic_algorithms(False)
    torch.utils.deterministic.fill_uninitialized_memory = True


@pytest.fixture
def current(monkeypatch):
    """The GPUs that were made torch's current one."""
    chosen = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    return chosen


def test_a_device_that_the_machine_does_not_have_is_said_with_those_that_it_has(monkeypatch, deterministic, current):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    for name in ("gpu", "cuda", "cuda:0", "CPU", "meta", ""):
        monkeypatch.setenv("SONOPAIR_DEVICE", name)
        with pytest.raises(UserError, match=f"^SONOPAIR_DEVICE is '{name}'; this machine has cpu$"):
            device()
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for name, found in {"cpu": "cpu", "cuda": "cuda:0", "cuda:1": "cuda:1"}.items():
        monkeypatch.setenv("SONOPAIR_DEVICE", name)
        assert device() == torch.device(found)
    assert current == ["cuda:0", "cuda:1"]
    monkeypatch.setenv("SONOPAIR_DEVICE", "cuda:2")
    with pytest.raises(UserError, match="^SONOPAIR_DEVICE is 'cuda:2'; this machine has cpu, cuda, cuda:0, cuda:1$"):
        device()


@pytest.mark.parametrize("named", [None, "cuda"])
def test_each_process_of_a_run_has_a_gpu_of_its_own_where_there_are_some(monkeypatch, deterministic, current, named):
    """On which torch is deterministic, so that a killed run goes on bit for bit."""
    monkeypatch.delenv("SONOPAIR_DEVICE", raising=False)
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert device() == torch.device("cpu") and not deterministic()
    if named:
        monkeypatch.setenv("SONOPAIR_DEVICE", named)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert device() == torch.device("cuda:1") and deterministic() and current == ["cuda:1"]
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(UserError, match="more processes than this machine has GPUs, 2; lower --nproc-per-node"):
        device()


def test_pretraining_asks_for_its_device_before_it_runs(monkeypatch):
    monkeypatch.setenv("SONOPAIR_DEVICE", "gpu")
    monkeypatch.delenv("SONOPAIR_TORCHRUN", raising=False)
    with pytest.raises(SystemExit, match="^error: SONOPAIR_DEVICE is 'gpu'"):
        runpy.run_path(pretrain.__file__, run_name="__main__")


def test_every_step_of_every_training_looks_at_the_load():
    """A step that a busy machine makes slow does not have to wait for the end of its epoch."""
    for path in ("stages/pretrain.py", "stages/lib/evaluation/fine_tuning.py", "stages/lib/segmentation/cross_validation.py"):
        loops = [node for node in ast.walk(ast.parse((ROOT / path).read_text())) if isinstance(node, ast.For)]
        called = [[ast.unparse(call.func) for call in ast.walk(loop) if isinstance(call, ast.Call)] for loop in loops]
        innermost = min((names for names in called if "optimizer.step" in names), key=len)
        assert "THREADS.look" in innermost, path
