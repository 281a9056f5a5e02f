"""DICOM headers that are incomplete, odd or contradictory: the right picture, or the sentence that says why not."""

import math
from functools import partial

import cv2
import imagecodecs
import numpy as np
import pytest
from pydicom import Dataset
from pydicom.dataelem import DataElement
from pydicom.encaps import encapsulate
from pydicom.tag import Tag
from pydicom.uid import (
    MPEG4HP41,
    EnhancedUSVolumeStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
)
from recordings import speckle, write_av
from test_dicom import assert_alike, change, cine, colours, palette, read, region, save

from stages.lib.clips.readers.recording import Unreadable

FRAMES = speckle(12)
DEEP = [frame.astype(np.uint16) for frame in FRAMES]


def opened(tmp_path, data):
    return read(save(data, tmp_path / "a.dcm"))


@pytest.mark.parametrize(
    ("elements", "times", "note"),
    [({"FrameTime": "0"}, None, ""), ({"FrameTime": "-40", "CineRate": "20"}, 20, ""),
     ({"FrameTime": "0.001"}, None, "its file states 1e+06 frames a second, which is not believed: no times"),
     ({"FrameTime": "100000"}, None, "its file states 0.01 frames a second, which is not believed: no times"),
     ({"CineRate": "0", "RecommendedDisplayFrameRate": "20"}, 20, ""), ({"FrameTime": "0.05", "CineRate": "20"}, 20, ""),
     ({"FrameTimeVector": [0] + [0.05] * 11, "RecommendedDisplayFrameRate": "20"}, 20, ""),
     ({"FrameTimeVector": [0, 50, 50]}, 20, "it states the times of 3 frames and has 12: missing times are spaced evenly"),
     ({"FrameTimeVector": [50] * 11}, 20, "it states the times of 11 frames and has 12: missing times are spaced evenly"),
     ({"FrameTimeVector": [0] * 12}, None, ""), ({"FrameTimeVector": [0] * 12, "FrameTime": "50"}, 20, ""),
     ({"FrameTimeVector": [0] + [50] * 5 + [100_000] + [50] * 5}, 20,
      "1 of its time stamps leap by a minute or more: the last frame length is used"),
     ({"FrameTimeVector": [50 * number for number in range(12)], "CineRate": "20"}, 20,
      "its FrameTimeVector holds times, not the steps between frames: it is read as times"),
     ({"FrameTime": "50", "CineRate": "20", "RecommendedDisplayFrameRate": "60"}, 20,
      "its header states 20, 20, 60 frames a second: the first is taken")],
)  # fmt: skip
def test_times_that_cannot_be_are_not_believed(tmp_path, elements, times, note):
    clip = opened(tmp_path, cine(FRAMES, **elements))
    expected = [math.nan] * 12 if times is None else np.arange(12) / times
    assert clip.times_s == pytest.approx(expected, nan_ok=True, abs=1e-6)
    assert clip.facts["notes"] == note


@pytest.mark.parametrize("missing", ["SamplesPerPixel", "BitsStored", "HighBit", "PixelRepresentation", "NumberOfFrames"])
def test_an_element_that_follows_from_the_others_may_be_missing(tmp_path, missing):
    assert_alike(opened(tmp_path, cine(FRAMES, **{missing: None})).images, FRAMES, most=0)


@pytest.mark.parametrize(
    ("frames", "elements"),
    [(FRAMES, {"BitsStored": 0}), (FRAMES, {"BitsStored": 20}),
     ([frame * 4 for frame in DEEP], {"BitsStored": 10, "HighBit": 9}),
     ([frame * 16 for frame in DEEP], {"BitsStored": 12, "HighBit": 11}), ([frame * 257 for frame in DEEP], {}),
     ([frame * 256 for frame in DEEP], {"BitsStored": 12, "HighBit": 15}), (DEEP, {"BitsStored": 8, "HighBit": 7}),
     ([frame * 16 + 0x8000 for frame in DEEP], {"BitsStored": 12, "HighBit": 11})],
    ids=["0", "20 of 8", "10", "12", "16", "12 upper", "8 of 16", "12 below an overlay"],
)  # fmt: skip
def test_bits_of_every_number_and_place(tmp_path, frames, elements):
    assert_alike(opened(tmp_path, cine(frames, **elements)).images, FRAMES)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_a_palette_has_the_byte_order_of_its_file(tmp_path, syntax):
    data = cine(FRAMES, syntax, "PALETTE COLOR")
    shown = np.arange(256) ** 2 // 255
    for number, colour in enumerate(("Red", "Green", "Blue")):
        setattr(data, f"{colour}PaletteColorLookupTableDescriptor", [256, 0, 16])
        table = (shown * 256 + 77 * number).astype(">u2" if syntax == ExplicitVRBigEndian else "<u2")
        setattr(data, f"{colour}PaletteColorLookupTableData", table.tobytes())
    assert_alike(opened(tmp_path, data).images, [shown[frame] for frame in FRAMES])


@pytest.mark.parametrize("bits", [6, 7])
@pytest.mark.parametrize("allocated", [np.uint8, np.uint16])
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2", "PALETTE COLOR"])
def test_fewer_than_8_bits_have_their_whole_range(tmp_path, photometric, allocated, bits):
    top = (1 << bits) - 1
    values = [(frame >> (8 - bits)).astype(allocated) for frame in FRAMES]
    shown = [frame * (255 / top) for frame in values]
    if photometric == "MONOCHROME1":
        values = [(top - frame).astype(allocated) for frame in values]
    data = cine(values, photometric=photometric, BitsStored=bits, HighBit=bits - 1)
    if photometric == "PALETTE COLOR":                                          # from 255 to 0: a dark picture stays dark
        data, shown = palette(data), [255.0 - frame for frame in values]
    assert_alike(opened(tmp_path, data).images, [frame.round() for frame in shown])


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless])
def test_black_of_inverted_values_has_the_bits_in_use(tmp_path, syntax):
    stored = [4095 - frame * 16 for frame in DEEP]                              # 12 bits, of which the header says nothing
    data = cine(stored, photometric="MONOCHROME1", SequenceOfUltrasoundRegions=[region(8, 8, 48, 32)])
    if syntax == RLELossless:
        data.compress(syntax)
    inside = np.zeros((48, 64), bool)
    inside[8:40, 8:56] = True
    assert_alike(opened(tmp_path, data).images, [frame * inside for frame in FRAMES])


def restated(path, syntax):
    """Let the header name another transfer syntax; the data set stays as it is."""
    data = path.read_bytes()
    place = data.index(b"\x02\x00\x10\x00UI") + 6                             # of the element's length
    before = int.from_bytes(data[place : place + 2], "little")
    value = syntax.encode() + b"\0" * (len(syntax) % 2)
    group = data.index(b"\x02\x00\x00\x00UL") + 8
    length = int.from_bytes(data[group : group + 4], "little") + len(value) - before
    path.write_bytes(data[:group] + length.to_bytes(4, "little") + data[group + 4 : place] +
                     len(value).to_bytes(2, "little") + value + data[place + 2 + before :])
    return path


@pytest.mark.parametrize("stated", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_an_encoding_that_is_stated_wrongly_moves_no_pixel(tmp_path, stated):
    other = {ExplicitVRLittleEndian: ImplicitVRLittleEndian, ImplicitVRLittleEndian: ExplicitVRLittleEndian}[stated]
    clip = read(restated(save(cine(FRAMES, other), tmp_path / "a.dcm"), stated))
    assert_alike(clip.images, FRAMES, most=0)
    assert clip.facts["frames_damaged"] == 0


@pytest.mark.parametrize("stated", [ExplicitVRLittleEndian, None])
def test_compressed_frames_that_are_not_stated_are_not_taken_for_pixels(tmp_path, stated):
    data = cine(FRAMES, JPEGBaseline8Bit)
    data.PixelData = encapsulate([cv2.imencode(".jpg", frame)[1].tobytes() for frame in FRAMES])
    path = save(data, tmp_path / "a.dcm")
    if stated:
        restated(path, stated)
    else:                                                                       # as old archives wrote files: no meta header
        path.write_bytes(path.read_bytes()[path.read_bytes().index(b"\x08\0\x16\0") :])
    with pytest.raises(Unreadable, match="its pixel data are compressed, and its header does not say how: convert it"):
        read(path)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("kind", [np.int8, np.int16])
def test_signed_values_are_stretched(tmp_path, photometric, kind):
    signed = [(frame.astype(np.int16) - 128).astype(kind) for frame in FRAMES]
    shown = [-1 - frame for frame in signed] if photometric == "MONOCHROME1" else signed
    clip = opened(tmp_path, cine(shown, photometric=photometric, PixelRepresentation=1))
    low, high = np.min(FRAMES), np.max(FRAMES)
    assert_alike(clip.images, [((frame - float(low)) * 255 / (high - low)).round().astype(np.uint8) for frame in FRAMES])
    assert clip.facts["grey"].startswith("values from ")


@pytest.mark.parametrize("kind", ["YBR_FULL_422", "YBR_PARTIAL_422"])
def test_two_pixels_that_share_their_colour(tmp_path, kind):
    luma = [np.round(frame * (219 / 255) + 16).astype(np.uint8) if "PARTIAL" in kind else frame for frame in FRAMES]
    pairs = np.full((12, 48, 32, 4), 128, np.uint8)                              # Y, Y, Cb, Cr
    pairs[..., 0], pairs[..., 1] = np.stack(luma)[:, :, ::2], np.stack(luma)[:, :, 1::2]
    data = cine([np.dstack([frame] * 3) for frame in FRAMES], photometric=kind)
    data.PixelData = pairs.tobytes()
    clip = opened(tmp_path, data)
    assert_alike(clip.images, FRAMES)
    assert clip.facts["frames_damaged"] == 0


@pytest.mark.parametrize(
    ("frames", "elements", "reason"),
    [(FRAMES, {"PhotometricInterpretation": None}, "its header does not state PhotometricInterpretation"),
     (FRAMES, {"BitsAllocated": None}, "its header does not state BitsAllocated"),
     (FRAMES, {"PhotometricInterpretation": "DOE^JANE"}, "its colours, of an unknown kind, are not read"),
     (colours(FRAMES)[0], {"PhotometricInterpretation": "HSV"}, "its colours, HSV, are not read"),
     (colours(FRAMES)[0], {"PhotometricInterpretation": "YBR_PARTIAL_420"}, "YBR_PARTIAL_420 without compression"),
     (colours(FRAMES)[0], {"PhotometricInterpretation": "YBR_FULL_422", "Columns": 63}, "but its width is odd"),
     (FRAMES, {"PhotometricInterpretation": "RGB"}, "contradicts itself: RGB with 1 per pixel in place of 3"),
     (FRAMES, {"SamplesPerPixel": 3}, "contradicts itself: MONOCHROME2 with 3 per pixel in place of 1"),
     (FRAMES, {"PhotometricInterpretation": "PALETTE COLOR"}, "damaged or incomplete"),
     (FRAMES, {"Rows": 0}, "not believed"), (FRAMES, {"BitsAllocated": 1}, "not believed")],
)  # fmt: skip
def test_a_header_that_states_no_picture(tmp_path, frames, elements, reason):
    with pytest.raises(Unreadable, match=reason):
        opened(tmp_path, change(cine(frames, photometric="RGB" if frames[0].ndim == 3 else "MONOCHROME2"), **elements))


@pytest.mark.parametrize("stated", ["RGB", "YBR_FULL", "YBR_FULL_422"])
def test_jpegs_whose_colours_are_stated_wrongly(tmp_path, stated):
    pictures, luminance = colours(FRAMES)
    data = cine(pictures, JPEGBaseline8Bit, stated)
    data.PixelData = encapsulate([cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 100])[1].tobytes()
                                  for picture in pictures])
    assert_alike(opened(tmp_path, data).images, luminance, most=3)


@pytest.mark.parametrize("stated", ["YBR_FULL", "YBR_FULL_422", "YBR_PARTIAL_420", "YBR_RCT", "YBR_ICT"])
@pytest.mark.parametrize("transformed", [True, False])
def test_jpeg_2000_that_holds_red_green_and_blue_whatever_its_label(tmp_path, stated, transformed):
    pictures, luminance = colours(FRAMES)
    data = cine(pictures, JPEG2000Lossless, stated)
    data.PixelData = encapsulate([imagecodecs.jpeg2k_encode(picture, level=0, mct=transformed, codecformat="j2k")
                                  for picture in pictures])
    assert_alike(opened(tmp_path, data).images, luminance)


@pytest.mark.parametrize("planes", [0, 1])
@pytest.mark.parametrize("syntax", [JPEGBaseline8Bit, JPEG2000Lossless, JPEGLSLossless, RLELossless])
def test_compressed_colours_are_read_whether_their_header_says_planes_or_pixels(tmp_path, syntax, planes):
    pictures, luminance = colours(FRAMES)
    data = cine(pictures, syntax, "RGB")
    if syntax == RLELossless:
        data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data.compress(syntax)
    else:
        encode = {JPEGBaseline8Bit: partial(imagecodecs.jpeg8_encode, level=100), JPEGLSLossless: imagecodecs.jpegls_encode,
                  JPEG2000Lossless: partial(imagecodecs.jpeg2k_encode, level=0, codecformat="j2k")}[syntax]
        data.PixelData = encapsulate([encode(picture) for picture in pictures])
    data.PlanarConfiguration = planes
    assert_alike(opened(tmp_path, data).images, luminance, most=3)


@pytest.mark.parametrize("packed", [False, True])
def test_luminance_and_colours_that_are_stated_to_be_red_green_and_blue(tmp_path, packed):
    grey = np.full((48, 64), 128, np.uint8)
    stored = [np.ascontiguousarray(np.dstack([frame, grey, grey])) for frame in FRAMES]
    for image in stored:
        image[:16, :32, 1:] = 90, 200                                           # a box of colour flow
    data = cine(stored, JPEGBaseline8Bit if packed else ExplicitVRLittleEndian, "RGB")
    if packed:                                                                  # without a marker that tells of the colours
        data.PixelData = encapsulate([imagecodecs.jpeg8_encode(image, level=100, colorspace="RGB", outcolorspace="RGB",
                                                               subsampling="444") for image in stored])
    assert_alike(opened(tmp_path, data).images, FRAMES, most=3)


@pytest.mark.parametrize("part", [0, 1])
def test_red_green_and_blue_that_look_like_luminance_and_colours(tmp_path, part):
    pictures = [np.dstack([frame] * 3) for frame in FRAMES]
    for picture in pictures:
        picture[:24 - 2 * part] = (20, 128, 128) if part else 128               # a bar of one hue; a grey half
    expected = [cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) for picture in pictures]
    assert_alike(opened(tmp_path, cine(pictures, photometric="RGB")).images, expected)


@pytest.mark.parametrize("quality", [50, 100])
@pytest.mark.parametrize("dark", [False, True])
def test_luminance_and_colours_in_jpeg_2000_are_not_taken_for_red_green_and_blue(tmp_path, dark, quality):
    pictures = [picture // 8 if dark else picture for picture in colours(FRAMES)[0]]
    stored = [cv2.cvtColor(picture, cv2.COLOR_RGB2YCrCb)[..., [0, 2, 1]] for picture in pictures]
    data = cine(pictures, JPEG2000Lossless, "YBR_FULL")
    data.PixelData = encapsulate([imagecodecs.jpeg2k_encode(np.ascontiguousarray(image), level=quality % 100, mct=False,
                                                            codecformat="j2k") for image in stored])
    assert_alike(opened(tmp_path, data).images, [image[..., 0] for image in stored], most=1 if quality == 100 else 8)


def test_one_broken_frame_among_sound_ones(tmp_path):
    coded = [cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, 100])[1].tobytes() for frame in FRAMES]
    data = cine(FRAMES, JPEGBaseline8Bit)
    data.PixelData = encapsulate([*coded[:2], coded[2][:60], *coded[3:]])
    clip = opened(tmp_path, data)
    assert (clip.facts["frames_read"], clip.facts["frames_damaged"]) == (12, 1)
    assert_alike(clip.images, FRAMES[:2] + FRAMES[3:], most=4)


@pytest.mark.parametrize(
    ("parts", "note"),
    [([region(4, 4, 40, 30), region(50, 40, 40, 40, kind=3, form=3)], "lies outside its picture"),
     ([region(4, 4, 40, 30), region(0, 0, 64, 48, kind=3, form=3)], "is tiny, or lies below another"),
     ([region(4, 4, 2, 2)], "is tiny, or lies below another"),
     ([change(region(4, 4, 40, 30), RegionLocationMaxX1=None)], "has no place")],
    ids=["outside", "below another", "tiny", "no place"],
)  # fmt: skip
def test_regions_that_contradict_the_picture_leave_it_whole(tmp_path, parts, note):
    clip = opened(tmp_path, cine(FRAMES, SequenceOfUltrasoundRegions=parts))
    assert clip.region is None and note in clip.facts["notes"]
    assert_alike(clip.images, FRAMES, most=0)


def test_a_region_that_ends_just_outside_the_picture(tmp_path):
    clip = opened(tmp_path, cine(FRAMES, SequenceOfUltrasoundRegions=[region(0, 0, 66, 49)]))
    assert clip.region == (0, 0, 64, 48) and clip.facts["notes"] == ""
    assert_alike(clip.images, FRAMES, most=0)


@pytest.mark.parametrize("elements", [{"PixelSpacing": [0, 0]}, {"PixelAspectRatio": [0, 1]}, {"PixelSpacing": "0.2"},
                                      {"SequenceOfUltrasoundRegions": [region(0, 0, 64, 48, delta=(0.0, 0.0))]}])
def test_a_scale_that_cannot_be_is_unknown(tmp_path, elements):
    clip = opened(tmp_path, cine(FRAMES, **elements))
    assert_alike(clip.images, FRAMES, most=0)
    assert math.isnan(clip.facts["mm_per_px"])


@pytest.mark.parametrize("name", ["FrameTime", "CineRate", "PixelSpacing", "PixelAspectRatio", "FrameTimeVector"])
def test_numbers_that_are_none_cost_nothing_but_themselves(tmp_path, name):
    data = cine(FRAMES, **{name: None})
    tag = {"FrameTime": 0x00181063, "CineRate": 0x00180040, "PixelSpacing": 0x00280030, "PixelAspectRatio": 0x00280034,
           "FrameTimeVector": 0x00181065}[name]  # fmt: skip
    data._dict[Tag(tag)] = DataElement(tag, "LO", "DOE^JANE")
    path = save(data, tmp_path / "a.dcm")
    vr = {"CineRate": b"IS", "PixelAspectRatio": b"IS"}.get(name, b"DS")
    place = tag >> 16, tag & 0xFFFF
    written = np.array(place, "<u2").tobytes()
    path.write_bytes(path.read_bytes().replace(written + b"LO", written + vr))
    clip = read(path)
    assert_alike(clip.images, FRAMES, most=0)
    assert "DOE" not in str(clip.facts) and clip.facts["notes"] == ""


def test_a_video_stream_of_oblong_pixels_beside_a_region(tmp_path):
    def oblong(stream):
        stream.codec_context.sample_aspect_ratio = 2

    video = write_av(tmp_path / "a.mp4", FRAMES, fps=20, codec="libx264", options={"crf": "1"}, change=oblong).read_bytes()
    data = cine(FRAMES, MPEG4HP41, "YBR_PARTIAL_420", PixelAspectRatio=[1, 2],
                SequenceOfUltrasoundRegions=[change(region(8, 8, 40, 32), PhysicalDeltaX=None)])
    data.PixelData = encapsulate([video])
    clip = opened(tmp_path, data)
    assert clip.images[0].shape == (48, 128) and clip.region == (16, 8, 80, 32)
    assert not clip.images[0][:7].any() and clip.images[0][10:38, 20:92].min() > 10


def test_regions_of_a_video_that_has_another_size_than_stated(tmp_path):
    video = write_av(tmp_path / "a.mp4", FRAMES, fps=20, codec="libx264", options={"crf": "1"}).read_bytes()
    data = cine(FRAMES, MPEG4HP41, "YBR_PARTIAL_420", Rows=96, Columns=128, SequenceOfUltrasoundRegions=[region(8, 8, 90, 70)])
    data.PixelData = encapsulate([video])
    clip = opened(tmp_path, data)
    assert_alike(clip.images, FRAMES, most=9)
    assert clip.region is None and math.isnan(clip.facts["mm_per_px"])
    assert clip.facts["notes"] == "its video is 64 × 48, its header states another size: no region is believed"


@pytest.mark.parametrize(
    ("times", "kinds", "refused"),
    [([1] * 12, ["TISSUE_INTENSITY"] * 12, False), ([1] * 6 + [2] * 6, ["TISSUE_INTENSITY"] * 12, True),
     ([1] * 12, ["TISSUE_INTENSITY", "FLOW_VELOCITY"] * 6, True)],
)  # fmt: skip
def test_the_slices_of_a_volume_are_told_of_and_volumes_over_time_are_refused(tmp_path, times, kinds, refused):
    groups = []
    for time, kind in zip(times, kinds, strict=True):
        content, values, group = Dataset(), Dataset(), Dataset()
        content.TemporalPositionIndex, values.DataType = time, kind
        group.FrameContentSequence, group.ImageDataTypeSequence = [content], [values]
        groups.append(group)
    data = cine(FRAMES, SOPClassUID=EnhancedUSVolumeStorage, PerFrameFunctionalGroupsSequence=groups)
    if refused:
        with pytest.raises(Unreadable, match="a volume over time, or of several kinds of values: no sequence of pictures"):
            opened(tmp_path, data)
    else:
        clip = opened(tmp_path, data)
        assert_alike(clip.images, FRAMES, most=0)
        assert clip.facts["notes"] == "its frames are the slices of a volume, not pictures over time"
