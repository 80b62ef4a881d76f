"""Find the files of MNIST and Fashion-MNIST, or download them.

The first step of `load("mnist")`. Files are looked for in the folder EQPROP_DATA, then
in the user's cache. Missing files are downloaded into the cache, from one mirror after
the other. pooch renames a file only if its checksum is right, so that no process sees
half a file and a failure leaves no file behind.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

VARIABLE = "EQPROP_DATA"
TIMEOUT = (10.0, 30.0)  # seconds: to connect, between two packets


@dataclass(frozen=True)
class Published:
    """Mirrors and checksums of a published data set.

    Attributes:
        mirrors: addresses of folders with the .gz files; each ends in /.
        md5: for each file name without .gz: (md5 of the .gz file, md5 gunzipped).
    """

    mirrors: tuple[str, ...]
    md5: dict[str, tuple[str, str]]


TRAIN_X, TRAIN_Y = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
TEST_X, TEST_Y = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"

MNIST = {
    TRAIN_X: ("f68b3c2dcbeaaa9fbdd348bbdeb94873", "6bbc9ace898e44ae57da46a324031adb"),
    TRAIN_Y: ("d53e105ee54ea40749a09fcbcd1e9432", "a25bea736e30d166cdddb491f175f624"),
    TEST_X: ("9fb629c4189551a2d022fa330f9573f3", "2646ac647ad5339dbf082846283269ea"),
    TEST_Y: ("ec29112dd5afa0611ce80d1b7f02629c", "27ae3e4e09519cfbb04c329615203637"),
}
FASHION = {
    TRAIN_X: ("8d4fb7e6c68d591d4c3dfef9ec88bf0d", "f4a8712d7a061bf5bd6d2ca38dc4d50a"),
    TRAIN_Y: ("25c81989df183df01b3e8a0aad5dffbe", "9018921c3c673c538a1fc5bad174d6f9"),
    TEST_X: ("bef4ecab320f06d8554ea6380940ec79", "8181f5470baa50b63fa0f6fddb340f0a"),
    TEST_Y: ("bb300cfdad3c16e7a12a480ee83cd310", "15d484375f8d13e6eb1aabb0c3f46965"),
}
"""md5 of the .gz file, and of its content"""

PUBLISHED = {
    "mnist": Published(
        mirrors=(
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
            "https://raw.githubusercontent.com/fgnt/mnist/master/",
        ),
        md5=MNIST,
    ),
    "fashion-mnist": Published(
        mirrors=(
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
            "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
            "https://storage.googleapis.com/tensorflow/tf-keras-datasets/",
        ),
        md5=FASHION,
    ),
}


def find(name: str) -> Path | None:
    """Return the folder that holds all files of a data set; download nothing.

    Args:
        name: "mnist" or "fashion-mnist".

    Returns:
        the folder, in EQPROP_DATA or the user's cache; None if neither holds it.

    Raises:
        ValueError: another name, or EQPROP_DATA is not a folder.
    """
    if name not in PUBLISHED:
        raise ValueError(
            f"name = {name!r}: only {' and '.join(PUBLISHED)} have files to find"
        )
    for folder in _folders(name):
        if not _missing(folder, name):
            return folder
    return None


def published_files(name: str) -> dict[str, tuple[Path, str]]:
    """Return path and md5 of each file of a data set; download missing files.

    Args:
        name: a key of `PUBLISHED`.

    Returns:
        for each file name without .gz: (path, md5 of that file).

    Raises:
        ValueError: EQPROP_DATA is not a folder.
        ConnectionError: no mirror gave the right file.
    """
    folder = find(name)
    if folder is None:
        folder = _folders(name)[-1]
        for file_name in _missing(folder, name):
            _download(name, file_name, folder)
    return {
        file_name: (path, md5[path.suffix != ".gz"])
        for file_name, md5 in PUBLISHED[name].md5.items()
        if (path := _path(folder, file_name)) is not None
    }


def _folders(name: str) -> list[Path]:
    """Return the folders that may hold the files of a data set, the cache last."""
    import pooch

    cache = Path(pooch.os_cache("eqprop")) / name
    chosen = os.environ.get(VARIABLE)
    if not chosen:
        return [cache]
    root = Path(chosen).expanduser()
    if not root.is_dir():
        raise ValueError(
            f"{VARIABLE} = {chosen!r}: there is no such folder; give a folder with the "
            f"subfolders {', '.join(PUBLISHED)}, or unset the variable"
        )
    return [root / name, cache]


def _path(folder: Path, file_name: str) -> Path | None:
    for path in (folder / f"{file_name}.gz", folder / file_name):
        if path.is_file():
            return path
    return None


def _missing(folder: Path, name: str) -> list[str]:
    return [f for f in PUBLISHED[name].md5 if _path(folder, f) is None]


def _download(name: str, file_name: str, folder: Path) -> None:
    import pooch
    import requests

    fetch: Any = pooch.HTTPDownloader(timeout=TIMEOUT, chunk_size=1 << 16)
    tried = []
    for mirror in PUBLISHED[name].mirrors:
        url = f"{mirror}{file_name}.gz"
        checksum = f"md5:{PUBLISHED[name].md5[file_name][0]}"
        try:
            pooch.retrieve(url, checksum, url.split("/")[-1], folder, downloader=fetch)
            return
        except (requests.RequestException, ValueError) as error:
            tried.append(f"  {url}: {_reason(error)}")
        except OSError as error:
            raise OSError(
                f"{name}: cannot write into {folder} ({error.strerror or error}): free "
                f"some space, or set {VARIABLE} to a folder that holds {name}/"
            ) from error
    files = ", ".join(f"{f}.gz" for f in PUBLISHED[name].md5)
    here = f"\n{_absence(name)}" if len(_folders(name)) > 1 else ""
    raise ConnectionError(
        f"{name}: {file_name}.gz could not be downloaded:\n"
        + "\n".join(tried)
        + f"\nWithout a network, put {files} into {folder} by hand, or set the "
        f"environment variable {VARIABLE} to a folder with a subfolder {name}/ that "
        f"holds them.{here}"
    )


def _absence(name: str) -> str:
    folder = _folders(name)[0]
    lacks = ", ".join(f"{f}.gz" for f in _missing(folder, name))
    return f"{VARIABLE} = {os.environ[VARIABLE]!r} is set, but {folder} lacks {lacks}."


def _reason(error: Exception) -> str:
    """Return the error of one mirror in one line."""
    response = getattr(error, "response", None)
    if response is not None:
        return f"HTTP {response.status_code} {response.reason}"
    hashes = re.search(r"expected (?:md5:)?(\w+) but got (\w+)", str(error))
    if hashes:
        return f"wrong checksum: md5 found {hashes[2]}, expected {hashes[1]}"
    cause = getattr(error.args[0], "reason", error) if error.args else error
    text = " ".join(str(cause).split()) or type(error).__name__
    return re.sub(r"^(<.*? object at 0x\w+>|HTTPS?Connection\(.*?\)): ", "", text)
