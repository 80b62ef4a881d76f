"""Fixtures shared by all tests: float64 for theory, and small systems to try."""

import os

# Programs compiled by the tests stay out of the user's cache, and in one place.
os.environ.setdefault("JAX_ENABLE_COMPILATION_CACHE", "false")

import jax
import pytest


@pytest.fixture
def x64():
    """Run a test in double precision."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    """Runs made without --run land in a temporary folder."""
    monkeypatch.chdir(tmp_path)
