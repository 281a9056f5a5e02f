"""Readers of clips: the right pixels, times and shapes of files that the tests write."""

import gzip
import io
import math
import os
import zlib
from fractions import Fraction

import av
import cv2
import nibabel
import nrrd
import numpy as np
import pytest
import tifffile
from PIL import Image
from recordings import speckle, write_av

from stages.lib.clips import extraction
from stages.lib.clips.readers import kinds, pixels, reading, several
from stages.lib.clips.readers.recording import Unreadable
from stages.lib.clips.readers.volume.unpacking import unpacked


def read(path, fps=math.nan, rate_hz=1000.0, most=100, assumed_hz=25.0):
    return reading.read(path, fps, rate_hz, most, assumed_hz)


def assert_alike(images, expected, most=2):
    """Not one pixel differs by more than `most` grey levels."""
    assert len(images) == len(expected)
    for image, wanted in zip(images, expected, strict=True):
        assert image.dtype == np.uint8 and image.shape == wanted.shape
        assert np.abs(image.astype(int) - wanted.astype(int)).max() <= most


def shown(path):
    """The frames of a video as ffmpeg's own filters show them, in grey of full range."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        graph = av.filter.Graph()
        source = graph.add_buffer(template=stream)
        turned = graph.add("format", "gbrp")
        sink = graph.add("buffersink")
        source.link_to(turned)
        turned.link_to(sink)
        graph.configure()
        frames = []
        for frame in container.decode(stream):
            graph.push(frame)
            frames.append(cv2.cvtColor(graph.pull().to_ndarray(format="rgb24"), cv2.COLOR_RGB2GRAY))
    return frames


# Video


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt"),
    [*(("a.mkv", "ffv1", kind) for kind in ("yuv420p", "yuv444p10le", "yuv422p16le", "gray", "gray10le", "gray16le", "yuva420p",
                                            "bgr0", "gbrp10le", "bgra")),
     *(("a.avi", "rawvideo", kind) for kind in ("bgr24", "yuyv422", "uyvy422")), ("a.mov", "rawvideo", "rgb24"),
     ("a.mov", "png", "rgba"), ("a.mov", "png", "rgb48be"), ("a.mov", "qtrle", "argb")],
)  # fmt: skip
def test_lossless_video_of_every_pixel_format_gives_the_grey_values_that_went_in(tmp_path, name, codec, pix_fmt):
    frames = speckle(5)
    write_av(tmp_path / name, frames, codec=codec, pix_fmt=pix_fmt)
    clip = read(tmp_path / name)
    assert_alike(clip.images, frames)
    assert clip.times_s == pytest.approx(np.arange(5) / 10)
    assert (clip.facts["frames_read"], clip.facts["frames_damaged"], clip.facts["notes"]) == (5, 0, "")


@pytest.mark.parametrize("suffix", [".mp4", ".mts", ".m2ts", ".vob", ".mov", ".mpg", ".ts", ".webm", ".wrong", ""])
def test_lossy_video_of_every_container_whatever_its_name(tmp_path, suffix):
    kind = {".mp4": ("mp4", "libx264"), ".mov": ("mov", "mpeg4"), ".vob": ("vob", "mpeg2video"), ".mpg": ("mpeg", "mpeg2video"),
            ".webm": ("webm", "libvpx-vp9")}.get(suffix, ("mpegts", "libx264"))  # fmt: skip
    path, frames = tmp_path / f"a{suffix}", speckle(12)
    with av.open(str(path), "w", format=kind[0]) as container:
        stream = container.add_stream(kind[1], rate=25, options={"crf": "2", "qmin": "1", "qmax": "2"})
        stream.height, stream.width, stream.pix_fmt, stream.bit_rate = 48, 64, "yuv420p", 8_000_000
        for image in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="gray").reformat(format="yuv420p")))
        container.mux(stream.encode(None))
    clip = read(path)
    assert_alike(clip.images, frames, most=25)
    assert np.mean([np.abs(one.astype(int) - two).mean() for one, two in zip(clip.images, frames, strict=True)]) < 3
    assert clip.times_s == pytest.approx(np.arange(12) / 25, abs=0.001)


@pytest.mark.parametrize(
    ("name", "codec", "flags", "size"),
    [("a.mpg", "mpeg2video", {"flags": "+ildct+ilme", "top": "1"}, (96, 128)),
     ("a.mp4", "libx264", {"x264opts": "tff=1"}, (96, 128)), ("a.dv", "dvvideo", {}, (576, 720))],
)  # fmt: skip
def test_interlaced_video_shows_both_fields_as_ffmpeg_does(tmp_path, name, codec, flags, size):
    frames = speckle(6, *size)
    for frame in frames:
        frame[1::2] //= 2                                                      # the fields differ
    write_av(tmp_path / name, frames, 25, codec, options=flags, change=lambda stream: setattr(stream, "bit_rate", 30_000_000))
    clip = read(tmp_path / name)
    width = 768 if codec == "dvvideo" else size[1]                             # its pixels are 16:15
    assert_alike(clip.images, [cv2.resize(frame, (width, size[0])) for frame in shown(tmp_path / name)])
    for image, frame in zip(clip.images, frames, strict=True):
        assert image[::2].mean() == pytest.approx(frame[::2].mean(), abs=4)
        assert image[1::2].mean() == pytest.approx(frame[1::2].mean(), abs=4)


@pytest.mark.parametrize(("ratio", "width"), [("9:8", 72), ("2:1", 128), ("8:9", 57)])
def test_sample_aspect_ratio_makes_square_pixels(tmp_path, ratio, width):
    def squeezed(stream):
        stream.codec_context.sample_aspect_ratio = Fraction(ratio.replace(":", "/"))

    frames = [np.where(np.arange(64) < 32, 60, 180).astype(np.uint8)[None].repeat(48, 0)] * 3
    write_av(tmp_path / "a.mp4", frames, codec="libx264", change=squeezed)
    clip = read(tmp_path / "a.mp4")
    assert (clip.facts["height"], clip.facts["width"]) == (48, width) == clip.images[0].shape
    edge = np.abs(np.diff(clip.images[0][24].astype(int))).argmax() + 1
    assert edge == pytest.approx(width / 2, abs=1)


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_a_turned_phone_video_stands_upright(tmp_path, degrees):
    frames = speckle(3)
    write_av(tmp_path / "a.mov", frames, 10, "png", "rgb24", change=lambda stream: stream.set_display_rotation(degrees))
    clip = read(tmp_path / "a.mov")
    assert_alike(clip.images, [np.rot90(frame, degrees // 90) for frame in frames])


def test_damage_in_the_middle_costs_the_damaged_frames_alone(tmp_path):
    frames = speckle(60)
    path = write_av(tmp_path / "a.mkv", frames, codec="mjpeg", pix_fmt="yuvj420p")
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 1500] = np.random.default_rng(0).bytes(1500)
    path.write_bytes(data)
    clip = read(path)
    assert 50 <= clip.facts["frames_read"] < 60 or clip.facts["frames_damaged"]
    assert clip.facts["frames_damaged"] > 0
    assert clip.times_s[-1] == pytest.approx(5.9, abs=0.01)                     # to the end of the clip
    assert_alike(clip.images[-10:], frames[-10:], most=25)


def test_transparent_video_lies_over_black(tmp_path):
    picture = np.full((48, 64, 4), (200, 200, 200, 255), np.uint8)
    picture[:, :32, 3] = 0
    with av.open(str(tmp_path / "a.mov"), "w") as container:
        stream = container.add_stream("png", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "rgba"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgba")))
        container.mux(stream.encode(None))
    image = read(tmp_path / "a.mov").images[0]
    assert not image[:, :32].any() and (image[:, 32:] == 200).all()


def test_a_video_without_believable_times_says_so(tmp_path):
    path = write_av(tmp_path / "a.mov", speckle(6), fps=20_000, codec="mjpeg", pix_fmt="yuvj420p")
    clip = read(path)
    assert clip.facts["notes"] == "its time stamps give 20000 frames a second, which is not believed: 25 taken"
    assert clip.facts["fps"] == 25 and clip.times_s == pytest.approx(np.arange(6) / 25)


def test_a_list_that_contradicts_the_file_is_believed_and_told_of(tmp_path):
    write_av(tmp_path / "a.mp4", speckle(6), fps=25)
    assert read(tmp_path / "a.mp4", fps=30.0).facts["notes"] == ""
    assert read(tmp_path / "a.mp4", fps=500.0).facts["notes"] == (
        "its file states 25 frames a second, the list of clips 500: the list is used")


def test_only_sound_only_a_list_and_no_video_get_their_reason(tmp_path):
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    (tmp_path / "list.mp4").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nother.ts\n#EXT-X-ENDLIST\n")
    (tmp_path / "text.mp4").write_text("no video")
    for name, reason in (("sound.mp4", "there is no video in it"), ("list.mp4", "."), ("text.mp4", "no frame can be decoded")):
        with pytest.raises(Unreadable, match=reason):
            read(tmp_path / name)


# Images and stacks


def test_twelve_bits_in_sixteen_are_scaled_by_one_rule(tmp_path):
    frames = [np.full((40, 50), value, np.uint16) for value in (0, 100, 2208)]
    for number, frame in enumerate(frames):
        cv2.imwrite(str(tmp_path / f"{number}.png"), frame)
    clip = read(tmp_path)
    assert [image[0, 0] for image in clip.images] == [round(value * 255 / 4095) for value in (0, 100, 2208)]
    assert clip.facts["grey"] == "12 bits in use"


@pytest.mark.parametrize(("top", "bits"), [(200, 8), (1023, 10), (2208, 12), (65535, 16)])
def test_bits_in_use(top, bits):
    images, rule = pixels.to_8_bits([np.array([[0, top // 2, top]], np.uint16)])
    assert rule == f"{bits} bits in use"
    assert list(images[0][0]) == [round(value * 255 / (2**bits - 1)) for value in (0, top // 2, top)]


@pytest.mark.parametrize(
    ("values", "rule", "expected"),
    [([0, 0.25, 1], "values from 0 to 1", [0, 64, 255]), ([0, 12.5, 255], "values from 0 to 255", [0, 12, 255]),
     ([-60, -30, 0], "values from -60 to 0", [0, 128, 255]), ([0, 0.5, np.nan], "values from 0 to 1", [0, 128, 0]),
     ([0, 500.5, 1001], "values from 0 to 1001", [0, 128, 255])],
)  # fmt: skip
def test_floating_point_numbers(values, rule, expected):
    images, said = pixels.to_8_bits([np.array([values], np.float32)])
    assert said == rule
    assert np.abs(images[0][0].astype(int) - expected).max() <= 1


@pytest.mark.parametrize("kind", ["grey", "colour"])
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bit_images_keep_their_depth(tmp_path, kind, suffix):
    values = np.linspace(0, 4095, 40 * 50).reshape(40, 50).astype(np.uint16)
    cv2.imwrite(str(tmp_path / f"a.{suffix}"), values if kind == "grey" else np.dstack([values] * 3))
    assert_alike(read(tmp_path / f"a.{suffix}").images, [(values * (255 / 4095)).round()], most=1)


@pytest.mark.parametrize("suffix", ["png", "webp", "tif"])
def test_transparent_images_lie_over_black(tmp_path, suffix):
    picture = np.full((40, 50, 4), (200, 200, 200, 255), np.uint8)
    picture[:, :25, 3] = 0
    Image.fromarray(picture).save(tmp_path / f"a.{suffix}", lossless=True)
    image = read(tmp_path / f"a.{suffix}").images[0]
    assert not image[:, :25].any() and (image[:, 25:] == 200).all()


@pytest.mark.parametrize(("name", "options"), [("a.webp", {"lossless": True}), ("a.apng", {}), ("a.png", {}), ("a.gif", {})])
@pytest.mark.parametrize("durations", [[40] * 20, [500, 100] * 10])
def test_animations_have_all_their_frames_and_durations(tmp_path, name, options, durations):
    frames = speckle(20)
    first, *rest = [Image.fromarray(frame) for frame in frames]
    kind = {"format": "PNG"} if name.endswith("apng") else {}
    first.save(tmp_path / name, save_all=True, append_images=rest, duration=durations, **kind, **options)
    clip = read(tmp_path / name)
    assert_alike(clip.images, frames)
    assert clip.times_s == pytest.approx(np.cumsum([0, *durations[:-1]]) / 1000)
    if not name.endswith("gif"):
        assert several.holds_several(tmp_path / name)


def test_an_apng_for_programs_without_animation_has_a_picture_that_is_no_frame(tmp_path):
    frames = [Image.fromarray(frame) for frame in speckle(4)]
    frames[0].save(tmp_path / "a.png", save_all=True, append_images=frames[1:], default_image=True, duration=100)
    assert_alike(read(tmp_path / "a.png").images, speckle(4)[1:])


@pytest.mark.parametrize("compression", [None, "zlib", "lzw", "jpeg"])
@pytest.mark.parametrize("big", [False, True])
def test_pages_of_a_tiff(tmp_path, compression, big):
    frames = np.stack(speckle(12))
    tifffile.imwrite(tmp_path / "a.tif", frames, compression=compression, bigtiff=big, photometric="minisblack")
    clip = read(tmp_path / "a.tif")
    assert_alike(clip.images, list(frames), most=12 if compression == "jpeg" else 0)
    assert np.isnan(clip.times_s).all() and several.holds_several(tmp_path / "a.tif")


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.float16])
def test_floating_point_tiff(tmp_path, kind):
    frames = np.stack(speckle(3)) / 255
    tifffile.imwrite(tmp_path / "a.tif", frames.astype(kind), photometric="minisblack")
    clip = read(tmp_path / "a.tif")
    assert_alike(clip.images, [(frame * 255).round() for frame in frames], most=1)
    assert clip.facts["grey"] == "values from 0 to 1"


def test_an_imagej_stack_states_its_frame_interval(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.stack(speckle(5)), imagej=True, metadata={"axes": "TYX", "finterval": 0.05})
    clip = read(tmp_path / "a.tif")
    assert clip.facts["fps"] == 20 and clip.times_s == pytest.approx(np.arange(5) / 20)


def test_a_white_is_zero_and_a_palette_tiff(tmp_path):
    frame = speckle(1)[0]
    tifffile.imwrite(tmp_path / "white.tif", 255 - frame, photometric="miniswhite")
    ramp = np.arange(256, dtype=np.uint16)[::-1] * 257
    tifffile.imwrite(tmp_path / "palette.tif", 255 - frame, photometric="palette", colormap=np.stack([ramp] * 3))
    for name in ("white", "palette"):
        assert_alike(read(tmp_path / f"{name}.tif").images, [frame], most=1)


def test_a_folder_whose_first_image_is_a_thumbnail(tmp_path):
    for number, frame in enumerate([np.full((40, 60), 90, np.uint8), *speckle(5)]):
        cv2.imwrite(str(tmp_path / f"{number}.png"), frame)
    clip = read(tmp_path)
    assert_alike(clip.images, speckle(5), most=0)
    assert clip.numbers == [1, 2, 3, 4, 5]
    assert clip.facts["notes"] == "not of the size 64 × 48 and left out: 0.png (60 × 40)"


def test_a_folder_of_images_that_all_differ_in_size_keeps_them(tmp_path):
    for number in range(4):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.full((40 + number, 60), 90, np.uint8))
    clip = read(tmp_path)
    assert len(clip.images) == 4 and len({image.shape for image in clip.images}) == 1
    assert clip.facts["notes"].startswith("pictures of 4 sizes, scaled to 60 × 40: ")


@pytest.mark.parametrize("suffix", ["mp4", "dcm", "gif", "mha"])
def test_a_file_that_lies_about_its_suffix_is_read(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(speckle(1)[0]).save(path, format="PNG")
    assert_alike(read(path).images, speckle(1), most=0)


def test_very_large_frames_are_shrunk_to_a_bounded_size(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.full((4000, 6000), 90, np.uint8))
    image = read(tmp_path / "a.png").images[0]
    assert image.nbytes <= pixels.FRAME_BYTES and image.shape[1] / image.shape[0] == pytest.approx(1.5, abs=0.001)


# Volumes


def write_volume(path, frames, packed=False, **changes):
    """A sequence as the Plus toolkit writes it; `changes` are fields of a MetaImage header, None removes one."""
    kinds_of = {"uint8": "MET_UCHAR", "uint16": "MET_USHORT", "int16": "MET_SHORT", "float32": "MET_FLOAT"}
    data = np.stack(frames).tobytes()
    body = zlib.compress(data) if packed else data
    fields = {"ObjectType": "Image", "NDims": 3, "BinaryData": True, "BinaryDataByteOrderMSB": False, "CompressedData": packed,
              "DimSize": f"{frames[0].shape[1]} {frames[0].shape[0]} {len(frames)}", "ElementSpacing": "0.2 0.2 1",
              "ElementType": kinds_of[frames[0].dtype.name], "UltrasoundImageOrientation": "MFA"}  # fmt: skip
    fields |= {f"Seq_Frame{number:04}_Timestamp": 100 + number / 20 for number in range(len(frames))}
    fields = {key: value for key, value in (fields | changes).items() if value is not None} | {"ElementDataFile": "LOCAL"}
    path.write_bytes("".join(f"{key} = {value}\n" for key, value in fields.items()).encode() + body)
    return path


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("order", ["MF", "MFA", "MN", "UF", "UN", "FM", "NU"])
def test_metaimage_is_put_upright_and_has_its_own_times(tmp_path, packed, order):
    frames = speckle(30)
    moved = {"M": lambda image: image, "U": np.fliplr, "F": lambda image: image, "N": np.flipud}
    stored = [np.ascontiguousarray(moved[order[1]](moved[order[0]](frame)) if order[0] in "MU" else
                                   moved[order[0]](moved[order[1]](frame)).T) for frame in frames]  # fmt: skip
    clip = read(write_volume(tmp_path / "a.mha", stored, packed, UltrasoundImageOrientation=order))
    assert_alike(clip.images, frames, most=0)
    assert clip.times_s == pytest.approx(np.arange(30) / 20)
    assert (clip.facts["fps"], clip.facts["mm_per_px"]) == (20, 0.2)


@pytest.mark.parametrize("kind", ["uint16", "int16", "float32"])
def test_metaimage_of_every_kind_of_number(tmp_path, kind):
    frames = [(frame.astype(kind) * 16 if kind != "float32" else (frame / 255).astype(kind)) for frame in speckle(4)]
    assert_alike(read(write_volume(tmp_path / "a.mha", frames)).images, speckle(4), most=1)


@pytest.mark.parametrize(("name", "kind"), [("MET_LONG", "<i4"), ("MET_ULONG", "<u4"), ("met_short", "<i2")])
def test_metaimage_of_other_names_of_numbers(tmp_path, name, kind):
    """As ITK's library, MetaIO, reads them, MET_LONG has 4 bytes."""
    data = np.stack(speckle(4)).astype(kind).tobytes()
    path = write_volume(tmp_path / "a.mha", speckle(4), ElementType=name)
    path.write_bytes(path.read_bytes().partition(b"LOCAL\n")[0] + b"LOCAL\n" + data)
    assert_alike(read(path).images, speckle(4), most=0)


def test_a_metaimage_that_begins_with_a_comment(tmp_path):
    path = write_volume(tmp_path / "a.mha", speckle(4))
    path.write_bytes(b"Comment = of a phantom\n" + path.read_bytes())
    assert_alike(read(path).images, speckle(4), most=0)


def test_metaimage_of_oblong_pixels_and_with_a_file_of_its_own(tmp_path):
    frames = speckle(3)
    head = write_volume(tmp_path / "a.mhd", frames, ElementSpacing="0.4 0.2 1").read_bytes().partition(b"LOCAL")[0]
    (tmp_path / "a.raw").write_bytes(np.stack(frames).tobytes())
    for name in ("a.raw", "./a.raw", ".\\a.raw"):
        (tmp_path / "a.mhd").write_bytes(head + name.encode() + b"\n")
        clip = read(tmp_path / "a.mhd")
        assert clip.images[0].shape == (48, 128) and clip.facts["mm_per_px"] == 0.2
    for name in ("../a.raw", "/etc/passwd", "LIST", "missing.raw"):
        (tmp_path / "a.mhd").write_bytes(head + name.encode() + b"\n")
        with pytest.raises(Unreadable, match="another folder|is missing"):
            read(tmp_path / "a.mhd")


def test_the_checksum_of_a_clip_counts_the_file_of_its_pixels(tmp_path):
    """Two recordings of one scanner may have equal headers: they are not the same clip."""
    found = []
    for number, name in enumerate(("one", "two", "one again")):
        frames = speckle(3, seed=number % 2)
        (tmp_path / name).mkdir()
        head = write_volume(tmp_path / name / "a.mhd", frames).read_bytes().partition(b"LOCAL")[0]
        (tmp_path / name / "a.mhd").write_bytes(head + b"a.raw\n")
        (tmp_path / name / "a.raw").write_bytes(np.stack(frames).tobytes())
        recipe = extraction.Recipe(3.0, 30, 25.0, 32)
        found.append(extraction.extract(tmp_path / name / "a.mhd", math.nan, tmp_path / name, [], None, recipe)["checksum"])
    assert found[0] != found[1] and found[0] == found[2]


@pytest.mark.parametrize("encoding", ["raw", "gzip", "bzip2"])
def test_nrrd(tmp_path, encoding):
    frames = speckle(6)
    header = {"encoding": encoding, "kinds": ["domain", "domain", "list"], "ultrasound image orientation": "MN",
              "space directions": np.array([[0.1, 0], [0, 0.1], [np.nan, np.nan]]), "space dimension": 2}  # fmt: skip
    nrrd.write(str(tmp_path / "a.nrrd"), np.stack([np.flipud(frame).T for frame in frames], -1), header)
    clip = read(tmp_path / "a.nrrd")
    assert_alike(clip.images, frames, most=0)
    assert clip.facts["mm_per_px"] == pytest.approx(0.1)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("axes", [3, 4])
def test_nifti(tmp_path, suffix, axes):
    frames = speckle(7)
    data = np.stack([frame.T for frame in frames], -1)
    image = nibabel.Nifti1Image(data if axes == 3 else data[:, :, None], np.eye(4))
    image.header.set_xyzt_units("mm", "msec")
    image.header["pixdim"][1:5] = [0.3, 0.3, 1, 50]
    image.to_filename(tmp_path / f"a{suffix}")
    clip = read(tmp_path / f"a{suffix}")
    assert_alike(clip.images, frames, most=0)
    assert clip.facts["mm_per_px"] == pytest.approx(0.3)
    if axes == 4:
        assert clip.facts["fps"] == 20 and clip.times_s == pytest.approx(np.arange(7) / 20)


def test_a_bomb_a_body_over_time_and_a_short_volume(tmp_path):
    image = nibabel.Nifti1Image(np.zeros((8, 8, 1), np.uint8), np.eye(4))
    image.header["dim"][1:4] = [4000, 4000, 1000]
    head = image.header.binaryblock + bytes(4)
    with gzip.open(tmp_path / "bomb.nii.gz", "wb") as file:
        file.write(head + bytes(1 << 20))
    with pytest.raises(Unreadable, match=r"unpacks to 14.9 GiB, \d+ times its size: not believed"):
        read(tmp_path / "bomb.nii.gz")
    nibabel.Nifti1Image(np.zeros((8, 8, 4, 4), np.uint8), np.eye(4)).to_filename(tmp_path / "body.nii")
    with pytest.raises(Unreadable, match="an array of 8 × 8 × 4 × 4: no sequence of pictures"):
        read(tmp_path / "body.nii")
    path = write_volume(tmp_path / "short.mha", speckle(10), packed=True)
    path.write_bytes(path.read_bytes()[: 2 * path.stat().st_size // 3])
    clip = read(path)
    assert 0 < clip.facts["frames_read"] < 10
    assert clip.facts["frames_read"] + clip.facts["frames_damaged"] == 10


def test_an_inflating_stream_gives_what_zlib_gives():
    data = np.random.default_rng(0).integers(0, 4, 300_000, np.uint8).tobytes()
    stream = unpacked(io.BytesIO(zlib.compress(data)), "zlib")
    assert b"".join(iter(lambda: stream.read(7777), b"")) == data


def test_a_pipe_and_a_missing_path(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    for name, reason in (("pipe.mp4", "neither a file nor a folder"), ("none.mp4", "the file is missing")):
        with pytest.raises(Unreadable, match=reason):
            kinds.open_clip(tmp_path / name)
