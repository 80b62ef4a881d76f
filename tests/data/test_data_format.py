"""`InputFormat`: one scale for every x of a run, and what is refused."""

import json

import numpy as np
import pytest

from eqprop import data
from eqprop.data import InputFormat

RANDOM = np.random.default_rng(3)
PIXELS = RANDOM.integers(0, 256, (20, 5, 4), np.uint8)
PIXELS[0, 0, :2] = 0, 255
UNIT = PIXELS / 255
NORMAL = RANDOM.normal(size=(20, 30))

OF_BYTES = InputFormat.of(PIXELS, True)
OF_UNIT = InputFormat.of(UNIT, True)
OF_WIDE = InputFormat.of(PIXELS.astype(float), False)
OF_NORMAL = InputFormat.of(NORMAL, True)


@pytest.mark.parametrize(
    ("format", "x", "expected"),
    [
        (OF_BYTES, PIXELS[:3], UNIT[:3]),
        (OF_BYTES, UNIT[:3], UNIT[:3]),
        (OF_BYTES, UNIT[:3].astype(np.float32).reshape(3, 20), UNIT[:3]),
        (OF_BYTES, PIXELS[:2] * 0, UNIT[:2] * 0),
        (OF_UNIT, UNIT[:3], UNIT[:3]),
        (OF_UNIT, np.round(UNIT[:3]).astype(int), np.round(UNIT[:3])),
        (OF_UNIT, UNIT[:3] * 1.3, UNIT[:3] * 1.3),
        (OF_WIDE, PIXELS[:3].astype(int), PIXELS[:3]),
        (OF_WIDE, np.zeros((1, 5, 4)), np.zeros((1, 5, 4))),
        (OF_NORMAL, NORMAL[:1] * 5, NORMAL[:1] * 5),
        (OF_NORMAL, NORMAL[:1] * 0.01, NORMAL[:1] * 0.01),
    ],
)
def test_what_fits(format, x, expected):
    """Fails if an x of the scale of the training is refused, or scaled otherwise."""
    expected = np.asarray(expected, np.float32)
    if format.flatten:
        expected = expected.reshape(len(x), -1)
    found = format.read(x)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("format", "x", "fragment"),
    [
        (OF_BYTES, PIXELS.astype(float), "float64 from 0 to 255.*uint8 .*divided by"),
        (OF_BYTES, UNIT * 2 - 1, "float64 from -1 to 1.*floats from 0 to 1"),
        (OF_BYTES, (UNIT - 0.13) / 0.31, "floats from 0 to 1"),
        (OF_BYTES, PIXELS.astype(int), "int64 from 0 to 255.*uint8"),
        (OF_BYTES, PIXELS > 99, "bool from 0 to 1.*uint8"),
        (OF_UNIT, PIXELS, "uint8 from 0 to 255.*x / 255"),
        (OF_UNIT, PIXELS.astype(float), "float64 from 0 to 255.*scale x"),
        (OF_UNIT, PIXELS.astype(int), "int64 from 0 to 255.*scale x"),
        (OF_UNIT, UNIT * 2 - 1, "from -1 to 1.*scale x"),
        (OF_UNIT, UNIT * 16, "from 0 to 16.*scale x"),
        (OF_WIDE, PIXELS, "uint8 is not known"),
        (OF_WIDE, UNIT, "from 0 to 1; .*divide x"),
        (OF_NORMAL, NORMAL * 255, "scale x"),
        (OF_BYTES, PIXELS.reshape(20, 10, 2), r"\(10, 2\).*\(5, 4\).*reshape"),
        (OF_BYTES, PIXELS.reshape(20, 4, 5), r"\(4, 5\).*\(5, 4\).*moveaxis"),
        (OF_BYTES, PIXELS[:, :4], r"\(4, 4\).*\(5, 4\)"),
        (OF_WIDE, PIXELS.reshape(20, 20), r"\(20,\).*\(5, 4\)"),
        (OF_NORMAL, NORMAL.reshape(20, 5, 6), r"\(5, 6\).*\(30,\)"),
        (OF_NORMAL, NORMAL[:0], "empty"),
        (OF_NORMAL, np.where(NORMAL > 2, np.nan, NORMAL), "NaN"),
        (OF_NORMAL, NORMAL * 1j, "complex"),
    ],
)
def test_what_does_not_fit(format, x, fragment):
    """Fails if a network is given a picture that is not like those it has learned."""
    with pytest.raises(ValueError, match=fragment):
        format.read(x)


def test_channels_that_come_first():
    """Fails if [N, c, h, w] is taken for [N, h, w, c] because the sizes agree."""
    x = RANDOM.random((6, 4, 5, 3))
    format = InputFormat.of(x, True)
    moved = np.moveaxis(x, -1, 1)
    with pytest.raises(ValueError, match=r"np\.moveaxis\(x, 1, -1\)"):
        format.read(moved)
    same = format.read(np.moveaxis(moved, 1, -1))
    np.testing.assert_array_equal(same, format.read(x))


def test_features_that_look_divided():
    """Fails if flat x in [0, 1] after training up to 255 passes without a word."""
    format = InputFormat.of(PIXELS.reshape(20, 20).astype(float), True)
    assert "divide x" in str(format.doubt(UNIT.reshape(20, 20)))
    assert format.doubt(PIXELS.reshape(20, 20).astype(float)) is None
    few = InputFormat.of(np.array([[-100.0], [100.0]]), True)
    assert few.doubt(np.array([[0.5]])) is None


def test_a_format_is_kept_as_json():
    """Fails if the record of a run says something else, or a bad one is believed."""
    for format in (OF_BYTES, OF_UNIT, OF_WIDE, OF_NORMAL):
        assert InputFormat.from_json(json.loads(json.dumps(format.to_json()))) == format
    good = OF_BYTES.to_json()
    for bad in (None, [], {}, good | {"shape": 3}, good | {"range": [1]}):
        assert InputFormat.from_json(bad) is None
    assert InputFormat.from_json(good | {"divisor": 0}) is None
    assert InputFormat.from_json(good | {"dtype": "pixels"}) is None


def test_what_a_program_returned_keeps_its_dtype():
    """Fails if the indices that a network looks up become floats, or are rounded."""
    tokens = np.arange(12, dtype=np.int32).reshape(6, 2)
    format = InputFormat.of_program(tokens)
    found = format.read(tokens[:2].astype(float))
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, tokens[:2])
    with pytest.raises(ValueError, match=r"float64.*int32 cannot hold"):
        format.read(tokens[:2] + 0.5)


def test_a_test_set_of_another_scale():
    """Fails if an error is measured on 0 to 255 after training on [0, 1]."""
    y = np.arange(20) % 2
    with pytest.raises(ValueError, match="x_test holds float64 from 0 to 255"):
        data.load_arrays(UNIT, y, x_test=PIXELS.astype(float), y_test=y)


# --- labels or target values


def doubts(y, **options):
    x = np.ones((len(y), 2))
    return " ".join(data.load_arrays(x, y, test=0, **options).doubts)


@pytest.mark.parametrize(
    ("y", "task", "words"),
    [
        ([0, 1, 2, 2], "auto", ()),
        ([1, 2, 2, 1], "auto", ("class 0:", "3 outputs for 2 classes", "np.unique")),
        ([3, 7, 7, 3], "auto", ("class 0, 1, 2, 4, 5, 6:", "8 outputs", "regression")),
        ([0.0, 1.0, 2.0], "auto", ("whole floats", "3 classes", "--task regression")),
        ([1.0, 129.0], "auto", ("130 classes", "class 0, 2, 3, 4, 5, 6, 7, 8, …")),
        ([0.0, 1.0, 2.0], "classification", ()),
        ([1.0, 129.0], "regression", ()),
        ([3, 7], "regression", ()),
        ([0.5, 7.0], "auto", ()),
    ],
)
def test_what_is_said_of_labels(y, task, words):
    """Fails if an output without examples, or a guess, is not told with the way out."""
    found = doubts(np.array(y), task=task)
    assert bool(found) == bool(words)
    for word in words:
        assert word in found


@pytest.mark.parametrize("y", [[3, 7, 7], [3.0, 7.0, 7.0], [[3], [7], [7]]])
def test_a_regression_of_whole_numbers(y):
    """Fails if it cannot be asked for, whatever the dtype of y."""
    loaded = data.load_arrays(np.ones((3, 2)), np.array(y), test=0, task="regression")
    assert loaded.classes is None
    assert loaded.train.y.dtype == np.float32
    assert sorted(loaded.train.y.tolist()) == [[3], [7], [7]]
    assert "regression of 1 target value, 3 examples" in str(loaded)


def test_classes_where_they_are_asked_for():
    """Fails if floats [N, 1] cannot be labels, or numbers between them can."""
    y = np.array([[0.0], [1.0], [1.0]])
    loaded = data.load_arrays(np.ones((3, 2)), y, test=0, task="classification")
    assert loaded.classes == 2
    with pytest.raises(ValueError, match="class labels were asked for"):
        data.load_arrays(np.ones((3, 2)), y / 2, task="classification")
    with pytest.raises(ValueError, match=r"'clusters'.*auto, classification"):
        data.load_arrays(np.ones((3, 2)), y, task="clusters")


def test_a_data_set_in_one_line():
    """Fails if classes, numbers of examples or the scale of x are not told."""
    x = np.zeros((1500, 2, 3), np.uint8)
    x[0] = 200
    y = np.arange(1500) % 4
    line = str(data.load_arrays(x, y, name="a", validation=100))
    assert line == (
        "a: 4 classes, 1 500 examples (1 100 train, 100 validation, 300 test); "
        "x: 2×3 uint8 from 0 to 200, divided by 255"
    )
    line = str(data.load_arrays(x, y, x_test=x[:7], y_test=y[:7]))
    assert "4 classes, 1 500 examples (1 500 train) and 7 test examples" in line


def test_arrays_that_are_not_read(tmp_path):
    """Fails if a validation set that somebody stored is ignored in silence."""
    x = np.ones((4, 2))
    np.savez(tmp_path / "a.npz", x=x, y=[0, 1, 0, 1], x_val=x, y_val=[0, 1, 0, 1])
    (doubt,) = data.load(tmp_path / "a.npz").doubts
    assert "x_val, y_val are ignored" in doubt
