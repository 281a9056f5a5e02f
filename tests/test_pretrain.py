"""The loop: what it writes, that it goes on bit for bit where it was killed, and what it refuses."""

import json
import math
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
import torchvision
from conftest import write_us4
from safetensors.torch import load_file
from test_methods import BLOCKS, METHODS, PUBLISHED, build, clip_sets, small

from stages import pretrain
from stages.lib.networks import checkpoint, clip_features
from stages.lib.params import UserError, checked
from stages.lib.pretraining import pairs
from stages.lib.pretraining.measures import better
from stages.lib.training.optimizer import optimizer_and_schedule, set_learning_rate
from stages.lib.training.resume import Resume

CLIPS = [(3 + number % 4, ["a", "b", ""][number % 3], "held_out" if number % 4 == 0 else "train") for number in range(12)]
ARCH = "shufflenet_v2_x0_5"      # small, with batch norm and a layer fc
SETTINGS = {"seed": 0, "method": "uscl", "arch": ARCH, "init": "random", "epochs": 4, "batch_size": 4,
            "steps_per_epoch": None, "measure_every": 2, "methods": {name: small(BLOCKS[name]) for name in METHODS},
            "views": PUBLISHED}


def changed(part, **values):
    """The blocks of all methods with some values of a part of USCL's changed."""
    return BLOCKS | {"uscl": BLOCKS["uscl"] | {part: BLOCKS["uscl"][part] | values}}


def keeping(keep):
    return {"methods": BLOCKS | {"uscl": BLOCKS["uscl"] | {"keep": keep}}}


@pytest.fixture
def us4(workspace):
    write_us4(workspace / "data/us4", CLIPS)
    return workspace


@pytest.fixture
def train_method(workspace):
    return build("simclr", clip_sets(workspace)[0])


def result():
    return load_file("models/pretrained.safetensors"), pd.read_csv("reports/pretrain.csv")


def test_plain_torchvision_loads_the_weights(us4):
    pretrain.main(**SETTINGS | {"arch": "resnet18", "epochs": 1})
    network = torchvision.models.resnet18()
    absent = network.load_state_dict(load_file("models/pretrained.safetensors"), strict=False)
    assert absent.missing_keys == ["fc.weight", "fc.bias"] and not absent.unexpected_keys
    assert not torch.equal(network.conv1.weight, torchvision.models.resnet18().conv1.weight)


def test_the_runs_facts_are_in_the_metadata(us4):
    pretrain.main(**SETTINGS)
    facts = checkpoint.facts()
    rows = pd.read_csv("reports/pretrain.csv")
    assert facts["method"] == "uscl" and facts["clips"] == 9 and facts["params"] == SETTINGS["methods"]["uscl"]
    assert facts["epoch"] == rows["held_out_loss"].idxmin()
    assert (facts["mean"], facts["std"]) == (0.5, 0.25)
    assert facts["held_out_loss"] == rows["held_out_loss"].min() and facts["threads"] == [torch.get_num_threads()] * 2
    assert rows["knn_accuracy"].notna().tolist() == rows["uniformity"].notna().tolist() == [False, True, False, True]
    assert rows["step"].tolist() == [2, 4, 6, 8] and rows["epoch"].tolist() == [0, 1, 2, 3]
    assert rows["loss"].to_numpy() == pytest.approx((rows["contrastive"] + 0.2 * rows["classification"]).to_numpy(), 1e-5)


def test_the_pairs_of_every_look_are_in_the_table(us4):
    """Against the method's own table of clips: every training clip once in each epoch that was looked at."""
    pretrain.main(**SETTINGS | {"method": "meta_uscl", "epochs": 3})
    pairs, clips = pd.read_csv("reports/pairs/pairs.csv"), pd.read_csv("data/us4/clips.csv")
    assert list(pairs)[:4] == ["epoch", "pair", "clip", "source"] and {"frame_distance", "weight"} <= set(pairs)
    assert pairs["epoch"].unique().tolist() == [1, 2]
    trained = sorted(clips.loc[clips["split"] == "train", "clip"])
    assert all(sorted(part["clip"]) == trained for _, part in pairs.groupby("epoch"))
    longest = pairs["clip"].map(clips.set_index("clip")["frames"]) - 1
    assert (pairs["frame_distance"] <= longest).all() and pairs["weight"].between(0, 1).all()
    assert (pairs["clip_frames"] == longest + 1).all()


def test_a_method_that_says_nothing_of_pairs_leaves_an_empty_table(us4):
    pretrain.main(**SETTINGS | {"epochs": 1})
    assert Path("reports/pairs/pairs.csv").read_text() == "epoch,pair,clip,source,clip_frames\n"


def test_negatives_lie_within_the_window_of_their_epoch(workspace):
    """It shrinks from an epoch's begin, the end of the one before, to its end; they come in with the second of five."""
    write_us4(workspace / "data/us4", [(60 + 9 * number, "", "train") for number in range(8)] + [(9, "", "held_out")] * 2)
    pretrain.main(**SETTINGS | {"method": "ucl", "epochs": 5, "measure_every": 1})
    rows, pairs = pd.read_csv("reports/pretrain.csv"), pd.read_csv("reports/pairs/pairs.csv")
    share = pairs["negative_frame_distance"] / pairs["clip_frames"]
    assert share.notna().groupby(pairs["epoch"]).sum().tolist() == [0, *[8] * 4]
    low, high = (pairs["epoch"].map(rows[f"negative_{edge}"].shift(shift)) for edge, shift in (("low", 0), ("high", 1)))
    later = pairs["epoch"] > 0
    assert (share[later] >= low[later]).all() and (share[later] <= high[later]).all()
    assert rows["negative_high"].iloc[[0, -1]].tolist() == pytest.approx([0.4, 0.07])


def test_the_features_of_the_held_out_clips_are_those_of_the_kept_weights(us4, monkeypatch, single_precision):
    """Mean unit feature of four frames, evenly spread, by plain torchvision; what the nearest training clips say."""
    edited = pd.read_csv("data/us4/clips.csv").assign(source=["lusms", "clust", "clust"] * 4)
    edited.to_csv("data/us4/clips.csv", index=False)
    losses = iter([3.0, 1.0, 2.0, 1.5])
    monkeypatch.setattr(pretrain, "held_out_loss", lambda *_: next(losses))
    pretrain.main(**SETTINGS | {"measure_every": 4, "methods": changed("optimizer", name="sgd", learning_rate=0.3)})
    facts = checkpoint.facts()
    assert facts["epoch"] == 1      # of 4; after it the weights go far
    network = torchvision.models.get_model(ARCH)
    network.load_state_dict(checkpoint.weights(), strict=False)
    network.fc = torch.nn.Identity()
    frames, vectors = np.load("data/us4/frames.npy"), []
    for clip in edited.itertuples():
        chosen = [clip.first + round(place * (clip.frames - 1) / 3) for place in range(4)]
        seen = (torch.tensor(frames[chosen])[:, None] / 255 - 0.5) / 0.25
        with torch.no_grad():
            vectors.append(F.normalize(network.eval()(seen.expand(-1, 3, -1, -1)), dim=1).mean(0))
    features, clips = clip_features.read("reports/features/pretrain")
    held_out = edited["split"] == "held_out"
    assert clips["clip"].tolist() == edited["clip"][held_out].tolist()
    assert clips["source"].tolist() == edited["source"][held_out].tolist()
    assert clips["pooled_class"].tolist() == edited["pooled_class"].fillna("")[held_out].tolist()
    expected = torch.stack(vectors)
    np.testing.assert_allclose(features, expected.numpy()[held_out], rtol=1e-3, atol=1e-5)
    known = edited["source"][~held_out].mode()[0]       # nine training clips vote, all of them: the most frequent wins
    assert facts["knn_source_accuracy"] == pytest.approx((clips["source"] == known).mean())


def test_keep_last_epoch_keeps_the_last(us4):
    pretrain.main(**SETTINGS | keeping("last_epoch"))
    assert checkpoint.facts()["epoch"] == 3


@pytest.mark.parametrize("held_out", [0, 1])
def test_no_epoch_is_chosen_by_fewer_than_two_clips(workspace, held_out):
    """A single clip has no negative: its loss is 0 in every epoch."""
    write_us4(workspace / "data/us4", [(3, "a", "train")] * 6 + [(3, "a", "held_out")] * held_out)
    with pytest.raises(UserError, match=f"clips held out: {held_out}, too few"):
        pretrain.main(**SETTINGS)
    pretrain.main(**SETTINGS | keeping("last_epoch") | {"epochs": 1})


def test_a_single_clip_is_refused(workspace):
    write_us4(workspace / "data/us4", [(30, "a", "train")])
    with pytest.raises(UserError, match="clips to train on in data/us4: 1; contrast needs two or more"):
        pretrain.main(**SETTINGS | {"batch_size": 1})


# MNASNet refuses weights without the metadata that torch keeps beside them
RUNS = [*((method, ARCH) for method in METHODS), ("meta_uscl", "mobilenet_v3_small"), ("simclr", "mnasnet0_5")]
RARE = BLOCKS | {"meta_uscl": BLOCKS["meta_uscl"] | {"meta_every": 3}}      # a killed run may go on between two meta steps


@pytest.mark.parametrize(("method", "arch"), RUNS)
def test_an_interrupted_run_ends_with_the_same_weights(us4, monkeypatch, method, arch):
    """Killed twice: in the second epoch, and after the last step. MobileNet draws dropout from torch's own stream."""
    methods = RARE if arch.startswith("mobilenet") else SETTINGS["methods"]
    settings = SETTINGS | {"method": method, "arch": arch, "methods": methods}
    pretrain.main(**settings)
    weights, rows = result()

    real, calls = pretrain.train_epoch, iter(range(100))

    def killed(*arguments, **named):
        row = real(*arguments, **named)
        if next(calls) in (1, 4):           # epochs 0, 1 ✗, 1, 2, 3 ✗, 3
            raise KeyboardInterrupt
        return row

    monkeypatch.setattr(pretrain, "train_epoch", killed)
    for seed in (98, 99):
        with pytest.raises(KeyboardInterrupt):
            pretrain.main(**settings)
        torch.manual_seed(seed)
    pretrain.main(**settings)
    assert next(calls) == 6                 # no epoch was trained again but those two
    again, rows_again = result()
    assert all(torch.equal(weights[name], again[name]) for name in weights)
    pd.testing.assert_frame_equal(rows, rows_again)
    assert not (us4 / "models/pretrain.unfinished").exists()


RUN = '''
import json, os, signal, sys
from stages import pretrain

steps, real = iter(range(100)), pretrain.set_learning_rate

def counted(*given):
    if next(steps) == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    real(*given)

if killed := os.fork():
    assert os.waitstatus_to_exitcode(os.waitpid(killed, 0)[1]) == -signal.SIGKILL
else:
    pretrain.set_learning_rate = counted
pretrain.main(**json.loads(sys.argv[1]))
'''


@pytest.mark.parametrize("method", ["ucl", "meta_uscl"])
def test_a_run_killed_by_sigkill_goes_on_in_another_process(us4, monkeypatch, method):
    """In the second step of the third epoch. All that moves goes on: key encoder and bank, or weight network, its optimiser and
    its random stream. The killed process is a fork of one that has trained nothing and then goes on.
    """
    monkeypatch.setenv("PYTHONPATH", str(Path(pretrain.__file__).parents[1]))
    settings = SETTINGS | {"method": method, "epochs": 4}
    pretrain.main(**settings)
    weights, rows = result()
    done = subprocess.run([sys.executable, "-c", RUN, json.dumps(settings)], check=True, capture_output=True, text=True)
    assert "2 of 4 epochs were done before; continuing" in done.stdout
    weights_again, rows_again = result()
    assert all(torch.equal(weights[name], weights_again[name]) for name in weights)
    pd.testing.assert_frame_equal(rows, rows_again)


@pytest.mark.parametrize("method", ["ucl", "meta_uscl"])
def test_a_run_that_is_killed_when_it_writes_its_pairs_writes_the_same_ones(us4, monkeypatch, method):
    """All epochs are done then, so that none tells the method how far it has come."""
    settings = SETTINGS | {"method": method, "epochs": 2}
    pretrain.main(**settings)
    files = {path.name: path.read_bytes() for path in Path("reports/pairs").iterdir()}
    assert set(files) == {"pairs.csv", "views.csv", "views.npy"}
    shutil.rmtree("reports/pairs")
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(pairs, "pictures", lambda *_: 1 / 0)
        pretrain.main(**settings)
    monkeypatch.setattr(pretrain, "train_epoch", lambda *_, **__: 1 / 0)
    pretrain.main(**settings)
    assert files == {path.name: path.read_bytes() for path in Path("reports/pairs").iterdir()}


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
        weights.append(result()[0]["conv5.0.weight"])
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_the_schedule_is_constant_then_a_cosine_to_zero():
    _, rate = optimizer_and_schedule([torch.nn.Parameter(torch.zeros(1))], 100, "adam", 0.3, 0.0, 0.0, 0.2, None)
    assert [rate(step) for step in (0, 10, 20)] == [0.3] * 3
    assert rate(60) == pytest.approx(0.15) and rate(100) == pytest.approx(0)
    assert all(rate(step + 1) < rate(step) for step in range(20, 100))


def test_the_rate_warms_up_to_where_the_constant_part_begins():
    _, rate = optimizer_and_schedule([torch.nn.Parameter(torch.zeros(1))], 100, "sgd", 0.1, 0.0, 0.2, 0.1, None)
    assert rate(0) == pytest.approx(0.1 * (0.1 + 0.9 * math.exp(-5)))
    assert rate(10) == pytest.approx(0.1 * (0.1 + 0.9 * math.exp(-1.25)))
    assert all(rate(step) < rate(step + 1) for step in range(20)) and rate(20) == rate(29) == 0.1 > rate(31)


def test_long_gradients_are_shortened_and_short_ones_left():
    """Two parameters, SGD of rate 1: the step is the gradient, its norm over both at most the limit."""
    for size, expected in ((10.0, 2.0), (0.5, 0.5)):
        parameters = [torch.nn.Parameter(torch.zeros(3)), torch.nn.Parameter(torch.zeros(1))]
        optimizer, _ = optimizer_and_schedule(parameters, 1, "sgd", 1.0, 0.0, 0.0, 1.0, 2.0)
        gradient = torch.tensor([1.0, -2.0, 2.0, 4.0]) / 5 * size
        parameters[0].grad, parameters[1].grad = gradient[:3].clone(), gradient[3:].clone()
        optimizer.step()
        step = torch.cat([parameter.detach() for parameter in parameters])
        assert float(step.norm()) == pytest.approx(expected, rel=1e-4)
        assert torch.allclose(step / step.norm(), -gradient / gradient.norm(), atol=1e-5)


def test_a_zero_gradient_passes_the_limit_and_nothing_is_read_from_the_device(monkeypatch):
    """A frozen or masked batch has one; `bool` of a tensor would wait for the GPU in every step."""
    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer, _ = optimizer_and_schedule([parameter], 1, "sgd", 1.0, 0.0, 0.0, 1.0, 2.0)
    parameter.grad = torch.zeros(3)

    def read(_):
        raise AssertionError("a value was read")

    with monkeypatch.context() as patch:
        for name in ("__bool__", "item", "__float__", "tolist"):
            patch.setattr(torch.Tensor, name, read)
        optimizer.step()
    assert parameter.tolist() == [1.0, 1.0, 1.0]


def test_a_group_of_constant_rate_stays_outside_the_schedule():
    first, second = (torch.nn.Parameter(torch.ones(1)) for _ in range(2))
    groups = [{"params": [first]}, {"params": [second], "constant_rate": True}]
    optimizer, rate = optimizer_and_schedule(groups, 10, "sgd", 0.5, 0.0, 0.0, 0.0, None)
    for step in (0, 5, 9):
        set_learning_rate(optimizer, rate(step))
        assert [group["lr"] for group in optimizer.param_groups] == [rate(step), 0.5]
    assert rate(9) < 0.02


@pytest.mark.parametrize(("losses", "kept"), [
    ([math.nan, 3.0, 2.0, 2.5], 2), ([3.0, math.nan, 2.0], 2), ([2.0, math.nan, 3.0], 0), ([math.nan, math.nan], 1),
    ([math.inf, 1.0], 1),
])  # fmt: skip
def test_a_held_out_loss_that_is_no_number_is_never_the_best_for_long(train_method, losses, kept):
    best = {}
    for epoch, loss in enumerate(losses):
        best = better(best, "best_held_out_loss", {"epoch": epoch, "held_out_loss": loss}, train_method)
    assert best["epoch"] == kept


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"method": "unknown"}, "pretrain.method is 'unknown'; choose from"),
        ({"arch": "resnet1"}, "pretrain.arch is 'resnet1'; it must be one of .*resnet18"),
        ({"arch": "squeezenet1_0"}, "does not end in one linear layer"),
        ({"epochs": 0}, "pretrain.epochs is 0; it must be 1 or more"),
        ({"batch_size": 1}, "pretrain.batch_size is 1; it must be 2 or more"),
        ({"seed": -1}, "pretrain.seed is -1; it must be 0 or more"),
        ({"batch_size": 10}, "pretrain.batch_size is 10; choose 2 to 9"),
        ({"measure_every": 0}, "pretrain.measure_every is 0; it must be 1 or more"),
        (keeping("best"), "methods.uscl.keep is 'best'; it must be 'best_held_out_loss' or 'last_epoch'"),
        ({"init": "pretrained"}, "pretrain.init is 'pretrained'; it must be random, imagenet or a file"),
        ({"init": "weights.pth"}, "init is 'weights.pth'; it must be random, imagenet"),
        ({"methods": changed("optimizer", warmup_fraction=0.6, constant_fraction=0.5)}, "_fraction is 0.6 and .*1 or less"),
        ({"methods": changed("optimizer", gradient_norm=0)}, "optimizer.gradient_norm is 0"),
        ({"steps_per_epoch": 0}, "pretrain.steps_per_epoch is 0; it must be 1 or more or null"),
        ({"methods": {}}, "methods has no block 'uscl'"),
        ({"methods": changed("optimizer", lr=0.1)}, "methods.uscl.optimizer.lr is not a parameter"),
        ({"methods": changed("optimizer", name="lars")},
         "methods.uscl.optimizer.name is 'lars'; it must be 'adam', 'adamw' or 'sgd'"),
        ({"methods": changed("optimizer", learning_rate=0)}, "optimizer.learning_rate is 0; it must be above 0"),
        ({"methods": changed("views", crop_scale=["a", "b"])}, "methods.uscl.views.crop_scale.* is 'a'; it must be a number"),
    ],
)
def test_what_cannot_be_trained_is_one_sentence(us4, change, sentence):
    with pytest.raises(UserError, match=sentence):
        pretrain.main(**checked(pretrain.main, SETTINGS | change, "pretrain"))
    assert not (us4 / "models/pretrained.safetensors").exists()


def test_a_queue_may_be_smaller_than_a_batch(us4):
    block = BLOCKS["moco_v2"] | {"queue_size": 3}
    pretrain.main(**SETTINGS | {"method": "moco_v2", "epochs": 2, "methods": {"moco_v2": block}})
    assert pd.read_csv("reports/pretrain.csv")["loss"].notna().all()


def test_a_diverging_run_stops_and_says_at_which_step_and_clip(us4):
    blocks = changed("optimizer", name="sgd", learning_rate=1.0e9)
    with pytest.raises(UserError, match=r"step \d+ \(epoch \d\): the loss is .*, clip source/.* lower methods.uscl.opt"):
        pretrain.main(**SETTINGS | {"methods": blocks})
    assert not (us4 / "models/pretrained.safetensors").exists()


@pytest.mark.parametrize("labelled", [True, False])
def test_features_that_are_not_finite_stop_the_run_though_its_losses_are(workspace, labelled):
    """Batch norm in training hides weights that only the running statistics let overflow."""
    write_us4(workspace / "data/us4", CLIPS if labelled else [(frames, "", split) for frames, _, split in CLIPS])
    block = BLOCKS["simclr"] | {"optimizer": BLOCKS["simclr"]["optimizer"] | {"name": "sgd", "learning_rate": 1.0e3}}
    changes = {"method": "simclr", "arch": "shufflenet_v2_x0_5", "epochs": 2, "methods": {"simclr": block}}
    with pytest.raises(UserError, match=r"the kept weights give features that are not finite; lower optimizer\.learning_rate"):
        pretrain.main(**SETTINGS | changes)
    assert not (workspace / "models/pretrained.safetensors").exists()


@pytest.mark.parametrize("bad_step", [0, 2, 3])
def test_a_loss_that_is_no_number_names_its_step_and_clip_and_keeps_the_epoch_before(us4, monkeypatch, bad_step):
    """In epochs of 2 steps; the state is that after the last whole epoch, and the clips are those of the step."""
    method = import_module("stages.methods.uscl").Method
    real, seen = method.loss, []

    def loss(self, frames, clips, draw):
        value, terms = real(self, frames, clips, draw)
        if not self.training or round(self.progress * 8) != bad_step:
            return value, terms
        seen.append(clips.index.tolist())
        return value * torch.nan, terms

    monkeypatch.setattr(method, "loss", loss)
    epoch = bad_step // 2
    with pytest.raises(UserError, match=rf"step {bad_step} \(epoch {epoch}\): the loss is nan, clip source/") as failure:
        pretrain.main(**SETTINGS)
    names, more = [f"source/{number}.mp4" for number in seen[0]], len(seen[0]) - 3
    assert f"clip {', '.join(names[:3])}{f' and {more} more' if more else ''}; lower" in str(failure.value)
    state = torch.load("models/pretrain.unfinished", weights_only=True)
    assert [row["epoch"] for row in state["rows"]] == list(range(epoch))
    assert all(value.isfinite().all() for value in state["model"].values() if torch.is_tensor(value))
    assert str(failure.value).endswith("(models/pretrain.unfinished keeps the state before this epoch)")


def test_the_same_run_gives_the_same_file(us4):
    """Byte for byte: else every stage behind it would run again."""
    files = []
    for _ in range(2):
        pretrain.main(**SETTINGS | {"epochs": 1})
        files.append((us4 / "models/pretrained.safetensors").read_bytes())
    assert files[0] == files[1]
