"""`load`, `load_arrays`, `read_inputs`: what is accepted and how it is split."""

# pyright: reportOptionalMemberAccess=false

import ast
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from eqprop import data

PACKAGE = Path(data.__file__).parent


def numbered(n, classes=3):
    """Example i is [i, -i] and its label i % classes: both tell where it came from."""
    i = np.arange(n)
    return np.stack([i, -i], 1).astype(np.float32), i % classes


def ids(split):
    return [] if split is None else split.x[:, 0].astype(int).tolist()


# --- splits


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(4, 60),
    test=st.floats(0, 0.4),
    validation=st.one_of(st.integers(0, 1), st.floats(0, 0.5)),
    seed=st.integers(0, 2**32),
)
def test_splits_partition_the_examples(n, test, validation, seed):
    """Fails if an example is lost, used twice, or parted from its label."""
    x, y = numbered(n)
    left = n - round(test * n)
    count = validation if isinstance(validation, int) else round(validation * left)
    assume((count > 0) == (validation > 0))  # too small a fraction is refused
    assume((left < n) == (test > 0))
    loaded = data.load_arrays(x, y, test=test, validation=validation, split_seed=seed)
    splits = [s for s in (loaded.train, loaded.validation, loaded.test) if s]
    assert sorted(i for s in splits for i in ids(s)) == list(range(n))
    assert len(ids(loaded.test)) == n - left
    assert len(ids(loaded.validation)) == count
    for split in splits:
        np.testing.assert_array_equal(split.y, np.array(ids(split)) % 3)


def test_split_depends_on_the_seed_only():
    """Fails if a run cannot be repeated, or seeds do nothing."""
    x, y = numbered(50)
    first, same = (data.load_arrays(x, y, split_seed=3) for _ in range(2))
    other = data.load_arrays(x, y, split_seed=4)
    assert ids(first.train) == ids(same.train)
    assert ids(first.test) == ids(same.test)
    assert set(ids(first.test)) != set(ids(other.test))


def test_global_random_state_plays_no_part():
    """Fails if np.random elsewhere in a program changes the split, or the reverse."""
    x, y = numbered(50)
    first = data.load_arrays(x, y)
    np.random.seed(1)
    drawn = np.random.random()
    np.random.seed(1)
    assert ids(data.load_arrays(x, y).train) == ids(first.train)
    assert np.random.random() == drawn


def test_validation_is_the_end_of_the_training_part():
    """Fails if taking a validation set moves the test set or reorders training."""
    x, y = numbered(50)
    whole = data.load_arrays(x, y)
    for validation, count in ((7, 7), (0.25, 10)):
        parted = data.load_arrays(x, y, validation=validation)
        assert ids(parted.test) == ids(whole.test)
        assert ids(parted.train) == ids(whole.train)[:-count]
        assert ids(parted.validation) == ids(whole.train)[-count:]


def test_order_is_drawn():
    """Fails if arrays sorted by class give a validation set of the last class only."""
    x, y = numbered(60)
    order = np.argsort(y, kind="stable")
    loaded = data.load_arrays(x[order], y[order], validation=15, test=0)
    assert set(loaded.validation.y.tolist()) == {0, 1, 2}
    assert loaded.test is None


@pytest.mark.parametrize(
    "validation",
    [-1, -0.1, 1.0, 10000.0, float("nan"), True, "5", None, 40, 0.99, 0.01],
)
def test_validation_out_of_range(validation):
    """Fails if an impossible validation set is cut to fit, or training left empty."""
    x, y = numbered(40)
    with pytest.raises(ValueError, match="validation = ") as error:
        data.load_arrays(x, y, validation=validation, test=0)
    assert repr(validation) in str(error.value)
    assert "expected" in str(error.value)


@pytest.mark.parametrize(
    "test", [-0.2, 1, 1.0, 20, float("nan"), True, "x", None, 0.999, 0.001]
)
def test_test_out_of_range(test):
    """Fails if a percentage or a count is taken for a fraction."""
    x, y = numbered(40)
    with pytest.raises(ValueError, match="test = ") as error:
        data.load_arrays(x, y, test=test)
    assert repr(test) in str(error.value)
    assert "fraction in [0, 1)" in str(error.value)


@pytest.mark.parametrize("seed", [-1, 0.5, True, None, "0"])
def test_split_seed_out_of_range(seed):
    """Fails if a split cannot be named by a whole number."""
    with pytest.raises(ValueError, match=r"split_seed = .*whole number >= 0"):
        data.load_arrays(*numbered(40), split_seed=seed)


def test_options_are_checked_before_anything_is_read():
    """Fails if a typing error is only told after a download."""
    with pytest.raises(ValueError, match="validation = -5"):
        data.load("mnist", validation=-5)


# --- the 8x8 digits


@pytest.fixture(scope="module")
def digits():
    return data.load("digits", flatten=False)


def test_digits_are_all_there(digits):
    """Fails if digits are lost: the UCI test set has 1797, from 174 to 183 a class."""
    y = np.concatenate([digits.train.y, digits.test.y])
    counts = np.bincount(y)
    assert len(y) == 1797
    assert (counts.min(), counts.max()) == (174, 183)
    assert (digits.name, digits.classes, digits.image_shape) == ("digits", 10, (8, 8))
    assert digits.input_shape == (8, 8)
    assert digits.target_size == 10
    assert digits.validation is None


def test_digits_are_in_the_unit_interval(digits):
    """Fails if the 17 grey levels 0..16 are not divided by 16."""
    levels = np.unique(digits.train.x)
    np.testing.assert_array_equal(levels, np.arange(17, dtype=np.float32) / 16)


def test_digits_are_stratified(digits):
    """Fails if a class is rarer in the test set than among all: a biased error."""
    test, train = np.bincount(digits.test.y), np.bincount(digits.train.y)
    np.testing.assert_array_less(np.abs(test - 0.2 * (test + train)), 0.5 + 1e-9)


def test_digits_images_and_rows_are_the_same(digits):
    """Fails if flattening reorders pixels or examples."""
    flat = data.load("digits")
    assert flat.input_shape == (64,)
    assert flat.image_shape == (8, 8)
    np.testing.assert_array_equal(flat.train.x, digits.train.x.reshape(-1, 64))
    np.testing.assert_array_equal(flat.train.y, digits.train.y)


def test_digits_are_disjoint_and_seeded(digits):
    """Fails if the test digits move within one seed, or are also trained on."""
    again = data.load("digits", flatten=False, validation=0.1)
    np.testing.assert_array_equal(again.test.x, digits.test.x)
    assert len(again.validation.y) == round(0.1 * len(digits.train))
    other = data.load("digits", flatten=False, split_seed=1)
    assert not np.array_equal(other.test.x, digits.test.x)
    rows = {x.tobytes() for x in digits.train.x} & {x.tobytes() for x in digits.test.x}
    assert not rows  # no two of the 1797 images are equal


# --- inputs and labels


@pytest.mark.parametrize("dtype", ["i1", "u2", "i8", "f2", "f4", "f8", "?"])
def test_other_dtypes_keep_their_values(dtype):
    """Fails if anything but uint8 is scaled, or an input is not float32."""
    x = np.array([[0, 1], [1, 1], [1, 0]], dtype)
    loaded = data.load_arrays(x, [0, 1, 1], test=0)
    assert loaded.train.x.dtype == np.float32
    assert set(loaded.train.x.ravel().tolist()) == {0.0, 1.0}


def test_bytes_are_pixels():
    """Fails if uint8 255 is not 1: a network would be driven 255 times too hard."""
    x = np.array([[0], [51], [255]], np.uint8)
    loaded = data.load_arrays(x, [0, 1, 2], test=0)
    expected = {0: 0.0, 1: np.float32(0.2), 2: 1.0}
    got = zip(loaded.train.y, loaded.train.x[:, 0], strict=True)
    assert {int(y): x for y, x in got} == expected


@pytest.mark.parametrize(
    ("shape", "image", "flat"),
    [
        ((6, 5), None, (5,)),
        ((6, 4, 3), (4, 3), (12,)),
        ((6, 4, 3, 2), (4, 3, 2), (24,)),
        ((6, 2, 2, 2, 2), None, (16,)),
    ],
)
def test_image_shape(shape, image, flat):
    """Fails if a convolutional network is given the wrong image shape, or none."""
    for flatten, expected in ((True, flat), (False, shape[1:])):
        loaded = data.load_arrays(np.ones(shape), [0, 1] * 3, flatten=flatten)
        assert loaded.image_shape == image
        assert loaded.input_shape == expected
        assert loaded.test.x.shape[1:] == expected


@pytest.mark.parametrize(
    "y",
    [
        np.array([0, 2, 1], np.int64),
        np.array([0, 2, 1], np.uint8),
        np.array([0.0, 2.0, 1.0]),
        np.array([[0], [2], [1]]),
        [0, 2, 1],
    ],
)
def test_labels(y):
    """Fails if one of the ways labels are stored is taken for targets."""
    loaded = data.load_arrays(np.array([[0.0], [2.0], [1.0]]), y, test=0)
    assert loaded.train.y.dtype == np.int32
    assert loaded.classes == loaded.target_size == 3
    np.testing.assert_array_equal(loaded.train.y, loaded.train.x[:, 0])


def test_boolean_labels_and_gaps():
    """Fails if two classes cannot be booleans, or a class may not be absent."""
    assert data.load_arrays(np.ones((4, 1)), [True, False] * 2).classes == 2
    assert data.load_arrays(np.ones((4, 1)), [0, 7, 0, 7]).classes == 8


@pytest.mark.parametrize(
    ("y", "size"),
    [
        (np.array([0.5, 1.0, 2.0]), 1),
        (np.array([[0.0], [1.0], [2.0]]), 1),
        (np.array([[-1.5, 1.0], [0, 0], [1, 1]]), 2),
    ],
)
def test_targets_of_a_regression(y, size):
    """Fails if float targets are rounded to classes or lose their columns."""
    loaded = data.load_arrays(np.ones((3, 2)), y, test=0)
    assert loaded.classes is None
    assert loaded.target_size == size
    assert loaded.train.y.dtype == np.float32
    assert loaded.train.y.shape == (3, size)
    assert sorted(loaded.train.y.ravel()) == sorted(y.ravel())
    assert loaded.targets(loaded.train.y) is loaded.train.y


def test_one_hot():
    """Fails if a target is not 1 at its label and 0 elsewhere."""
    loaded = data.load_arrays(np.ones((4, 1)), [0, 1, 2, 2], test=0)
    hot = loaded.targets(np.array([2, 0]))
    assert hot.dtype == np.float32
    assert hot.tolist() == [[0, 0, 1], [1, 0, 0]]
    assert loaded.targets(loaded.train.y[:0]).shape == (0, 3)
    for wrong in (-1, 3):
        with pytest.raises(ValueError, match=f"{wrong}.*0 to 2"):
            loaded.targets(np.array([wrong]))


ONES = np.ones((4, 2))
LABELS = np.array([0, 1, 0, 1])
BAD_X = [
    (np.ones((0, 2)), "x has shape .0, 2.*empty"),
    (np.ones((4, 0)), "x has shape .4, 0.*empty"),
    (np.ones(4), r"shape \(4,\).*x\[:, None\]"),
    (ONES.astype(complex), "complex128.*x.real"),
    (np.full((4, 2), "a"), "dtype <U1.*np.unique"),
    (np.full((4, 2), None), "object.*dense"),
    ([[1, 2], [3]] * 2, "x is not a rectangular array"),
    (np.full((4, 2), "2020", "M8[Y]"), "datetime64.*astype"),
    (np.ones((3, 2)), "x has 3 examples, y has 4"),
]
BAD_Y = [
    (np.ones((4, 2, 2)), r"y has shape \(4, 2, 2\)"),
    (np.array([]), "y has shape .*at least one example"),
    (np.array(["cat", "dog"] * 2), "np.unique.*return_inverse=True"),
    (np.array([b"cat", b"dog"] * 2), "np.unique.*return_inverse=True"),
    (LABELS * 1j, "complex128"),
    (np.array([0, 1, -3, -1]), r"y\[2\] = -3.*from 0.*\[N, 1\]"),
    (np.array([0.0, 1, -3, -1]), r"y\[2\] = -3.*from 0.*\[N, 1\]"),
    (np.array([0, 1, 10_001, 2]), r"y\[2\] = 10001.*at most 10000.*\[N, 1\]"),
    (np.eye(4, dtype=int), r"argmax\(1\).*astype\(np.float32\)"),
    (np.array([0.5, np.nan, 1, np.inf]), r"y has 2 values.*index \(1,\)"),
    (np.array([0.0, 1, np.inf, 1]), r"y has 1 value that.*index \(2,\)"),
]


@pytest.mark.parametrize(("x", "message"), BAD_X)
def test_refused_inputs(x, message):
    """Fails if inputs that cannot be trained on are not refused with what to do."""
    with pytest.raises(ValueError, match=message):
        data.load_arrays(x, LABELS)


@pytest.mark.parametrize(("y", "message"), BAD_Y)
def test_refused_labels(y, message):
    """Fails if labels or targets that mean nothing are guessed at."""
    with pytest.raises(ValueError, match=message):
        data.load_arrays(ONES, y)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300])
def test_values_that_are_not_finite(bad):
    """Fails if a NaN reaches training, or the message does not say where it is."""
    x = np.zeros((5, 2, 3))
    x[3, 1, 0] = x[4, 1, 2] = bad
    with pytest.raises(ValueError, match=r"x has 2 values.*index \(3, 1, 0\)"):
        data.load_arrays(x, np.arange(5))


def test_arrays_given_are_copied():
    """Fails if training could see, or make, changes in the caller's arrays."""
    x, y = numbered(10)
    loaded = data.load_arrays(x, y, x_test=x, y_test=y)
    for split in (loaded.train, loaded.test):
        assert not np.shares_memory(split.x, x)
        assert not np.shares_memory(split.y, y)


# --- a test set that comes with the data


def test_own_test_set_is_kept():
    """Fails if a given test set is shuffled, or more examples are held out for it."""
    x, y = numbered(20)
    loaded = data.load_arrays(x, y, x_test=x[:5] + 100, y_test=y[:5], test=0.5)
    assert ids(loaded.test) == [100, 101, 102, 103, 104]
    assert sorted(ids(loaded.train)) == list(range(20))
    np.testing.assert_array_equal(loaded.test.y, y[:5])


X, Y = numbered(6)
TARGETS = Y + 0.5


@pytest.mark.parametrize(
    ("y", "x_test", "y_test", "message"),
    [
        (Y, X, None, "only x_test"),
        (Y, None, Y, "only y_test"),
        (Y, X[:, :1], Y, r"x_test .*\(1,\), x of shape \(2,\)"),
        (Y, X, Y[:5], "x_test has 6 examples, y_test has 5"),
        (Y, X, Y + 1, r"y_test\[2\] = 3: .*from 0 to 2"),
        (Y, X, Y - 1, r"y_test\[0\] = -1"),
        (Y, X, TARGETS, "y_test .*y holds class labels"),
        (TARGETS, X, np.ones((6, 2)), "y_test has 2 target values .*y has 1"),
        (Y, X[:0], Y[:0], "x_test has shape .*empty"),
        (Y, X * np.nan, Y, "x_test has 12 values"),
        (Y, X.astype(np.uint8), Y, "x has dtype float32, x_test uint8.*255"),
    ],
)
def test_refused_test_sets(y, x_test, y_test, message):
    """Fails if an error is measured on a test set that does not fit the training."""
    with pytest.raises(ValueError, match=message):
        data.load_arrays(X, y, x_test=x_test, y_test=y_test)


def test_whole_test_targets_of_a_regression():
    """Fails if test targets that happen to be whole are taken for classes."""
    loaded = data.load_arrays(X, TARGETS, x_test=X, y_test=Y.astype(float))
    assert loaded.test.y.shape == (6, 1)
    assert loaded.test.y.dtype == np.float32


# --- names and files


def test_npz_is_load_arrays(tmp_path):
    """Fails if a file and the arrays in it give different data sets."""
    x, y = numbered(30)
    path = tmp_path / "spirals.npz"
    np.savez(path, x=x, y=y)
    options = {"validation": 4, "test": 0.3, "split_seed": 5}
    file, arrays = data.load(path, **options), data.load_arrays(x, y, **options)
    assert file.name == str(path)
    assert arrays.name == "arrays"
    for name in ("train", "validation", "test"):
        assert ids(getattr(file, name)) == ids(getattr(arrays, name))


def test_npz_with_a_test_set(tmp_path):
    """Fails if x_test and y_test of a file are not its test set."""
    x, y = numbered(30)
    np.savez(tmp_path / "a.npz", x=x, y=y, x_test=x[3:6], y_test=y[3:6])
    loaded = data.load(str(tmp_path / "a.npz"))
    assert ids(loaded.test) == [3, 4, 5]
    assert len(loaded.train) == 30


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("MNIST", "mnist"),
        ("fashion_mnist", "fashion-mnist"),
        ("digit", "digits"),
        ("imagenet-21k", None),
        ("data.csv", None),
        ("", None),
    ],
)
def test_unknown_name(name, near):
    """Fails if a mistyped name is not answered with the nearest and all names."""
    with pytest.raises(ValueError, match="digits, mnist, fashion-mnist") as error:
        data.load(name)
    assert repr(name) in str(error.value)
    assert "end in .npz" in str(error.value)
    assert (f"did you mean {near!r}" in str(error.value)) == (near is not None)
    assert ("did you mean" in str(error.value)) == (near is not None)


def test_read_inputs(tmp_path):
    """Fails if predictions come in another order than the examples of the file."""
    x, y = numbered(12)
    path = tmp_path / "a.npz"
    np.savez(path, x=x.reshape(12, 2, 1), y=y)
    got, labels = data.read_inputs(path)
    np.testing.assert_array_equal(got, x)
    np.testing.assert_array_equal(labels, y)
    assert (got.dtype, labels.dtype) == (np.float32, np.int32)
    assert data.read_inputs(path, flatten=False)[0].shape == (12, 2, 1)
    np.savez(path, x=np.full((1, 3), 255, np.uint8))
    got, labels = data.read_inputs(path)
    assert got.tolist() == [[1.0, 1.0, 1.0]]
    assert labels is None


def test_read_inputs_refuses_what_load_refuses(tmp_path):
    """Fails if predictions are made from data that training would refuse."""
    path = tmp_path / "a.npz"
    np.savez(path, x=X * np.nan)
    with pytest.raises(ValueError, match="x has 12 values"):
        data.read_inputs(path)
    np.savez(path, x=X, y=Y[:2])
    with pytest.raises(ValueError, match="x has 6 examples, y has 2"):
        data.read_inputs(path)
    np.savez(path, y=Y)
    with pytest.raises(ValueError, match="no array 'x'"):
        data.read_inputs(path)
    with pytest.raises(ValueError, match=r"a path must end in \.npz"):
        data.read_inputs(tmp_path / "a.npy")
    with pytest.raises(FileNotFoundError, match=r"b\.npz"):
        data.read_inputs(tmp_path / "b.npz")


# --- the package itself


def test_imports_at_start_are_few():
    """Fails if importing the package costs more than NumPy and the standard library."""
    for file in PACKAGE.glob("*.py"):
        for node in ast.parse(file.read_text()).body:
            names = {
                ast.Import: lambda n: [a.name for a in n.names],
                ast.ImportFrom: lambda n: [] if n.level else [n.module],
            }.get(type(node), lambda n: [])(node)
            for name in names:
                root = name.split(".")[0]
                assert root == "numpy" or root in sys.stdlib_module_names, file


def test_package_runs_without_jax():
    """Fails if reading digits pulls in JAX: the package is NumPy only."""
    code = (
        "import sys, types\n"
        "package = types.ModuleType('eqprop')\n"
        f"package.__path__ = [{str(PACKAGE.parent)!r}]\n"
        "sys.modules['eqprop'] = package\n"
        "import eqprop.data\n"
        "assert not {'jax', 'pooch'} & set(sys.modules)\n"
        "assert eqprop.data.load_arrays([[1.0], [2.0]], [0, 1], test=0).classes == 2\n"
        "assert 'jax' not in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
