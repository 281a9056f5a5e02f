"""Clips whose files are of rare kinds, lie, or contradict themselves: the right picture, or the sentence that says why not."""

import bz2
import gzip
import math
import os
import shutil
import struct
import zipfile
import zlib
from pathlib import Path

import av
import cv2
import imagecodecs
import nibabel
import nrrd
import numpy as np
import pandas as pd
import pytest
import tifffile
from PIL import Image
from recordings import speckle, write_av
from test_readers import assert_alike, read, shown, write_volume

from stages import extract_frames
from stages.lib.clips import catalogue, store
from stages.lib.clips.readers import several, video
from stages.lib.clips.readers.recording import Unreadable
from stages.sources import breast, gallbladder

RECIPE = {"frame_rate_hz": 5.0, "max_frames_per_clip": 10, "assumed_frame_rate_hz": 20.0, "size_px": 32, "geometry": "fan"}


def colours():
    """A picture in RGB [48, 64, 3] whose luminance [48, 64] is none of its channels."""
    frame = speckle(1)[0]
    picture = np.dstack([frame, 255 - frame, frame // 2])
    return picture, cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)


# Video


def test_the_luminance_of_every_pixel_format_is_that_of_ffmpegs_own_conversion():
    seen = set()
    for name in av.video.format.names:
        try:
            frame = av.VideoFrame.from_ndarray(speckle(1)[0], format="gray").reformat(format=name)
            expected = cv2.cvtColor(frame.reformat(format="rgb24").to_ndarray(), cv2.COLOR_RGB2GRAY)
        except (OSError, ValueError):                                           # ffmpeg cannot write it, or not read it
            continue
        apart = video._Luminance(1.0).luminance(frame).astype(int) - expected
        assert np.abs(apart).max() <= 3, name                                   # ffmpeg's conversion is off by up to 2
        seen.add(name)
    assert {"yuv420p", "nv12", "p010le", "gray10le", "grayf32le", "monob", "gbrp12le", "yuv444p10msble", "ya16le"} <= seen


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt", "options"),
    [("a.mp4", "libx264", "yuv420p", {"x264opts": "bff=1", "crf": "1"}), ("a.ts", "libx264", "yuv420p", {"x264opts": "tff=1"}),
     ("a.mov", "prores_ks", "yuv422p10le", {"flags": "+ildct+ilme"}), ("a.mkv", "ffv1", "yuv420p", {"flags": "+ildct+ilme"}),
     ("a.avi", "mpeg4", "yuv420p", {"flags": "+ildct+ilme"})],
)  # fmt: skip
def test_interlaced_video_of_other_codecs(tmp_path, name, codec, pix_fmt, options):
    frames = speckle(6, 96, 128)
    for frame in frames:
        frame[1::2] //= 2                                                      # the fields differ
    write_av(tmp_path / name, frames, 25, codec, pix_fmt, options)
    clip = read(tmp_path / name)
    assert_alike(clip.images, shown(tmp_path / name))
    assert clip.images[0][::2].mean() > 1.5 * clip.images[0][1::2].mean()


def test_a_rotated_video_of_oblong_pixels(tmp_path):
    def change(stream):
        stream.set_display_rotation(90)
        stream.codec_context.sample_aspect_ratio = 2

    write_av(tmp_path / "a.mov", speckle(3), 10, "png", "rgb24", change=change)
    expected = [np.rot90(cv2.resize(frame, (128, 48))) for frame in speckle(3)]
    assert_alike(read(tmp_path / "a.mov").images, expected)


@pytest.mark.parametrize("stamps", [[0, 1, 2, 3, 7, 8, 20, 21], [-5, -4, -3, -2, -1, 0, 1, 2], [1000, *range(1001, 1008)]])
def test_times_of_a_video_that_runs_unevenly_or_does_not_begin_at_0(tmp_path, stamps):
    write_av(tmp_path / "a.mkv", speckle(8), stamps=stamps)
    clip = read(tmp_path / "a.mkv")
    assert clip.times_s == pytest.approx((np.array(stamps) - stamps[0]) / 10)
    assert_alike(clip.images, speckle(8))


def test_time_stamps_that_stand_still_or_leap_give_way_to_the_frame_rate(tmp_path):
    for name, stamps in (("still", [0] * 8), ("leap", [0, 1, 2, 3, 100_000, 100_001, 100_002, 100_003])):
        write_av(tmp_path / f"{name}.mkv", speckle(8), stamps=stamps)
        assert read(tmp_path / f"{name}.mkv").times_s == pytest.approx(np.arange(8) / 10)


@pytest.mark.parametrize("leaps", [[4], [4, 9], [1], [4, 5]])
def test_time_stamps_go_on_after_a_leap_that_spoils_the_rate_of_the_file(tmp_path, leaps):
    stamps = np.cumsum([100_000 if number in leaps else 1 for number in range(20)])
    write_av(tmp_path / "a.mp4", speckle(20), codec="mpeg4", stamps=stamps.tolist())
    clip = read(tmp_path / "a.mp4")
    assert f"{len(leaps)} of its time stamps leap by a minute or more" in clip.facts["notes"]
    if 1 in leaps:                                                              # no frame's length is known before
        assert np.diff(clip.times_s)[1:] == pytest.approx(np.full(18, 0.1))
    else:
        assert clip.times_s == pytest.approx(np.arange(20) / 10) and clip.facts["fps"] == pytest.approx(10)


@pytest.mark.parametrize(
    ("matrix", "shown"),
    [((-1, 0, 0, 1), np.fliplr), ((1, 0, 0, -1), np.flipud), ((0, 1, 1, 0), np.transpose),
     ((0, -1, -1, 0), lambda image: image[::-1, ::-1].T), ((0, 1, -1, 0), lambda image: np.rot90(image, -1)),
     ((-1, 0, 0, -1), lambda image: np.rot90(image, 2))],
)  # fmt: skip
def test_a_video_is_mirrored_as_its_file_says(tmp_path, matrix, shown):
    path = write_av(tmp_path / "a.mov", speckle(3), 10, "png", "gray")
    a, b, c, d = (value << 16 for value in matrix)
    data = path.read_bytes()
    place = data.index(b"tkhd") + 44                                           # of the matrix in the header of the track
    path.write_bytes(data[:place] + struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30) + data[place + 36 :])
    assert_alike(read(path).images, [shown(frame) for frame in speckle(3)], most=0)


@pytest.mark.parametrize("colour_range", [1, 2])
@pytest.mark.parametrize("kind", ["yuyv422", "uyvy422"])
def test_packed_colours_of_full_range_are_not_stretched(tmp_path, kind, colour_range):
    """1: limited, 2: full, as the header of the container states it."""
    frames = speckle(3)
    stored = [np.round(frame * (219 / 255) + 16).astype(np.uint8) if colour_range == 1 else frame for frame in frames]
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream = container.add_stream("rawvideo", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, kind
        stream.codec_context.color_range = colour_range
        for image in stored:
            both = np.full((48, 128), 128, np.uint8)
            both[:, int(kind == "uyvy422") :: 2] = image
            frame = av.VideoFrame(64, 48, kind)
            frame.planes[0].update(both)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert_alike(read(tmp_path / "a.mkv").images, frames, most=1)


@pytest.mark.parametrize(("name", "codec", "options"), [("a.mkv", "ffv1", {}), ("a.avi", "magicyuv", {}),
                                                        ("a.mp4", "libx265", {"x265-params": "lossless=1:log-level=0"})])
@pytest.mark.parametrize("black", [0, 16])
def test_grey_video_has_full_range_unless_its_black_is_16(tmp_path, name, codec, options, black):
    """Encoders write limited range into the header of grey video without being asked; ffmpeg takes no notice of it."""
    frames = [np.where(frame < 60, 0, frame).astype(np.uint8) for frame in speckle(3)]
    stored = [np.round(frame * (219 / 255) + 16).astype(np.uint8) for frame in frames] if black else frames
    write_av(tmp_path / name, stored, 10, codec, "gray", options,
             change=lambda stream: setattr(stream.codec_context, "color_range", 1))
    assert_alike(read(tmp_path / name).images, frames, most=1)


def raw_avi(path, frames):
    """Pictures [H, W] as a Windows bitmap of 32 bits a pixel each, of which nobody has set the fourth byte."""

    def chunk(name, data):
        return name + struct.pack("<L", len(data)) + data

    height, width = frames[0].shape
    size, count = 4 * height * width, len(frames)
    header = chunk(b"avih", struct.pack("<14L", 100_000, 10 * size, 0, 16, count, 0, 1, size, width, height, 0, 0, 0, 0))
    about = chunk(b"strh", struct.pack("<4s4sL2H8L4h", b"vids", b"DIB ", 0, 0, 0, 0, 1, 10, 0, count, size, 0, 0, 0, 0, width,
                                       height))
    form = chunk(b"strf", struct.pack("<L2i2H6L", 40, width, height, 1, 32, 0, size, 0, 0, 0, 0))
    lists = chunk(b"LIST", b"hdrl" + header + chunk(b"LIST", b"strl" + about + form))
    pictures = [np.dstack([frame[::-1]] * 3 + [np.zeros_like(frame)]).tobytes() for frame in frames]
    movie = chunk(b"LIST", b"movi" + b"".join(chunk(b"00db", picture) for picture in pictures))
    path.write_bytes(chunk(b"RIFF", b"AVI " + lists + movie))


def test_an_avi_whose_fourth_byte_means_nothing_is_not_transparent(tmp_path):
    raw_avi(tmp_path / "a.avi", speckle(4))
    clip = read(tmp_path / "a.avi")
    assert_alike(clip.images, speckle(4), most=0)
    assert clip.times_s == pytest.approx(np.arange(4) / 10)


def test_times_of_an_avi_whose_frames_are_stored_out_of_order(tmp_path):
    """An AVI does not state when a frame is to be shown, and ffmpeg's guess is wrong for the first ones of H.264."""
    write_av(tmp_path / "a.avi", speckle(24), 10, "libx264", options={"bf": "3", "crf": "1"})
    clip = read(tmp_path / "a.avi")
    assert clip.times_s == pytest.approx(np.arange(24) / 10) and clip.facts["fps"] == pytest.approx(10)
    assert_alike(clip.images, speckle(24), most=9)


def test_a_name_that_looks_like_an_address_is_that_of_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_av(tmp_path / "a.mkv", speckle(3))
    write_av(tmp_path / "b.mkv", speckle(5, seed=1))
    shutil.move("b.mkv", "file:a.mkv")
    shutil.copy("file:a.mkv", "concat:a.mkv")
    for name in ("file:a.mkv", "concat:a.mkv"):
        assert_alike(read(Path(name)).images, speckle(5, seed=1))


def test_of_several_videos_in_a_file_the_largest_is_read(tmp_path):
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        streams = [container.add_stream("ffv1", rate=10) for _ in range(2)]
        for stream, (width, height) in zip(streams, [(32, 24), (64, 48)], strict=True):
            stream.width, stream.height, stream.pix_fmt = width, height, "gray"
        for number, images in enumerate(zip(speckle(4, 24, 32), speckle(4), strict=True)):
            for stream, image in zip(streams, images, strict=True):
                frame = av.VideoFrame.from_ndarray(image, format="gray")
                frame.pts = number
                container.mux(stream.encode(frame))
        for stream in streams:
            container.mux(stream.encode(None))
    clip = read(tmp_path / "a.mkv")
    assert_alike(clip.images, speckle(4), most=0)
    assert clip.facts["notes"] == "it holds several videos: the one with the largest picture is read"


def test_a_larger_preview_beside_a_video_is_not_read(tmp_path):
    with av.open(str(tmp_path / "a.mov"), "w") as container:
        contents = [np.full((480, 640), 90, np.uint8)], speckle(4)
        streams = [container.add_stream("png", rate=10) for _ in contents]
        for stream, frames in zip(streams, contents, strict=True):
            stream.height, stream.width = frames[0].shape
            stream.pix_fmt = "gray"
        for stream, frames in zip(streams, contents, strict=True):
            for number, image in enumerate(frames):
                frame = av.VideoFrame.from_ndarray(image, format="gray")
                frame.pts = number
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    assert_alike(read(tmp_path / "a.mov").images, speckle(4), most=0)


def test_a_stream_of_jpegs_is_a_video_and_a_camera_picture_with_previews_is_one(tmp_path):
    coded = [cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, 100])[1].tobytes() for frame in speckle(9)]
    (tmp_path / "a.mjpeg").write_bytes(b"".join(coded))
    assert_alike(read(tmp_path / "a.mjpeg").images, speckle(9), most=4)
    first, *others = [Image.fromarray(frame) for frame in speckle(3)]
    first.save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=others, quality=100)
    assert_alike(read(tmp_path / "a.jpg").images, speckle(1), most=4)


def test_a_jpeg_with_a_preview_behind_it_is_a_picture(tmp_path):
    picture, preview = [cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, 100])[1].tobytes() for frame in speckle(2)]
    (tmp_path / "a.jpg").write_bytes(picture + preview)
    assert_alike(read(tmp_path / "a.jpg").images, speckle(1), most=4)


@pytest.mark.parametrize(("orientation", "turn"), [(1, 0), (3, 2), (6, 1), (8, -1)])
def test_a_stream_of_jpegs_of_a_camera_is_turned_as_its_exif_says(tmp_path, orientation, turn):
    exif = Image.Exif()
    exif[274] = orientation
    with (tmp_path / "a.mjpeg").open("wb") as file:
        for frame in speckle(4):
            Image.fromarray(np.rot90(frame, turn)).save(file, format="JPEG", exif=exif, quality=100)
    assert_alike(read(tmp_path / "a.mjpeg").images, speckle(4), most=4)


# Pictures


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [*((mode, "tif") for mode in ("1", "L", "P", "LA", "CMYK", "YCbCr", "RGB", "RGBA")), ("CMYK", "jpg"), ("L", "jpg"),
     ("RGB", "jpg"), *((mode, "png") for mode in ("1", "L", "P", "LA", "RGB", "RGBA"))],
)  # fmt: skip
def test_pictures_of_every_mode(tmp_path, mode, suffix):
    picture, luminance = colours()
    image = Image.fromarray(luminance if mode in ("1", "L", "LA") else picture)
    image = image.quantize(250) if mode == "P" else image.convert(mode)
    path = tmp_path / f"a.{suffix}"
    image.save(path, **({"quality": 100, "subsampling": 0} if suffix == "jpg" else {}))
    assert_alike(read(path).images, [np.asarray(Image.open(path).convert("RGB").convert("L"))], most=2)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["tif", "png", "jpg"])
def test_a_picture_is_turned_as_its_file_says(tmp_path, orientation, suffix):
    """Exif: the file's first row and column lie at … of what is meant."""
    meant = speckle(1)[0]
    moves = {1: meant, 2: meant[:, ::-1], 3: meant[::-1, ::-1], 4: meant[::-1], 5: meant.T, 6: np.rot90(meant),
             7: meant[::-1, ::-1].T, 8: np.rot90(meant, -1)}  # fmt: skip
    stored = np.ascontiguousarray(moves[orientation])
    if suffix == "tif":
        tifffile.imwrite(tmp_path / "a.tif", stored, photometric="minisblack", extratags=[(274, "H", 1, orientation, True)])
    else:
        exif = Image.Exif()
        exif[274] = orientation
        Image.fromarray(stored).save(tmp_path / f"a.{suffix}", exif=exif, quality=100)
    assert_alike(read(tmp_path / f"a.{suffix}").images, [meant], most=4)


@pytest.mark.parametrize("orientation", [2, 3, 6, 8])
def test_a_picture_of_16_bits_a_colour_is_turned_as_its_file_says(tmp_path, orientation):
    meant = speckle(1)[0]
    stored = {2: np.fliplr(meant), 3: np.rot90(meant, 2), 6: np.rot90(meant), 8: np.rot90(meant, -1)}[orientation]
    data = cv2.imencode(".png", np.dstack([stored.astype(np.uint16) * 257] * 3))[1].tobytes()
    said = b"eXIf" + b"II*\0" + struct.pack("<LHHHLLL", 8, 1, 274, 3, 1, orientation, 0)
    part = struct.pack(">L", len(said) - 4) + said + struct.pack(">L", zlib.crc32(said))
    (tmp_path / "a.png").write_bytes(data[:33] + part + data[33:])              # after the header
    assert_alike(read(tmp_path / "a.png").images, [meant], most=1)


@pytest.mark.parametrize(("name", "options"), [("a.avif", {"quality": 100}), ("a.jp2", {"irreversible": False})])
def test_avif_and_jpeg_2000(tmp_path, name, options):
    Image.fromarray(speckle(1)[0]).save(tmp_path / name, **options)
    clip = read(tmp_path / name)
    assert_alike(clip.images, speckle(1), most=2)
    assert math.isnan(clip.times_s[0])


def test_an_avif_animation(tmp_path):
    first, *rest = [Image.fromarray(frame) for frame in speckle(6)]
    first.save(tmp_path / "a.avif", save_all=True, append_images=rest, duration=200, quality=100)
    clip = read(tmp_path / "a.avif")
    assert_alike(clip.images, speckle(6), most=2)
    assert clip.times_s == pytest.approx(np.arange(6) / 5) and several.holds_several(tmp_path / "a.avif")


@pytest.mark.parametrize("disposal", [0, 1, 2])
def test_a_gif_that_stores_only_what_changes(tmp_path, disposal):
    frames = [np.full((48, 64), 40, np.uint8) for _ in range(6)]
    for number, frame in enumerate(frames):
        frame[10:20, 10 + 5 * number : 20 + 5 * number] = 200
    first, *rest = [Image.fromarray(frame) for frame in frames]
    first.save(tmp_path / "a.gif", save_all=True, append_images=rest, duration=100, disposal=disposal)
    assert_alike(read(tmp_path / "a.gif").images, frames, most=0)


@pytest.mark.parametrize("kind", ["P2", "P4", "P5", "P5 16", "P6"])
def test_pnm_pictures_one_after_the_other_in_one_file(tmp_path, kind):
    pictures = [np.dstack([frame] * 3) if kind == "P6" else frame for frame in speckle(4)]
    shown = [(frame > 120) * 255 for frame in pictures] if kind == "P4" else speckle(4)
    largest = {"P4": "", "P5 16": "65535\n"}.get(kind, "255\n")
    header = f"{kind[:2]}\n# a line\n64 48\n{largest}".encode()
    coded = {"P2": lambda frame: " ".join(map(str, frame.ravel())).encode() + b"\n",
             "P4": lambda frame: np.packbits(frame <= 120, axis=1).tobytes(),
             "P5 16": lambda frame: (frame.astype(">u2") * 257).tobytes()}.get(kind, np.ndarray.tobytes)  # fmt: skip
    (tmp_path / "clip.pnm").write_bytes(b"".join(header + coded(picture) for picture in pictures))
    clip = read(tmp_path / "clip.pnm")
    assert_alike(clip.images, shown, most=1)
    assert all(map(math.isnan, clip.times_s)) and not catalogue.is_image(tmp_path / "clip.pnm")
    (tmp_path / "clip.pnm").write_bytes(header + coded(pictures[0]))
    assert len(read(tmp_path / "clip.pnm").images) == 1 and catalogue.is_image(tmp_path / "clip.pnm")


def test_tiff_palettes_of_16_bits_and_of_8_where_16_belong(tmp_path):
    frame = speckle(1)[0]
    deep = np.stack([np.arange(65536, dtype=np.uint16)] * 3)
    tifffile.imwrite(tmp_path / "deep.tif", frame.astype(np.uint16) * 257, photometric="palette", colormap=deep)
    shallow = np.stack([np.arange(256, dtype=np.uint16)] * 3)
    tifffile.imwrite(tmp_path / "shallow.tif", frame, photometric="palette", colormap=shallow)
    for name in ("deep", "shallow"):
        assert_alike(read(tmp_path / f"{name}.tif").images, [frame], most=1)


def test_pages_written_one_by_one_and_a_thumbnail_before_them(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        writer.write(np.full((20, 30), 9, np.uint8), photometric="minisblack")
        for number, frame in enumerate(speckle(6)):
            image = np.dstack([frame] * 3) if number % 2 else frame
            writer.write(image, photometric="rgb" if number % 2 else "minisblack", contiguous=False)
    clip = read(tmp_path / "a.tif")
    assert_alike(clip.images, speckle(6), most=0)
    assert clip.facts["notes"] == "pages of another size than 64 × 48 are left out: 1"


def test_channels_of_a_stack_and_a_body_over_time(tmp_path):
    frames = np.stack(speckle(6))
    channels = np.stack([frames, 255 - frames, frames // 2], axis=1)
    tifffile.imwrite(tmp_path / "c.tif", channels, imagej=True, metadata={"axes": "TCYX"})
    clip = read(tmp_path / "c.tif")
    assert_alike(clip.images, speckle(6), most=0)
    assert clip.facts["notes"] == "of its 3 channels the first is read"
    tifffile.imwrite(tmp_path / "body.tif", frames.reshape(2, 3, 48, 64), photometric="minisblack", metadata={"axes": "TZYX"})
    with pytest.raises(Unreadable, match=r"pages along 2 axes \(T, Z\): no sequence of pictures"):
        read(tmp_path / "body.tif")


@pytest.mark.parametrize("tile", [None, (16, 16)])
def test_a_stack_that_breaks_off(tmp_path, tile):
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as writer:
        for frame in speckle(12):
            writer.write(frame, photometric="minisblack", contiguous=False, tile=tile)
    path.write_bytes(path.read_bytes()[: 2 * path.stat().st_size // 3])
    clip = read(path)
    assert 6 <= len(clip.images) < 10 and clip.facts["frames_damaged"] > 0
    assert_alike(clip.images, speckle(12)[: len(clip.images)], most=0)


def test_an_imagej_stack_that_breaks_off_says_how_many_frames_are_missing(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.stack(speckle(12)), imagej=True, metadata={"axes": "TYX"})
    path.write_bytes(path.read_bytes()[: 2 * path.stat().st_size // 3])
    facts = read(path).facts
    assert facts["frames_read"] > 0 and facts["frames_read"] + facts["frames_damaged"] == 12


@pytest.mark.parametrize("kind", [{"imagej": True}, {"photometric": "minisblack"}])
@pytest.mark.parametrize("deep", [False, True])
def test_a_stack_that_lists_its_first_page_alone(tmp_path, kind, deep):
    """So ImageJ writes stacks of more than 4 GB."""
    stack = np.stack(speckle(6)).astype(np.uint16) * 16 if deep else np.stack(speckle(6))
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, stack, truncate=True, metadata={"axes": "TYX"}, **kind)
    clip = read(path)
    assert_alike(clip.images, speckle(6), most=1)
    assert (clip.facts["frames_read"], clip.facts["frames_damaged"]) == (6, 0)
    path.write_bytes(path.read_bytes()[: -2 * stack[0].nbytes - 10])
    assert read(path).facts["frames_damaged"] == (5 if "imagej" in kind else 3)  # of the one the first page alone is found


def test_channels_of_a_stack_that_lists_its_first_page_alone(tmp_path):
    stack = np.stack([np.stack([frame, 255 - frame]) for frame in speckle(6)])
    tifffile.imwrite(tmp_path / "a.tif", stack, truncate=True, imagej=True, metadata={"axes": "TCYX"})
    clip = read(tmp_path / "a.tif")
    assert_alike(clip.images, speckle(6), most=0)
    assert clip.facts["frames_damaged"] == 0


def test_tiff_colours_that_are_not_read_are_named(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", speckle(1)[0], photometric="cfa", extratags=[(33421, "H", 2, (2, 2), True),
                                                                                      (33422, "B", 4, (0, 1, 1, 2), True)])
    with pytest.raises(Unreadable, match=r"its colours \(CFA\) are not read"):
        read(tmp_path / "a.tif")


def packed(path, values, bits, white):
    """A TIFF of whole numbers [H, W] of a few bits each, the rows filled up to whole bytes."""
    height, width = values.shape
    texts = ["".join(f"{value:0{bits}b}" for value in row) for row in values.tolist()]
    data = b"".join(int(text.ljust(-(-len(text) // 8) * 8, "0"), 2).to_bytes(-(-len(text) // 8), "big") for text in texts)
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: int(not white), 273: 8 + 2 + 12 * 9 + 4, 277: 1, 278: height,
            279: len(data)}  # fmt: skip
    entries = b"".join(struct.pack("<HHLL", tag, 4, 1, value) for tag, value in tags.items())
    path.write_bytes(b"II*\0" + struct.pack("<LH", 8, 9) + entries + bytes(4) + data)


@pytest.mark.parametrize("white", [False, True])
@pytest.mark.parametrize("bits", [1, 2, 4, 12])
def test_tiff_of_few_bits_has_its_whole_range(tmp_path, bits, white):
    top = (1 << bits) - 1
    values = np.round(speckle(1)[0] * (top / 255)).astype(int)
    packed(tmp_path / "a.tif", top - values if white else values, bits, white)
    assert_alike(read(tmp_path / "a.tif").images, [np.round(values * (255 / top))], most=1)


def test_black_of_a_tiff_whose_white_is_zero_has_the_bits_in_use(tmp_path):
    stored = [4095 - frame.astype(np.uint16) * 16 for frame in speckle(4)]
    tifffile.imwrite(tmp_path / "a.tif", np.stack(stored), photometric="miniswhite")
    clip = read(tmp_path / "a.tif")
    assert_alike(clip.images, speckle(4), most=1)
    assert clip.facts["grey"] == "12 bits in use"


def test_pages_of_eight_bits_beside_deep_ones_keep_their_own_black(tmp_path):
    frames = speckle(4)
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        for number, frame in enumerate(frames):
            stored = 4095 - frame.astype(np.uint16) * 16 if number < 2 else 255 - frame
            tiff.write(stored, photometric="miniswhite", metadata=None)
    clip = read(tmp_path / "a.tif")
    assert clip.facts["frames_damaged"] == 0
    assert_alike(clip.images, frames, most=1)


def test_a_sixteen_bit_tiff_of_red_green_and_blue_in_one_number(tmp_path):
    frame = speckle(1)[0].astype(np.uint16)
    data = ((frame >> 3) << 11 | (frame >> 2) << 5 | frame >> 3).tobytes()
    end = 8 + 2 + 12 * 9 + 4
    tags = [(256, 1, 64), (257, 1, 48), (258, 3, end), (259, 1, 1), (262, 1, 2), (273, 1, end + 6), (277, 1, 3), (278, 1, 48),
            (279, 1, len(data))]  # fmt: skip
    entries = b"".join(struct.pack("<HHLL", tag, 3 if count == 3 else 4, count, value) for tag, count, value in tags)
    path = tmp_path / "a.tif"
    path.write_bytes(b"II*\0" + struct.pack("<LH", 8, 9) + entries + bytes(4) + struct.pack("<3H", 5, 6, 5) + data)
    assert_alike(read(path).images, speckle(1), most=8)


@pytest.mark.parametrize(("kind", "part"), [("unspecified", 0), ("assocalpha", 128), ("unassalpha", 128)])
@pytest.mark.parametrize("coloured", [False, True])
def test_further_samples_of_a_tiff_are_transparency_only_where_it_says_so(tmp_path, kind, part, coloured):
    frame = speckle(1)[0]
    other = np.full_like(frame, part)
    tifffile.imwrite(tmp_path / "a.tif", np.dstack([frame] * (3 if coloured else 1) + [other]), extrasamples=(kind,),
                     photometric="rgb" if coloured else "minisblack", planarconfig="contig")
    expected = np.round(frame * (128 / 255)) if kind == "unassalpha" else frame  # others are multiplied already, or no alpha
    assert_alike(read(tmp_path / "a.tif").images, [expected], most=1)


def test_frames_that_a_tiff_holds_as_samples_of_a_pixel_are_not_taken_for_colours(tmp_path):
    for layout, stack in (("contig", np.dstack(speckle(9))), ("separate", np.stack(speckle(9)))):
        tifffile.imwrite(tmp_path / "a.tif", stack, photometric="minisblack", planarconfig=layout)
        with pytest.raises(Unreadable, match="9 grey values a pixel: save them as pages, or as RGB"):
            read(tmp_path / "a.tif")


@pytest.mark.parametrize(
    ("interval", "unit", "fps"), [(5.0, "msec", 200), (0.05, "sec", 20), (0.01, "min", 1 / 0.6), (1, "furlong", math.nan)]
)
def test_the_unit_of_an_imagej_frame_interval(tmp_path, interval, unit, fps):
    facts = {"axes": "TYX", "finterval": interval, "tunit": unit}
    tifffile.imwrite(tmp_path / "a.tif", np.stack(speckle(5)), imagej=True, metadata=facts)
    clip = read(tmp_path / "a.tif")
    assert clip.times_s == pytest.approx(np.arange(5) / fps, nan_ok=True) and clip.facts["notes"] == ""


@pytest.mark.parametrize(
    ("facts", "fps"),
    [({"TimeIncrement": 0.05, "TimeIncrementUnit": "s"}, 20), ({"TimeIncrement": 50, "TimeIncrementUnit": "ms"}, 20),
     ({"TimeIncrement": 0.05}, 20), ({"Plane": {"DeltaT": [0, 40, 80, 120, 160], "DeltaTUnit": ["ms"] * 5}}, 25),
     ({}, math.nan), ({"TimeIncrement": 0}, math.nan)],
)  # fmt: skip
def test_the_frame_rate_of_an_ome_tiff(tmp_path, facts, fps):
    facts = {"axes": "TYX"} | facts
    tifffile.imwrite(tmp_path / "a.tif", np.stack(speckle(5)), ome=True, photometric="minisblack", metadata=facts)
    assert read(tmp_path / "a.tif").times_s == pytest.approx(np.arange(5) / fps, nan_ok=True)


def test_tiff_pages_of_complex_values_and_volumes_are_no_pictures(tmp_path):
    tifffile.imwrite(tmp_path / "iq.tif", np.stack(speckle(3)) * np.complex64(1 + 1j), photometric="minisblack")
    volume = np.stack(speckle(16))
    tifffile.imwrite(tmp_path / "volume.tif", volume, photometric="minisblack", volumetric=True, tile=(16, 16, 16))
    for name, reason in (("iq", "complex values: no picture"), ("volume", "its pages are volumes: save their slices as pages")):
        with pytest.raises(Unreadable, match=reason):
            read(tmp_path / f"{name}.tif")


# Volumes


@pytest.mark.parametrize("kind", ["complex", "2-vector", "vector", "HSV-color"])
def test_an_nrrd_whose_values_are_no_grey_values_is_refused(tmp_path, kind):
    stored = np.stack([frame.T for frame in speckle(4)], -1)
    stored = np.stack([stored] * (3 if kind == "HSV-color" else 2))
    nrrd.write(str(tmp_path / "a.nrrd"), stored, {"kinds": [kind, "domain", "domain", "time"]})
    reason = "2 values a pixel: no picture" if kind == "vector" else f"its values are of the kind {kind}: neither grey nor"
    with pytest.raises(Unreadable, match=reason):
        read(tmp_path / "a.nrrd")


def test_a_nifti_of_complex_values_is_refused(tmp_path):
    stored = np.stack([frame.T for frame in speckle(4)], -1)
    nibabel.Nifti1Image(stored * np.complex64(1 + 1j), np.eye(4)).to_filename(tmp_path / "a.nii")
    with pytest.raises(Unreadable, match="complex values: no picture, but raw echoes or the like"):
        read(tmp_path / "a.nii")


@pytest.mark.parametrize("true", ["True", "true", "1"])
def test_yes_and_no_in_a_metaimage_in_any_spelling(tmp_path, true):
    frames = [frame.astype(np.uint16) * 16 for frame in speckle(4)]
    turned = [frame.byteswap() for frame in frames]
    path = write_volume(tmp_path / "a.mha", turned, True, BinaryData=true, BinaryDataByteOrderMSB=true, CompressedData=true)
    path.write_bytes(path.read_bytes().replace(b"LOCAL", b"Local", 1))
    clip = read(path)
    assert_alike(clip.images, speckle(4), most=1)
    assert clip.facts["grey"] == "12 bits in use"


@pytest.mark.parametrize("kinds", [["domain", "domain", "RGB-color"], ["domain", "time", "domain"]])
def test_an_nrrd_whose_axes_come_in_another_order_is_refused(tmp_path, kinds):
    nrrd.write(str(tmp_path / "a.nrrd"), np.dstack([speckle(1)[0].T] * 3), {"kinds": kinds})
    with pytest.raises(Unreadable, match=f"its axes are {', '.join(kinds)}: save it with the colours first, and time first or"):
        read(tmp_path / "a.nrrd")


@pytest.mark.parametrize("names", [("a.hdr", "a.img"), ("A.HDR", "A.IMG"), ("a.hdr.gz", "a.img.gz")])
def test_a_pair_of_nifti_files_whose_pixels_begin_further_on(tmp_path, names):
    image = nibabel.Nifti1Pair(np.stack([frame.T for frame in speckle(4)], -1), np.eye(4))
    image.header["vox_offset"] = 352
    image.header.set_xyzt_units("mm")
    image.to_filename(tmp_path / names[0].lower())
    for name in names:
        os.rename(tmp_path / name.lower(), tmp_path / name)
    clip = read(tmp_path / names[0])
    assert_alike(clip.images, speckle(4), most=0)
    assert math.isnan(clip.facts["mm_per_px"])                                  # 1 mm: nobody has measured it


@pytest.mark.parametrize("encoding", ["raw", "gzip"])
@pytest.mark.parametrize("kind", ["time", "list"])
def test_an_nrrd_whose_first_axis_is_time(tmp_path, encoding, kind):
    stored = np.stack([frame.T for frame in speckle(7)])                        # time, column, row: in the file's order
    nrrd.write(str(tmp_path / "a.nrrd"), stored, {"encoding": encoding, "kinds": [kind, "domain", "domain"]})
    assert_alike(read(tmp_path / "a.nrrd").images, speckle(7), most=0)


@pytest.mark.parametrize("spacing", [[0.05, 0.2, 0.2], [1, 0.2, 0.2], [0.2, 0.2, 0.05], [0.3, 0.2, 1], [1, 1, 1], [0.5, 1, 1]])
def test_an_axis_of_time_that_no_header_names_is_told_of_and_the_first_where_the_spacing_says_so(tmp_path, spacing):
    first = spacing[1] == spacing[2] == 0.2
    stored = np.stack(speckle(7))                                               # as NumPy has it, else as nibabel does
    stored = stored if first else stored.T
    nrrd.write(str(tmp_path / "a.nrrd"), stored, {"spacings": spacing})
    nibabel.Nifti1Image(stored, np.diag([*spacing, 1])).to_filename(tmp_path / "a.nii")
    fields = {f"Seq_Frame{number:04}_Timestamp": None for number in range(64)} | {"UltrasoundImageOrientation": None}
    write_volume(tmp_path / "a.mha", list(stored.T), ElementSpacing=" ".join(map(str, spacing)), **fields)
    wide = spacing[0] / spacing[1] if not first else 1
    for suffix in ("nrrd", "nii", "mha"):
        clip = read(tmp_path / f"a.{suffix}")
        assert {image.shape for image in clip.images} == {(48, round(64 * wide))} and len(clip.images) == 7
        assert wide != 1 or all(map(np.array_equal, clip.images, speckle(7)))
        sizes, taken = ("7 × 48 × 64", "by its spacing the first") if first else ("64 × 48 × 7", "the last")
        assert clip.facts["notes"] == f"its header does not say which axis of {sizes} is time: {taken} is taken"


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize(("step", "unit", "fps"), [(0.05, "s", 20), (50, "ms", 20), (0.05, "", math.nan), (2, "mm", math.nan)])
def test_the_frame_rate_of_an_nrrd_is_the_spacing_of_its_axis_of_time(tmp_path, first, step, unit, fps):
    turn = (lambda axes: [axes[2], *axes[:2]]) if first else list
    stored = np.transpose(np.stack([frame.T for frame in speckle(5)], -1), turn([0, 1, 2]))
    header = {"kinds": turn(["space", "space", "time"]), "spacings": turn([0.2, 0.2, step]), "units": turn(["mm", "mm", unit])}
    nrrd.write(str(tmp_path / "a.nrrd"), stored, header)
    listed = {"axis 2 index values": "0 50 100 150 200"} if not first else {"axis 0 index values": "0 50 100 150 200"}
    nrrd.write(str(tmp_path / "b.nrrd"), stored, header | listed | {"units": turn(["mm", "mm", "ms"])})
    assert read(tmp_path / "a.nrrd").times_s == pytest.approx(np.arange(5) / fps, nan_ok=True)
    assert read(tmp_path / "b.nrrd").times_s == pytest.approx(np.arange(5) / 20)                    # as 3D Slicer lists them


@pytest.mark.parametrize(("unit", "length"), [("mm", 1), ("cm", 10), ("um", 0.001), ("", 1), ("pixels", math.nan)])
def test_the_unit_of_a_volumes_spacing(tmp_path, unit, length):
    stored, known = np.stack([frame.T for frame in speckle(4)], -1), {"kinds": ["domain", "domain", "time"]}
    nrrd.write(str(tmp_path / "axes.nrrd"), stored, known | {"spacings": [0.02, 0.02, 0.05], "units": [unit, unit, "s"]})
    nrrd.write(str(tmp_path / "space.nrrd"), stored, known | {
        "space dimension": 2, "space units": [unit, unit], "space directions": [[0.02, 0], [0, 0.02], [np.nan, np.nan]]})
    write_volume(tmp_path / "a.mha", speckle(4), ElementSpacing="0.02 0.02 1", DistanceUnits=unit)
    for name in ("axes.nrrd", "space.nrrd", "a.mha"):
        assert read(tmp_path / name).facts["mm_per_px"] == pytest.approx(0.02 * length, nan_ok=True)


def test_colours_that_a_volume_does_not_name_are_not_taken_for_a_picture(tmp_path):
    stored = np.stack([speckle(1)[0].T] * 3)
    nrrd.write(str(tmp_path / "a.nrrd"), stored, {})
    nibabel.Nifti1Image(stored, np.eye(4)).to_filename(tmp_path / "a.nii")
    for name in ("a.nrrd", "a.nii"):
        with pytest.raises(Unreadable, match="pictures of 3 × 64: its first axis may be that of colours"):
            read(tmp_path / name)


def test_raw_echoes_are_no_picture(tmp_path):
    header = {"kinds": ["domain", "domain", "list"], "ultrasound image type": "RF_REAL"}
    nrrd.write(str(tmp_path / "a.nrrd"), np.stack([frame.T for frame in speckle(4)], -1), header)
    write_volume(tmp_path / "a.mha", speckle(4), UltrasoundImageType="RF_IQ_LINE")
    for name in ("a.nrrd", "a.mha"):
        with pytest.raises(Unreadable, match=r"its values are raw echoes \(RF\), no picture"):
            read(tmp_path / name)


def test_an_nrrd_with_its_header_in_a_file_of_its_own(tmp_path):
    nrrd.write(str(tmp_path / "a.nhdr"), np.stack([frame.T for frame in speckle(5)], -1), detached_header=True)
    assert_alike(read(tmp_path / "a.nhdr").images, speckle(5), most=0)
    next(path for path in tmp_path.iterdir() if path.suffix != ".nhdr").unlink()
    with pytest.raises(Unreadable, match="its data file a.raw.gz is missing"):
        read(tmp_path / "a.nhdr")


@pytest.mark.parametrize("wrong", ["3", "nan", "inf", "abc", "1e300"])
def test_one_impossible_time_stamp_of_a_sequence_does_not_move_the_others(tmp_path, wrong):
    write_volume(tmp_path / "a.mha", speckle(12), Seq_Frame0005_Timestamp=wrong)
    clip = read(tmp_path / "a.mha")
    assert clip.times_s == pytest.approx(np.arange(12) / 20, abs=0.001)
    assert clip.facts["fps"] == pytest.approx(20)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [({"ElementNumberOfChannels": 5}, "5 values a pixel"), ({"ElementNumberOfChannels": 0}, "0 values a pixel"),
     ({"DimSize": "64 48 -3"}, "not believed"), ({"DimSize": None}, "its header is damaged"),
     ({"NDims": 4, "DimSize": "64 48 3 4"}, "no sequence of pictures"), ({"BinaryData": False}, "written as text")],
)  # fmt: skip
def test_headers_of_metaimage_that_cannot_be(tmp_path, fields, reason):
    with pytest.raises(Unreadable, match=reason):
        read(write_volume(tmp_path / "a.mha", speckle(12), **fields))


def test_pixels_that_cannot_be_so_oblong_are_taken_for_square(tmp_path):
    clip = read(write_volume(tmp_path / "a.mha", speckle(2), ElementSpacing="20 0.2 1"))
    assert clip.images[0].shape == (48, 64)
    assert clip.facts["notes"] == "its pixels are said to be 100 times as wide as high: not believed"


# Files that are no clips, whatever they are called


def written(folder, name):
    """A file of a kind that no reader takes, under the name of a clip."""
    path = folder / "a.mp4"
    simple = {"pdf": b"%PDF-1.7\n" + cv2.imencode(".jpg", speckle(1)[0])[1].tobytes(), "program": b"MZ" + bytes(500),
              "hdf5": b"\x89HDF\r\n\x1a\n" + bytes(500), "matlab": b"MATLAB 5.0 MAT-file" + bytes(500), "zeros": bytes(9999),
              "numpy": b"\x93NUMPY" + bytes(500), "office": b"\xd0\xcf\x11\xe0" + bytes(500),
              "list": b"#EXTM3U\n#EXTINF:9,\nother.ts\n#EXT-X-ENDLIST\n", "heic": b"\0\0\0\x18ftypheic" + bytes(500),
              "jpeg xl": imagecodecs.jpegxl_encode(speckle(1)[0]), "jpeg xl box": b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(500),
              "analyze": nibabel.AnalyzeHeader(endianness="<").binaryblock, "bzip2": bz2.compress(bytes(500)),
              "text": b"This is no video. " * 500, "noise": np.random.default_rng(0).bytes(50_000)}  # fmt: skip
    if name in simple:
        path.write_bytes(simple[name])
    elif name == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("clip.mp4", bytes(500))
    else:
        path.write_bytes(gzip.compress(write_av(folder / "b.mkv", speckle(3)).read_bytes()))
    return path


@pytest.mark.parametrize(
    ("name", "reason"),
    [("pdf", "a PDF document"), ("program", "a program"), ("hdf5", "an HDF5 file"), ("matlab", "a MATLAB file"),
     ("numpy", "a NumPy array"), ("office", "an Office document"), ("list", "a list of other files"), ("zip", "a zip archive"),
     ("heic", "an HEIC picture"), ("jpeg xl", "a JPEG XL picture"), ("jpeg xl box", "a JPEG XL picture"),
     ("gzip", "packed with gzip: unpack it"), ("bzip2", "packed with bzip2: unpack it"), ("analyze", "an Analyze header"),
     ("text", "of an unknown kind"), ("zeros", "of an unknown kind"), ("noise", "of an unknown kind")],
)  # fmt: skip
def test_what_no_reader_takes_gets_its_reason(tmp_path, name, reason):
    with pytest.raises(Unreadable, match=reason):
        read(written(tmp_path, name))


def test_text_is_not_drawn_as_a_video(tmp_path):
    (tmp_path / "a.txt").write_text("hello " * 1000)                            # ffmpeg would show it as a terminal does
    with pytest.raises(Unreadable, match="of an unknown kind"):
        read(tmp_path / "a.txt")


@pytest.mark.parametrize("kind", ["mp4", "gif", "png", "tif", "mha", "nrrd"])
@pytest.mark.parametrize("suffix", ["avi", "dcm", "jpg", "nii", "txt", ""])
def test_a_clip_under_any_name_is_read_by_what_it_is(tmp_path, kind, suffix):
    frames, right, path = speckle(4), tmp_path / f"a.{kind}", tmp_path / f"other.{suffix}"
    if kind == "mp4":
        write_av(right, frames, codec="libx264", options={"crf": "0"}, pix_fmt="yuv444p")
    elif kind in ("gif", "png", "tif"):
        first, *rest = map(Image.fromarray, frames)
        first.save(right, save_all=True, append_images=rest)
    elif kind == "mha":
        write_volume(right, frames)
    else:
        nrrd.write(str(right), np.stack([frame.T for frame in frames], -1))
    right.rename(path)
    assert_alike(read(path).images, frames, most=2)


# Folders


def animation(path, count=3):
    first, *rest = [Image.fromarray(frame) for frame in speckle(count)]
    first.save(path, save_all=True, append_images=rest, duration=100)


@pytest.mark.parametrize("names", [["a.png", "a (1).png", "a (2).png"], ["f.png", "f2.png", "f10.png"],
                                   ["1.png", "1.5.png", "2.png"], ["f.1", "f.2", "f.10"]])
def test_the_image_without_a_number_is_the_first(names):
    assert [path.name for path in sorted(map(Path, sorted(names)), key=catalogue.natural)] == names


def test_images_of_one_name_and_links_that_lead_nowhere_are_named(tmp_path):
    for number, frame in enumerate(speckle(6)):
        cv2.imwrite(str(tmp_path / f"{number}.png"), frame)
    cv2.imwrite(str(tmp_path / "2.bmp"), speckle(3)[2])
    (tmp_path / "6.png").symlink_to(tmp_path / "unfetched")
    clip = read(tmp_path)
    assert clip.facts["frames_read"] == 7
    assert clip.facts["notes"] == "links that lead nowhere: 6.png; several images of one name, each a frame: 2"


def test_what_is_no_still_image_in_a_folder_of_images_is_named(tmp_path):
    for number, frame in enumerate(speckle(3)):
        cv2.imwrite(str(tmp_path / f"{number}.png"), frame)
    animation(tmp_path / "moving.png")
    (tmp_path / "notes.txt").write_text("Note")
    clip = read(tmp_path)
    assert_alike(clip.images, speckle(3), most=0)
    assert clip.facts["notes"] == "not still images, left out: moving.png"


@pytest.mark.parametrize(
    "names", [["IMG_1", "img_2", "IMG_3", "img_10"], ["f１", "f2", "f３", "f１０"], ["1.2", "1.3", "1.10", "2.1"],
              ["0.2 s", "0.04 s", "0.08 s", "0.12 s"]],
)  # fmt: skip
def test_images_come_in_the_order_of_their_numbers(tmp_path, names):
    for name, frame in zip(names, speckle(4), strict=True):
        cv2.imwrite(str(tmp_path / f"{name}.png"), frame)
    clip = read(tmp_path)
    assert_alike(clip.images, speckle(4), most=0)
    told = {"0.2 s": "so that 0.2 s comes before 0.04 s", "1.10": "so that 1.3 comes before 1.10"}
    assert all(sentence in clip.facts["notes"] for name, sentence in told.items() if name in names)
    assert bool(clip.facts["notes"]) == ("." in names[0])


def test_images_of_different_depth_in_one_folder(tmp_path):
    for number, frame in enumerate(speckle(6)):
        cv2.imwrite(str(tmp_path / f"{number}.png"), frame.astype(np.uint16) * 16 if number % 3 else frame)
    clip = read(tmp_path)
    assert_alike(clip.images, speckle(6), most=1)
    assert clip.facts["grey"] == "8 bits; 12 bits in use"


def test_hidden_files_of_a_macintosh_are_no_frames(tmp_path):
    for number, frame in enumerate(speckle(3)):
        cv2.imwrite(str(tmp_path / f"frame {number}.png"), frame)
        (tmp_path / f"._frame {number}.png").write_bytes(b"\0\5\x16\7" + bytes(100))
    clip = read(tmp_path, fps=10.0)
    assert_alike(clip.images, speckle(3), most=0)
    assert clip.numbers == [0, 1, 2] and clip.times_s == pytest.approx([0, 0.1, 0.2])
    assert (clip.facts["frames_read"], clip.facts["frames_damaged"]) == (3, 0)


def test_an_animation_among_images_with_masks_is_left_out(workspace, monkeypatch):
    monkeypatch.setenv("SONOPAIR_WORKERS", "1")
    folder = workspace / "data/raw/breast/benign"
    folder.mkdir(parents=True)
    for number in (1, 2):
        cv2.imwrite(str(folder / f"benign ({number})_mask.png"), np.full((48, 64), 255, np.uint8))
    cv2.imwrite(str(folder / "benign (1).png"), speckle(1)[0])
    animation(folder / "benign (2).png")
    extract_frames.main(source="breast", collection="raw", **RECIPE)
    clips = store.read("data/frames/breast").clip_table
    assert list(clips["left_out"]) == ["", "it holds several pictures, of which one at most can fit its masks"]


def test_an_animation_among_listed_images_is_named(tmp_path):
    images = tmp_path / "GBCU/imgs"
    images.mkdir(parents=True)
    cv2.imwrite(str(images / "im1.jpg"), speckle(1)[0])
    animation(images / "im2.png")
    (tmp_path / "GBCU/train.txt").write_text("im1.jpg,0\n")
    (tmp_path / "GBCU/test.txt").write_text("im1.jpg,0\n")
    clips = gallbladder.clips(tmp_path).drop_duplicates("path").set_index("clip")
    assert "label unknown: no line in train.txt" in clips.loc["GBCU/imgs/im2.png", "left_out"]
    udiat = tmp_path / "udiat"
    (udiat / "original").mkdir(parents=True)
    animation(udiat / "original/000001.png")
    (udiat / "DatasetB.csv").write_text("Image,Type\n1,Benign\n")
    assert len(breast.clips(udiat)) == 1


def test_links_in_a_circle_end_and_are_named(workspace, monkeypatch):
    monkeypatch.setenv("SONOPAIR_WORKERS", "1")
    folder = workspace / "data/raw/butterfly"
    for name, other in (("Cov", "Reg"), ("Reg", "Cov")):
        (folder / name).mkdir(parents=True)
        write_av(folder / name / f"{name}.mkv", speckle(4))
        (folder / name / "link").symlink_to(f"../{other}", target_is_directory=True)
    (folder / "Cov-self").symlink_to("Cov-self")                                         # a link to itself
    os.symlink(folder, folder / "Reg/Cov-top")
    extract_frames.main(source="butterfly", collection="raw", **RECIPE)
    clips = store.read("data/frames/butterfly").clip_table
    kept = clips[clips["left_out"] == ""]
    assert sorted({path.rpartition("/")[2] for path in kept["path"]}) == ["Cov.mkv", "Reg.mkv"] and len(kept) == 2
    reasons = pd.Series(clips["left_out"].to_numpy(), clips["clip"])
    assert reasons["Reg/Cov-top"] == "a link back to a folder above it"
    assert "missing" in reasons["Cov-self"]


@pytest.mark.parametrize("top", [16, 160, 255, 1600])
def test_colours_of_a_pnm_picture_have_the_range_that_it_states(tmp_path, top):
    values = np.random.default_rng(0).integers(0, top + 1, (20, 30, 3), np.uint16)
    Path(tmp_path / "a.ppm").write_bytes(b"P6 30 20 %d\n" % top + values.astype(np.uint8 if top < 256 else ">u2").tobytes())
    expected = values @ [0.299, 0.587, 0.114] * 255 / top
    assert_alike(read(tmp_path / "a.ppm").images, [expected], most=1)
