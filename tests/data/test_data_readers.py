"""Files to arrays: what is read is what was written, and damage is named."""

import gzip
import zipfile

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eqprop import data
from eqprop.data import _readers

IMAGES = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)


@settings(max_examples=40, deadline=None)
@given(
    array=hnp.arrays(np.uint8, hnp.array_shapes(min_dims=1, max_dims=4, max_side=6)),
    zipped=st.booleans(),
)
def test_idx_read_is_what_was_written(array, zipped, as_idx, tmp_path_factory):
    """Fails if a dimension, the byte order or the place of the data is misread."""
    path = tmp_path_factory.mktemp("idx") / ("a.gz" if zipped else "a")
    content = as_idx(array)
    path.write_bytes(gzip.compress(content) if zipped else content)
    read = _readers.read_idx(path, array.ndim)
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, array)


def test_idx_sizes_are_big_endian(tmp_path):
    """Fails if sizes above 255 are read in the machine's byte order."""
    path = tmp_path / "a"
    path.write_bytes(b"\x00\x00\x08\x01\x00\x00\x01\x2c" + bytes(300))
    assert _readers.read_idx(path, 1).shape == (300,)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty file"),
        (b"\x00\x00\x08\x01" + bytes(4), "0x00000801, expected 0x00000803"),
        (b"\x00\x00\x0d\x03" + bytes(12), "0x00000d03, expected 0x00000803"),
        (b"\x00\x00\x08\x03\x00\x00", "header of 6 bytes, expected 16"),
    ],
)
def test_idx_wrong_header(tmp_path, content, message):
    """Fails if labels are read as images, or floats as pixels."""
    path = tmp_path / "train-images"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        _readers.read_idx(path, 3)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(("change", "word"), [(-1, "truncated"), (1, "too long")])
def test_idx_payload_of_another_length(tmp_path, as_idx, change, word):
    """Fails if a file that is cut, or holds more than it says, is read silently."""
    path = tmp_path / "a"
    path.write_bytes((as_idx(IMAGES) + b"\0")[: 16 + 24 + change])
    with pytest.raises(ValueError, match=r"\(2, 4, 3\), 24 bytes") as error:
        _readers.read_idx(path, 3)
    assert f"{24 + change} bytes of data" in str(error.value)
    assert word in str(error.value)


@pytest.mark.parametrize("damage", ["cut", "garbled", "no gzip"])
def test_idx_damaged_gzip(tmp_path, as_idx, damage):
    """Fails if a half-written .gz file ends in an EOFError or zlib.error traceback."""
    whole = gzip.compress(as_idx(IMAGES))
    content = {
        "cut": whole[:-12],
        "garbled": whole[:10] + b"\xff" * 20 + whole[30:],
        "no gzip": as_idx(IMAGES),
    }
    path = tmp_path / "a.gz"
    path.write_bytes(content[damage])
    with pytest.raises(ValueError, match="truncated or damaged gzip") as error:
        _readers.read_idx(path, 3)
    assert str(path) in str(error.value)
    assert "delete it" in str(error.value)


def test_idx_wrong_checksum(tmp_path, as_idx):
    """Fails if another file under the right name trains a network unnoticed."""
    path = tmp_path / "a"
    path.write_bytes(as_idx(IMAGES))
    right = _readers.md5_of(path.read_bytes())
    assert _readers.read_idx(path, 3, right).shape == IMAGES.shape
    with pytest.raises(ValueError, match="wrong checksum") as error:
        _readers.read_idx(path, 3, "0" * 32)
    for part in (str(path), f"found {right}", f"expected {'0' * 32}", "delete it"):
        assert part in str(error.value)


def test_md5_is_that_of_the_standard():
    """Fails if the checksum is not RFC 1321's: its test vector."""
    assert _readers.md5_of(b"abc") == "900150983cd24fb0d6963f7d28e17f72"


def save(path, **arrays):
    np.savez(path, **arrays)
    return path


def test_npz_missing_file(tmp_path):
    """Fails if a mistyped path gives anything but FileNotFoundError with that path."""
    with pytest.raises(FileNotFoundError, match=r"nothing\.npz: no such file"):
        data.load(str(tmp_path / "nothing.npz"))


def test_npz_folder(tmp_path):
    """Fails if a folder named .npz ends in an operating system's error."""
    (tmp_path / "a.npz").mkdir()
    with pytest.raises(ValueError, match="is a folder"):
        data.load(tmp_path / "a.npz")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 but no zip", b"1,2,3\n"])
def test_npz_that_is_none(tmp_path, content):
    """Fails if a text or a truncated file is unpickled, or trips zipfile."""
    path = tmp_path / "a.npz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"not an \.npz file") as error:
        data.load(path)
    assert str(path) in str(error.value)


def test_npz_damaged_inside(tmp_path):
    """Fails if a flipped byte in an array is not noticed or gives a BadZipFile."""
    path = save(tmp_path / "a.npz", x=np.ones((50, 2)), y=np.arange(50))
    content = bytearray(path.read_bytes())
    content[300] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"damaged") as error:
        data.load(path)
    assert str(path) in str(error.value)


def test_npz_member_that_is_no_array(tmp_path):
    """Fails if a zip file of other things is taken for arrays."""
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x", "hello")
    with pytest.raises(ValueError, match="'x' is not a NumPy array"):
        data.read_inputs(path)


@pytest.mark.parametrize("absent", ["x", "y"])
def test_npz_without_an_array(tmp_path, absent):
    """Fails if the message does not say what is missing and what is there instead."""
    arrays = {"x": np.ones((4, 2)), "y": np.arange(4), "labels": np.arange(4)}
    del arrays[absent]
    path = save(tmp_path / "a.npz", **arrays)
    with pytest.raises(ValueError, match=f"no array '{absent}'") as error:
        data.load(path)
    assert ", ".join(sorted(arrays)) in str(error.value)


def test_npz_without_any_array(tmp_path):
    """Fails if an empty archive gives a message with a gap in it."""
    with pytest.raises(ValueError, match="it holds nothing"):
        data.load(save(tmp_path / "a.npz"))


def test_npz_never_unpickles(tmp_path):
    """Fails if a file from a stranger could run code: pickled objects are refused."""
    path = save(tmp_path / "a.npz", x=np.array([{}, None], object), y=np.arange(2))
    with pytest.raises(ValueError, match="'x' holds Python objects"):
        data.load(path)


def test_npz_other_arrays_are_left_alone(tmp_path):
    """Fails if an array nobody asked for is read: it may be anything."""
    path = tmp_path / "a.npz"
    np.savez(path, x=np.ones((4, 2)), y=np.arange(4), notes=np.array([{}], object))
    assert len(data.load(path, test=0).train) == 4
