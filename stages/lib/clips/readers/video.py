"""Video files of every container and codec that ffmpeg knows, through PyAV.

Frames come as ffmpeg decodes them: an interlaced frame is both of its fields, woven. A transparent video lies over black. Time
stamps, aspect ratio and rotation are those of the file.
"""

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import BinaryIO

import av
import numpy as np

from stages.lib.clips.readers import pixels
from stages.lib.clips.readers.recording import Frames, Recording, Unreadable

av.logging.set_level(None)  # its errors reach us as exceptions
# Of ffmpeg's 300 formats those of recordings: it takes text or noise for one of the others, and lists fetch other files.
FORMATS = """mov mp4 matroska webm avi mpeg mpegts mpegtsraw mpegvideo m4v h264 hevc vvc h261 h263 vc1 vc1test obu av1 ivf evc
    asf asf_o flv live_flv kux dv gxf mxf lxf ogg nut rm wtv swf nsv nuv ty pva dhav mods mjpeg mpjpeg smjpeg ingenient
    mjpeg_2000 yuv4mpegpipe cavsvideo avs2 avs3 dirac dnxhd apng gif cine ser""".split()
OPTIONS = {"protocol_whitelist": "file,crypto,data", "format_whitelist": ",".join(FORMATS)}
PACKED = {"yuyv422": 0, "yvyu422": 0, "uyvy422": 1}  # place of the luma among the two bytes of a pixel
BROKEN = (av.error.FFmpegError, ValueError, EOFError)
LUMA_PLANE = re.compile(r"(yuva?j?4\d\dp|gray|p[024]|nv)(\d\d?)?(le|be)?")  # pixel formats whose first plane is the luminance
FULL = 2  # of av's color_range: the values 0 to 255 are all in use


def open_video(source: Path | BinaryIO, square: bool = True) -> Recording:
    """The largest video stream of a file, but for streams of a single frame beside others.

    Args:
        square: whether the aspect ratio of its pixels, as the stream states it, is made up for.

    Raises:
        Unreadable: no video file, or none whose codec is known.
    """
    with _container(source) as container:
        stream = _stream(container)
        rates = [rate for rate in (stream.average_rate, stream.guessed_rate) if rate]
        notes = ["it holds several videos: the one with the largest picture is read"] if len(_videos(container)) > 1 else []
        aspect = pixels.believed_aspect(float(stream.sample_aspect_ratio or 1), notes) if square else 1.0
    clip = Recording(frames=None, fps=float(rates[0]) if rates else math.nan, timed=True, notes=notes)
    clip.frames = partial(_frames, source, clip, aspect)
    return clip


@contextmanager
def _container(source: Path | BinaryIO) -> Iterator[av.container.InputContainer]:
    if not isinstance(source, Path):
        source.seek(0)
    try:
        # not as it stands: of a name such as `file:a.mp4` ffmpeg would open another file
        place = str(source.absolute()) if isinstance(source, Path) else source
        container = av.open(place, metadata_errors="ignore", options=OPTIONS)
    except (av.error.FFmpegError, ValueError) as error:
        raise Unreadable("no frame can be decoded: damaged, cut off, or of an unknown kind") from error
    with container:
        yield container


def _videos(container: av.container.InputContainer) -> list[av.VideoStream]:
    """The video streams, but for the cover picture of a recording."""
    return [stream for stream in container.streams.video if not stream.disposition & av.stream.Disposition.attached_pic]


def _stream(container: av.container.InputContainer) -> av.VideoStream:
    videos = _videos(container)
    if not videos:
        raise Unreadable("there is no video in it")
    known = [stream for stream in videos if stream.codec_context is not None]
    if not known:
        raise Unreadable("no frame can be decoded: its codec is unknown; convert it to mp4")
    stream = max(known, key=lambda stream: (stream.frames != 1, stream.width * stream.height))  # one frame: a preview
    stream.codec_context.thread_count = 1  # the cores are shared out by clips
    return stream


def _frames(source: Path | BinaryIO, clip: Recording, aspect: float) -> Frames:
    """Go through the file; what is damaged is counted, and the frames after it go on."""
    with _container(source) as container:
        stream = _stream(container)
        decode = _Luminance(aspect)
        for frame in _decoded(container, stream, clip):
            counted = clip.damaged
            yield _time(frame, stream, container.format.name == "avi"), partial(decode, frame)
            if frame.is_corrupt and clip.damaged == counted:  # nobody has looked at it
                clip.damaged += 1


def _decoded(container: av.container.InputContainer, stream: av.VideoStream, clip: Recording) -> Iterator[av.VideoFrame]:
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except BROKEN:
            clip.damaged += 1  # the file ends in the middle of a frame
            return
        if packet is None:
            return
        try:
            yield from packet.decode()
        except BROKEN:
            clip.damaged += 1


def _time(frame: av.VideoFrame, stream: av.VideoStream, by_decoding: bool) -> float:
    """The time stamp in s. An AVI states when to decode a frame; when to show it is a guess that fails with H.264."""
    ticks = frame.dts if by_decoding or frame.pts is None else frame.pts
    return math.nan if ticks is None else float(ticks * (frame.time_base or stream.time_base))


class _Luminance:
    """Decoder of a clip's frames → uint8 [H, W] as they are to be shown; None for a frame that is damaged."""

    def __init__(self, aspect: float) -> None:
        self.aspect, self.full = aspect, None  # full: whether a grey video has full range, by its first frame
        self.reformatter = av.video.reformatter.VideoReformatter()  # keeps its tables from frame to frame

    def __call__(self, frame: av.VideoFrame) -> np.ndarray | None:
        if frame.is_corrupt:
            return None
        return _turned(pixels.fitted(self.luminance(frame), self.aspect), frame)  # then: width and height may change places

    def luminance(self, frame: av.VideoFrame) -> np.ndarray:
        name, parts = frame.format.name, frame.format.components
        full = frame.color_range == FULL or name.startswith("yuvj")
        if name in PACKED:
            luma = np.ascontiguousarray(_plane(frame.planes[0], np.uint8, 2 * frame.width)[:, PACKED[name] :: 2])
            return luma if full else pixels.full_range(luma)
        if not LUMA_PLANE.fullmatch(name):
            shown = self.reformatter.reformat(frame, format="rgba" if parts[-1].is_alpha else "rgb24")
            shown = shown.to_ndarray()
            return pixels.grey(shown if shown[..., -1].any() else shown[..., :3])  # all transparent: no alpha is meant
        bits = parts[0].bits
        luma = _values(frame, 0, bits)
        if name.startswith("gray") and not full:
            full = self.full = _is_full(luma, frame.color_range, bits) if self.full is None else self.full
        luma = _eight(luma, bits) if full else pixels.full_range(luma, bits)
        alpha = parts[-1]
        return pixels.opaque(luma, _eight(_values(frame, alpha.plane, bits), bits)) if alpha.is_alpha else luma


def _is_full(luma: np.ndarray, colour_range: int, bits: int) -> bool:
    """Whether the values of a grey video have full range, for which ffmpeg takes all of them.

    Many encoders write limited range without being asked. It is believed where black is 16.
    """
    unit = 1 << (bits - 8)
    black = (luma >> (bits - 8)) == 16
    return not (colour_range and luma.min() >= 14 * unit and luma.max() < 240 * unit and black.mean() > 0.01)


def _turned(image: np.ndarray, frame: av.VideoFrame) -> np.ndarray:
    """The image [H, W] as the file says that it is to be turned or mirrored, by a multiple of 90°."""
    try:
        matrix = frame.side_data.get("DISPLAYMATRIX")
    except ValueError:  # beside it lies something that PyAV does not know, such as Exif
        return np.array(np.rot90(image, round(frame.rotation / 90)))
    if matrix is None:
        return image
    a, b, _, c, d, *_ = np.frombuffer(matrix, np.int32)  # column x, row y of the file are shown at a·x + c·y, b·x + d·y
    if abs(b) > abs(a):
        image, a, d = image.T, c, b
    return np.array(image[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1])


def _values(frame: av.VideoFrame, plane: int, bits: int) -> np.ndarray:
    """The values of a plane as uint8, or uint16 for more than 8 bits."""
    if bits <= 8:
        return _plane(frame.planes[plane], np.uint8, frame.width)
    order = ">u2" if frame.format.is_big_endian else "<u2"
    values = _plane(frame.planes[plane], order, frame.width).astype(np.uint16)
    return values >> (16 - bits) if frame.format.name.startswith("p") else values  # p010 and its kind: the upper bits


def _plane(plane: av.video.plane.VideoPlane, kind: type | str, width: int) -> np.ndarray:
    """A plane's rows without their padding."""
    rows = np.frombuffer(plane, kind).reshape(plane.height, -1)
    return rows[:, :width]


def _eight(values: np.ndarray, bits: int) -> np.ndarray:
    return values if bits <= 8 else (values >> (bits - 8)).astype(np.uint8)
