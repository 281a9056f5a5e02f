"""Prediction for the user: the numbers of the network on the pipeline's frames, what bad input gets, pictures."""

import runpy
import sys
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from recordings import speckle
from test_dicom import SECRETS, cine
from test_dicom import save as dicom_clip
from test_extract_frames import film, write_images, write_video

from stages import extract_frames
from stages.lib.clips import store
from stages.lib.clips.extraction import Recipe
from stages.lib.networks import checkpoint
from stages.lib.networks.backbone import Backbone, Classifier
from stages.lib.networks.grad_cam import grad_cam
from stages.lib.params import UserError
from stages.lib.report import overlay
from stages.tools import predict
from stages.tools.trained_network import restore, restore_classifier

FACTS = {"task": "lungs", "arch": "resnet18", "classes": ["covid", "regular", "b"], "size_px": 32, "mean": 0.4, "std": 0.2,
         "frame_rate_hz": 5.0, "max_frames_per_clip": 6, "assumed_frame_rate_hz": 20.0}
PREFIX = {"resnet18": "fc", "mobilenet_v3_small": "classifier.3"}


def save(path, changes=(), **facts):
    """A network with random weights as fine-tuning writes it; returns the network."""
    facts = {key: value for key, value in (FACTS | facts).items() if value is not None}
    torch.manual_seed(1)
    network = Classifier(Backbone(facts["arch"]), len(FACTS["classes"])).eval()
    head = {f"{PREFIX[facts['arch']]}.{key}": value for key, value in network.linear.state_dict().items()}
    state = network.backbone.network.state_dict() | head | dict(changes)
    checkpoint.write({key: value for key, value in state.items() if value is not None}, facts, Path(path))
    return network


@pytest.fixture
def project(workspace, monkeypatch):
    """An empty project with a network, a folder of two videos and two stills of one clip, and a file that is no video."""
    monkeypatch.setenv("SONOPAIR_WORKERS", "1")
    (workspace / "models").mkdir()
    write_video(workspace / "in/a.mp4", film(12), fps=10)
    write_video(workspace / "in/deep/b.avi", film(30, seed=1), fps=10)
    write_images(workspace / "in/stills", film(2, seed=2))
    (workspace / "in/broken.mp4").write_bytes(b"no video")
    (workspace / "in/notes.txt").write_text("not a clip")
    return workspace


def run(*paths, recording=True, cam=False):
    predict.main([Path(path) for path in paths], "lungs", Path("out"), recording, cam)
    text = {"left_out": str, "overlay": str}
    return [pd.read_csv(f"out/{name}.csv", dtype=text).fillna({"left_out": "", "overlay": ""}) if name == "clips"
            else pd.read_csv(f"out/{name}.csv") for name in ("clips", "frames")]


def test_the_probabilities_are_the_networks_on_the_frames_that_the_pipeline_extracts(project, capsys):
    network = save("models/lungs.safetensors")
    clips, frames = run("in")
    table = pd.DataFrame({"clip": ["in/a.mp4", "in/deep/b.avi", "in/stills"], "fps": np.nan, "left_out": ""})
    (project / "check").mkdir()
    extract_frames.extract_all(table.assign(path=table["clip"]), project / "check", "check", Recipe(5.0, 6, 20.0, 32))
    data = store.read(project / "check")
    with torch.no_grad():
        seen = (torch.tensor(np.array(data.frames))[:, None] / 255 - 0.4) / 0.2
        expected = network(seen).softmax(1).numpy()
    assert list(frames["clip"]) == list(data.frame_table["clip"]) and list(frames["frame"]) == list(data.frame_table["frame"])
    assert list(frames["time_s"].dropna()) == list(data.frame_table["time_s"].dropna())
    np.testing.assert_allclose(frames[["p_covid", "p_regular", "p_b"]], expected, atol=1e-5)
    for clip in clips[clips["left_out"] == ""].itertuples():
        mean = expected[(data.frame_table["clip"] == clip.clip).to_numpy()].mean(0)
        np.testing.assert_allclose([clip.p_covid, clip.p_regular, clip.p_b], mean, atol=1e-5)
        assert clip.predicted == FACTS["classes"][mean.argmax()]
    assert list(clips["frames"][clips["left_out"] == ""]) == [6, 6, 2]
    assert (clips["note"] == "for research only, not for diagnosis").all()
    said = capsys.readouterr().out
    assert "For research only, not for diagnosis." in said and "its scores: models/README.md" in said


def test_files_that_cannot_be_read_are_listed_and_the_others_go_on(project, capsys):
    save("models/lungs.safetensors")
    (project / "empty").mkdir()
    clips, frames = run("in", "in/a.mp4", "nowhere.mp4", "in/notes.txt", "empty")
    reasons = dict(zip(clips["clip"], clips["left_out"], strict=True))
    assert list(reasons) == ["in/a.mp4", "in/broken.mp4", "in/deep/b.avi", "in/stills", "nowhere.mp4", "in/notes.txt", "empty"]
    assert reasons["in/a.mp4"] == reasons["in/deep/b.avi"] == reasons["in/stills"] == ""
    assert "no frame can be decoded" in reasons["in/broken.mp4"] and reasons["nowhere.mp4"].startswith("the file is missing")
    assert reasons["in/notes.txt"] and "holds no clip" in reasons["empty"]
    assert clips["p_covid"].isna().tolist() == [reason != "" for reason in reasons.values()]
    assert set(frames["clip"]) == {"in/a.mp4", "in/deep/b.avi", "in/stills"}
    said = capsys.readouterr().out
    assert all(f"left out: {clip}: {reason}" in said for clip, reason in reasons.items() if reason)
    assert "3 of 7 clips" in said


def test_a_dicom_clip_is_predicted_and_its_header_stays_with_it(project, capsys):
    save("models/lungs.safetensors")
    dicom_clip(cine(speckle(12), FrameTime="100", BurnedInAnnotation="YES"), project / "clip.dcm")
    clips, frames = run("clip.dcm")
    assert (clips["clip"].item(), clips["frames"].item(), clips["left_out"].item()) == ("clip.dcm", 6, "")
    assert list(frames["time_s"]) == pytest.approx(np.arange(6) / 5)
    said = capsys.readouterr().out + Path("out/clips.csv").read_text() + Path("out/frames.csv").read_text()
    assert not [secret for secret in SECRETS if secret in said]


def test_no_clip_at_all_is_one_sentence_and_nothing_is_written(project):
    save("models/lungs.safetensors")
    with pytest.raises(UserError, match="none of the 2 clips can be used; the first is in/broken.mp4: no frame can be dec"):
        run("in/broken.mp4", "nowhere.mp4")
    assert not Path("out").exists()


def test_grad_cam_of_the_predicted_class_is_drawn_over_every_frame(project):
    network = save("models/lungs.safetensors", {"fc.bias": torch.tensor([0.0, 0.0, 9.0])}, size_px=96)  # changes no map
    cv2.imwrite("in/one.png", film(1, seed=4)[0])
    clips, frames = run("in/a.mp4", "in/stills", "in/one.png", cam=True)
    assert list(clips["overlay"]) == ["001_a.mp4", "002_stills.png", "003_one.png"]
    video = cv2.VideoCapture("out/001_a.mp4")
    assert video.get(cv2.CAP_PROP_FRAME_COUNT) == 6
    times = frames["time_s"][frames["clip"] == "in/a.mp4"]
    assert video.get(cv2.CAP_PROP_FPS) == pytest.approx(5 / (times.iloc[-1] - times.iloc[0]), rel=0.01)
    sheet, one = cv2.imread("out/002_stills.png"), cv2.imread("out/003_one.png")
    assert sheet.shape == (one.shape[0], 2 * one.shape[1], 3)
    table = predict.table([Path("in/one.png")], recording=False)
    (project / "check").mkdir()
    extract_frames.extract_all(table, project / "check", "check", Recipe(5.0, 6, 20.0, 96))
    pixels = np.array(store.read(project / "check").frames)
    seen = (torch.tensor(pixels)[:, None] / 255 - 0.4) / 0.2
    heats = [grad_cam(network, network.backbone.last_block(), seen, torch.tensor([number]))[0].numpy() for number in range(3)]
    drawn = [overlay.panel(pixels[0], heat / max(heat.max(), 1e-12), [])[:320].astype(int) for heat in heats]
    assert clips["predicted"][2] == "b"
    differences = [np.abs(one[:320] - picture).mean() for picture in drawn]
    assert differences[2] < 0.1 and min(differences[:2]) > 1


def test_each_image_of_a_folder_is_a_clip_and_a_mask_is_none(project):
    """BUSI as published, with the masks in a folder beside, and UDIAT; a mask-like name without its image is an image."""
    save("models/lungs.safetensors")
    names = ["busi/benign/benign (1).png", "busi/benign/benign (2).png", "apart/images/a/a_001.jpg", "udiat/original/1.png",
             "busi/benign/old_mask.png"]
    masks = ["busi/benign/benign (1)_mask.png", "busi/benign/benign (1)_mask_1.png", "busi/benign/benign (2)_mask.png",
             "apart/masks/a/a_001_0.png", "udiat/GT/1.png"]
    for number, name in enumerate(names + masks):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(name, film(1, seed=number)[0])
    clips, frames = run("busi", "apart", "udiat", recording=False)
    assert sorted(clips["clip"]) == sorted(names) == sorted(frames["clip"]) and (clips["frames"] == 1).all()
    clips, _ = run("in", "in/stills", recording=False)
    stills = sorted(path.as_posix() for path in Path("in/stills").iterdir())
    assert [clip for clip in clips["clip"] if "stills" in clip] == stills
    clips, _ = run("busi/benign/benign (1)_mask.png", "apart/masks", recording=False)     # asked for by name
    assert list(clips["clip"]) == ["busi/benign/benign (1)_mask.png", "apart/masks/a/a_001_0.png"]


def test_the_overlays_of_the_last_call_go_and_other_files_stay(project):
    save("models/lungs.safetensors")
    run("in", cam=True)
    Path("out/mine.png").write_bytes(b"mine")
    cv2.imwrite("in/one.png", film(1, seed=4)[0])
    run("in/one.png", cam=True)
    assert {path.name for path in Path("out").iterdir()} == {"clips.csv", "frames.csv", "001_one.png", "mine.png"}
    pd.read_csv("out/clips.csv").assign(overlay="../in/one.png").to_csv("out/clips.csv", index=False)
    run("in/a.mp4")
    assert Path("in/one.png").exists()          # nothing outside the folder is removed


def test_a_panel_is_the_frame_and_the_frame_under_the_map():
    """Where the map is 0 the frame shows as it is; the higher the map, the more colour."""
    frame = np.full((40, 40), 100, np.uint8)
    heat = np.zeros((40, 40))
    heat[:, 10:20], heat[:, 30:] = 0.5, 1
    panel = overlay.panel(frame, heat, ["one", "two"]).astype(int)
    assert panel.shape == (320 + 60, 640, 3) and (panel[:320, :320] == 100).all() and panel[320:].max() > 200
    right = panel[:320, 320:]
    assert (right[:, 4:72] == 100).all() and (right[:, 170:230] == 100).all()
    assert 20 < np.ptp(right[:, 90:150], axis=2).min() < np.ptp(right[:, 250:], axis=2).min()


def test_an_output_that_is_a_file_is_refused(project):
    save("models/lungs.safetensors")
    Path("out").write_text("mine")
    with pytest.raises(UserError, match="--out out is a file"):
        run("in")
    assert Path("out").read_text() == "mine"


@pytest.mark.parametrize(("changes", "facts", "sentence"), [
    ({"layer1.0.conv1.weight": None}, {}, "it misses layer1.0.conv1.weight"),
    ({"layer5.weight": torch.zeros(2)}, {}, "it has an unknown key, layer5.weight"),
    ({"conv1.weight": torch.zeros(64, 1, 7, 7)}, {}, "conv1.weight has another shape"),
    ({"fc.weight": None}, {}, "must be one or two layers, of 512 features and 3 classes"),
    ({"fc.2.weight": torch.zeros(3, 3)}, {}, "must be one or two layers, of 512 features and 3 classes"),
    ({}, {"classes": ["a", "b"]}, "must be one or two layers, of 512 features and 2 classes"),
    ({}, {"mean": None, "classes": None}, "does not say classes, mean: it is not a fine-tuned network"),
])  # fmt: skip
def test_a_checkpoint_that_does_not_fit_is_refused_in_one_sentence(project, changes, facts, sentence):
    save("models/lungs.safetensors", changes, **facts)
    with pytest.raises(UserError) as error:
        run("in")
    assert "models/lungs.safetensors" in str(error.value) and sentence in str(error.value) and "\n" not in str(error.value)
    assert not Path("out").exists()


def test_a_missing_file_and_one_that_is_no_network_are_refused(project):
    with pytest.raises(UserError, match="models/lungs.safetensors is missing"):
        restore_classifier(checkpoint.finetuned("lungs"))
    for content, sentence in ((b"text", "cannot be read"), (b"\x02\0\0\0\0\0\0\0{}", "does not say how it was trained")):
        checkpoint.finetuned("lungs").write_bytes(content)
        with pytest.raises(UserError, match=sentence):
            restore_classifier(checkpoint.finetuned("lungs"))


@pytest.mark.parametrize("arch", PREFIX)
def test_the_file_of_a_network_gives_the_network_back(project, arch, draw):
    network = save("models/lungs.safetensors", arch=arch)
    found, facts = restore(checkpoint.finetuned("lungs"))
    frames = torch.rand(2, 1, 32, 32, generator=draw)
    assert facts["arch"] == arch and not found.training
    with torch.no_grad():
        assert torch.equal(found(frames), network(frames))


def test_the_command_says_what_it_is_not_for(project, monkeypatch, capsys):

    def command(*arguments):
        monkeypatch.setattr(sys, "argv", ["predict", *arguments])
        runpy.run_path(predict.__file__, run_name="__main__")

    with pytest.raises(SystemExit, match="^error: models/ has no fine-tuned network"):
        command("in/a.mp4")
    save("models/pocus.safetensors", task="pocus")
    save("models/pretrained.safetensors")
    command("in/a.mp4")
    assert "reports/predict/pocus/clips.csv" in (said := capsys.readouterr().out)
    assert said.endswith("For research only, not for diagnosis.\n")
    with pytest.raises(SystemExit, match="^error: none of the 1 clips can be used"):
        command("--out", "out", "nowhere.mp4")
    with pytest.raises(SystemExit, match="^error: models/ has no network for --task other; choose one, .*pocus"):
        command("--task", "other", "in/a.mp4")
    Path("notes.txt").touch()
    with pytest.raises(SystemExit, match="^error: notes.txt/out: Not a directory$"):
        command("--out", "notes.txt/out", "in/a.mp4")
    save("models/lungs.safetensors")
    several = r"^error: .* choose one, for example `--task lungs`: lungs \(covid, regular, b\); pocus \(covid, regular, b\)$"
    with pytest.raises(SystemExit, match=several):
        command("in/a.mp4")
    assert not Path("out").exists()
