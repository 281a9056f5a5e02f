"""What happens to a stage from outside: the lock, a signal, errors of the system, and outputs that are put in place."""

import errno
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from stages.lib.clips import store
from stages.lib.params import Count, Seed, UserError, having
from stages.lib.running import faults, stage, stopping
from stages.lib.running.stage import run, run_tool

ROOT = Path(__file__).parents[1]
SLEEPER = """
import sys, time
from stages.lib.running import stage, stopping
with stopping.stoppable(), stage.alone("stage"):
    print("begun", flush=True)
    {body}
"""


@pytest.fixture(autouse=True)
def no_alarm(monkeypatch):
    """A stage without memory ends its process some seconds later; here it is that of the tests, with arguments of its own."""
    monkeypatch.setattr("sys.argv", ["stage"])
    yield
    signal.alarm(0)


@pytest.fixture
def sleeper(workspace):
    """Start a process that holds the lock of `stage` and runs a body; it is killed at the end of the test."""
    started = []

    def start(body="time.sleep(60)"):
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        process = subprocess.Popen([sys.executable, "-c", SLEEPER.format(body=body)], env=environment, text=True,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        started.append(process)
        assert process.stdout.readline() == "begun\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_a_second_run_of_a_stage_says_who_runs_it(sleeper):
    process = sleeper()
    sentence = rf"stage is already running: process {process.pid} has run it since [-0-9]+ [0-9:]+; stop it "
    sentence += f"with `kill {process.pid}`"
    with pytest.raises(UserError, match=sentence), stage.alone("stage"):
        pass
    with stage.alone("other"):
        pass


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_the_lock_is_free_however_its_holder_ends(sleeper, number):
    process = sleeper()
    process.send_signal(number)
    process.wait(60)
    with stage.alone("stage"):
        pass
    with stage.alone("stage"):
        pass


def test_the_holder_is_unknown_where_its_note_is_gone(sleeper, workspace):
    sleeper()
    (workspace / stage.LOCKS / "stage.json").write_text("")
    with pytest.raises(UserError, match="another process runs it"), stage.alone("stage"):
        pass


def test_only_the_first_of_several_ranks_takes_the_lock(sleeper, monkeypatch):
    sleeper()
    monkeypatch.setenv("RANK", "1")
    with stage.alone("stage"):
        pass


def test_a_signal_to_stop_lets_the_block_clear_away(sleeper, workspace):
    body = """
    from stages.lib.clips.store import replacing
    with replacing("out") as partial:
        (partial / "half").touch()
        print("half", flush=True)
        time.sleep(60)
"""
    process = sleeper(body.strip())
    assert process.stdout.readline() == "half\n"
    process.terminate()
    assert process.wait(60) != 0
    assert not list(workspace.glob("out*"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_not_lost_while_an_object_is_removed(sleeper, number):
    """Python drops what is raised in `__del__`."""
    body = """
    class Slow:
        def __del__(self):
            print("removing", flush=True)
            for _ in range(200):
                time.sleep(0.01)
    Slow()
    print("removed", flush=True)
    time.sleep(600)
"""
    process = sleeper(body.strip())
    assert process.stdout.readline() == "removing\n"
    process.send_signal(number)
    assert process.wait(60) == 1 or process.returncode == -signal.SIGINT
    assert process.stdout.read() == "removed\n"


def test_a_block_that_does_not_stop_is_ended(sleeper):
    body = """
    while True:
        try:
            print("trying", flush=True)
            time.sleep(60)
        except KeyboardInterrupt:
            pass
"""
    process = sleeper(body.strip())
    assert process.stdout.readline() == "trying\n"
    process.terminate()
    assert process.wait(stopping.GRACE_S + 60) == 128 + signal.SIGTERM


def test_signals_are_as_before_after_the_block():
    before = signal.getsignal(signal.SIGTERM)
    with stopping.stoppable():
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before


ERRORS = [
    (OSError(errno.ENOSPC, "No space left on device", "data/us4/frames.npy"), "the disk is full.* data/us4/frames.npy"),
    (OSError(errno.EDQUOT, "Disk quota exceeded"), "the disk is full.* the project's folder"),
    (PermissionError(errno.EACCES, "Permission denied", "models"), "models may not be read or written .Permission denied."),
    (OSError(errno.EROFS, "Read-only file system", "reports"), "reports may not be read or written .Read-only file system."),
    (FileNotFoundError(errno.ENOENT, "No such file", "data/x.npy"), "data/x.npy is missing; if it is an output of"),
    (OSError(errno.EIO, "Input/output error", "a.mp4"), "a.mp4: Input/output error"),
    (MemoryError(), "this machine has too little memory; lower pretrain.batch_size"),
    (OSError(errno.ENOMEM, "Cannot allocate memory"), "this machine has too little memory"),
    (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB"), "the GPU has too little memory; lower pretrain"),
    (RuntimeError("open file failed with strerror: Permission denied"), "the project's folder may not be read or written"),
    (RuntimeError("could not create a primitive"), "this machine has too little memory"),
    (RuntimeError("can't start new thread"), "this machine has too little memory"),
    (KeyboardInterrupt(), "stopped; the next `dvc repro` goes on"),
]


@pytest.mark.parametrize(("error", "sentence"), ERRORS)
def test_an_error_of_the_system_is_one_sentence(workspace, monkeypatch, error, sentence):
    monkeypatch.setattr("dvc.api.params_show", lambda stages: {"stage": {}})

    def main():
        raise error

    with pytest.raises(SystemExit, match=f"^error: {sentence}") as stop:
        run(main, "stage", lower="pretrain.batch_size")
    assert "\n" not in stop.value.code


@pytest.mark.parametrize(("error", "sentence"), [*ERRORS[:-1], (KeyboardInterrupt(), "stopped$")])
def test_a_tool_says_the_same_but_nothing_of_the_results_of_a_stage(error, sentence):
    def main(path):
        raise error

    with pytest.raises(SystemExit, match=f"^error: {sentence}") as stop:
        run_tool(main, lower="pretrain.batch_size", path="a.mp4")
    assert "\n" not in stop.value.code and faults.UNCHANGED not in stop.value.code


def test_a_tool_takes_the_parameters_that_it_names_from_params_yaml(monkeypatch):
    called, blocks = [], {"seed": 3, "report": {"samples": 5, "other": 1}, "pretrain": {}}
    monkeypatch.setattr("dvc.api.params_show", lambda: blocks)

    def main(path, seed: Seed, report: having(samples=Count)):
        called.append((path, seed, report))

    run_tool(main, path="a.mp4")
    assert called == [("a.mp4", 3, {"samples": 5, "other": 1})]
    for wrong, sentence in (({"seed": -1}, "seed is -1; it must be 0 or more"), ({"report": {}}, "report.samples is missing"),
                            ({"report": None}, "report is None; it must be a mapping")):
        monkeypatch.setattr("dvc.api.params_show", lambda wrong=wrong: blocks | wrong)
        with pytest.raises(SystemExit, match=f"^error: params.yaml: {sentence}$"):
            run_tool(main, path="a.mp4")
    del blocks["report"]
    monkeypatch.setattr("dvc.api.params_show", lambda: blocks)
    with pytest.raises(SystemExit, match="^error: params.yaml: report is missing$"):
        run_tool(main, path="a.mp4")


def test_a_stage_refuses_arguments_that_it_would_not_read(monkeypatch):
    monkeypatch.setattr("sys.argv", ["pretrain", "--method", "uscl"])
    with pytest.raises(SystemExit, match="^error: stages.pretrain takes no --method uscl; its parameters are in params.yaml"):
        run(lambda: None, "pretrain")


@pytest.mark.parametrize("first", [MemoryError(), KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")])
def test_an_error_while_another_is_handled_keeps_the_first_meaning(workspace, monkeypatch, first):
    monkeypatch.setattr("dvc.api.params_show", lambda stages: {"stage": {}})

    def main():
        try:
            raise first
        finally:
            raise RuntimeError("cannot join thread before it is started")

    with pytest.raises(SystemExit, match=f"^error: {re.escape(faults.sentence(first, 'x'))}; "):
        run(main, "stage", lower="x")


def test_a_stage_does_not_wait_for_a_thread_that_failed(workspace, monkeypatch):
    """As that of a pool of processes, which would have brought the results."""
    monkeypatch.setattr("dvc.api.params_show", lambda stages: {"stage": {}})

    def fail():
        raise RuntimeError("can't start new thread")

    def main():
        threading.Thread(target=fail).start()
        threading.Event().wait(60)
        pytest.fail("waited")

    with pytest.raises(SystemExit, match="^error: this machine has too little memory; lower x"):
        run(main, "stage", lower="x")


HANGING = """
import threading, time
from stages.lib.running import stage, stopping
stopping.GRACE_S = 1
stage._declared = lambda *_: {"other": {}}
def main():
    threading.Thread(target=time.sleep, args=(600,)).start()
    raise MemoryError
stage.run(main, "other", lower="x")
"""


def test_a_stage_without_memory_does_not_wait_for_its_threads(workspace):
    """Python's end would wait for a thread that hangs."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", HANGING], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1 and done.stderr.startswith("error: this machine has too little memory; lower x")


def test_torch_and_numpy_without_memory_are_understood():
    for ask in (lambda: torch.empty(1 << 60, dtype=torch.uint8), lambda: np.empty(1 << 60, np.uint8)):
        with pytest.raises((RuntimeError, MemoryError)) as error:
            ask()
        assert "too little memory; lower x" in faults.sentence(error.value, "x")


def test_a_full_disk_is_seen_whatever_the_library_says(workspace, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 4096}))
    assert "the disk is full" in faults.sentence(RuntimeError("PytorchStreamWriter failed writing file"), "")


def test_a_mistake_in_the_code_keeps_its_trace(workspace, monkeypatch):
    monkeypatch.setattr("dvc.api.params_show", lambda stages: {"stage": {}})

    def main():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(main, "stage")


def tree(folder):
    return {str(path.relative_to(folder)): path.read_text() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_folder_is_replaced_as_a_whole(workspace):
    for number in range(2):
        with store.replacing("data/out") as partial:
            (partial / f"{number}.txt").write_text("x")
    assert tree(workspace) == {"data/out/1.txt": "x"}


@pytest.mark.parametrize("folder", [True, False])
@pytest.mark.parametrize("place", ["block", "move"])
def test_an_output_stays_where_its_successor_fails(workspace, monkeypatch, folder, place):
    def write(path, text):
        (path / "a.txt" if folder else path).write_text(text)

    with store.replacing("out", folder) as partial:
        write(partial, "old")
    before, move = tree(workspace), os.replace

    def refused(source, target):
        if str(source).endswith(".partial"):
            raise OSError(errno.EIO, "Input/output error", str(source))
        move(source, target)

    if place == "move":
        monkeypatch.setattr("os.replace", refused)
    with pytest.raises(OSError, match="Input"), store.replacing("out", folder) as partial:
        write(partial, "new")
        if place == "block":
            raise OSError(errno.EIO, "Input/output error")
    assert tree(workspace) == before


def test_what_a_kill_between_two_moves_leaves_is_put_back(workspace):
    (workspace / "out.before").mkdir()
    (workspace / "out.before/a.txt").write_text("old")
    with pytest.raises(ZeroDivisionError), store.replacing("out"):
        raise ZeroDivisionError
    assert tree(workspace) == {"out/a.txt": "old"}


def test_a_file_that_shares_its_bytes_is_not_written_through(workspace):
    (workspace / "cache").write_text("old")
    os.link("cache", "out")
    with store.replacing("out", folder=False) as partial:
        partial.write_text("new")
    assert ((workspace / "cache").read_text(), (workspace / "out").read_text()) == ("old", "new")


def test_an_array_takes_its_space_at_once(workspace):
    array = store.empty(Path("a.npy"), (3, 64, 64))
    assert (array.shape, array.dtype, array.max()) == ((3, 64, 64), np.uint8, 0)
    assert os.stat("a.npy").st_blocks * 512 >= array.nbytes


def test_an_array_that_does_not_fit_takes_no_space(workspace, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 4096}))
    with pytest.raises(OSError, match="No space left on device: 'b.npy'"):
        store.empty(Path("b.npy"), (2, 64, 64))
    assert not list(workspace.iterdir())
