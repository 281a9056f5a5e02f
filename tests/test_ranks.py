"""Two processes on one machine (gloo) against one process with the whole batch: parts in double precision, then the stage."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
import torch.distributed as dist
import yaml
from safetensors.torch import load_file
from torch import nn

from stages import pretrain
from stages.lib.clips.store import read
from stages.lib.networks.backbone import Backbone
from stages.lib.params import UserError
from stages.lib.pretraining.clip_set import ClipSet
from stages.lib.training import distributed
from stages.lib.training.device import generator
from stages.lib.training.optimizer import optimizer_and_schedule
from stages.lib.training.resume import Resume
from tests.conftest import write_us4

ROOT = Path(__file__).parents[1]
PARAMS = yaml.safe_load((ROOT / "params.yaml").read_text())
BLOCKS = PARAMS["methods"]
PUBLISHED = PARAMS["views"] | {"pipeline": "published"}
CLIPS = [(frames, ("", "a", "b")[number % 3], "train") for number, frames in enumerate([1, 2, 3, 5, 6, 4, 7, 3, 5, 2, 4])]
CLIPS += [(3, "a", "held_out")] * 3
METHODS = [name for name in BLOCKS if name != "meta_uscl"]
SMALL = {"embedding_width": 8, "hidden_width": 16, "queue_size": 10}     # a queue that eight keys do not divide
SETTINGS = {"seed": 0, "method": "moco_v2", "arch": "resnet18", "init": "random", "epochs": 3, "batch_size": 5,
            "steps_per_epoch": 1, "measure_every": 2, "views": PUBLISHED, "methods": {
                "moco_v2": BLOCKS["moco_v2"] | {"embedding_width": 8, "queue_size": 10}}}


def small_backbone():
    """A backbone of two convolutions: what is shared between processes does not depend on how deep it is."""
    layers = [nn.Conv2d(3, 8, 3, 2, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, bias=False),
              nn.BatchNorm2d(16), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    backbone = Backbone("resnet18")
    backbone.network, backbone.feature_width = nn.Sequential(*layers), 16
    return backbone


def curve(method):
    """The losses of two epochs of three steps, the last batch partial, and the sum of all weights and buffers after them."""
    torch.manual_seed(0)
    train = ClipSet(read("data/us4"), "train", torch.device("cpu"))
    block = BLOCKS[method] | {key: value for key, value in SMALL.items() if key in BLOCKS[method]}
    backbone = distributed.synchronised(small_backbone())
    model = pretrain.build(method, {method: block}, PUBLISHED, backbone, train, train).double()
    settings = block["optimizer"] | {"name": "sgd", "learning_rate": 0.1}
    optimizer, schedule = optimizer_and_schedule(model.trained(), 6, **settings)
    draw, losses, loss_of = generator(0, torch.device("cpu")), [], distributed.loss_of(model)
    for epoch in range(2):
        batches = ((frames.double(), clips) for frames, clips in train.batches(4, model.pick, draw))
        common = {"optimizer": optimizer, "schedule": schedule, "draw": draw, "loss_of": loss_of}
        losses += pretrain.train_epoch(model, batches, **common, first_step=3 * epoch, steps=6)[2].tolist()
    sums = {name: float(value.double().abs().sum()) for name, value in model.state_dict().items()}
    return {"losses": losses, "sums": sums}


def parts(clips, dim):
    """How far `everyones` is from the inverse of `own`, and its gradient from that of the sum of all ranks' losses."""
    whole = torch.arange(2.0 * clips).add(1).reshape((clips, 2) if dim == 0 else (2, clips)).double()
    weights = [torch.randn(whole.shape, generator=torch.Generator().manual_seed(rank)).double() for rank in range(2)]
    with distributed.sharing():
        distributed.deal(clips)
        part = distributed.own(whole, dim).clone().requires_grad_()
        together = distributed.everyones(part.clone(), dim)
        (weights[dist.get_rank()] * together**2).sum().backward()
        gradient = distributed.own(2 * sum(weights) * whole, dim)
        sizes = [part.shape[dim], clips // 2 + (clips % 2 if dist.get_rank() == 0 else 0)]
    alone = torch.equal(distributed.own(whole, dim), whole) and torch.equal(distributed.everyones(whole, dim), whole)
    return {"value": float((together - whole).abs().max()), "gradient": float((part.grad - gradient).abs().max()),
            "size": abs(sizes[0] - sizes[1]), "alone": float(not alone)}


def batch_norm(training):
    """How far the batch norm over all ranks is from torch's on the whole batch, after two uneven batches."""
    torch.manual_seed(3)
    theirs = nn.BatchNorm2d(4, eps=1e-3, momentum=0.3).double().train(training)
    nn.init.normal_(theirs.weight)
    nn.init.normal_(theirs.bias)
    nn.init.normal_(theirs.running_mean)
    ours = distributed.synchronised(nn.Sequential(nn.Sequential(theirs)))[0][0].train(training)
    apart = {"kind": float(type(ours) is nn.BatchNorm2d)}
    for clips in (5, 3):
        image, coefficient = torch.randn(2, clips, 4, 3, 3).double() * 2 + 1
        whole = image.clone().requires_grad_()
        (theirs(whole) * coefficient).sum().backward()
        with distributed.sharing():
            part = distributed.own(image).clone().requires_grad_()
            out = ours(part)
            (out * distributed.own(coefficient)).sum().backward()
            wanted = theirs(whole) if not training else expected(theirs, whole)
            apart[f"output {clips}"] = (out - distributed.own(wanted)).abs().max()
            apart[f"image gradient {clips}"] = (part.grad - distributed.own(whole.grad)).abs().max()
    for name in ("weight", "bias"):
        gradient = getattr(ours, name).grad.clone()
        dist.all_reduce(gradient)
        apart[f"{name} gradient"] = (gradient - getattr(theirs, name).grad).abs().max()
    for name, value in theirs.named_buffers():
        apart[name] = (getattr(ours, name) - value).abs().max()
    outside = torch.randn(6, 4, 3, 3).double()
    apart["outside of sharing"] = (ours(outside) - theirs(outside)).abs().max()
    return {name: float(value) for name, value in apart.items()}


def expected(norm, image):
    """The output of a batch norm that trains, without a change of its running statistics."""
    return nn.functional.batch_norm(image, None, None, norm.weight, norm.bias, True, 0.0, norm.eps)


def torchrun(*command, **environment):
    """The command that runs another in two processes, and its environment; none waits for the network or other machines."""
    full = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *command]
    return full, os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "SONOPAIR_DEVICE": "cpu"} | environment


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """What one process and what two processes computed: method → curve; and the checks of each rank."""
    folder = tmp_path_factory.mktemp("ranks")
    write_us4(folder / "data/us4", CLIPS, size_px=16)
    command, environment = torchrun(__file__)
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        one = {method: curve(method) for method in METHODS}
    return one, [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.parametrize("method", METHODS)
def test_two_processes_give_the_curve_of_one(both, method):
    one, two = both[0][method], [rank["curves"][method] for rank in both[1]]
    assert len(set(one["losses"])) > 3
    for rank in two:
        assert rank["losses"] == pytest.approx(one["losses"], rel=1e-5, abs=1e-7)
        assert rank["sums"] == pytest.approx(one["sums"], rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("rank", [0, 1])
def test_what_all_ranks_have_is_the_inverse_of_a_ranks_own_part(both, rank):
    assert len(both[1][rank]["parts"]) == 6
    assert all(max(apart.values()) < 1e-12 for apart in both[1][rank]["parts"])


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_batch_norm_over_ranks_is_torchs_on_the_whole_batch(both, rank, mode):
    assert {name: value for name, value in both[1][rank][mode].items() if value > 1e-12} == {}


# The whole stage

DRIVER = '''
import json, os, signal, time
from pathlib import Path
import torch
from stages import pretrain
from stages.lib.networks import backbone
from stages.lib.training import distributed
from stages.lib.training.resume import Resume

backbone.autocast = lambda where: torch.autocast("cpu", enabled=False)

def noting(function, name):
    def noted(*arguments):
        with open(f"{name}.{os.environ.get('RANK')}", "a") as file:
            file.write(f"{os.getpid()}\\n")
        return function(*arguments)
    return noted

def killing(function, steps=iter(range(100))):
    def counted(*arguments):
        if str(next(steps)) == os.environ.get("KILLED_AT") and distributed.first():
            for number in (os.getppid(), int(Path("started.1").read_text()), os.getpid()):
                os.kill(number, signal.SIGKILL)
        return function(*arguments)
    return counted

if __name__ == "__main__":
    distributed.launch("driver")
    with distributed.group(pretrain.device()):
        Resume._write = noting(Resume._write, "saved")
        pretrain.write = noting(pretrain.write, "written")
        noting(distributed.first, "started")()
        pretrain.set_learning_rate = killing(pretrain.set_learning_rate)
        if not distributed.first():
            time.sleep(2)               # the other one is ahead: it must not be taken for a run of before
        pretrain.main(**json.loads(Path("settings.json").read_text()))
'''


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stage")
    write_us4(folder / "data/us4", CLIPS)
    (folder / "driver.py").write_text(DRIVER)
    (folder / "settings.json").write_text(json.dumps(SETTINGS))
    return folder


def start(folder, **variables):
    environment = torchrun(SONOPAIR_TORCHRUN="--standalone --nproc-per-node 2", **variables)[1]
    return subprocess.Popen([sys.executable, "-m", "driver"], cwd=folder, env=environment, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True)


def finish(process):
    """What a run that ends well has printed."""
    try:
        out, errors = process.communicate(timeout=600)
    finally:
        process.terminate()         # of one that hangs torchrun ends the workers
    assert process.returncode == 0, errors
    return out


def lines(path):
    return path.read_text().split() if path.exists() else []


def result(folder):
    rows = pd.read_csv(folder / "reports/pretrain.csv")
    return load_file(folder / "models/pretrained.safetensors"), rows


@pytest.fixture(scope="module")
def shared(folder):
    """A run of two processes: what it printed, weights, table of epochs, bytes of the weights and of the pairs' files."""
    out = finish(start(folder))
    pairs = {path.name: path.read_bytes() for path in (folder / "reports/pairs").iterdir()}
    return out, *result(folder), (folder / "models/pretrained.safetensors").read_bytes(), pairs


def test_the_first_process_alone_writes(folder, shared):
    assert len(lines(folder / "started.0")) == len(lines(folder / "started.1")) == 1
    assert len(lines(folder / "saved.0")) == 1 + SETTINGS["epochs"] and len(lines(folder / "written.0")) == 1
    assert not lines(folder / "saved.1") and not lines(folder / "written.1")
    assert "going on" not in shared[0] and shared[0].count("safetensors: resnet18, weights of epoch 2 (counted from 0),") == 1
    assert not (folder / "models/pretrain.unfinished").exists()


def test_the_stage_in_two_processes_begins_as_in_one(shared, workspace, single_precision):
    """In single precision: near after a step, of three and two clips; later rounding grows, as the statistics of few do."""
    write_us4(workspace / "data/us4", CLIPS)
    pretrain.main(**SETTINGS)
    rows = result(workspace)[1]
    assert shared[2].loc[0, "loss"] == pytest.approx(rows.loc[0, "loss"], rel=1e-3)
    assert shared[2]["loss"].to_numpy() == pytest.approx(rows["loss"].to_numpy(), rel=0.3)
    assert list(shared[2]) == list(rows) and shared[2]["step"].tolist() == rows["step"].tolist() == [1, 2, 3]
    for name in ("views.npy", "views.csv"):         # what is pictured is drawn, not computed by the networks
        assert (workspace / "reports/pairs" / name).read_bytes() == shared[4][name]


def test_a_killed_run_of_two_processes_goes_on_with_the_same_result(folder, shared):
    """Torchrun and both workers are killed in the second step, an epoch of its own."""
    for path in [*folder.glob("started.*"), folder / "models/pretrained.safetensors", folder / "reports/pretrain.csv"]:
        path.unlink()
    process = start(folder, KILLED_AT="1")
    process.communicate(timeout=600)
    assert process.returncode == -signal.SIGKILL
    assert len(torch.load(folder / "models/pretrain.unfinished", weights_only=True)["rows"]) == 1
    assert not (folder / "models/pretrained.safetensors").exists()
    out = finish(start(folder))
    assert "1 of 3 epochs were done before; continuing" in out
    weights, rows = result(folder)
    assert all(torch.equal(shared[1][name], weights[name]) for name in weights)
    pd.testing.assert_frame_equal(shared[2], rows)
    assert (folder / "models/pretrained.safetensors").read_bytes() == shared[3]


NCCL = '''
import json, sys
import torch
from torch.nn.parallel import DistributedDataParallel
from stages import pretrain
from stages.lib.training import distributed

with distributed.group(pretrain.device()):
    if torch.distributed.is_initialized():
        values = torch.arange(6.0, device="cuda", requires_grad=True)
        total = distributed._Sum.apply(values**2)
        total.sum().backward()
        assert torch.equal(total, values**2) and torch.equal(values.grad, 2 * values)
        distributed.loss_of = lambda method: DistributedDataParallel(distributed._Loss(method), [0], forward_sync_buffers=False)
    pretrain.main(**json.loads(sys.argv[1]))
'''


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_rank_whose_gradients_pass_nccl_ends_with_the_weights_of_a_run_without_it(workspace):
    write_us4(workspace / "data/us4", CLIPS)
    (workspace / "nccl.py").write_text(NCCL)
    command, found = torchrun("nccl.py", json.dumps(SETTINGS), SONOPAIR_DEVICE="cuda:0"), []
    command[0][command[0].index("2")] = "1"
    for words in ([sys.executable, *command[0][-2:]], command[0]):
        done = subprocess.run(words, env=command[1], capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr
        found.append(result(workspace))
    assert all(torch.equal(found[0][0][name], found[1][0][name]) for name in found[0][0])
    pd.testing.assert_frame_equal(found[0][1], found[1][1], check_exact=True)


def test_nothing_is_started_without_options(monkeypatch):
    started = []
    monkeypatch.setattr(os, "execv", lambda *arguments: started.append(arguments))
    monkeypatch.delenv("SONOPAIR_TORCHRUN", raising=False)
    distributed.launch("stages.pretrain")
    assert not started and distributed.size() == 1 and distributed.first()
    monkeypatch.setenv("SONOPAIR_TORCHRUN", "--nproc-per-node 8 --rdzv-id 'a b'")
    distributed.launch("stages.pretrain")
    options = ["torch.distributed.run", "--nproc-per-node", "8", "--rdzv-id", "a b", "-m", "stages.pretrain"]
    assert started == [(sys.executable, [sys.executable, "-m", *options])]


@pytest.mark.parametrize(
    ("change", "processes", "sentence"),
    [
        ({"method": "meta_uscl"}, 2, "meta_uscl trains in one process .*; unset SONOPAIR_TORCHRUN"),
        ({"batch_size": 4}, 4, "4 processes cannot share a batch of 3 clips; start fewer, or choose another pretrain.batch"),
        ({"batch_size": 5}, 6, "6 processes cannot share a batch of 5 clips"),
    ],
)
def test_processes_that_cannot_share_are_refused(workspace, monkeypatch, change, processes, sentence):
    """Of eleven clips: batches of four leave three for the last, batches of five one, which joins the batch before."""
    write_us4(workspace / "data/us4", CLIPS)
    monkeypatch.setattr(distributed, "size", lambda: processes)
    with pytest.raises(UserError, match=sentence):
        pretrain.main(**SETTINGS | {"methods": SETTINGS["methods"] | {"meta_uscl": BLOCKS["meta_uscl"]}} | change)


def test_the_state_is_read_by_all_before_one_writes_it(workspace, monkeypatch):
    """Else a slower process would take the first state of a quicker one for that of a run of before."""
    calls = []
    monkeypatch.setattr(distributed, "wait", lambda: calls.append("wait"))
    monkeypatch.setattr(torch, "load", lambda *_, real=torch.load, **named: calls.append("read") or real(*_, **named))
    state = Resume("state", {}, [])
    assert state.load() is None and calls == ["wait"]
    state.save(step=1)
    calls.clear()
    assert state.load() == {"step": 1} and calls == ["read", "wait"]
    calls.clear()
    assert Resume("state", {"seed": 1}, []).load() is None and calls == ["read", "wait"]


if __name__ == "__main__":
    with distributed.group(torch.device("cpu")):
        found = {"curves": {method: curve(method) for method in METHODS}, "train": batch_norm(True), "eval": batch_norm(False),
                 "parts": [parts(clips, dim) for clips in (2, 5, 7) for dim in (0, 1)]}
        Path(f"{dist.get_rank()}.json").write_text(json.dumps(found))
