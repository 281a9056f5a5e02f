"""Which reader a clip needs: its first bytes decide, whatever its name ends in."""

import gzip
import zlib
from pathlib import Path

from stages.lib.clips import catalogue
from stages.lib.clips.readers import images, stack, video
from stages.lib.clips.readers.dicom import clip as dicom
from stages.lib.clips.readers.dicom.header import is_dicom
from stages.lib.clips.readers.recording import Recording, Unreadable
from stages.lib.clips.readers.volume import clip as volume

PICTURES = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"BM", *stack.TIFF)


def files_of(path: Path) -> list[Path]:
    """The files of a clip: itself, or the images of a folder; none where there is neither."""
    return catalogue.images(path) if path.is_dir() else [path] if path.is_file() else []


def open_clip(path: Path) -> Recording:
    """The clip as its reader found it.

    Raises:
        Unreadable: missing, empty, damaged, or of no kind that can be read; the message says which.
    """
    files = files_of(path)
    if not files:
        there = "the folder holds no image" if path.is_dir() else "neither a file nor a folder"
        raise Unreadable(there if path.exists() else "the file is missing")
    if not any(file.stat().st_size for file in files):
        raise Unreadable("the file is empty (0 bytes)")
    if path.is_dir():
        return images.open_images(files)
    start = _start(path)
    if is_dicom(start):  # first: its preamble may pass for a TIFF
        return dicom.open_dicom(path)
    if start.startswith(PICTURES) or start[8:12] == b"WEBP" or (start[:1] == b"P" and start[1:2] in b"1234567Ff"):
        return stack.open_stack(path)
    if volume.is_volume(start):
        return volume.open_volume(path, start)
    return video.open_video(path)


def _start(path: Path) -> bytes:
    """The first bytes of a file, unpacked where it is packed with gzip."""
    with path.open("rb") as stream:
        start = stream.read(1024)
    if start.startswith(b"\x1f\x8b"):
        try:
            with gzip.open(path) as stream:
                return stream.read(1024)
        except (OSError, EOFError, zlib.error):
            return start
    return start
