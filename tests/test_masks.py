"""Scores of segmentations against sets of pixels, cases worked out by hand, and another library."""

import numpy as np
import pandas as pd
import pytest
import torch
from torchmetrics.detection import MeanAveragePrecision

from stages.lib.segmentation import masks


def rectangle(top, left, height, width, size=20):
    mask = np.zeros((size, size), bool)
    mask[top : top + height, left : left + width] = True
    return mask


def detection(image, mask, score):
    rows, columns = np.nonzero(mask)
    box = np.array([[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]], float)
    return masks.detections(image, box, np.array([score]), mask[None])[0]


def test_overlap_by_sets_of_pixels():
    rng = np.random.default_rng(0)
    for density in (0.02, 0.3, 0.9):
        truth, predicted = rng.random((2, 16, 16)) < density
        here, there = ({tuple(place) for place in np.argwhere(mask)} for mask in (truth, predicted))
        values = masks.overlap(truth, predicted)
        assert values["dice"] == pytest.approx(2 * len(here & there) / (len(here) + len(there)))
        assert values["precision"] == pytest.approx(len(here & there) / len(there))
        assert values["sensitivity"] == pytest.approx(len(here & there) / len(here))


def test_what_is_undefined_is_nan():
    none, some = np.zeros((4, 4), bool), rectangle(0, 0, 2, 2, 4)
    assert all(np.isnan(value) for value in masks.overlap(none, none).values())
    assert masks.overlap(some, none) == {"dice": 0, "precision": pytest.approx(np.nan, nan_ok=True), "sensitivity": 0}
    assert masks.overlap(none, some) == {"dice": 0, "precision": 0, "sensitivity": pytest.approx(np.nan, nan_ok=True)}


def test_a_lesion_is_found_above_half_of_the_union():
    lesions = np.where(rectangle(0, 0, 4, 4), 1, np.where(rectangle(10, 10, 4, 4), 3, 0))
    half, more = rectangle(0, 0, 4, 2), rectangle(0, 0, 4, 3)                 # IoU 0.5 and 0.75 with the first
    assert masks.found(lesions, np.zeros((0, 20, 20), bool)) == 0
    assert masks.found(lesions, half[None]) == 0
    assert masks.found(lesions, np.stack([half, more, more])) == 1
    assert masks.found(lesions, np.stack([more, rectangle(9, 10, 5, 4)])) == 2
    assert masks.found(lesions, (lesions > 0)[None]) == 0                     # both in one: IoU 0.5 with each


def test_run_lengths_keep_the_mask():
    mask = np.random.default_rng(0).random((17, 9)) < 0.4
    assert np.array_equal(masks.decode(masks.encode(mask)), mask)


def test_average_precision_worked_out_by_hand():
    """Two lesions; by falling score: one hit of IoU 0.8, one miss, one hit of IoU 1.

    At IoU 0.50 … 0.80 (7 of the 10 thresholds) precision is 1 up to a recall of 1/2, then 2/3: COCO reads it at recalls
    0, 0.01 … 1, of which 51 lie up to 1/2. At 0.85 … 0.95 only the last is a hit: precision 1/3 up to a recall of 1/2.
    """
    lesions = {4: np.where(rectangle(0, 0, 10, 10), 1, 0), 9: np.where(rectangle(5, 5, 6, 6), 2, 0)}
    detected = [detection(4, rectangle(0, 0, 8, 10), 0.9), detection(4, rectangle(14, 14, 5, 5), 0.8),
                detection(9, rectangle(5, 5, 6, 6), 0.7)]
    low, high = (51 + 50 * 2 / 3) / 101, 51 / 3 / 101
    values = masks.average_precision(lesions, detected)
    assert values["mask_ap50"] == values["box_ap50"] == pytest.approx(low)
    assert values["mask_ap"] == values["box_ap"] == pytest.approx((7 * low + 3 * high) / 10)


def test_average_precision_of_masks_is_not_that_of_boxes():
    lesion = np.tri(20, dtype=int)                                            # half of its box
    values = masks.average_precision({0: lesion}, [detection(0, np.ones((20, 20), bool), 0.5)])
    expected = {"mask_ap": 0.1, "mask_ap50": 1, "box_ap": 1, "box_ap50": 1}   # IoU of the masks 210 / 400
    assert values == pytest.approx(expected)


def test_average_precision_of_nothing():
    lesion, none = {0: np.where(rectangle(0, 0, 3, 3), 1, 0)}, {0: np.zeros((20, 20), int)}
    assert set(masks.average_precision(lesion, []).values()) == {0}
    assert np.isnan(list(masks.average_precision(none, [detection(0, lesion[0] > 0, 0.9)]).values())).all()


def test_average_precision_against_torchmetrics():
    rng = np.random.default_rng(1)
    lesions, detected, theirs = {}, [], MeanAveragePrecision("xyxy", ("bbox", "segm"), np.linspace(0.5, 0.95, 10).tolist())
    for image in range(12):
        truth = [rectangle(*rng.integers(0, 9, 2), *rng.integers(3, 8, 2)), rectangle(17, 17, 3, 3)][: 1 + image % 2]
        drawn = [np.roll(mask, rng.integers(-2, 3, 2), (0, 1)) for mask in truth] + [rectangle(12, 2, 5, 5)] * (image % 3)
        scores = rng.random(len(drawn)).round(3)
        lesions[image] = sum(number * mask for number, mask in enumerate(truth, 1))
        lines = [detection(image, mask, score) for mask, score in zip(drawn, scores, strict=True)]
        detected += lines
        boxes = [detection(0, mask, 1)["bbox"] for mask in truth]
        sides = [torch.tensor([[x, y, x + w, y + h] for x, y, w, h in group])
                 for group in ([line["bbox"] for line in lines], boxes)]
        theirs.update([{"boxes": sides[0], "scores": torch.tensor(scores), "labels": torch.ones(len(drawn), dtype=int),
                        "masks": torch.tensor(np.array(drawn))}],
                      [{"boxes": sides[1], "labels": torch.ones(len(truth), dtype=int),
                        "masks": torch.tensor(np.array(truth))}])
    expected, values = theirs.compute(), masks.average_precision(lesions, detected)
    names = {"mask_ap": "segm_map", "mask_ap50": "segm_map_50", "box_ap": "bbox_map", "box_ap50": "bbox_map_50"}
    assert 0 < values["mask_ap"] < 1
    assert values == {name: pytest.approx(float(expected[other]), abs=1e-5) for name, other in names.items()}


def test_interval_by_drawing_patients_one_by_one():
    values = pd.Series([0.1, 0.5, 0.9, np.nan, 0.3, 0.7])
    group = pd.Series(["a", "a", "b", "c", "d", "d"])
    rng = np.random.default_rng(3)
    means = []
    for _ in range(4000):
        drawn = pd.concat([values[group == name] for name in rng.choice(["a", "b", "c", "d"], 4)])
        means.append(drawn.mean())                                            # NaN if all are c
    assert masks.interval(values, group, 20000, 0.9, 0) == pytest.approx(np.nanquantile(means, [0.05, 0.95]), abs=0.02)


def test_summary():
    images = pd.DataFrame({"clip": list("abcd"), "patient": ["p", "p", "", ""], "fold": [0, 0, 1, 1], "lesions": [1, 2, 1, 0],
                           "found": [1, 1, 0, 0], "detections": [1, 1, 1, 0], "dice": [0.8, 0.6, 0.1, np.nan],
                           "precision": [1, 0.5, 0.0, np.nan], "sensitivity": [0.5, 0.7, 0.3, np.nan]})
    folds = pd.DataFrame({"fold": [0, 1], "mask_ap": [0.2, 0.4], "mask_ap50": [0.5, 0.5], "box_ap": [0.1, 0.3], "box_ap50": 0})
    values = masks.summary(images, folds, 200, 0.95, 0)
    assert values["dice"] == pytest.approx(0.5) and values["dice_low"] < 0.5 < values["dice_high"]
    assert values["dice_fold_sd"] == pytest.approx(np.std([0.7, 0.1], ddof=1))
    assert (values["precision"], values["sensitivity"]) == (pytest.approx(0.5), pytest.approx(0.5))
    assert values["mask_ap"] == pytest.approx(0.3) and values["mask_ap_fold_sd"] == pytest.approx(0.02**0.5)
    assert {key: values[key] for key in ("images", "patients", "lesions", "found", "detections")} == {
        "images": 4, "patients": 3, "lesions": 4, "found": 2, "detections": 3}
