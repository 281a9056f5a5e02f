"""Which reader a clip needs: its first bytes decide, whatever its name ends in."""

import gzip
import mmap
import zlib
from pathlib import Path

from stages.lib.clips import catalogue
from stages.lib.clips.readers import images, stack, tiff, video
from stages.lib.clips.readers.dicom import clip as dicom
from stages.lib.clips.readers.dicom.header import is_dicom
from stages.lib.clips.readers.recording import Recording, Unreadable
from stages.lib.clips.readers.volume import clip as volume

GZIP, JPEG = b"\x1f\x8b", b"\xff\xd8\xff"
PICTURES = (b"\x89PNG", JPEG, b"GIF8", b"BM", b"\0\0\0\x0cjP", b"\xff\x4f\xff\x51", *tiff.STARTS)
HEIC = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")  # brands of a file; its tiles would be frames
NO_CLIPS = {
    b"#EXTM3U": "a list of other files, not a clip: put the clips themselves there",
    b"ffconcat": "a list of other files, not a clip: put the clips themselves there",
    b"\xff\n": "a JPEG XL picture: save it as JPEG or PNG",
    b"\0\0\0\x0cJXL ": "a JPEG XL picture: save it as JPEG or PNG",
    b"%PDF": "a PDF document, not a clip",
    b"\xd0\xcf\x11\xe0": "an Office document, not a clip",
    b"PK\x03\x04": "a zip archive or Office document, not a clip: unpack it",
    b"7z\xbc\xaf": "a 7z archive, not a clip: unpack it",
    b"Rar!": "a rar archive, not a clip: unpack it",
    b"BZh": "packed with bzip2: unpack it",
    b"\x5c\1\0\0": "an Analyze header: save its pictures as NIfTI",
    b"MZ": "a program, not a clip",
    b"\x7fELF": "a program, not a clip",
    b"\x89HDF": "an HDF5 file, of which no layout is known: save its pictures as NRRD or TIFF",
    b"MATLAB": "a MATLAB file, of which no layout is known: save its pictures as NRRD or TIFF",
    b"\x93NUMPY": "a NumPy array, which says nothing of its axes: save it as NRRD or TIFF",
}


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
        known = set(files)
        return images.open_images(files, [file for file in catalogue.files(path) if file not in known])
    return _open_file(path)


def _open_file(path: Path) -> Recording:
    start, packed = _start(path)
    if volume.is_volume(start):
        return volume.open_volume(path, start)
    if packed:
        raise Unreadable("packed with gzip: unpack it")
    if is_dicom(start):  # before pictures: its preamble may pass for a TIFF
        return dicom.open_dicom(path)
    reason = next((reason for begin, reason in NO_CLIPS.items() if start.startswith(begin)), "")
    if start[4:8] == b"ftyp" and start[8:12] in HEIC:
        reason = "an HEIC picture, whose parts would be taken for frames: save it as JPEG or PNG"
    if reason:
        raise Unreadable(reason)
    return stack.open_stack(path) if _is_picture(path, start) else video.open_video(path)


def _is_picture(path: Path, start: bytes) -> bool:
    """Whether the file holds pictures that no video codec has packed."""
    if start.startswith(JPEG) and _another_jpeg(path):
        return False
    animated = start[8:12] == b"WEBP" or start[4:12] in (b"ftypavif", b"ftypavis")
    return animated or start.startswith(PICTURES) or (start[:1] == b"P" and start[1:2] in b"1234567Ff")


def _another_jpeg(path: Path) -> bool:
    """Whether JPEG pictures follow each other at once, as in a stream of motion JPEG without a container.

    A second one alone is a preview.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        # pictures of a camera list their previews in an APP2 segment
        second = data.find(b"\xff\xd9" + JPEG)
        return b"MPF\0" not in data[:65536] and data.find(b"\xff\xd9" + JPEG, second + 1) > second


def _start(path: Path) -> tuple[bytes, bool]:
    """The first bytes of a file, unpacked where it is packed with gzip, and whether it is."""
    with path.open("rb") as stream:
        start = stream.read(1024)
    if start.startswith(GZIP):
        try:
            with gzip.open(path) as stream:
                return stream.read(1024), True
        except (OSError, EOFError, zlib.error):
            return start, True
    return start, False
