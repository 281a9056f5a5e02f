"""A cache of computed results in a folder outside DVC's outputs. The key of an entry holds all that decides it.

It changes no result: it may be deleted at any time, also while a stage runs, and an entry that is damaged counts as missing.
Several processes may use it at once, since an entry takes its place in one move. Beyond the bound the least recently
used entries are removed. An entry is a file: a checksum, then arrays in the safetensors format, which holds no code.
joblib.Memory and diskcache would unpickle what they find, and diskcache is lost as a whole when its one database is damaged.

    SONOPAIR_CACHE       the folder; default: .dvc/tmp/clips of the project, also for experiments in a temporary copy of it
    SONOPAIR_CACHE_GIB   the bound; default: 10. 0: no cache
"""

import contextlib
import functools
import hashlib
import importlib.metadata
import json
import math
import os
import platform
import shutil
import sys
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from stages.lib.params import UserError

DEFAULT_GIB = 10
SUFFIX = ".sonopair"        # of an entry: nothing else is ever removed from the folder
SPARE_BYTES = 1 << 30       # of the disk: where less is free, nothing more is kept
STAGES = Path(__file__).parents[2]


class Cache(NamedTuple):
    """The entries in `folder`, at most `most_bytes` together after `trim`; `surroundings` is a part of every key."""

    folder: Path
    most_bytes: float
    surroundings: str

    def key(self, *parts: object) -> str:
        """The name of the entry that these parts decide: texts, numbers, None, lists and mappings of them."""
        return hashlib.blake2b(json.dumps([self.surroundings, *parts]).encode(), digest_size=20).hexdigest() + SUFFIX

    def get(self, name: str) -> dict[str, np.ndarray] | None:
        """The arrays of an entry, which counts as used now; None if it is missing or damaged."""
        path = self.folder / name
        try:
            data = path.read_bytes()
            arrays = load(data[4:]) if data[:4] == _checksum(data[4:]) else None
        except (OSError, SafetensorError):
            return None
        with contextlib.suppress(OSError):              # removed meanwhile, or in a folder that may only be read
            os.utime(path)
        return arrays

    def put(self, name: str, arrays: dict[str, np.ndarray]) -> None:
        """Keep arrays as an entry. Where they cannot be written, they are not kept, and the run goes on."""
        data, partial = save(arrays), self.folder / f"{os.getpid()}-{name}"
        with contextlib.suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
            if shutil.disk_usage(self.folder).free < SPARE_BYTES + len(data):
                return
            try:
                partial.write_bytes(_checksum(data) + data)
                os.replace(partial, self.folder / name)
            finally:
                partial.unlink(missing_ok=True)

    def trim(self) -> None:
        """Remove the entries that were not used for longest, until the rest is within the bound."""
        entries, left = [], self.most_bytes
        with contextlib.suppress(OSError), os.scandir(self.folder) as there:
            for entry in there:
                if entry.name.endswith(SUFFIX):
                    with contextlib.suppress(FileNotFoundError):        # another process removes entries, too
                        entries.append((entry.stat().st_mtime_ns, entry.stat().st_size, entry.path))
        for _, size, path in sorted(entries, reverse=True):
            left -= size
            if left < 0:
                with contextlib.suppress(OSError):
                    os.unlink(path)


def of_room(room: str) -> Cache | None:
    """The cache of what a room of `lib` computes, as the environment's variables say; None: there shall be none.

    Raises:
        UserError: SONOPAIR_CACHE_GIB is no number, or negative.
    """
    wanted = os.environ.get("SONOPAIR_CACHE_GIB") or str(DEFAULT_GIB)
    try:
        gib = float(wanted)
    except ValueError:
        gib = math.nan
    if not gib >= 0:
        raise UserError(f"SONOPAIR_CACHE_GIB is {wanted!r}; it must be a number of GiB, or 0 for no cache")
    folder = os.environ.get("SONOPAIR_CACHE") or Path(os.environ.get("DVC_ROOT", "."), ".dvc/tmp/clips")
    return Cache(Path(folder), gib * 2**30, surroundings(room)) if gib else None


@functools.cache
def surroundings(room: str) -> str:
    """A digest of the code of a room of `lib`, of Python and of all installed packages: with any of them results may change."""
    digest = hashlib.blake2b(json.dumps([sys.version, platform.machine()]).encode(), digest_size=16)
    for path in sorted((STAGES / "lib" / room).rglob("*.py")):
        digest.update(f"{path.relative_to(STAGES)} ".encode() + hashlib.blake2b(path.read_bytes()).digest())
    for package in sorted(f"{each.name} {each.version}" for each in importlib.metadata.distributions()):
        digest.update(package.encode() + b"\n")
    return digest.hexdigest()


def pack(value: object) -> np.ndarray:
    """A value as JSON can hold it, as an array of bytes for an entry."""
    return np.frombuffer(json.dumps(value).encode(), np.uint8)


def unpack(array: np.ndarray) -> object:
    """The value that `pack` was given; tuples have become lists."""
    return json.loads(array.tobytes())


def _checksum(data: bytes) -> bytes:
    return zlib.crc32(data).to_bytes(4, "big")
