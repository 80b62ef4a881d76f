"""Training images that are moved and mirrored: what changes, and what must not."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import eqprop as ep
from eqprop.cli import main
from eqprop.runs import resume, train
from eqprop.training import make_trainer, Settings
from eqprop.training._augmentation import augmented

KEY = jax.random.key(0)


def image(*shape):
    return jnp.arange(1.0, 1 + np.prod(shape)).reshape(shape)


def copies(augment, x, count=400):
    return np.asarray(augmented(augment, jnp.broadcast_to(x, (count, *x.shape)), KEY))


@pytest.mark.parametrize("shape", [(5, 4), (5, 4, 2)])
@pytest.mark.parametrize("flat", [False, True])
def test_every_place_and_no_other_is_reached(shape, flat):
    """All (2·shift + 1)² places by NumPy's own padding and slices, about as often."""
    x = image(*shape)
    margin = [(1, 1), (1, 1), (0, 0)][: len(shape)]
    padded = np.pad(np.asarray(x), margin)
    places = {
        padded[i : i + 5, j : j + 4].tobytes(): 0 for i in range(3) for j in range(3)
    }
    augment = ep.ImageAugmentation(shape, shift=1)
    found = copies(augment, x.ravel() if flat else x)
    for each in found:
        places[each.reshape(shape).tobytes()] += 1
    assert len(places) == 9
    assert min(places.values()) > 20


def test_half_are_mirrored():
    x = image(3, 4)
    found = copies(ep.ImageAugmentation((3, 4), flip=True), x)
    mirrored = (found == np.asarray(x)[:, ::-1]).all((1, 2))
    assert ((found == np.asarray(x)).all((1, 2)) ^ mirrored).all()
    assert 150 < mirrored.sum() < 250


def test_an_example_does_not_depend_on_how_many_there_are():
    augment = ep.ImageAugmentation((5, 5), shift=2, flip=True)
    x = jax.random.uniform(KEY, (9, 5, 5))
    whole, part = augmented(augment, x, KEY), augmented(augment, x[:4], KEY)
    np.testing.assert_array_equal(whole[:4], part)


def trainer(augment=None, **settings):
    net = ep.HopfieldEnergy((16, 3), key=KEY)
    x, y = jax.random.uniform(KEY, (12, 16)), jnp.eye(3)[jnp.arange(12) % 3]
    made = make_trainer(
        (net, ep.SquaredError()),
        {"train": (x, y), "test": (x, y)},
        Settings(epochs=2, batch_size=4, shuffle=False, **settings),
        estimator=ep.EquilibriumPropagation(ep.Sweep(3), ep.Sweep(2), 0.5),
        optimizer=ep.Optimizer("sgd", (0.1,)),
        key=KEY,
        augment=augment,
    )
    return made, made.init(net, ep.SquaredError())


def test_a_step_sees_new_images_and_a_test_the_old():
    """The step's gradient is that of the batch that `batch` gives, moved images."""
    augment = ep.ImageAugmentation((4, 4), shift=1)
    made, state = trainer(augment)
    x, y, _, index = made.batch(state)
    assert (np.asarray(x) != np.asarray(made.splits["train"][0][index])).any()
    rule = made.estimator
    grads = rule(state.system, state.cost, x, y, key=made.step_key(state)).grads
    expected = jax.tree.map(lambda w, g: w - 0.1 * g, state.system, grads)
    plain, same = trainer()
    before = made.evaluate(state, "test")[1]
    assert before == plain.evaluate(same, "test")[1]
    moved = next(made.epoch(state)).system
    for a, b in zip(*map(jax.tree.leaves, (moved, expected)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_every_epoch_has_images_of_its_own():
    made, state = trainer(ep.ImageAugmentation((4, 4), shift=1))
    first = made.batch(state)[0]
    again = made.batch(made.next_epoch(state))[0]
    assert (np.asarray(first) != np.asarray(again)).any()
    np.testing.assert_array_equal(first, made.batch(state)[0])


def test_the_identity_changes_nothing():
    """Augmentation draws from keys of its own: the signs of β stay what they were."""
    x, y = jax.random.uniform(KEY, (12, 16)), jnp.eye(3)[jnp.arange(12) % 3]
    net = ep.HopfieldEnergy((16, 3), key=KEY)
    rule = ep.EquilibriumPropagation(ep.Sweep(3), ep.Sweep(2), 0.5, "random-sign")
    found = [
        ep.fit(
            *(net, ep.SquaredError(), x, y),
            **dict(estimator=rule, epochs=2, batch_size=5, augment=augment),
        ).system
        for augment in (None, lambda x, key: x)
    ]
    assert eqx.tree_equal(*found)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ep.ImageAugmentation((4, 4), shift=-1), "shift is -1; it must be"),
        (lambda: ep.ImageAugmentation((4, 4), shift=0.5), "shift is 0.5; it must be"),
        (lambda: ep.ImageAugmentation((4, 4), flip=2), "flip is 2; give True or False"),
        (lambda: ep.ImageAugmentation((16,), shift=1), r"shape is \(16,\)"),
        (lambda: ep.ImageAugmentation((4, 4), shift=4), "shift is 4"),
        (lambda: trainer(ep.ImageAugmentation((5, 5), 1)), "must be an image of shape"),
        (lambda: trainer(lambda x, key: x[:3]), "must keep the shape"),
        (lambda: trainer("shift"), "give a function"),
        (lambda: trainer(ep.ImageAugmentation((4, 4), 1), persistent=True), "persist"),
    ],
)
def test_what_is_no_augmentation_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """60 images of 4 × 4 in 3 classes, as a file."""
    path = tmp_path_factory.mktemp("images") / "images.npz"
    x = np.random.default_rng(0).random((60, 4, 4)).astype(np.float32)
    np.savez(path, x=x, y=np.arange(60) % 3)
    return path


def test_a_run_is_the_same_in_one_go_and_in_two(images, tmp_path):
    """The images of an epoch follow from the seed and the epoch alone."""
    plain = dataclasses.replace(
        ep.RECIPES["digits"].config,
        data=str(images),
        model=ep.Hopfield(hidden=(6,), output="linear"),
        optimizer=ep.Optimizer("adam", (2e-3,)),
        epochs=2,
    )
    config = dataclasses.replace(plain, shift=1)
    whole = train(config, run=tmp_path / "whole").system
    train(dataclasses.replace(config, epochs=1), run=tmp_path / "parts")
    assert eqx.tree_equal(whole, resume(tmp_path / "parts", epochs=2).system)
    other = train(plain, run=tmp_path / "plain").system
    assert not eqx.tree_equal(whole, other)


def test_flags_and_data_without_images(images, tmp_path, capsys):
    arrays = {
        "x": np.random.default_rng(0).normal(size=(20, 6)),
        "y": np.arange(20) % 2,
    }
    np.savez(tmp_path / "vectors.npz", **arrays)
    few = ["train", "digits", "--model.hidden", "6", "--epochs", "1", "--run"]
    moved = ["--shift", "1", "--flip", "--data", str(images)]
    assert main([*few, str(tmp_path / "a"), *moved]) == 0
    config = (tmp_path / "a" / "config.json").read_text(encoding="utf-8")
    assert '"shift": 1' in config
    assert '"flip": true' in config
    data = ["--data", str(tmp_path / "vectors.npz")]
    capsys.readouterr()
    assert main([*few, str(tmp_path / "b"), "--shift", "1", *data]) == 2
    assert "shift=1, but the data are not images" in capsys.readouterr().err
