"""Masks stored as arrays: .npy files, and .mat files of MATLAB. Neither is trusted."""

import struct
import zlib
from io import BufferedReader, BytesIO
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

NPY, MAT, HDF5 = b"\x93NUMPY", b"MATLAB 5.0", b"MATLAB 7.3"
LARGEST = 2**28
"""The largest array in bytes, and the most bytes to which a .mat may unpack."""
MOST = 1000
"""The most elements of a .mat. scipy reads nested ones by recursion: some 10,000 levels crash the process."""
MATRIX, COMPRESSED = 14, 15
"""Types of the elements of a .mat: one that holds others, and one that is compressed."""


def is_array(start: bytes) -> bool:
    """Return whether a file that begins with these bytes is a .npy or .mat file."""
    return start.startswith((NPY, MAT, HDF5))


def decode_array(file: BufferedReader, variable: str) -> NDArray[Any]:
    """Return the array in an open .npy or .mat file.

    variable: as for `read_mat`. Raises ValueError that says what is wrong with the file.
    """
    start, size = file.read(len(MAT)), file.seek(0, 2)
    file.seek(0)
    if start.startswith(HDF5):
        raise ValueError("a .mat of version 7.3; save it with save(..., '-v7')")
    if size > LARGEST:
        raise ValueError(f"{size / 2**20:.0f} MB are too large for a mask")
    return _read_npy(file, size) if start.startswith(NPY) else read_mat(file.read(), variable)


def _read_npy(file: BufferedReader, size: int) -> NDArray[Any]:
    """Return the array in a .npy file of `size` bytes; no Python object is ever made from it."""
    version = npy.read_magic(file)
    read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}.get(version)
    if read is None:
        raise ValueError(f"version {version} of .npy is not supported")
    shape, by_column, dtype = read(file, max_header_size=10_000)
    if dtype.hasobject:
        raise ValueError("holds Python objects")
    values = np.frombuffer(file.read(), dtype)
    if min(shape, default=0) < 1 or values.size != np.prod([*map(float, shape)]):
        raise ValueError(f"its header says {' x '.join(map(str, shape))}, but it holds {values.size} values")
    return values.reshape(shape, order="F" if by_column else "C")


def read_mat(data: bytes, variable: str = "") -> NDArray[Any]:
    """Return an array in the bytes of a .mat.

    variable: its name, with the fields of structs after dots, such as `GTcls.Segmentation`; "": the file holds one
    variable. Raises ValueError that says what is wrong.
    """
    from scipy.io import loadmat, whosmat  # a large import that few data sets need

    _check_mat(data)
    try:
        held = {name: f"{name} ({' x '.join(map(str, shape))} {kind})" for name, shape, kind in whosmat(BytesIO(data))}
        name, *fields = variable.split(".") if variable or len(held) != 1 else held
        if name not in held:
            what = f"no variable {name}" if name else "several variables"
            raise ValueError(f"{what}; it holds {', '.join(held.values()) or 'none'}: name one in data.variable")
        found = loadmat(BytesIO(data), variable_names=[name], struct_as_record=False)[name]
        for field in fields:
            found = getattr(_single(found), field, None)
        found = _single(found)
    except ValueError:
        raise
    except Exception as error:  # noqa: BLE001 - scipy raises many kinds for a damaged file
        raise ValueError(f"damaged: {error}") from None
    if not isinstance(found, np.ndarray) or found.dtype == object:
        raise ValueError(f"{variable or name} is no array of numbers; name one, or a field of it, in data.variable")
    return found


def _single(value: Any) -> Any:
    """Return the struct in an array that holds only this."""
    while isinstance(value, np.ndarray) and value.dtype == object and value.size == 1:
        value = value.item()
    return value


def _check_mat(data: bytes) -> None:
    """Raise ValueError if a .mat has more than MOST elements, or unpacks to more than LARGEST bytes."""
    order = ">" if data[126:128] == b"MI" else "<"
    todo, elements, room = [data[128:]], 0, LARGEST
    while todo:
        part, at = todo.pop(), 0
        while at + 8 <= len(part):
            kind, size = struct.unpack_from(f"{order}II", part, at)
            elements += 1
            if elements > MOST:
                raise ValueError(f"more than {MOST} elements; save the mask alone")
            if kind == COMPRESSED:
                inflated = _inflated(part[at + 8 : at + 8 + size], room + 1)
                room -= len(inflated)
                if room < 0:
                    raise ValueError(f"unpacks to more than {LARGEST // 2**20} MB; save the mask alone")
                todo.append(inflated)
                at += 8 + size
            elif kind == MATRIX or kind >> 16:  # the elements in it follow; or a small element of eight bytes
                at += 8
            else:
                at += 8 + size + -size % 8


def _inflated(part: bytes, most: int) -> bytes:
    """Return at most `most` of the bytes of a compressed part. Raises ValueError if it is damaged."""
    try:
        return zlib.decompressobj().decompress(part, most)
    except zlib.error as error:
        raise ValueError(f"damaged: {error}") from None
