"""Shared by the data tests: tiny IDX files, and no real cache, folder or network.

Every test here starts without EQPROP_DATA and with an empty cache folder, so that none
depends on what lies on the machine; the real files are read by one test that asks for
the variable as it was.
"""

import gzip
import hashlib
import os
import struct
from types import SimpleNamespace

import numpy as np
import pooch
import pytest

from eqprop.data import _download

GIVEN = os.environ.get("EQPROP_DATA")


def idx_bytes(array):
    """The IDX format, from its specification: 0, 0, type 8, ndim, sizes, numbers."""
    header = bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.tobytes()


@pytest.fixture(scope="session")
def as_idx():
    return idx_bytes


@pytest.fixture
def given_folder():
    """EQPROP_DATA as it was set for the test run, or None."""
    return GIVEN


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache folder; what pooch would choose is replaced."""
    monkeypatch.delenv("EQPROP_DATA", raising=False)
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr(pooch, "os_cache", lambda project: tmp_path / "cache" / project)
    return tmp_path / "cache" / "eqprop"


@pytest.fixture
def tiny(monkeypatch):
    """A tiny MNIST: 30 + 6 images of 4x3 pixels, its checksums in place of the real.

    Attributes: x, y, x_test, y_test; raw and gz (bytes by file name without .gz).
    """
    rng = np.random.default_rng(7)
    made = SimpleNamespace(
        x=rng.integers(0, 256, (30, 4, 3), np.uint8),
        y=np.arange(30, dtype=np.uint8) % 10,
        x_test=rng.integers(0, 256, (6, 4, 3), np.uint8),
        y_test=np.arange(6, dtype=np.uint8),
    )
    made.x[0, 0, :2] = 0, 255
    made.raw = {
        "train-images-idx3-ubyte": idx_bytes(made.x),
        "train-labels-idx1-ubyte": idx_bytes(made.y),
        "t10k-images-idx3-ubyte": idx_bytes(made.x_test),
        "t10k-labels-idx1-ubyte": idx_bytes(made.y_test),
    }
    made.gz = {name: gzip.compress(raw, mtime=0) for name, raw in made.raw.items()}
    md5 = {
        name: (hashlib.md5(made.gz[name]).hexdigest(), hashlib.md5(raw).hexdigest())
        for name, raw in made.raw.items()
    }
    unreachable = ("http://127.0.0.1:9/",)
    published = _download.Published(mirrors=unreachable, md5=md5)
    monkeypatch.setitem(_download.PUBLISHED, "mnist", published)
    return made


@pytest.fixture
def put(tiny):
    """Write the tiny files into a folder, gzipped or not, all or some of them."""

    def write(folder, gz=True, only=None):
        folder.mkdir(parents=True, exist_ok=True)
        for name in only or tiny.raw:
            path = folder / (f"{name}.gz" if gz else name)
            path.write_bytes(tiny.gz[name] if gz else tiny.raw[name])
        return folder

    return write
