"""Segmentation: who is predicted by whom, what Mask R-CNN is given, what is written, and that it learns."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import write_frame_store
from torchvision.models.detection import maskrcnn_resnet50_fpn

from stages import segment
from stages.lib.networks import checkpoint
from stages.lib.networks.backbone import Backbone
from stages.lib.networks.mask_rcnn import targets
from stages.lib.params import UserError, checked
from stages.lib.report.page import render
from stages.lib.report.results import lesions
from stages.lib.segmentation import cross_validation as segmentation
from stages.lib.segmentation import masks
from stages.lib.segmentation.cross_validation import Recipe
from stages.lib.training.views import Views

VIEWS = {"crop_scale": [0.8, 1.0], "crop_ratio": [0.75, 1.333], "flip_probability": 0.5, "brightness": 0.0,
         "contrast": 0.0, "mean": 0.5, "std": 0.25}
SETTINGS = {"seed": 0, "task": "toy", "init": "pretrained", "trainable": "last_block",
            "frozen_statistics": "fixed", "folds": 2, "fold_seed": 0, "epochs": 1,
            "batch_size": 4, "input_px": 32, "pyramid_width": 8, "anchors": [0.25, 0.5, 0.5, 1.0, 1.0], "proposals": 8,
            "score_threshold": 0.5, "views": VIEWS, "copy_distance": {"clips": 0.25, "stills": 0.15},
            "optimizer": {"name": "adam", "learning_rate": 0.001, "weight_decay": 0.0, "warmup_fraction": 0.0,
                          "constant_fraction": 0.0, "gradient_norm": None},
            "tasks": {"toy": {"classes": ["dark", "bright"], "subsets": []}}}
SIZES = ("input_px", "pyramid_width", "anchors", "proposals")
NAMES = ("data/folds/toy_segmentation.csv", "reports/predictions/toy_segmentation.csv",
         "reports/predictions/toy_segmentation.json", "reports/predictions/toy_segmentation_folds.csv")


def discs(count, size=32, seed=0):
    """Frames of noise with a disc each, every fourth with two; frames and lesion maps, uint8 [N, size, size]."""
    rng = np.random.default_rng(seed)
    row, column = np.mgrid[:size, :size]
    maps = np.zeros((count, size, size), np.uint8)
    for number, area in enumerate(maps):
        place = rng.integers(7, size - 7, 2)
        for lesion, centre in enumerate((place, (place + size // 2) % size)[: 2 if number % 4 == 3 else 1], 1):
            area[np.hypot(row - centre[0], column - centre[1]) < rng.uniform(3.5, 5.5)] = lesion
    noise = rng.normal(110, 12, maps.shape)
    return (noise - 80 * (maps > 0)).clip(0, 255).astype(np.uint8), maps


@pytest.fixture
def toy(workspace):
    """11 images of 8 patients, one of another class."""
    clips = [{"clip": f"{number}.png", "patient": f"p{number % 8}", "label": ["dark", "bright"][number % 8 % 2],
              "frames_kept": 1} for number in range(11)] + [{"clip": "z.png", "label": "odd", "frames_kept": 1}]
    write_frame_store(workspace / "data/frames/toy", clips)
    frames, maps = discs(12)
    np.save(workspace / "data/frames/toy/frames.npy", frames)
    np.save(workspace / "data/frames/toy/masks.npy", maps)
    torch.manual_seed(1)
    checkpoint.write(Backbone("resnet18").network.state_dict(), {"arch": "resnet18"})
    return workspace


def recipe(arch="resnet18", views=VIEWS, **changes):
    settings = SETTINGS | changes
    given = {key: settings[key] for key in ("init", "trainable", "epochs", "batch_size", "optimizer", "frozen_statistics")}
    return Recipe(arch=arch, views=Views(**views), sizes={key: settings[key] for key in SIZES}, **given)


def network(arch="resnet18", **changes):
    torch.manual_seed(0)
    return recipe(arch, **changes).network()


def run(settings):
    """As `python -m stages.segment toy` does: the block is checked before main() is called."""
    given = {name: settings[name] for name in ("seed", "task", "tasks", "copy_distance")}
    block = {name: value for name, value in settings.items() if name not in given}
    segment.main(**given, **checked(segment.main, block, "segment", given))


def test_every_image_is_predicted_once_by_the_fold_of_its_patient(toy):
    segment.main(**SETTINGS)
    folds, images = (pd.read_csv(name, keep_default_na=False) for name in NAMES[:2])
    used = folds[folds["left_out"] == ""].set_index("clip")
    assert list(images["clip"]) == list(used.index) and len(images) == 11
    assert (images["fold"] == images["clip"].map(used["fold"].astype(int))).all()
    assert (used.groupby("patient")["fold"].nunique() == 1).all()
    assert folds.set_index("clip")["left_out"]["z.png"] == "label odd is no class of the task"
    assert list(pd.read_csv(NAMES[3])["fold"]) == [0, 1]
    _, maps = discs(12)
    assert list(images["lesions"]) == [len(np.unique(area)) - 1 for area in maps[:11]]


def test_scores_are_those_of_the_detections_that_are_written(toy, monkeypatch):
    """With detections that stand for the network's: the lesion itself, sure; another place, less so; shifted, unsure."""
    _, maps = discs(12)

    def made_up(network, frames, images, batch_size):
        lines = []
        for image in images:
            drawn = [maps[image] == 1, np.roll(maps[image] == 1, 16, 0), np.roll(maps[image] == 1, 1, 1)]
            boxes = np.array([[0.0, 0.0, 9.0, 9.0]] * 3)
            lines += masks.detections(image, boxes, np.array([0.9, 0.5, 0.49]), np.array(drawn))
        return lines

    monkeypatch.setattr(segmentation, "predict", made_up)
    segment.main(**SETTINGS)
    images = pd.read_csv(NAMES[1], keep_default_na=False)
    for image, row in images.iterrows():
        truth, predicted = maps[image] > 0, (maps[image] == 1) | np.roll(maps[image] == 1, 16, 0)
        assert row["dice"] == pytest.approx(2 * (truth & predicted).sum() / (truth.sum() + predicted.sum()), abs=1e-6)
        assert (row["detections"], row["found"] >= 1) == (2, True)
    numbers = lesions("toy", samples=50, confidence=0.95, seed=0)               # as the report reads the files
    assert (numbers["detections"], numbers["images"], numbers["lesions"]) == (22, 11, images["lesions"].sum())
    parameters = {f"segment.{name}": SETTINGS[name] for name in ("folds", "init", "score_threshold")}
    page = render("sections/segmentation.html.j2", segmented={"toy": numbers}, parameters=parameters, interval="95 %")
    assert f"{numbers['found']} were found (IoU above 0.5); 22 were detected with a score of at least 0.5" in page
    detected = json.loads(Path(NAMES[2]).read_text())
    assert sorted({line["image_id"] for line in detected}) == list(range(11)) and len(detected) == 33
    fold = images.index[images["fold"] == 1]
    ours = [line for line in detected if line["image_id"] in fold]
    expected = masks.average_precision({image: maps[image] for image in fold}, ours)
    assert pd.read_csv(NAMES[3]).iloc[1][list(expected)].to_dict() == pytest.approx(expected, abs=1e-6)


def test_a_network_trains_on_the_other_folds_and_predicts_its_own(toy, monkeypatch):
    frames, maps = discs(12)
    seen = []
    whole, given = Recipe.network, []
    monkeypatch.setattr(Recipe, "network", lambda self, *frames: given.append(frames) or whole(self, *frames))
    monkeypatch.setattr(segmentation, "train", lambda net, *data: seen.append(data[:2]) or iter([0.0]))
    monkeypatch.setattr(segmentation, "predict", lambda net, frames, images, size: seen.append((frames, images)) or [])
    segment.main(**SETTINGS)
    fold = pd.read_csv(NAMES[1])["fold"].to_numpy()
    for number, (trained, predicted) in enumerate(zip(seen[::2], seen[1::2], strict=True)):
        inside = np.flatnonzero(fold == number)
        others = np.flatnonzero(fold != number)
        assert np.array_equal(trained[0][:, 0], frames[others]) and np.array_equal(trained[1][:, 0], maps[others])
        assert np.array_equal(predicted[0][:, 0], frames[inside]) and predicted[1] == inside.tolist()
        assert torch.equal(given[1 + number][0], trained[0])        # the first network is made before any frame is read


def test_targets_are_boxes_and_masks_of_each_lesion():
    maps = torch.zeros(2, 1, 10, 12, dtype=torch.uint8)
    maps[0, 0, 2:5, 3:9], maps[0, 0, 6, 11] = 2, 5
    lesions, none = targets(maps)
    assert lesions["boxes"].tolist() == [[3, 2, 9, 5], [11, 6, 12, 7]] and lesions["labels"].tolist() == [1, 1]
    assert torch.equal(lesions["masks"].bool(), torch.stack([maps[0, 0] == 2, maps[0, 0] == 5]))
    assert none["boxes"].shape == (0, 4) and none["masks"].shape == (0, 10, 12)


def test_with_the_published_width_it_is_torchvisions_mask_rcnn():
    ours = network("resnet50", init="random", pyramid_width=256)
    theirs = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=2)
    counts = {"num_batches_tracked"}                                          # theirs has frozen batch norm
    shapes = [{name: value.shape for name, value in net.state_dict().items() if name.rpartition(".")[2] not in counts}
              for net in (ours, theirs)]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize(("part", "trains"), [("head", set()), ("last_block", {"layer4.1"}), ("all", {"conv1", "layer4.1"})])
def test_what_trains_of_the_backbone(toy, part, trains):
    wanted = {name for name, value in network(trainable=part).named_parameters() if value.requires_grad}
    body = {name.removeprefix("backbone.body.") for name in wanted if name.startswith("backbone.body.")}
    assert {block for block in ("conv1", "layer4.1") if any(name.startswith(block) for name in body)} == trains
    assert any(name.startswith("backbone.fpn") for name in wanted) and any(name.startswith("roi_heads") for name in wanted)


def test_pretrained_weights_are_those_of_the_file(toy):
    body, file = network().backbone.body.state_dict(), checkpoint.weights()
    assert all(torch.equal(value, file[name]) for name, value in body.items()) and len(body) > 100


@pytest.mark.parametrize(("changes", "calibrated"), [({"trainable": "head"}, True), ({"trainable": "all"}, False),
                                                     ({"trainable": "head", "frozen_statistics": "updated"}, False)])
def test_frozen_random_weights_have_the_statistics_of_the_enlarged_training_frames(changes, calibrated, single_precision):
    frames, seen = torch.from_numpy(discs(6)[0]).unsqueeze(1), []
    settings = {"init": "random", "input_px": 64} | changes
    net = recipe(**settings).network(frames).eval()
    net.backbone.body.conv1.register_forward_hook(lambda _, __, output: seen.append(output))
    with torch.no_grad():
        net([frame.expand(3, -1, -1) / 255 for frame in frames])
    mean, norm = seen[0].mean((0, 2, 3)), net.backbone.body.bn1
    assert torch.allclose(norm.running_mean, mean if calibrated else torch.zeros(64), atol=1e-4) and mean.abs().max() > 0.1


def test_the_loss_falls_and_all_that_is_to_train_does():
    frames, maps = (torch.from_numpy(part).unsqueeze(1) for part in discs(8))
    net, draw = network(init="random", trainable="all"), torch.Generator().manual_seed(0)
    before = {name: value.clone() for name, value in net.named_parameters()}
    losses = list(segmentation.train(net, frames, maps, recipe(epochs=15, batch_size=8), draw))
    assert losses[-1] < 0.8 * losses[0]
    assert not [name for name, value in net.named_parameters() if torch.equal(value, before[name])]


@pytest.mark.slow
def test_it_learns_to_segment_a_few_images():
    """Far better on them than the best of all masks that do not look at the image."""
    images, maps = discs(8)
    frames = torch.from_numpy(images).unsqueeze(1)
    net = network(init="random", trainable="all", pyramid_width=16, input_px=64)
    draw = torch.Generator().manual_seed(0)
    views = VIEWS | {"crop_scale": [1.0, 1.0], "crop_ratio": [1.0, 1.0], "flip_probability": 0.0}
    long = recipe(views=views, optimizer=SETTINGS["optimizer"] | {"learning_rate": 0.003}, epochs=60, batch_size=4)
    list(segmentation.train(net, frames, torch.from_numpy(maps).unsqueeze(1), long, draw))
    detected = segmentation.predict(net, frames, list(range(8)), 8)
    table = pd.DataFrame({"row": range(8), "clip": "", "patient": "", "group": "", "fold": 0, "label": ""})
    often = (maps > 0).mean(0)
    constant = max(np.mean([masks.overlap(truth > 0, often >= share)["dice"] for truth in maps])
                   for share in np.unique(often)[1:])
    assert segmentation.score(table, maps, detected, 0.5)["dice"].mean() > constant + 0.3


@pytest.mark.parametrize(("column", "value", "images"), [
    ("split", lambda number: ["test", "train"][number % 8 > 3], 7), ("fold", lambda number: number // 6, 11)])
def test_given_folds_are_scored_on_what_they_hold_out(toy, column, value, images):
    """A split: training images have no detections and no Dice. Folds that cut through patients 0 to 2: they are warned of."""
    path = toy / "data/frames/toy/clips.csv"
    table = pd.read_csv(path, keep_default_na=False)
    table[column] = [value(number) for number in range(len(table))]
    table.to_csv(path, index=False)
    segment.main(**SETTINGS | {"epochs": 1})
    found = pd.read_csv(NAMES[1])
    assert len(found) == images and (found["fold"] >= 0).all()
    assert lesions("toy", 100, 0.95, 0)["images"] == images


def test_an_interrupted_run_ends_with_the_same_predictions(toy, monkeypatch):
    segment.main(**SETTINGS)
    whole = [Path(name).read_text() for name in NAMES]
    real, calls = segmentation.train, iter(range(9))

    def killed(*arguments):
        if next(calls) == 1:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(segmentation, "train", killed)
    with pytest.raises(KeyboardInterrupt):
        segment.main(**SETTINGS)
    trained = []
    monkeypatch.setattr(segmentation, "train", lambda *arguments: trained.append(1) or real(*arguments))
    segment.main(**SETTINGS)
    assert len(trained) == 1 and [Path(name).read_text() for name in NAMES] == whole
    assert not list(Path("models").glob("*.unfinished"))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"init": "imagenet21k"}, "segment.init is 'imagenet21k'; it must be random, imagenet"),
        ({"trainable": "layer3"}, "segment.trainable is 'layer3'; it must be 'last_block', 'head' or 'all'"),
        ({"folds": 9}, "segment.folds is 9; task toy has 8 patients"),
        ({"epochs": 0}, "segment.epochs is 0"),
        ({"batch_size": 1}, "segment.batch_size is 1"),
        ({"input_px": 16}, "segment.input_px is 16"),
        ({"pyramid_width": 0}, "segment.pyramid_width is 0"),
        ({"proposals": 0}, "segment.proposals is 0"),
        ({"anchors": [0.5, 1.0]}, "segment.anchors is .*; it must be a list of length 5 or more"),
        ({"anchors": [8, 16, 32, 64, 128]}, "segment.anchors.0 is 8; it must be 1 or less"),
        ({"score_threshold": 1.0}, "segment.score_threshold is 1.0"),
        ({"views": VIEWS | {"colour": 1}}, "segment.views.colour is not a parameter"),
        ({"optimizer": {"name": "adam"}}, "is missing"),
        ({"tasks": {"toy": {"classes": ["dark", "none"], "subsets": []}}}, "no clip of class none"),
    ],
)
def test_what_cannot_be_segmented_is_one_sentence(toy, change, sentence):
    with pytest.raises(UserError, match=sentence):
        run(SETTINGS | change)
    assert not (toy / "reports").exists() and not (toy / "data/folds").exists()


def test_a_source_without_masks_and_a_backbone_without_levels(toy):
    np.save("data/frames/toy/masks.npy", np.zeros((12, 32, 32), np.uint8))
    with pytest.raises(UserError, match="masks.npy holds no lesion"):
        segment.main(**SETTINGS)
    Path("data/frames/toy/masks.npy").unlink()
    with pytest.raises(UserError, match="masks.npy is missing: the source toy has no masks, .* take toy out of segment.tasks"):
        segment.main(**SETTINGS)
    checkpoint.write(Backbone("efficientnet_b0").network.state_dict(), {"arch": "efficientnet_b0"})
    with pytest.raises(UserError, match="pretrain.arch is 'efficientnet_b0'; segment needs a ResNet"):
        segment.main(**SETTINGS)
