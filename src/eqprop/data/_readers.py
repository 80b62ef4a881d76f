"""Read files into raw arrays: the IDX format of MNIST and NumPy's .npz archives.

The first step after a file was found. Readers report what is wrong with a *file*
(missing, damaged, another format); `_checks` reports what is wrong with its numbers.
Nothing is ever unpickled.

IDX: two zero bytes, a byte for the type of the numbers (8: uint8), a byte for the
number of dimensions, their sizes as big-endian uint32, then the numbers.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import zipfile
import zlib
from pathlib import Path
from tokenize import TokenError

import numpy as np

NPZ_NAMES = ("x", "y", "x_test", "y_test")


def md5_of(content: bytes) -> str:
    """Return the md5 checksum, which detects damage but not attacks."""
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def read_idx(path: Path, ndim: int, md5: str | None = None) -> np.ndarray:
    """Read an IDX file of uint8 numbers, gzipped if its name ends in .gz.

    Args:
        path: the file.
        ndim: dimensions it must have: 3 for images [N, h, w], 1 for labels [N].
        md5: checksum of the file; None: not checked.

    Returns:
        uint8 array with `ndim` dimensions, read-only.

    Raises:
        ValueError: wrong checksum, damaged gzip, wrong magic number or wrong length.
    """
    content = path.read_bytes()
    if md5 is not None and (found := md5_of(content)) != md5:
        raise ValueError(
            f"{path}: wrong checksum: md5 found {found}, expected {md5}. The file is "
            "damaged or a different one: delete it, and load again to download it"
        )
    if path.suffix == ".gz":
        try:
            content = gzip.decompress(content)
        except (EOFError, OSError, zlib.error) as error:
            raise ValueError(
                f"{path}: truncated or damaged gzip file ({error}): delete it, and "
                "load again to download it"
            ) from error
    return _parse_idx(content, ndim, path)


def _parse_idx(content: bytes, ndim: int, path: Path) -> np.ndarray:
    magic, expected = content[:4], bytes((0, 0, 8, ndim))
    if magic != expected:
        raise ValueError(
            f"{path}: wrong IDX magic number 0x{magic.hex() or '(empty file)'}, "
            f"expected 0x{expected.hex()} (uint8, {ndim} dimensions): the content does "
            "not match the file name"
        )
    start = 4 + 4 * ndim
    if len(content) < start:
        raise ValueError(
            f"{path}: IDX header of {len(content)} bytes, expected {start}: the file "
            "is truncated"
        )
    shape = tuple(int(n) for n in np.frombuffer(content, ">u4", ndim, offset=4))
    payload = np.frombuffer(content, np.uint8, offset=start)
    promised = int(np.prod(shape, dtype=object))
    if payload.size != promised:
        raise ValueError(
            f"{path}: {payload.size} bytes of data, but the IDX header says shape "
            f"{shape}, {promised} bytes: the file is "
            + ("truncated" if payload.size < promised else "too long")
        )
    return payload.reshape(shape)


def read_npz(
    path: str | os.PathLike[str], required: tuple[str, ...]
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Read the arrays x, y, x_test, y_test of an .npz file, as far as it holds them.

    Args:
        path: a file whose name ends in .npz.
        required: the arrays that must be there.

    Returns:
        the arrays by name, unchanged, and the names of all other arrays.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: not an .npz file, damaged, without a required array, or with
            pickled objects.
    """
    file = Path(path).expanduser()
    if file.is_dir():
        raise ValueError(f"{file} is a folder: expected an .npz file")
    if not file.exists():
        raise FileNotFoundError(
            f"{file}: no such file (looked for {file.absolute()}); write one with "
            "np.savez(path, x=x, y=y)"
        )
    with file.open("rb") as stream:
        if not zipfile.is_zipfile(stream):
            raise ValueError(
                f"{file}: not an .npz file, or a truncated one (no valid zip archive): "
                "write it with np.savez(path, x=x, y=y)"
            )
    try:
        with np.load(file, allow_pickle=False) as archive:
            held = sorted(archive.files)
            arrays = {n: _array(archive, n, file) for n in NPZ_NAMES if n in held}
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError) as error:
        raise ValueError(f"{file}: damaged .npz file ({error})") from error
    for name in required:
        if name not in arrays:
            raise ValueError(
                f"{file}: no array {name!r}; it holds {', '.join(held) or 'nothing'}. "
                "Name the arrays when saving: np.savez(path, x=x, y=y)"
            )
    return arrays, tuple(name for name in held if name not in NPZ_NAMES)


def _array(archive: np.lib.npyio.NpzFile, name: str, file: Path) -> np.ndarray:
    try:
        array = archive[name]
    except (ValueError, SyntaxError, RecursionError, TokenError) as error:
        if "allow_pickle" in str(error):
            raise ValueError(
                f"{file}: array {name!r} holds Python objects, which are never "
                "unpickled: store numbers, for ragged data padded to one shape"
            ) from error
        raise ValueError(f"{file}: array {name!r} is damaged ({error})") from error
    if isinstance(array, np.ndarray):
        return array
    raise ValueError(f"{file}: {name!r} is not a NumPy array: write it with np.savez")
