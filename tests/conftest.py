"""Fixtures shared by all tests: float64 for theory, and small systems to try."""

import atexit
import gc
import os
import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path

# Programs compiled by the tests stay out of the user's cache; the test processes, and
# those they start, share them, which saves a third of their time.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    _programs = tempfile.mkdtemp(prefix="eqprop-tests-")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _programs
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
    atexit.register(shutil.rmtree, _programs, ignore_errors=True)
# Small programs, run once: half of the tests' time is saved by optimizing less.  XLA
# ends a program that names a flag it does not know, so other releases get none.
if version("jaxlib").startswith("0.10."):
    os.environ.setdefault(
        "XLA_FLAGS",
        "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false",
    )

import equinox as eqx
import jax
import numpy as np
import pytest

import eqprop as ep
from eqprop.runs import _train

DRAW = _train.draw


def pytest_collection_finish():
    """Collect garbage less often: the libraries' objects stay until the end."""
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)


@pytest.fixture
def x64():
    """Run a test in double precision."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    """Runs made without --run land in a temporary folder."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(autouse=True, scope="session")
def _no_figures():
    """Skip the figures of a run: they take half the time of a short training."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_train, "draw", lambda *_: None)
        yield


@pytest.fixture
def figures(monkeypatch):
    """Draw the figures of runs in this test."""
    monkeypatch.setattr(_train, "draw", DRAW)


@pytest.fixture(autouse=True, scope="module")
def _few_programs():
    """Forget compiled programs before they use up the process's memory maps.

    Linux allows 65,530 maps; where the number is unknown, forget after each file.
    """
    yield
    maps = Path("/proc/self/maps")
    if not maps.exists() or maps.read_bytes().count(b"\n") > 25_000:
        jax.clear_caches()


@pytest.fixture
def fresh():
    """Programs traced with a broken rule must not serve the next test."""
    jax.clear_caches()
    eqx.clear_caches()
    yield
    jax.clear_caches()
    eqx.clear_caches()


@pytest.fixture(scope="session")
def small_file(tmp_path_factory):
    """60 examples of 5 inputs in 3 classes, as a file."""
    random = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("data") / "small.npz"
    x = random.normal(size=(60, 5)).astype(np.float32)
    np.savez(path, x=x, y=x[:, :3].argmax(1))
    return path


@pytest.fixture(scope="session")
def x():
    """60 examples of 4 inputs."""
    return np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)


@pytest.fixture(scope="session")
def y(x):
    """Their labels, 3 classes."""
    return x[:, :3].argmax(1)


@pytest.fixture(scope="session")
def small_run(x, y, tmp_path_factory):
    """The directory of a run of two epochs on these examples, 4-6-3."""
    folder = tmp_path_factory.mktemp("small")
    np.savez(folder / "own.npz", x=x, y=y)
    ep.train(
        ep.recipe("digits").config,
        run=folder / "run",
        data=folder / "own.npz",
        model=ep.Hopfield(hidden=(6,), output="linear"),
        epochs=2,
    )
    return folder / "run"
