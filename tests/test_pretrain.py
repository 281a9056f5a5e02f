"""The loop: what it writes, that it goes on bit for bit where it was killed, and what it refuses."""

import pandas as pd
import pytest
import torch
import torchvision
from conftest import write_us4
from safetensors.torch import load_file
from test_methods import BLOCKS, METHODS

from stages import pretrain
from stages.lib import checkpoint
from stages.lib.params import UserError
from stages.lib.resume import Resume
from stages.lib.training import descent

CLIPS = [(3 + number % 4, ["a", "b", ""][number % 3], "held_out" if number % 4 == 0 else "train") for number in range(12)]
SETTINGS = {"seed": 0, "method": "uscl", "arch": "resnet18", "epochs": 4, "batch_size": 4, "steps_per_epoch": None,
            "keep": "best_held_out_loss", "methods": BLOCKS}


def changed(part, **values):
    """The blocks of all methods with some values of a part of USCL's changed."""
    return BLOCKS | {"uscl": BLOCKS["uscl"] | {part: BLOCKS["uscl"][part] | values}}


@pytest.fixture
def us4(workspace):
    write_us4(workspace / "data/us4", CLIPS)
    return workspace


def result():
    return load_file("models/pretrained.safetensors"), pd.read_csv("reports/pretrain.csv").drop(columns="seconds")


def test_plain_torchvision_loads_the_weights(us4):
    pretrain.main(**SETTINGS)
    network = torchvision.models.resnet18()
    absent = network.load_state_dict(load_file("models/pretrained.safetensors"), strict=False)
    assert absent.missing_keys == ["fc.weight", "fc.bias"] and not absent.unexpected_keys
    assert not torch.equal(network.conv1.weight, torchvision.models.resnet18().conv1.weight)


def test_the_runs_facts_are_in_the_metadata(us4):
    pretrain.main(**SETTINGS)
    facts = checkpoint.facts()
    rows = pd.read_csv("reports/pretrain.csv")
    assert facts["method"] == "uscl" and facts["clips"] == 9 and facts["params"] == BLOCKS["uscl"]
    assert facts["epoch"] == rows["held_out_loss"].idxmin()
    assert facts["held_out_loss"] == rows["held_out_loss"].min()
    assert rows["step"].tolist() == [3, 6, 9, 12] and rows["epoch"].tolist() == [0, 1, 2, 3]
    assert rows["loss"].to_numpy() == pytest.approx((rows["contrastive"] + 0.2 * rows["classification"]).to_numpy(), 1e-5)


def test_keep_last_epoch_keeps_the_last(us4):
    pretrain.main(**SETTINGS | {"keep": "last_epoch"})
    assert checkpoint.facts()["epoch"] == 3


@pytest.mark.parametrize("held_out", [0, 1])
def test_no_epoch_is_chosen_by_fewer_than_two_clips(workspace, held_out):
    """A single clip has no negative: its loss is 0 in every epoch."""
    write_us4(workspace / "data/us4", [(3, "a", "train")] * 6 + [(3, "a", "held_out")] * held_out)
    with pytest.raises(UserError, match=f"clips held out: {held_out}, too few"):
        pretrain.main(**SETTINGS)
    pretrain.main(**SETTINGS | {"keep": "last_epoch", "epochs": 1})


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("killed_in", [1, 3])
def test_an_interrupted_run_ends_with_the_same_weights(us4, monkeypatch, method, killed_in):
    """Killed in the middle of an epoch, as late as after its last step."""
    settings = SETTINGS | {"method": method}
    pretrain.main(**settings)
    weights, rows = result()

    real = pretrain.train_epoch
    calls = iter(range(100))

    def killed(*arguments):
        row = real(*arguments)
        if next(calls) == killed_in:
            raise KeyboardInterrupt
        return row

    monkeypatch.setattr(pretrain, "train_epoch", killed)
    with pytest.raises(KeyboardInterrupt):
        pretrain.main(**settings)
    monkeypatch.setattr(pretrain, "train_epoch", real)
    torch.manual_seed(99)
    pretrain.main(**settings)
    again, rows_again = result()
    assert all(torch.equal(weights[name], again[name]) for name in weights)
    pd.testing.assert_frame_equal(rows, rows_again)
    assert not (us4 / "models/pretrain.unfinished").exists()


def test_a_state_of_other_parameters_data_or_code_is_not_used(workspace):
    (workspace / "data").write_text("frames")
    Resume("state", {"seed": 0}, [workspace / "data"]).save(step=3)
    assert Resume("state", {"seed": 0}, [workspace / "data"]).load() == {"step": 3}
    assert Resume("state", {"seed": 1}, [workspace / "data"]).load() is None
    (workspace / "data").write_text("other frames")
    assert Resume("state", {"seed": 0}, [workspace / "data"]).load() is None


def test_the_seed_decides(us4):
    weights = []
    for seed in (0, 0, 1):
        pretrain.main(**SETTINGS | {"epochs": 1, "seed": seed})
        weights.append(result()[0]["layer4.1.conv2.weight"])
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_the_schedule_is_constant_then_a_cosine_to_zero():
    _, rate = descent([torch.nn.Parameter(torch.zeros(1))], 100, "adam", 0.3, 0.0, 0.2)
    assert [rate(step) for step in (0, 10, 20)] == [0.3] * 3
    assert rate(60) == pytest.approx(0.15) and rate(100) == pytest.approx(0)
    assert all(rate(step + 1) < rate(step) for step in range(20, 100))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"method": "unknown"}, "pretrain.method is 'unknown'; choose from"),
        ({"arch": "resnet1"}, "pretrain.arch is 'resnet1'; choose from .*resnet18"),
        ({"arch": "squeezenet1_0"}, "does not end in one linear layer"),
        ({"epochs": 0}, "pretrain.epochs is 0"),
        ({"batch_size": 10}, "pretrain.batch_size is 10; choose 2 to 9"),
        ({"keep": "best"}, "pretrain.keep is 'best'; choose from best_held_out_loss, last_epoch"),
        ({"steps_per_epoch": 0}, "pretrain.steps_per_epoch"),
        ({"methods": {}}, "methods has no block 'uscl'"),
        ({"methods": changed("optimizer", lr=0.1)}, "methods.uscl.optimizer.lr is not a parameter"),
        ({"methods": changed("optimizer", name="lars")}, "optimizer.name is 'lars'; choose from adam, adamw, sgd"),
        ({"methods": changed("optimizer", learning_rate=0)}, "optimizer.learning_rate is 0; it must be above 0"),
        ({"methods": changed("views", crop_scale=["a", "b"])}, "views.crop_scale is .* it needs two numbers"),
    ],
)
def test_what_cannot_be_trained_is_one_sentence(us4, change, sentence):
    with pytest.raises(UserError, match=sentence):
        pretrain.main(**SETTINGS | change)
    assert not (us4 / "models/pretrained.safetensors").exists()


def test_a_diverging_run_stops_and_keeps_the_state_before(us4):
    blocks = changed("optimizer", name="sgd", learning_rate=1.0e30)
    with pytest.raises(UserError, match="lower methods.uscl.optimizer.learning_rate"):
        pretrain.main(**SETTINGS | {"methods": blocks})
    assert not (us4 / "models/pretrained.safetensors").exists()


def test_the_same_run_gives_the_same_file(us4):
    """Byte for byte: else every stage behind it would run again."""
    files = []
    for _ in range(2):
        pretrain.main(**SETTINGS | {"epochs": 1})
        files.append((us4 / "models/pretrained.safetensors").read_bytes())
    assert files[0] == files[1]
