"""Scores of segmentations: overlap of masks, lesions found, and COCO's average precision (pycocotools).

A lesion map holds for every pixel 0 or the number of its lesion. A detection is an entry of a COCO results file: image_id,
category_id, bbox [x, y, width, height] in px, score, segmentation {size, counts} (run lengths).
"""

import contextlib
import io

import numpy as np
import pandas as pd
from pycocotools import mask as run_lengths
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from stages.lib.clips.tasks import groups

MATCH_IOU = 0.5  # above it a lesion counts as found; no detection can then match two lesions
PRECISIONS = {"mask_ap": ("segm", 0), "mask_ap50": ("segm", 1), "box_ap": ("bbox", 0), "box_ap50": ("bbox", 1)}


def overlap(truth: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """Dice coefficient, precision and sensitivity of the pixels of one image, two masks [H, W] bool.

    0 / 0 is NaN: the Dice coefficient of two empty masks, precision without a prediction, sensitivity without a lesion.
    """
    both, marked, there = int((truth & predicted).sum()), int(predicted.sum()), int(truth.sum())
    return {
        "dice": _ratio(2 * both, marked + there),
        "precision": _ratio(both, marked),
        "sensitivity": _ratio(both, there),
    }


def found(lesions: np.ndarray, masks: np.ndarray) -> int:
    """The number of lesions of a map [H, W] whose IoU with one of the masks [K, H, W] bool is above MATCH_IOU."""
    count = 0
    for lesion in (lesions == number for number in np.unique(lesions[lesions > 0])):
        count += any((lesion & mask).sum() > MATCH_IOU * (lesion | mask).sum() for mask in masks)
    return count


def detections(image: int, boxes: np.ndarray, scores: np.ndarray, masks: np.ndarray) -> list[dict]:
    """COCO results of one image, of boxes [K, 4] (left, top, right, bottom), scores [K] and masks [K, H, W] bool."""
    lines = []
    for (left, top, right, bottom), score, mask in zip(boxes.tolist(), scores.tolist(), masks, strict=True):
        box = [round(value, 3) for value in (left, top, right - left, bottom - top)]
        lines.append({"image_id": image, "category_id": 1, "bbox": box, "score": round(score, 6), "segmentation": encode(mask)})
    return lines


def encode(mask: np.ndarray) -> dict:
    """A mask [H, W] bool as COCO's run lengths, which JSON can hold."""
    code = run_lengths.encode(np.asfortranarray(mask, np.uint8))
    return {"size": list(mask.shape), "counts": code["counts"].decode("ascii")}


def decode(code: dict) -> np.ndarray:
    """The mask [H, W] bool of run lengths."""
    return run_lengths.decode(code).astype(bool)


def average_precision(lesions: dict[int, np.ndarray], detected: list[dict]) -> dict[str, float]:
    """COCO's AP over IoU 0.50 … 0.95 and at 0.50, of masks and of boxes (Lin et al. 2014; cocodataset.org/#detection-eval).

    Args:
        lesions: image → its lesion map [H, W].
        detected: COCO results of these images.

    Returns:
        mask_ap, mask_ap50, box_ap, box_ap50; NaN if no image has a lesion.
    """
    images = [{"id": image, "height": len(area), "width": area.shape[1]} for image, area in lesions.items()]
    truth = [
        {"image_id": image, "category_id": 1, "iscrowd": 0, "segmentation": encode(area == number)}
        for image, area in lesions.items()
        for number in np.unique(area[area > 0])
    ]
    for number, lesion in enumerate(truth, 1):
        code = lesion["segmentation"]
        lesion |= {"id": number, "area": float(run_lengths.area(code)), "bbox": run_lengths.toBbox(code).tolist()}
    if not truth or not detected:
        return dict.fromkeys(PRECISIONS, 0.0 if truth else np.nan)
    with contextlib.redirect_stdout(io.StringIO()):                           # pycocotools reports to the terminal
        coco = COCO()
        coco.dataset = {"images": images, "annotations": truth, "categories": [{"id": 1}], "info": {}}
        coco.createIndex()
        results, values = coco.loadRes([dict(line) for line in detected]), {}
        for kind in ("segm", "bbox"):
            evaluation = COCOeval(coco, results, kind)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
            values[kind] = evaluation.stats
    return {name: float(values[kind][place]) for name, (kind, place) in PRECISIONS.items()}


def summary(images: pd.DataFrame, folds: pd.DataFrame, samples: int, confidence: float, seed: int) -> dict[str, float]:
    """All numbers of one segmentation, under their names in reports/scores.json.

    Args:
        images: clip, patient, fold, lesions, found, detections, dice, precision, sensitivity: a row per image.
        folds: fold, mask_ap, mask_ap50, box_ap, box_ap50: a row per fold.
        samples, confidence, seed: of the bootstrap interval of the mean Dice; it draws patients with replacement.

    Returns:
        Means over images, that of Dice with its interval and its standard deviation over folds, means and standard
        deviations of the APs over folds, and counts. Undefined values do not count in a mean.
    """
    low, high = interval(images["dice"], groups(images), samples, confidence, seed)
    numbers = {"dice": images["dice"].mean(), "dice_low": low, "dice_high": high}
    numbers["dice_fold_sd"] = images.groupby("fold")["dice"].mean().std()
    numbers |= {name: images[name].mean() for name in ("precision", "sensitivity")}
    for name in PRECISIONS:
        numbers |= {name: folds[name].mean(), f"{name}_fold_sd": folds[name].std()}
    counts = {"images": len(images), "patients": groups(images).nunique()}
    counts |= {name: images[name].sum() for name in ("lesions", "found", "detections")}
    return {name: float(value) for name, value in numbers.items()} | {name: int(value) for name, value in counts.items()}


def interval(values: pd.Series, group: pd.Series, samples: int, confidence: float, seed: int) -> tuple[float, float]:
    """Percentile interval of the mean of `values` over resamples of the groups; NaN values do not count."""
    parts = values.groupby(group.to_numpy()).agg(["sum", "count"]).to_numpy()             # P x 2
    draws = np.random.default_rng(seed).multinomial(len(parts), np.full(len(parts), 1 / len(parts)), size=samples)
    total, count = (draws @ parts).T                                                      # S each
    means = np.divide(total, count, out=np.full(samples, np.nan), where=count > 0)
    tail = (1 - confidence) / 2
    low, high = np.nanquantile(means, [tail, 1 - tail])
    return float(low), float(high)


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else np.nan
