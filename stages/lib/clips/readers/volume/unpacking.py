"""Packed pixels as a stream: no more than one frame of them is in memory."""

import bz2
import gzip
import zlib
from collections.abc import Callable
from io import BufferedReader, RawIOBase
from typing import BinaryIO


class _Inflating(RawIOBase):
    """A zlib stream, unpacked piece by piece."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.inflate = file, zlib.decompressobj()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:
        data = b""
        while not data and not self.inflate.eof:
            packed = self.inflate.unconsumed_tail or self.file.read(1 << 16)
            if not packed:
                break
            data = self.inflate.decompress(packed, len(buffer))
        buffer[: len(data)] = data
        return len(data)


def unpacked(file: BinaryIO, packing: str) -> BinaryIO:
    """The rest of a file as a stream, unpacked where `packing` is gzip, bzip2 or zlib; raw stays as it is."""
    openers: dict[str, Callable[[BinaryIO], BinaryIO]] = {
        "raw": lambda file: file, "gzip": gzip.GzipFile, "bzip2": bz2.BZ2File,
        "zlib": lambda file: BufferedReader(_Inflating(file), 1 << 20)}  # fmt: skip
    return openers[packing](fileobj=file) if packing == "gzip" else openers[packing](file)
