"""The section of the pairs: its pictures decoded, its numbers recomputed, what is left out where there is nothing."""

import base64
import math
import re
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from markupsafe import escape
from test_report import NASTY, Page, edit, parameters
from test_report import run as run  # the fixture

from stages import report
from stages.lib.report import pair_sheet, pictures


def section():
    """The source of the section on the page that the report makes, its whitespace joined; None if it is left out."""
    report.main(**parameters())
    page = Path("reports/report.html").read_text(encoding="utf-8")
    Page(page)
    assert ('<section id="pairs"' in page) == ('href="#pairs"' in page)
    found = re.search('<section id="pairs".*?</section>', page, re.DOTALL)
    return re.sub(r"\s+", " ", found[0]) if found else None


def tiles(source):
    """address, alt text, label of each picture of the section."""
    return re.findall(r'<li><img src="([^"]*)" alt="([^"]*)">(.*?)</li>', source)


def test_the_pictures_are_those_of_the_run_with_their_labels(run):
    found = tiles(section())
    for (address, _, _), grey in zip(found, np.load("reports/pairs/views.npy"), strict=True):
        png = base64.b64decode(address.removeprefix("data:image/png;base64,"))
        assert np.array_equal(cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED), grey)
    labels = [re.sub(r"<[^>]*>|\s+", " ", label).split() for _, _, label in found]
    assert [alt for _, alt, _ in found] == ["left: 62 % frame 3, 38 % frame 7", "anchor: frame 3",
                                            "cross-video negative from b.mp4: frame 5", "anchor: frame 9"]
    assert [" ".join(label) for label in labels] == ["left 62 % frame 3 38 % frame 7", "anchor frame 3",
                                                     "cross-video negative b.mp4 share 81 %", "anchor frame 9"]


def test_shares_that_round_to_nothing_are_left_out():
    assert pair_sheet.mixture("3 7", "0.004 0.996") == ["frame 7"]
    assert pair_sheet.mixture("3 7 9", "0.006 0.400 0.594") == ["1 % frame 3", "40 % frame 7", "59 % frame 9"]


def test_examples_stand_under_why_they_were_chosen_with_their_values(run):
    source = section()
    some, least = source.index("At the end of the run"), source.index("The pairs of the lowest weight")
    assert "The pairs of the highest weight" not in source
    for start, end, text in ((some, least, f"<b>{' '.join(escape(NASTY).split())}</b>, weight 0.250, 4 frames apart"),
                             (least, None, "<b>c.mp4</b>, weight 0.125, 1 frame apart")):
        assert text in source[start:end]


@pytest.mark.parametrize(("shape", "expected"), [((96, 96), (96, 96)), ((224, 224), (96, 96)), ((200, 100), (96, 48))])
def test_large_pictures_are_made_smaller_with_their_mean(shape, expected):
    grey = np.linspace(0, 255, shape[0] * shape[1]).reshape(shape).astype(np.uint8)
    png = base64.b64decode(pictures.uri(pictures.small(grey, 96)).partition(",")[2])
    shown = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED)
    assert shown.shape == expected and shown.mean() == pytest.approx(grey.mean(), abs=1)


def test_negatives_and_their_window_are_those_of_the_files(run):
    pairs = pd.read_csv("reports/pairs/pairs.csv")
    distance = "negative_frame_distance"
    edit("reports/pairs/pairs.csv", lambda table: table.assign(**{distance: ["", *table[distance][1:]]}))
    looks = pair_sheet.section(pd.read_csv("reports/pretrain.csv"))["curriculum"]
    assert [look["epoch"] for look in looks] == [1, 3]
    for look, rows in zip(looks, (range(1, 6), range(6, 12)), strict=True):
        share = sorted(pairs["negative_frame_distance"][row] / 20 for row in rows)
        edges = []
        for q in (0.05, 0.95):                  # linear between the order statistics
            place = q * (len(share) - 1)
            low, high = share[math.floor(place)], share[math.ceil(place)]
            edges.append(low + (high - low) * (place % 1))
        assert look["clips"] == pytest.approx(len(share) / 6)
        assert [look["mean"], look["low"], look["high"]] == pytest.approx([sum(share) / len(share), *edges], abs=1e-9)
    source = section()
    assert "In epoch 3, 100 % of the clips had" in source
    assert f"epoch 3 {looks[1]['mean']:.3f} ({looks[1]['low']:.3f} to {looks[1]['high']:.3f})" in source


def test_weights_and_distances_by_source_are_those_of_the_last_epoch(run):
    source = section()
    pairs = pd.read_csv("reports/pairs/pairs.csv")
    for name in ("clust", "lusms"):
        last = pairs[(pairs["epoch"] == 3) & (pairs["source"] == name)]
        low, median, high = np.percentile(last["weight"], [25, 50, 75])
        assert f"{name} {median:.3f} ({low:.3f} to {high:.3f})" in source
        low, median, high = np.percentile(last["frame_distance"], [25, 50, 75])
        assert f"{name} {median:.0f} ({low:.0f} to {high:.0f})" in source


def test_figures_are_drawn_where_pairs_differ(run):
    assert section().count("<svg") == 3
    edit("reports/pairs/pairs.csv", lambda table: table.assign(weight=1.0))
    assert section().count("<svg") == 2
    edit("reports/pairs/pairs.csv", lambda table: table.assign(frame_distance=0, negative_frame_distance=""))
    assert section().count("<svg") == 0 and "All pairs" not in section()
    edit("reports/pairs/pairs.csv", lambda table: table.assign(negative_frame_distance=["", *range(3, 8), *[""] * 6]))
    assert section().count("<svg") == 1 and "In epoch 3, 0 % of the clips had" in section()
    edit("reports/pairs/pairs.csv", lambda table: table[["epoch", "pair", "clip", "source", "clip_frames"]][:0])
    edit("reports/pretrain.csv", lambda table: table.drop(columns=["negative_low", "negative_high"]))
    assert section().count("<img") == 4


def test_a_run_that_kept_no_pairs_has_no_such_section(run):
    for path in Path("reports/pairs").iterdir():
        path.unlink()
    Path("reports/pairs").rmdir()
    assert section() is None
