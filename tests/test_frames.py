"""Frames on the device or on the host: the same numbers wherever they lie."""

import pandas as pd
import pytest
import torch
from conftest import write_us4
from test_methods import BLOCKS, PUBLISHED, small

from stages import pretrain
from stages.lib.clips import store
from stages.lib.params import UserError
from stages.lib.pretraining.clip_set import ClipSet
from stages.lib.training.device_frames import DeviceFrames

CLIPS = [(2 + number % 4, ("a", "b", "")[number % 3], "held_out" if number % 4 == 0 else "train") for number in range(12)]
CPU = torch.device("cpu")


def pair(clips, generator):
    return torch.stack([clips.count - 1, clips.count // 2], 1)


@pytest.mark.parametrize("where", [None, "auto", "device", "host"])
def test_frames_are_those_of_the_rows_in_0_to_1(monkeypatch, where):
    monkeypatch.setenv("SONOPAIR_FRAMES_ON", where) if where else monkeypatch.delenv("SONOPAIR_FRAMES_ON", raising=False)
    stored = torch.randint(0, 256, (7, 1, 4, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    frames, rows = DeviceFrames(stored, CPU), torch.tensor([[3, 0, 3], [6, 1, 2]])
    found = frames[rows]
    assert found.shape == (2, 3, 1, 4, 5) and found.dtype == torch.float32
    for place in ((0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)):
        assert torch.equal(found[place], stored[int(rows[place])].float() / 255)
    assert len(frames) == 7 and frames.shape == stored.shape and frames.device == CPU
    with frames.beside() as loaded:
        loaded += [frames[rows]]
    frames.catch_up()


def test_batches_are_equal_from_the_device_and_from_the_host(workspace, monkeypatch):
    write_us4(workspace / "us4", CLIPS)
    epochs = {}
    for where in ("device", "host"):
        monkeypatch.setenv("SONOPAIR_FRAMES_ON", where)
        train = ClipSet(store.read("us4"), "train", CPU)
        epochs[where] = list(train.batches(3, pair, torch.Generator().manual_seed(1)))
    assert len(epochs["device"]) == 3
    for (frames, clips), (others, same) in zip(epochs["device"], epochs["host"], strict=True):
        assert torch.equal(frames, others) and all(torch.equal(*values) for values in zip(clips[:3], same[:3], strict=True))


@pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
def test_rows_of_any_shape_are_copied_from_the_host(monkeypatch, shape):
    """As on a machine with a GPU, but for the pinned memory: a stream says that the frames lie on the host."""
    monkeypatch.setattr(torch, "empty", lambda *size, pin_memory, real=torch.empty, **named: real(*size, **named))
    stored, rows = torch.arange(7, dtype=torch.uint8)[:, None, None, None].expand(7, 1, 4, 5), torch.full(shape, 2)
    frames = DeviceFrames(stored.clone(), CPU)
    frames.stream = object()
    assert torch.equal(frames[rows], torch.full((*shape, 1, 4, 5), 2 / 255))


def test_frames_are_copied_once_it_is_known_which(workspace, monkeypatch):
    """The copies have a stream of their own, which waits for what was asked of the GPU before `catch_up`."""
    write_us4(workspace / "us4", CLIPS)
    train, asked = ClipSet(store.read("us4"), "train", CPU), []
    monkeypatch.setattr(ClipSet, "order", lambda *given, real=ClipSet.order: asked.append("order") or real(*given))
    monkeypatch.setattr(train.frames, "catch_up", lambda: asked.append("catch up"))
    list(train.batches(3, pair, torch.Generator().manual_seed(1)))
    assert asked == ["order", "catch up"]


@pytest.mark.parametrize("where", ["gpu", "", "Host"])
def test_another_place_is_refused_with_the_choices(monkeypatch, where):
    monkeypatch.setenv("SONOPAIR_FRAMES_ON", where)
    with pytest.raises(UserError, match=f"^SONOPAIR_FRAMES_ON is '{where}'; choose from auto, device, host$"):
        DeviceFrames(torch.zeros(1, 1, 2, 2, dtype=torch.uint8), CPU)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_frames_that_do_not_fit_stay_on_the_host(monkeypatch):
    monkeypatch.delenv("SONOPAIR_FRAMES_ON", raising=False)
    stored = torch.zeros(4, 1, 8, 8, dtype=torch.uint8)
    for free, device in ((10 * stored.nbytes, "cuda"), (2 * stored.nbytes, "cuda"), (2 * stored.nbytes - 1, "cpu")):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda where, free=free: (free, 10 * free))
        frames = DeviceFrames(stored, torch.device("cuda", 0))
        assert frames.stored.device.type == device and frames.stored.is_pinned() == (device == "cpu")
        assert frames[torch.tensor([[1, 2]], device="cuda")].device.type == "cuda"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("method", ["simclr", "ucl"])
def test_the_loss_curve_is_the_same_from_the_device_and_from_the_host(workspace, monkeypatch, method):
    """Six epochs, in which the host loads ahead of the GPU: a frame that changed under way would show in the losses."""
    write_us4(workspace / "data/us4", CLIPS)
    monkeypatch.setenv("SONOPAIR_DEVICE", "cuda:0")
    curves = {}
    for where in ("device", "host"):
        monkeypatch.setenv("SONOPAIR_FRAMES_ON", where)
        pretrain.main(seed=0, method=method, arch="resnet18", init="random", epochs=6, batch_size=4, steps_per_epoch=8,
                      measure_every=3, methods={method: small(BLOCKS[method]) | {"keep": "last_epoch"}},
                      views=PUBLISHED)
        curves[where] = pd.read_csv("reports/pretrain.csv")
    pd.testing.assert_frame_equal(curves["device"], curves["host"], check_exact=True)
