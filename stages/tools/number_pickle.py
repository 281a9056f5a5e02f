"""Read pickles of numpy arrays that nobody trusts: only numbers are read, and nothing that the file names is ever called.

Numpy's own functions cannot rebuild the arrays safely: they trust their arguments, and a forged dtype makes them take bytes of
the file for addresses of objects. So stand-ins that know only numbers take their places.
"""

import pickle
from pathlib import Path

import numpy as np

from stages.lib.params import UserError


def read(path: Path) -> object:
    """What a pickle holds: lists, tuples, dicts, texts, numbers, and arrays of numbers, which cannot be written to.

    Raises:
        UserError: it names anything else than numpy's arrays, numbers and dtypes, or is no pickle; the sentence names the file.
    """
    try:
        with path.open("rb") as stream:
            return _plain(_Numbers(stream).load())
    except _Refused as name:
        raise UserError(f"{path} is refused: it asks for {name}, and a pickle may hold nothing but numbers and numpy's arrays "
                        "of them") from None
    except Exception as error:      # a file of another kind gives nearly any of them
        raise UserError(f"{path} cannot be read as a pickle of numpy arrays ({type(error).__name__}: {error})") from None


class _Refused(Exception):
    pass


class _Numbers(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> object:
        known = STAND_INS.get((module.replace("numpy._core", "numpy.core"), name))      # numpy 2 and older
        if known is None:
            raise _Refused(f"{module}.{name}")
        return known


class _Dtype:
    def __init__(self, code: str, *_):
        self.dtype = np.dtype(code)
        if self.dtype.kind not in "biuf":
            raise _Refused(f"numpy's dtype {code!r}")

    def __setstate__(self, state: tuple):
        self.dtype = self.dtype.newbyteorder(state[1])


class _Array:
    """Filled by `__setstate__` as numpy.ndarray is: version, shape, dtype, whether in Fortran's order, bytes."""

    def __init__(self, *_):
        self.values = np.zeros(0)

    def __setstate__(self, state: tuple):
        _, shape, kind, fortran, data = state
        self.values = np.frombuffer(data, kind.dtype).reshape(shape, order="F" if fortran else "C")


def _from_buffer(data: bytes, kind: _Dtype, shape: tuple, order: str, axes: tuple | None = None) -> _Array:
    array = _Array()
    array.__setstate__((1, shape, kind, order == "F", data))
    array.values = array.values.transpose(axes) if axes else array.values
    return array


def _scalar(kind: _Dtype, data: bytes) -> np.generic:
    return np.frombuffer(data, kind.dtype)[0]


def _encode(text: str, encoding: str) -> bytes:
    """How protocol 2 keeps bytes."""
    return text.encode("latin1")


STAND_INS = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy.core.numeric", "_frombuffer"): _from_buffer,
    ("_codecs", "encode"): _encode,
}


def _plain(value: object) -> object:
    """Arrays in place of their stand-ins, in lists, tuples and dicts, too."""
    if isinstance(value, list | tuple):
        return type(value)(_plain(item) for item in value)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value.values if isinstance(value, _Array) else value
