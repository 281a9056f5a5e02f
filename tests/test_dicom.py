"""DICOM clips: pixels, times, regions and patients of files that the tests write, and of pydicom's own test files."""

import math
import os
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pydicom
import pytest
from pydicom import examples
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.fileset import FileSet
from pydicom.uid import (
    MPEG4HP41,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
    UltrasoundMultiFrameImageStorage,
    generate_uid,
)
from recordings import speckle, write_av

from stages import extract_frames
from stages.lib.clips import store
from stages.lib.clips.readers import reading
from stages.lib.clips.readers.recording import Unreadable
from stages.lib.params import UserError
from stages.sources import dicom

NAME = "DOE^JANE"
SECRETS = [NAME, "JANE", "19700101", "General Hospital", "PAT-0815", "DrWho", "SERIAL-77"]


def cine(frames, syntax=ExplicitVRLittleEndian, photometric="MONOCHROME2", **changes):
    """A data set of frames [H, W] or [H, W, 3], with a person in its header; `changes` are elements, None removes one."""
    array = np.stack(frames)
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = syntax
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = UltrasoundMultiFrameImageStorage
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = generate_uid()
    data.PatientName, data.PatientID, data.PatientBirthDate, data.Modality = NAME, "PAT-0815", "19700101", "US"
    data.InstitutionName, data.ReferringPhysicianName, data.DeviceSerialNumber = "General Hospital", "DrWho", "SERIAL-77"
    data.NumberOfFrames, data.Rows, data.Columns = array.shape[:3]
    data.SamplesPerPixel = 1 if array.ndim == 3 else 3
    if array.ndim == 4:
        data.PlanarConfiguration = 0
    data.PhotometricInterpretation = photometric
    data.BitsAllocated = data.BitsStored = 8 * array.itemsize
    data.HighBit, data.PixelRepresentation = data.BitsStored - 1, 0
    order = array.astype(array.dtype.newbyteorder(">")) if syntax == ExplicitVRBigEndian else array
    data.PixelData = order.tobytes()
    data["PixelData"].VR = "OB" if array.itemsize == 1 else "OW"
    return change(data, **changes)


def change(data, **changes):
    for name, value in changes.items():
        if value is not None:
            setattr(data, name, value)
        elif name in data:
            delattr(data, name)
    return data


def save(data, path):
    """Write it as it stands, right or wrong."""
    pydicom.dcmwrite(path, data, enforce_file_format=True)
    return path


def region(left, top, width, height, kind=1, form=1, delta=(0.02, 0.02)):
    part = Dataset()
    part.RegionSpatialFormat, part.RegionDataType, part.RegionFlags = form, kind, 0
    part.RegionLocationMinX0, part.RegionLocationMinY0 = left, top
    part.RegionLocationMaxX1, part.RegionLocationMaxY1 = left + width - 1, top + height - 1
    part.PhysicalUnitsXDirection = part.PhysicalUnitsYDirection = 3
    part.PhysicalDeltaX, part.PhysicalDeltaY = delta
    return part


def read(path, fps=math.nan, rate_hz=1000.0, most=100):
    return reading.read(path, fps, rate_hz, most, 25.0)


def colours(frames):
    """Frames [H, W, 3] in RGB whose luminance (BT.601) is not that of a single channel, and the luminance."""
    pictures = [np.dstack([frame, 255 - frame, frame // 2]) for frame in frames]
    return pictures, [cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) for picture in pictures]


def assert_alike(images, expected, most=1):
    assert len(images) == len(expected)
    for image, wanted in zip(images, expected, strict=True):
        assert image.shape == wanted.shape and np.abs(image.astype(int) - wanted).max() <= most


# Pixels


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian,
                                    DeflatedExplicitVRLittleEndian])  # fmt: skip
@pytest.mark.parametrize("kind", ["grey", "inverted", "rgb", "planes", "ybr", "palette", "12 bits", "inverted 12 bits"])
def test_every_photometric_interpretation(tmp_path, syntax, kind):
    frames = speckle(4)
    pictures, luminance = colours(frames)
    twelve = [frame.astype(np.uint16) * 16 for frame in frames]
    stored = {"BitsStored": 12, "HighBit": 11}
    data, expected = {
        "grey": lambda: (cine(frames, syntax), frames),
        "inverted": lambda: (cine([255 - frame for frame in frames], syntax, "MONOCHROME1"), frames),
        "rgb": lambda: (cine(pictures, syntax, "RGB"), luminance),
        "planes": lambda: (cine([picture.transpose(2, 0, 1) for picture in pictures], syntax, "RGB", PlanarConfiguration=1,
                                Rows=48, Columns=64), luminance),
        "ybr": lambda: (cine([cv2.cvtColor(picture, cv2.COLOR_RGB2YCrCb) for picture in pictures], syntax, "YBR_FULL"),
                        luminance),
        "palette": lambda: (palette(cine([255 - frame for frame in frames], syntax, "PALETTE COLOR")), frames),
        "12 bits": lambda: (cine(twelve, syntax, **stored), frames),
        "inverted 12 bits": lambda: (cine([4095 - frame for frame in twelve], syntax, "MONOCHROME1", **stored), frames),
    }[kind]()  # fmt: skip
    clip = read(save(data, tmp_path / "a"))
    assert_alike(clip.images, expected)
    assert clip.facts["grey"] == ("12 bits in use" if "12" in kind else "")
    assert clip.facts["notes"] == "" and clip.facts["frames_damaged"] == 0


@pytest.mark.parametrize("stored", [12, 16])
@pytest.mark.parametrize("low", [0, -1000])
@pytest.mark.parametrize("kind", ["MONOCHROME1", "MONOCHROME2"])
def test_one_bit_of_signed_values_is_the_sign(tmp_path, stored, low, kind):
    values = np.random.default_rng(0).integers(low, 1 << 11, (2, 48, 64)).astype(np.int16)
    data = cine(values, photometric=kind, BitsStored=stored, HighBit=stored - 1, PixelRepresentation=1)
    clip = read(save(data, tmp_path / "a"))
    shown = (-values if kind == "MONOCHROME1" else values).astype(int)
    bottom, top = (shown.min(), shown.max()) if shown.min() < 0 else (0, (1 << 11) - 1)
    assert_alike(clip.images, (shown - bottom) * 255 / (top - bottom))


def palette(data):
    """With tables that turn 255 into black and 0 into white."""
    for colour in ("Red", "Green", "Blue"):
        setattr(data, f"{colour}PaletteColorLookupTableDescriptor", [256, 0, 16])
        setattr(data, f"{colour}PaletteColorLookupTableData", (np.arange(255, -1, -1, dtype=np.uint16) * 257).tobytes())
    return data


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless, JPEGLSLossless])
@pytest.mark.parametrize("count", [4, None])
def test_compressed_frames_with_and_without_a_frame_count(tmp_path, syntax, count):
    data = cine(speckle(4))
    if syntax == JPEGLSLossless:
        import imagecodecs

        data.PixelData = encapsulate([imagecodecs.jpegls_encode(frame) for frame in speckle(4)], has_bot=False)
        data.file_meta.TransferSyntaxUID = syntax
    else:
        data.compress(syntax, generate_instance_uid=False)
    clip = read(save(change(data, NumberOfFrames=count), tmp_path / "a.dcm"))
    assert_alike(clip.images, speckle(4), most=0)


def test_jpeg_frames_in_several_fragments(tmp_path):
    frames = speckle(3)
    coded = [cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, 100])[1].tobytes() for frame in frames]
    data = cine(frames, JPEGBaseline8Bit, NumberOfFrames=None)
    data.PixelData = encapsulate(coded, fragments_per_frame=3, has_bot=False)
    assert_alike(read(save(data, tmp_path / "a.dcm")).images, frames, most=4)


def test_an_encapsulated_video_stream(tmp_path):
    frames = speckle(10)
    video = write_av(tmp_path / "a.mp4", frames, fps=20, codec="libx264", options={"crf": "1"}).read_bytes()
    data = cine(frames, MPEG4HP41, "YBR_PARTIAL_420", FrameTime="50")
    data.PixelData = encapsulate([video])
    clip = read(save(data, tmp_path / "a.dcm"))
    assert np.mean([np.abs(one.astype(int) - two).mean() for one, two in zip(clip.images, frames, strict=True)]) < 3
    assert clip.times_s == pytest.approx(np.arange(10) / 20)


SHIPPED = """examples_palette examples_rgb_color examples_ybr_color examples_jpeg2k SC_rgb_rle_2frame SC_rgb_jpeg_dcmtk
    SC_rgb_jls_lossy_line JPEG2000 JPGExtended image_dfl MR_small
    SC_ybr_full_422_uncompressed liver_expb_1frame ExplVR_BigEnd"""


@pytest.mark.parametrize("name", SHIPPED.split())
def test_files_that_pydicom_ships_have_the_luminance_of_its_own_pixels(name):
    path = Path(get_testdata_file(f"{name}.dcm"))
    data = pydicom.dcmread(path)
    if data.get("BitsAllocated") == 1:
        with pytest.raises(Unreadable, match="the size or depth of its picture is not believed"):
            read(path)
        return
    clip = read(path)
    values = data.pixel_array.reshape(len(clip.images), data.Rows, data.Columns, -1)
    if data.PhotometricInterpretation == "PALETTE COLOR":
        values = pydicom.pixels.apply_color_lut(values[..., 0], data) >> 8
    if values.shape[-1] == 3:                                                  # pydicom gives RGB
        for image, picture in zip(clip.images, values.astype(np.uint8), strict=True):
            apart = np.abs(image.astype(int) - cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY))
            assert np.percentile(apart, 99) <= 2                               # pydicom has clipped a few colours
    else:
        ranks = [np.corrcoef(image.ravel(), picture.ravel())[0, 1] for image, picture in zip(clip.images, values, strict=True)]
        assert min(ranks) > 0.98                                                # few of 12 bits are in use


# Time, place, scale


@pytest.mark.parametrize(
    ("elements", "times"),
    [({"FrameTime": "50"}, np.arange(6) / 20), ({"CineRate": "40"}, np.arange(6) / 40),
     ({"RecommendedDisplayFrameRate": "10"}, np.arange(6) / 10), ({"FrameTime": "0", "CineRate": "25"}, np.arange(6) / 25),
     ({"FrameTime": "50", "CineRate": "99"}, np.arange(6) / 20), ({}, [math.nan] * 6),
     ({"FrameTimeVector": [0, 10, 20, 30, 40, 50], "CineRate": "25"}, np.array([0, 10, 30, 60, 100, 150]) / 1000)],
)  # fmt: skip
def test_times_come_from_the_four_elements(tmp_path, elements, times):
    clip = read(save(cine(speckle(6), **elements), tmp_path / "a.dcm"))
    assert clip.times_s == pytest.approx(times, nan_ok=True)


def test_only_the_tissue_is_left_of_the_regions(tmp_path):
    frames = [np.full((100, 120), 50 + number, np.uint8) for number in range(5)]
    parts = [region(10, 20, 60, 70), region(12, 80, 50, 20, kind=3, form=3), region(10, 20, 5, 5, kind=13, form=0),
             region(0, 0, 120, 100, kind=0, form=0), region(80, 20, 30, 30), region(15, 25, 20, 20, kind=2)]  # fmt: skip
    clip = read(save(cine(frames, SequenceOfUltrasoundRegions=parts), tmp_path / "a.dcm"))
    expected = np.zeros((100, 120), bool)
    expected[20:90, 10:70] = True                                              # the largest picture of tissue
    expected[80:100, 12:62] = False                                            # without the spectrum
    expected[20:25, 10:15] = False                                             # and without the grey bar
    assert clip.region == (10, 20, 60, 70)
    for image, frame in zip(clip.images, frames, strict=True):
        assert np.array_equal(image, np.where(expected, frame, 0))
    assert clip.facts["mm_per_px"] == 0.2
    assert clip.facts["notes"] == "of its 2 pictures side by side the largest is read"


def test_regions_that_cannot_be_are_not_believed(tmp_path):
    clip = read(save(cine(speckle(2), SequenceOfUltrasoundRegions=[region(10, 10, 100, 30)]), tmp_path / "a.dcm"))
    assert_alike(clip.images, speckle(2), most=0)
    assert clip.region is None and "no region is believed" in clip.facts["notes"]


@pytest.mark.parametrize(
    ("elements", "width", "mm_per_px"),
    [({"SequenceOfUltrasoundRegions": [region(0, 0, 64, 48, delta=(0.04, 0.02))]}, 128, 0.2),
     ({"SequenceOfUltrasoundRegions": [region(0, 0, 64, 48, delta=(-0.02, 0.02))]}, 64, 0.2),
     ({"PixelSpacing": [0.3, 0.6]}, 128, 0.3), ({"PixelAspectRatio": [4, 3]}, 48, math.nan),
     ({"PixelSpacing": [1, 1]}, 64, math.nan)],
)  # fmt: skip
def test_pixels_become_square_and_have_their_size(tmp_path, elements, width, mm_per_px):
    clip = read(save(cine(speckle(2), **elements), tmp_path / "a.dcm"))
    assert clip.images[0].shape == (48, width)
    assert clip.facts["mm_per_px"] == pytest.approx(mm_per_px, nan_ok=True)
    assert clip.region in (None, (0, 0, width, 48))


# What is wrong with a file


def test_files_that_break_off_or_hold_other_than_they_state(tmp_path):
    path = save(cine(speckle(10), NumberOfFrames=10), tmp_path / "cut.dcm")
    path.write_bytes(path.read_bytes()[: -3 * 48 * 64 - 100])
    clip = read(path)
    assert (clip.facts["frames_read"], clip.facts["frames_damaged"]) == (6, 4)
    assert_alike(clip.images, speckle(10)[:6], most=0)
    assert read(save(cine(speckle(10), NumberOfFrames=None), tmp_path / "none.dcm")).facts["frames_read"] == 10
    clip = read(save(cine(speckle(10), NumberOfFrames=30), tmp_path / "more.dcm"))
    assert (clip.facts["frames_read"], clip.facts["frames_damaged"]) == (10, 20)


@pytest.mark.parametrize(
    ("elements", "reason"),
    [({"PixelData": None}, "without pixel data"), ({"Rows": None}, "its header does not state Rows"),
     ({"Rows": 60000, "Columns": 60000}, "its picture is not believed"), ({"BitsAllocated": 7}, "its picture is not believed"),
     ({"PixelData": b"ab"}, "cut off: not one whole frame")],
)  # fmt: skip
def test_a_file_without_a_whole_picture_gets_its_reason(tmp_path, elements, reason):
    data = cine(speckle(2))
    for name, value in elements.items():
        change(data, **{name: value})
    with pytest.raises(Unreadable, match=reason):
        read(save(data, tmp_path / "a.dcm"))


@pytest.mark.parametrize(("syntax", "name"), [("1.2.840.10008.1.2.4.110", "JPEG XL Lossless"), ("1.2.3", "an unknown one")])
def test_what_nothing_decodes_is_refused_by_name(tmp_path, syntax, name):
    known = "1.2.840.10008.1.2.4.100"                                           # of the same length
    data = cine(speckle(1), known)
    data.PixelData = encapsulate([b"abcd"])
    path = save(data, tmp_path / "a.dcm")
    path.write_bytes(path.read_bytes().replace(known.encode(), syntax.encode().ljust(len(known), b"\0")))
    with pytest.raises(Unreadable, match=f"its transfer syntax, {name}, cannot be decoded"):
        read(path)


# The source, and who must not be seen


@pytest.fixture
def archive(workspace, monkeypatch):
    """data/raw/dicom with three clips of two patients, one of them only in the DICOMDIR's list, and a CT."""
    monkeypatch.setenv("SONOPAIR_WORKERS", "1")
    folder = workspace / "data/raw/dicom"
    (folder / "deep").mkdir(parents=True)
    for number, (name, patient) in enumerate([("deep/IM1", "PAT-0815"), ("IM2.dcm", "PAT-0815"), ("IM3", "B")]):
        save(cine(speckle(6, seed=number), PatientID=patient, FrameTime="50", BurnedInAnnotation="YES"), folder / name)
    save(cine(speckle(1), Modality="CT"), folder / "ct.dcm")
    (folder / "autorun.exe").write_bytes(b"MZ")
    return folder


def extract():
    extract_frames.main("dicom", "raw", 5.0, 10, 20.0, 32, "fan")
    return store.read("data/frames/dicom")


def test_a_folder_of_dicom_needs_no_list(archive):
    clips = extract().clip_table.set_index("clip")
    assert dict(clips["left_out"]) == {
        "IM2.dcm": "", "IM3": "", "deep/IM1": "", "autorun.exe": "not a DICOM file",
        "ct.dcm": "not ultrasound: it has another modality"}  # fmt: skip
    patients = clips.loc[["deep/IM1", "IM2.dcm", "IM3"], "patient"]
    assert patients["deep/IM1"] == patients["IM2.dcm"] != patients["IM3"]
    assert patients.str.fullmatch("[0-9a-f]{16}").all()
    assert (clips["burned_in"][patients.index] == "yes").all()


def test_labels_and_patients_of_a_list_go_before_the_header(archive):
    pd.DataFrame({"path": ["IM3", "deep/IM1", "gone"], "label": ["a", "b", "c"], "patient": ["me", "", ""]}).to_csv(
        archive / "clips.csv", index=False)
    clips = extract().clip_table.set_index("clip")
    assert (clips.loc["IM3", "patient"], clips.loc["IM3", "label"], clips.loc["deep/IM1", "label"]) == ("me", "a", "b")
    assert clips.loc["deep/IM1", "patient"] == clips.loc["IM2.dcm", "patient"] != ""
    assert "missing" in clips.loc["gone", "left_out"]


@pytest.mark.parametrize("path", ["deep/IM1", "./deep/IM1", ".\\deep\\IM1", "deep//IM1 ", "../dicom/deep/IM1",
                                  "{absolute}/deep/IM1"])  # fmt: skip
def test_a_path_of_a_list_is_known_in_any_spelling(archive, path):
    line = {"path": path.format(absolute=archive.resolve()), "label": " a  b ", "patient": " Zoe\u0301"}
    pd.DataFrame([line]).to_csv(archive / "clips.csv", index=False)
    table = dicom.clips(Path("data/raw/dicom")).set_index("clip")
    assert len(table) == 5
    assert list(table.loc["deep/IM1", ["label", "patient", "left_out"]]) == ["a b", "Zo\u00e9", ""]


@pytest.mark.parametrize("column", ["label", "patient"])
def test_lines_of_a_list_that_contradict_each_other_leave_the_clip_out(archive, column):
    lines = pd.DataFrame({"path": ["deep/IM1", "deep\\IM1", "IM2.dcm", "IM3"], "label": "x", "patient": "p"})
    lines["left_out"] = ["", "", "blurred", ""]
    lines.loc[1, column] = "y"
    lines.to_csv(archive / "clips.csv", index=False)
    table = dicom.clips(archive)
    reasons = {clip: set(part["left_out"]) for clip, part in table.groupby("clip")}
    assert "which is right is unknown" in reasons.pop("deep/IM1").pop()
    assert reasons["IM2.dcm"] == {"blurred"} and reasons["IM3"] == {""}


def test_a_line_of_a_list_without_a_path_is_named(archive):
    (archive / "clips.csv").write_text("path,label,fps\nIM3,x,\n,y,\n")
    with pytest.raises(UserError, match="clips.csv, line 3 has no path"):
        dicom.clips(archive)


def test_a_dicomdir_names_what_is_missing(workspace):
    folder = workspace / "data/raw/dicom"
    files = FileSet()
    for number in range(3):
        files.add(change(cine(speckle(2, seed=number)), StudyInstanceUID=generate_uid(), SeriesInstanceUID=generate_uid(),
                         StudyDate="20200101", StudyTime="1200", StudyID="1", SeriesNumber=1, InstanceNumber=number))
    files.write(folder)
    there = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "DICOMDIR")
    there[0].unlink()
    table = dicom.clips(Path("data/raw/dicom"))
    assert len(table) == 3 and (table["left_out"] != "").sum() == 1
    assert table[table["left_out"] != ""]["path"].item() == f"data/raw/dicom/{there[0].relative_to(folder).as_posix()}"


def test_the_hash_hangs_on_the_salt_alone(archive, monkeypatch):
    first = dicom.clips(archive).set_index("clip")["patient"]
    assert list(first) == list(dicom.clips(archive).set_index("clip")["patient"])
    assert oct((archive.parent / "dicom_salt.txt").stat().st_mode)[-3:] == "600"
    (archive.parent / "dicom_salt.txt").unlink()
    second = dicom.clips(archive).set_index("clip")["patient"]
    assert first["IM3"] != second["IM3"]
    for content in ("", "short\n"):                             # as after a full disk
        (archive.parent / "dicom_salt.txt").write_text(content)
        with pytest.raises(UserError, match=f"dicom_salt.txt has {len(content.strip())} characters; write 16 or more into it"):
            dicom.clips(archive)
    monkeypatch.setenv("SONOPAIR_SALT", "sixteen letters and more")
    assert dicom.clips(archive).set_index("clip")["patient"]["IM3"] == dicom.clips(archive).set_index("clip")["patient"]["IM3"]
    monkeypatch.setenv("SONOPAIR_SALT", "short")
    with pytest.raises(UserError, match="SONOPAIR_SALT has 5 characters"):
        dicom.clips(archive)


@pytest.mark.parametrize("name", ["", "0", "ANONYMOUS", "N/A", "NA", "-"])
def test_clips_of_dicom_without_a_patient_are_told_of(archive, capsys, name):
    save(change(pydicom.dcmread(archive / "IM3"), PatientID=name), archive / "IM3")
    assert dicom.clips(archive).set_index("clip")["patient"]["IM3"] == ""
    assert "1 clips name no patient: each counts as a patient of its own" in capsys.readouterr().out


def test_a_patient_whose_issuer_only_some_files_state_is_one(archive):
    data = pydicom.dcmread(archive / "IM3")
    data.IssuerOfPatientID = "General Hospital"
    save(data, archive / "IM8")
    patients = dicom.clips(archive).set_index("clip")["patient"]
    assert patients["IM8"] == patients["IM3"] != ""


def test_no_header_field_reaches_an_output_a_log_or_a_page(archive, capfd, caplog):
    for number, path in enumerate(sorted(archive.rglob("IM*"))):
        data = pydicom.dcmread(path)
        data.Rows = data.Rows if number else None                              # one is damaged, and one has impossible values
        if number == 1:
            data.add_new(0x00181063, "DS", "50")
            data._dict[pydicom.tag.Tag(0x00080022)] = pydicom.dataelem.DataElement(0x00080022, "LO", f"{NAME} 19700101")
        save(data, path)
    (archive / "IM9.dcm").write_bytes((archive / "IM3").read_bytes()[:900])     # broken off in the header
    extract()
    said = capfd.readouterr()
    texts = [said.out, said.err, caplog.text] + [path.read_text(errors="replace") for path in Path().rglob("*")
                                                 if path.is_file() and "raw" not in path.parts]  # fmt: skip
    assert len(texts) > 6
    assert not [secret for secret in SECRETS for text in texts if secret in text]


def test_custom_takes_dicom_too_and_hashes_the_patient_it_does_not_name(archive):
    folder = archive.with_name("custom")
    os.rename(archive, folder)
    pd.DataFrame({"path": ["IM3", "IM2.dcm"], "patient": ["", "me"], "label": ""}).to_csv(folder / "clips.csv", index=False)
    extract_frames.main("custom", "raw", 5.0, 10, 20.0, 32, "fan")
    clips = store.read("data/frames/custom").clip_table.set_index("clip")
    assert clips.loc["IM2.dcm", "patient"] == "me" and len(clips.loc["IM3", "patient"]) == 16
    assert examples.get_path("rgb_color").exists()
