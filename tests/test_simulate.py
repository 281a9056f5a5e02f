"""Phantom clips: the same bytes every time, the layouts of the real sets, the physics that the docstrings claim."""

from importlib import import_module
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from stages import simulate
from stages.lib.params import UserError, from_params
from stages.phantoms.breast import SIGNS as BREAST_SIGNS
from stages.phantoms.breast import Breast
from stages.phantoms.gallbladder import SIGNS as GALLBLADDER_SIGNS
from stages.phantoms.gallbladder import Gallbladder
from stages.phantoms.liver import Liver
from stages.phantoms.lung import SIGNS as LUNG_SIGNS
from stages.phantoms.lung import Lung
from stages.phantoms.scanner import Scanner
from stages.phantoms.tissue import draw_signs, resample, scatterers
from stages.phantoms.transducer import BEAMS, DEPTHS, Transducer

TINY = {
    "patients_per_class": 2,
    "clips_per_class": dict.fromkeys(simulate.SOURCES, 1) | {"butterfly": 2, "lusms": 4},
    "images_per_class": 5,
    "seconds": 0.3,
    "max_frames": 4,
}


def simulated(root: Path, seed: int, workers: int) -> Path:
    """data/phantom of a tiny run in a folder of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setenv("SONOPAIR_WORKERS", str(workers))
        simulate.main(seed=seed, **TINY)
    return root / simulate.OUT


@pytest.fixture(scope="module")
def phantom(tmp_path_factory):
    return simulated(tmp_path_factory.mktemp("two"), seed=0, workers=2)


@pytest.fixture(scope="module")
def truth(phantom):
    return pd.read_csv(phantom / "truth.csv", keep_default_na=False, na_values={"fps": ""})


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def frames_of(path: Path) -> list[np.ndarray]:
    if path.is_dir():
        return [cv2.imread(str(image)) for image in sorted(path.rglob("*.*"))]
    video, frames = cv2.VideoCapture(str(path)), []
    while (read := video.read())[0]:
        frames.append(read[1])
    return frames


def scanned(kind: type, signs: dict, seed: int, depth_mm: float = 100):
    """A phantom of given signs and its scanner, both from one seed."""
    patient, clip = np.random.default_rng([seed, 0]), np.random.default_rng([seed, 1])
    transducer = Transducer.convex(patient, depth_mm, depth_mm)
    return kind(transducer, signs, patient, clip), Scanner(transducer, patient, clip)


def envelope(scanner: Scanner, field: np.ndarray) -> np.ndarray:
    return np.hypot(*np.moveaxis(scanner.echo(field), 2, 0))


def hold_still(phantom, excursion_mm=(0, 0)) -> None:
    """No drift of the transducer; the organ is displaced by `excursion_mm` (lateral, axial) times the time."""
    phantom.breathing.inhaled, phantom.breathing.drift_mm = lambda time_s: time_s, lambda time_s: (0, 0)
    phantom.excursion_mm = excursion_mm


def test_same_bytes_whatever_the_number_of_processes(phantom, tmp_path):
    assert files(simulated(tmp_path, seed=0, workers=1)) == files(phantom)


def test_another_seed_gives_other_clips_of_the_same_names(phantom, tmp_path):
    there, here = files(simulated(tmp_path, seed=1, workers=2)), files(phantom)
    assert len(here.keys() & there.keys()) > 40
    same = {Path(name).name for name in here.keys() & there.keys() if here[name] == there[name]}
    assert same == {"test.txt", "train.txt"}


@pytest.mark.parametrize("source", [*simulate.SOURCES, "breast", "pocus"])
def test_source_modules_find_just_the_clips_of_the_truth(source, phantom, truth):
    found = import_module(f"stages.sources.{source}").clips(phantom / source).set_index("clip")
    made = truth[truth["source"] == source].set_index("path")
    assert set(found.index) == set(made.index)
    assert (found["left_out"] == "").all()
    assert (found["label"] == made["label"][found.index]).all()
    assert (found["patient"] == made["patient"][found.index]).all()


def test_truth_tells_frames_rate_and_signs(phantom, truth):
    for clip in truth.itertuples():
        path = phantom / clip.source / clip.path
        frames = frames_of(path)
        assert len(frames) == clip.frames, clip.path
        assert min(frames[-1].shape[:2]) >= 190 and frames[-1].max() > 100, clip.path
        if path.is_file() and clip.frames > 1:
            assert cv2.VideoCapture(str(path)).get(cv2.CAP_PROP_FPS) == pytest.approx(clip.fps, abs=0.01), clip.path
    lungs = truth[truth["source"] == "pocus"]
    assert pd.to_numeric(lungs["b_lines"]).notna().all() and (lungs["wall_mm"] == "").all()
    assert lungs.groupby("patient").size().max() > 1


def test_containers_and_folders_vary(truth):
    suffixes = truth["path"].str.extract(r"\.(\w+)$")[0]
    assert {"mp4", "avi", "mov", "gif", "MP4", "jpg"} <= set(suffixes.dropna()) and suffixes.isna().any()


def test_two_butterfly_clips_are_copies_of_pocus_clips(phantom, truth):
    copies = truth[truth["duplicate_of"] != ""]
    assert len(copies) == 2 and set(copies["source"]) == {"butterfly"}
    for copy in copies.itertuples():
        assert (phantom / "butterfly" / copy.path).read_bytes() == (phantom / copy.duplicate_of).read_bytes()


def test_clips_of_a_patient_share_the_screen():
    def screen(clip: int) -> Scanner:
        patient = np.random.default_rng(5)
        return Scanner(Transducer.convex(patient, 90, 120), patient, np.random.default_rng(clip))

    one, two = screen(1), screen(2)
    assert np.array_equal(one.fan, two.fan) and np.array_equal(one.overlay, two.overlay)
    assert one.gain_db != two.gain_db


@pytest.mark.parametrize("transducer", [Transducer.convex, Transducer.linear])
def test_speckle_of_homogeneous_tissue_is_rayleigh_distributed(transducer):
    rng = np.random.default_rng(0)
    scanner = Scanner(transducer(rng, 60, 60), rng, rng)
    speckle = envelope(scanner, scatterers((DEPTHS, BEAMS), rng))[20:-20, 12:-12]
    assert speckle.mean() / speckle.std() == pytest.approx(np.sqrt(np.pi / (4 - np.pi)), abs=0.1)      # 1.91


def test_speckle_moves_with_the_tissue():
    phantom, scanner = scanned(lambda transducer, signs, *streams: Liver(transducer, "Rb2", 2, *streams), {}, 3)
    hold_still(phantom, excursion_mm=(0, 2.5))
    inner = slice(DEPTHS // 2, None), slice(BEAMS // 2 - 24, BEAMS // 2 + 24)             # where depth is z
    before, after = (np.log(envelope(scanner, phantom.field(time_s))[inner] + 0.01) for time_s in (0, 1))
    (beams, samples), _ = cv2.phaseCorrelate(np.float64(before), np.float64(after))
    assert samples * scanner.transducer.step_mm == pytest.approx(-2.5, abs=0.35)
    assert beams == pytest.approx(0, abs=0.5)


def test_a_lines_stand_at_multiples_of_the_pleural_depth():
    signs = draw_signs(LUNG_SIGNS["regular"], 0, np.random.default_rng(0)) | {"b_lines": 0, "consolidations": 0}
    phantom, scanner = scanned(Lung, signs | {"a_lines": 1.0}, 1)
    phantom.ribs = ()
    level = np.log(envelope(scanner, phantom.field(0)) + 0.02)
    facing = level[:, np.argsort(phantom.a_lines[0])[-20:]]                   # beams that meet the pleura at right angles
    pleura = 15 + np.argmax(facing[15 : DEPTHS // 3].mean(1))                 # samples; the brightest line
    profile = (facing - cv2.blur(facing, (1, 41)))[10:].mean(1)
    likeness = np.correlate(profile, profile, "full")[len(profile) - 1 :]     # by lag
    nearby = np.arange(int(0.7 * pleura), int(1.4 * pleura))
    assert nearby[np.argmax(likeness[nearby])] == pytest.approx(pleura, abs=2)
    assert likeness[pleura] > 0.25 * likeness[0]


def test_b_lines_run_to_the_bottom_and_wipe_out_the_a_lines():
    signs = dict.fromkeys(LUNG_SIGNS["covid"], 0) | {"a_lines": 1.0, "b_lines": 3}
    phantom, scanner = scanned(Lung, signs, 2)
    phantom.ribs, phantom.b_lines = (), np.array([[phantom.width / 2, 4, 1.5, 0]])
    hold_still(phantom)
    level = 20 * np.log10(envelope(scanner, phantom.field(0)))[-DEPTHS // 4 :].mean(0)     # dB, deepest quarter
    assert level[BEAMS // 2 - 2 : BEAMS // 2 + 3].mean() > level[BEAMS // 2 + 15 : BEAMS // 2 + 40].mean() + 12


@pytest.fixture
def gallbladder():
    """A gallbladder of thin wall with nothing in it, its scanner, and the level of its echoes in dB and lumen mask."""
    signs = dict.fromkeys(GALLBLADDER_SIGNS["normal"], 0) | {"wall_mm": 2.0}
    phantom, scanner = scanned(Gallbladder, signs, 4)
    hold_still(phantom)
    x, z = phantom.beams
    place = (z - phantom.z[0, 0]) / phantom.step_mm, (x - phantom.x[0, 0]) / phantom.step_mm
    return phantom, scanner, resample(phantom.outside_mm, *place)


def test_bile_is_darker_than_liver_and_brightens_what_lies_below(gallbladder):
    phantom, scanner, outside_mm = gallbladder
    level = 20 * np.log10(envelope(scanner, phantom.field(0)))
    liver = (outside_mm > 4) & (phantom.beam_depths > phantom.wall_mm + 4)
    under = np.cumsum(outside_mm < 0, axis=0) * phantom.step_mm > 12          # beams that crossed 12 mm of bile
    assert level[outside_mm < -3].mean() < level[liver].mean() - 15
    assert level[liver & under].mean() > level[liver & ~under].mean() + 0.8


def test_stones_cast_shadows(gallbladder):
    signs = dict.fromkeys(GALLBLADDER_SIGNS["benign"], 0) | {"wall_mm": 2.0, "stones": 1}
    stone, scanner = scanned(Gallbladder, signs, 4)
    hold_still(stone)
    with_stone, without = (20 * np.log10(envelope(scanner, body.field(0))) for body in (stone, gallbladder[0]))
    assert (with_stone - without)[-20:].mean(0).min() < -12                   # dB, the darkest beam at the bottom


def breast(changes: dict, seed: int):
    """A breast with one lesion of given signs, its scanner, and where the beams meet the lesion."""
    signs = dict.fromkeys(BREAST_SIGNS["benign"], 0) | {"width_mm": 15, "ratio": 0.6, "margin_mm": 0.2, "echo": 0.2}
    patient, clip = np.random.default_rng([seed, 0]), np.random.default_rng([seed, 1])
    transducer = Transducer.linear(patient, 40, 40)
    phantom = Breast(transducer, signs | changes, patient, clip)
    lesion = resample(phantom.lesions[0].astype(np.float32), *phantom.places(0)) > 0.5
    return phantom, Scanner(transducer, patient, clip), lesion


def test_a_lesion_has_the_size_that_its_signs_say():
    for seed in range(4):
        phantom, _, inside = breast({}, seed)
        high, wide = phantom.step_mm * inside.any(1).sum(), np.ptp(phantom.beams[0]) / (BEAMS - 1) * inside.any(0).sum()
        assert 0.85 * 15 - 0.6 < wide < 15.6 and high == pytest.approx(0.6 * wide, rel=0.12)
        area = np.pi / 4 * wide * high
        assert inside.sum() * phantom.step_mm * np.ptp(phantom.beams[0]) / (BEAMS - 1) == pytest.approx(area, rel=0.06)
        spiculated = breast({"spicules": 0.5}, seed)[2]
        filled = [part.sum() / cv2.contourArea(cv2.convexHull(np.argwhere(part))) for part in (inside, spiculated)]
        assert filled[1] < filled[0] - 0.05


@pytest.mark.parametrize(("change", "lower", "upper"), [({}, -1, 1), ({"shadow": 1.0}, -30, -4), ({"enhancement": 1.0}, 4, 30)])
def test_what_a_lesion_does_to_the_tissue_below_it(change, lower, upper):
    (phantom, scanner, inside), (plain, *_) = breast(change, 2), breast({}, 2)
    level, without = (20 * np.log10(envelope(scanner, body.field(0)) + 1e-6) for body in (phantom, plain))
    below = (np.cumsum(inside, axis=0) > 0.9 * inside.sum(0).max()) & ~inside
    assert lower < (level - without)[below].mean() < upper
    beside = cv2.dilate(inside.astype(np.uint8), np.ones((41, 15))) - cv2.dilate(inside.astype(np.uint8), np.ones((15, 5))) > 0
    assert without[inside].mean() < without[beside].mean() - 6


def test_masks_lie_where_the_image_shows_the_lesion(phantom, truth):
    images = truth[truth["source"] == "breast"].set_index("path")
    assert images["label"].value_counts().to_dict() == dict.fromkeys(BREAST_SIGNS, TINY["images_per_class"])
    contrast = []
    for path, lesions in images["lesions"].astype(float).astype(int).items():
        image, name = cv2.imread(str(phantom / "breast" / path), cv2.IMREAD_GRAYSCALE), path.removesuffix(".png")
        files = sorted((phantom / "breast").glob(name.replace("(", "[(]") + "_mask*.png"))
        masks = [cv2.imread(str(file), cv2.IMREAD_UNCHANGED) for file in files]
        assert len(masks) == max(1, lesions) and all(mask.shape == image.shape for mask in masks)
        assert [bool(mask.any()) for mask in masks] == [True] * lesions or not lesions and not masks[0].any()
        for mask in masks if lesions else []:
            ring = cv2.dilate(mask, np.ones((31, 31))) > cv2.dilate(mask, np.ones((11, 11)))
            contrast.append(image[ring].mean() - image[cv2.erode(mask, np.ones((5, 5))) > 0].mean())
    assert np.median(contrast) > 15 and (np.array(contrast) > 0).mean() > 0.8


def test_nothing_but_texts_and_scale_outside_the_fan():
    overlays = 0
    for seed in range(6):
        rng = np.random.default_rng(seed)
        scanner = Scanner(Transducer.convex(rng, 80, 130), rng, rng)
        frame = scanner.frame(scatterers((DEPTHS, BEAMS), rng))
        assert frame.shape == (scanner.height, scanner.width, 3)
        assert not frame[~scanner.fan & (scanner.overlay == 0)].any()
        assert not scanner.overlay[scanner.fan].any()
        assert (frame[scanner.fan] > 0).any(axis=1).mean() > 0.9
        overlays += scanner.overlay.any()
    assert 0 < overlays < 6


def test_severity_and_class_overlap_but_differ():
    def mean(label: str, sign: str) -> float:
        rng = np.random.default_rng(0)
        return np.mean([draw_signs(LUNG_SIGNS[label], rng.uniform(), rng)[sign] for _ in range(300)])

    assert mean("covid", "b_lines") > mean("pneumonia", "b_lines") > mean("regular", "b_lines") > 0
    assert mean("pneumonia", "consolidation_mm") > 2 * mean("covid", "consolidation_mm")
    assert mean("regular", "a_lines") > mean("covid", "a_lines") > 0


@pytest.mark.parametrize(
    "wrong", [{"clips_per_class": {"butterfly": 2}}, {"clips_per_class": TINY["clips_per_class"] | {"clust": 0}},
              {"images_per_class": 0}, {"seconds": 0.0}, {"max_frames": -1}]
)
def test_impossible_parameters_stop_the_stage(wrong, workspace):
    with pytest.raises(UserError, match="params.yaml: simulate." + next(iter(wrong))):
        from_params(simulate.main, TINY | wrong, "simulate", seed=0)
    assert not Path("data").exists()
