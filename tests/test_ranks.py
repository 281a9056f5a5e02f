"""Two processes on one machine (gloo) against one process with the whole batch, in double precision."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from stages import pretrain
from stages.lib import ranks
from stages.lib.clip_set import ClipSet
from stages.lib.networks import Backbone
from stages.lib.store import read
from stages.lib.training import descent, generator
from tests.conftest import write_us4

ROOT = Path(__file__).parents[1]
BLOCKS = yaml.safe_load((ROOT / "params.yaml").read_text())["methods"]
CLIPS = [(frames, ("", "a", "b")[number % 3], "train") for number, frames in enumerate([1, 2, 3, 5, 6, 4, 7, 3, 5, 2, 4])]
METHODS = [name for name in BLOCKS if name != "meta_uscl"]
SMALL = {"embedding_width": 8, "hidden_width": 16, "queue_size": 10}     # a queue that eight keys do not divide


def curve(method):
    """The losses of two epochs of three steps, the last batch partial, and the sum of all weights and buffers after them."""
    torch.manual_seed(0)
    train = ClipSet(read("data/us4"), "train", torch.device("cpu"))
    block = BLOCKS[method] | {key: value for key, value in SMALL.items() if key in BLOCKS[method]}
    backbone = ranks.synchronised(Backbone("resnet18"))
    model = pretrain.build(method, {method: block}, {"pipeline": "published"}, backbone, train, train).double()
    optimizer, schedule = descent(model.trained(), 6, **block["optimizer"] | {"name": "sgd", "learning_rate": 0.01})
    draw, losses, loss_of = generator(0, torch.device("cpu")), [], ranks.loss_of(model)
    for epoch in range(2):
        batches = ((frames.double(), clips) for frames, clips in train.batches(4, model.pick, draw))
        going = {"optimizer": optimizer, "schedule": schedule, "draw": draw, "loss_of": loss_of}
        losses += pretrain.train_epoch(model, batches, **going, first_step=3 * epoch, steps=6)[2].tolist()
    sums = {name: float(value.double().abs().sum()) for name, value in model.state_dict().items()}
    return {"losses": losses, "sums": sums}


def torchrun(*command, **environment):
    """Run a command in two processes; neither waits for the network or for other machines."""
    full = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *command]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "SONOPAIR_DEVICE": "cpu"} | environment
    return subprocess.run(full, env=environment, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """method → what one process and what two processes computed."""
    folder = tmp_path_factory.mktemp("ranks")
    write_us4(folder / "data/us4", CLIPS)
    done = subprocess.run([sys.executable, __file__, "one.json"], cwd=folder, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert done.returncode == 0
    here = Path.cwd()
    os.chdir(folder)
    try:
        done = torchrun(__file__, "two.json")
    finally:
        os.chdir(here)
    assert done.returncode == 0, done.stderr
    return [json.loads((folder / name).read_text()) for name in ("one.json", "two.json")]


@pytest.mark.parametrize("method", METHODS)
def test_two_processes_give_the_curve_of_one(both, method):
    one, two = (result[method] for result in both)
    assert len(set(one["losses"])) > 3
    assert two["losses"] == pytest.approx(one["losses"], rel=1e-5, abs=1e-7)
    assert two["sums"] == pytest.approx(one["sums"], rel=1e-5, abs=1e-7)


if __name__ == "__main__":
    with ranks.group(torch.device("cpu")):
        results = {method: curve(method) for method in METHODS}
        if ranks.first():
            Path(sys.argv[1]).write_text(json.dumps(results))
