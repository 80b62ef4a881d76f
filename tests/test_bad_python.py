"""Bad input to the Python interface: a ValueError with the same words."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import eqprop as ep
from messages import assert_holds, with_nan


SETTINGS = {
    "epochs": [0, -1, 1.5, "2"],
    "batch_size": [0, 2.5],
    "seed": [-1, 1.5, 2**70],
}


def rule():
    relaxation = ep.Euler(dt=0.5, steps=3)
    return ep.EquilibriumPropagation(relaxation, relaxation, beta=0.5)


def network():
    return ep.HopfieldEnergy((4, 3), key=jax.random.key(0))


@pytest.mark.parametrize(
    ("changed", "fragments"),
    [
        ({name: value}, (name, repr(value)))
        for name in SETTINGS
        for value in SETTINGS[name]
    ]
    + [
        ({"x": np.full((6, 4), np.nan)}, ("x has 24 NaN", "remove")),
        ({"x": np.zeros((6, 4)).tolist()}, ("Python float", "np.asarray(x)")),
        ({"x": np.zeros((6, 4)).astype(str)}, ("<U32",)),
        ({"x": None}, ("x holds no arrays",)),
        ({"x": np.zeros((6, 3))}, ("(3,)", "(4,)")),
        ({"x": np.zeros(6)}, ("()", "(4,)")),
        ({"x": np.zeros((5, 4))}, ("x: 5", "y: 6")),
        ({"x": np.zeros((0, 4)), "y": np.zeros((0, 3))}, ("empty",)),
        ({"y": np.zeros((6, 2))}, ("(3,)", "(2,)")),
        ({"test": np.zeros((6, 4))}, ("test", "(x, y)")),
        ({"test": (np.zeros((6, 3)), np.zeros((6, 3)))}, ("test", "(3,)", "(4,)")),
        ({"validation": (np.zeros((0, 4)), np.zeros((0, 3)))}, ("empty",)),
        ({"test": (np.full((6, 4), np.inf), np.zeros((6, 3)))}, ("test", "infinite")),
        ({"system": len}, ("builtin_function", "AbstractEnergy")),
        ({"system": ep.HopfieldEnergy}, ("the class HopfieldEnergy", "instance")),
        ({"estimator": None}, ("None", "ep.EquilibriumPropagation")),
        ({"optimizer": "adam"}, ("'str'", "optax.adam")),
        ({"optimizer": optax.lbfgs()}, ("gradients alone", "optax.adam")),
    ],
)
def test_fit(changed, fragments):
    """Fails if a mistake in Python is found late or raises something else."""
    arguments = {
        "system": network(),
        "cost": ep.SquaredError(),
        "x": np.zeros((6, 4), np.float32),
        "y": np.zeros((6, 3), np.float32),
        "estimator": rule(),
    } | changed
    with pytest.raises(ValueError, match=r"\S") as error:
        ep.fit(**arguments)
    assert_holds(str(error.value), *fragments)


@pytest.mark.parametrize(
    ("make", "fragments"),
    [
        (lambda: ep.train("digit"), ("'digit'", "digits")),
        (lambda: ep.train(3), ("3", "ep.Config")),
        (lambda: ep.train("digits", epoch=1), ("epoch", "epochs")),
        (lambda: ep.train("digits", epochs="1"), ("epochs", "'1'", "≥ 1")),
        (lambda: ep.train("digits", optimizer="adam"), ("'adam'", "ep.Optimizer")),
        (lambda: ep.train("digits", estimator=ep.Euler()), ("Euler", "learning rule")),
        (lambda: ep.train("digits", model=network()), ("model", "ep.Hopfield")),
        (lambda: ep.train("digits", data=np.ones(3)), ("ndarray", "FILE.npz")),
        (lambda: ep.train("digits", data=None), ("data is None", "digits")),
        (lambda: ep.load("nowhere"), ("nowhere", "eqprop train")),
        (lambda: ep.resume("nowhere"), ("nowhere", "eqprop train")),
        (lambda: ep.Optimizer("adamm"), ("'adamm'", "'adam'")),
        (lambda: ep.Optimizer("adam", "fast"), ("'fast'", "≥ 0")),
        (lambda: ep.Optimizer("adam", (-1.0,)), ("-1.0", "≥ 0")),
        (lambda: ep.Optimizer("adam", 0.1, "linear"), ("'linear'", "cosine")),
        (lambda: ep.Optimizer("adam", 0.1, options={"b1": "x"}), ("'x'", "finite")),
        (lambda: ep.Hopfield(hidden=5), ("5", "(500,)")),
        (lambda: ep.Hopfield(activation="relu"), ("'relu'", "tanh")),
        (lambda: ep.Hopfield(cost="hinge"), ("'hinge'", "squared-error")),
        (lambda: ep.EquilibriumPropagation(ep.Euler(), ep.Euler(), 0.0), ("0.0",)),
        (lambda: ep.EquilibriumPropagation(ep.Euler(), ep.Euler(), np.inf), ("inf",)),
        (lambda: ep.Euler(dt=0), ("dt is 0", "positive")),
        (lambda: ep.Euler(steps=-1), ("steps is -1", "≥ 0")),
        (lambda: ep.Euler(steps=1.5), ("steps is 1.5", "whole")),
        (lambda: ep.Sweep(tol=0), ("tol is 0", "positive")),
        (lambda: ep.relax(network(), np.zeros(4), ep.Euler()), ("()", "[batch, 4]")),
        (lambda: ep.relax(network(), jnp.zeros((2, 3)), ep.Euler()), ("(3,)", "(4,)")),
    ],
)
def test_python(make, fragments):
    """Fails if the Python interface takes what it cannot use."""
    with pytest.raises((ValueError, OSError)) as error:
        make()
    assert_holds(str(error.value), *fragments)


@pytest.mark.parametrize(
    ("change", "fragments"),
    [
        (lambda x, y: (x[:, :2],), ("(2,)", "(4,)")),
        (lambda x, y: (x[0],), ("()", "(4,)")),
        (lambda x, y: (x[:0],), ("empty",)),
        (lambda x, y: (with_nan(x),), ("NaN", "(3, 1)")),
        (lambda x, y: (x.tolist(),), ("np.asarray(x)",)),
        (lambda x, y: (x, y[:3]), ("60", "3")),
        (lambda x, y: (x, y + 5), ("5 to 7", "0 to 2")),
        (lambda x, y: (x, y.astype(str)), ("<U", "np.unique")),
        (lambda x, y: (x, x[:, :2]), ("(3,)", "(2,)")),
    ],
)
def test_python_with_a_run(change, fragments, small_run, x, y):
    """Fails if a run measures or predicts what it was not trained for."""
    given = change(x, y)
    with pytest.raises(ValueError, match=r"\S") as error:
        (ep.evaluate if len(given) == 2 else ep.predict)(ep.load(small_run), *given)
    assert_holds(str(error.value), *fragments)
