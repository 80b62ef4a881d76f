"""The compiled loop against a plain Python loop, and what a run promises."""

import dataclasses
import inspect
import json

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tolerances import FLOAT32, IDENTITY
from zoo import batch, hopfield, SoftmaxReadout

import eqprop as ep
from eqprop.training import (
    _loop,
    config_from_json,
    config_to_json,
    EpochRecord,
    make_trainer,
    Settings,
)


def rule(beta=0.1, nudging="centered", steps=20):
    return ep.EquilibriumPropagation(
        ep.Euler(0.3, steps), ep.Euler(0.3, 6), beta, nudging
    )


def classes(size=22, seed=1):
    """A batch whose targets are one-hot, of a length no batch size divides."""
    x, _ = batch(size=size, seed=seed)
    return x, jax.nn.one_hot(jnp.argmax(x[:, :2], axis=1), 2)


def trainer(system, cost, x, y, optimizer=None, **settings):
    return make_trainer(
        (system, cost),
        {"train": (x, y)},
        Settings(**{"epochs": 3, "batch_size": 5} | settings),
        estimator=rule(),
        optimizer=optimizer or ep.Optimizer("sgd", (0.1,)),
    )


def run_epochs(made, state, epochs):
    for _ in range(epochs):
        for moved in made.epoch(state):
            state = moved
        state = made.next_epoch(state)
    return state


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("persistent", [False, True])
def test_the_compiled_loop_is_the_plain_loop(persistent):
    """Same order, last smaller batch, persistent states: the loop adds nothing."""
    system, cost = hopfield(), SoftmaxReadout(jnp.eye(2))
    x, y = classes()
    made = trainer(system, cost, x, y, persistent=persistent)
    state = run_epochs(made, made.init(system, cost), 2)
    kept = [np.zeros((22, len(b))) for b in system.biases]
    for epoch in range(2):
        order = np.random.default_rng([0, epoch]).permutation(22)
        for start in range(0, 22, 5):
            index = order[start : start + 5]
            particles = tuple(jnp.asarray(k[index]) for k in kept)
            found = rule()(
                system,
                cost,
                x[index],
                y[index],
                state=particles if persistent else None,
            )
            for k, new in zip(kept, found.equilibrium.state, strict=True):
                k[index] = new
            step = jax.tree.map(lambda g: -0.1 * g, (found.grads, found.cost_grads))
            system, cost = eqx.apply_updates((system, cost), step)
    for found, expected in zip(
        jax.tree.leaves((state.system, state.cost)),
        jax.tree.leaves((system, cost)),
        strict=True,
    ):
        np.testing.assert_allclose(found, expected, atol=IDENTITY)
    if persistent:
        for a, b in zip(state.particles["train"], kept, strict=True):
            np.testing.assert_allclose(a, b, atol=IDENTITY)


def test_nothing_is_compiled_again(caplog):
    """Chunks of any length, the last batch and later epochs reuse one program."""
    system = hopfield()
    x, y = classes(size=53)
    made = trainer(system, ep.SquaredError(), x, y, batch_size=4)
    state = run_epochs(made, made.init(system, ep.SquaredError()), 1)
    programs = _loop._advance._cached._cache_size()
    with jax.log_compiles(True):
        caplog.clear()
        state = run_epochs(made, state, 3)
        compiled = [r.message for r in caplog.records if "advance" in r.message]
    assert compiled == []
    assert _loop._advance._cached._cache_size() == programs


def test_metrics_are_means_over_all_examples():
    """With a learning rate of 0 an epoch measures the fixed network itself.

    The residual is that of one batch in 16: here of the first, in the epoch's order.
    """
    system, cost = hopfield(), ep.SquaredError()
    x, y = classes()
    found = ep.fit(
        system,
        cost,
        x,
        y,
        estimator=rule(),
        optimizer=optax.sgd(0.0),
        epochs=1,
        batch_size=5,
        test=(x, y),
    )
    record = found.history[0]
    state = ep.relax(system, x, rule().free)
    prediction = state.state[-1]
    loss = float(jnp.mean(jax.vmap(cost)(prediction, y)))
    error = float(jnp.mean(prediction.argmax(1) != y.argmax(1)))
    assert record["loss"] == pytest.approx(loss, rel=FLOAT32)
    assert record["test_loss"] == pytest.approx(loss, rel=FLOAT32)
    assert record["train_error"] == pytest.approx(error, abs=1e-6)
    assert record["test_error"] == pytest.approx(error, abs=1e-6)
    assert record["steps"] == 20
    first = np.random.default_rng([0, 0]).permutation(len(x))[:5]
    residual = float(state.residual[first].mean())
    assert record["residual"] == pytest.approx(residual, rel=1e-3)
    assert record["relative_change"] == [0.0, 0.0, 0.0]
    assert record["val_error"] is None


def test_relative_change_is_that_of_the_update():
    """‖ΔW‖/‖W‖ of each weight matrix, by which the papers tune learning rates."""
    system, cost = hopfield(), ep.SquaredError()
    x, y = classes(size=20)
    gradient = rule()(system, cost, x, y)
    expected = [
        0.1 * float(jnp.linalg.norm(g) / jnp.linalg.norm(w))
        for g, w in zip(gradient.grads.weights, system.weights, strict=True)
    ]
    found = ep.fit(
        system,
        cost,
        x,
        y,
        estimator=rule(),
        optimizer=optax.sgd(0.1),
        epochs=1,
        batch_size=20,
    )
    np.testing.assert_allclose(found.history[0]["relative_change"], expected, rtol=1e-3)


def test_weights_that_are_zero_have_no_relative_change():
    """A zero norm must not turn the record into an infinity."""
    x, y = classes(size=20)
    system = hopfield()
    zeros = jax.tree.map(jnp.zeros_like, system.weights)
    system = eqx.tree_at(lambda n: n.weights, system, zeros)
    assert any(g.any() for g in rule()(system, ep.SquaredError(), x, y).grads.weights)
    found = ep.fit(
        system, ep.SquaredError(), x, y, estimator=rule(), epochs=1, batch_size=20
    )
    assert found.history[0]["relative_change"] == [0.0, 0.0, 0.0]


def test_targets_that_are_no_classes_have_no_error():
    """A regression reports its loss, and null instead of a made-up error."""
    x, y = batch(size=20)
    found = ep.fit(hopfield(), ep.SquaredError(), x, y, estimator=rule(), epochs=1)
    assert found.history[0]["train_error"] is None
    assert found.history[0]["loss"] > 0


def test_learning_rates_per_layer():
    """Each rate moves its own layer, weight and bias alike, and no other."""
    system, cost = hopfield(), ep.SquaredError()
    x, y = classes()
    gradient = rule()(system, cost, x, y).grads
    for layer in range(3):
        rates = tuple(0.1 if k == layer else 0.0 for k in range(3))
        made = trainer(
            system,
            cost,
            x,
            y,
            optimizer=ep.Optimizer("sgd", rates),
            batch_size=22,
            shuffle=False,
        )
        moved = run_epochs(made, made.init(system, cost), 1).system
        for k in range(3):
            for name in ("weights", "biases"):
                before, after = getattr(system, name)[k], getattr(moved, name)[k]
                step = getattr(gradient, name)[k] * (0.1 if k == layer else 0.0)
                np.testing.assert_allclose(after, before - step, atol=1e-6)


@pytest.mark.parametrize(
    ("schedule", "rate"),
    [
        ("cosine", optax.cosine_decay_schedule(0.2, 12)),
        pytest.param(
            "exponential",
            optax.exponential_decay(0.2, 12, np.exp(-1)),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_optimizer_options_reach_optax(schedule, rate):
    """Momentum and a schedule give optax's own trajectory."""
    system, cost = hopfield(), ep.SquaredError()
    x, y = classes(size=20)
    mine = ep.Optimizer("sgd", (0.2,), schedule, {"momentum": 0.9})
    theirs = optax.sgd(rate, momentum=0.9)
    fits = [
        ep.fit(
            system, cost, x, y, estimator=rule(), optimizer=o, epochs=3, batch_size=5
        )
        for o in (mine, theirs)
    ]
    a, b = (jax.tree.leaves(f.system) for f in fits)
    for left, right in zip(a, b, strict=True):
        np.testing.assert_array_equal(left, right)
    assert fits[0].history[-1]["loss"] < fits[0].history[0]["loss"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "admm"}, "optimizer.name is 'admm'"),
        ({"name": "adm"}, "did you mean 'adam'"),
        ({"name": "chain"}, "optimizer.name is .chain"),
        ({"lr": ()}, "optimizer.lr is"),
        ({"lr": (-0.1,)}, "optimizer.lr is"),
        ({"lr": (float("nan"),)}, "optimizer.lr is"),
        ({"name": "adam", "options": {"momentum": 0.9}}, "has no 'momentum'"),
    ],
)
def test_bad_optimizers(arguments, message):
    """An option without effect, or a name unknown to optax, is an error."""
    with pytest.raises(ValueError, match=message):
        ep.Optimizer(**arguments)


def test_wrong_number_of_learning_rates_names_the_layers():
    """The user learns how many layers there are and what they are called."""
    with pytest.raises(ValueError, match="each of the 3 layers: layer 1, layer 2"):
        ep.Optimizer("sgd", (0.1, 0.2)).build((hopfield(), ep.SquaredError()), 10)


def test_seed_decides_everything():
    """Same seed, same bits; another seed, another run."""
    x, y = classes()
    fits = {}
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        fits[name] = ep.fit(
            hopfield(),
            ep.SquaredError(),
            x,
            y,
            estimator=rule(nudging="random-sign"),
            epochs=2,
            batch_size=5,
            seed=seed,
        )
    leaves = {name: jax.tree.leaves(f.system) for name, f in fits.items()}
    for left, right in zip(leaves["a"], leaves["b"], strict=True):
        np.testing.assert_array_equal(left, right)
    assert any(
        (left != right).any()
        for left, right in zip(leaves["a"], leaves["c"], strict=True)
    )


def test_persistent_states_settle_better():
    """Warm starts have a smaller residual than cold ones with the same steps."""
    x, y = classes(size=40)
    found = ep.fit(
        hopfield(),
        ep.SquaredError(),
        x,
        y,
        estimator=rule(steps=5),
        optimizer=optax.sgd(0.01),
        epochs=5,
        batch_size=10,
        persistent=True,
        test=(x, y),
    )
    last = found.history[-1]
    assert last["residual"] < 0.2 * last["residual_cold"]
    assert "test_error_cold" in last
    assert "test_error_cold" not in found.history[0]


def test_a_run_that_diverges_says_where_and_keeps_what_was_good():
    """The parameters kept are those before the step that failed."""
    system, cost = hopfield(activation=ep.tanh, output=ep.identity), ep.SquaredError()
    x, y = classes()
    seen = []

    class Watch(ep.Observer):
        def on_failure(self, state):
            seen.append(state)

    with pytest.raises(ep.TrainingDiverged, match=r"epoch \d+, step \d+.*optimizer.lr"):
        ep.fit(
            system,
            cost,
            x,
            y,
            estimator=rule(),
            optimizer=optax.sgd(1e12),
            epochs=4,
            batch_size=5,
            observer=Watch(),
        )
    (state,) = seen
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.system))


def test_divergence_names_the_layer():
    """One leaf of the state runs away: the message says which, and when."""

    class Runaway(type(hopfield())):
        def velocity(self, x, s):
            grown = s[1] * 1e9 + 1.0
            return (-s[0], grown, -s[2])

    net = hopfield()
    bad = Runaway.__new__(Runaway)
    for field in dataclasses.fields(net):
        object.__setattr__(bad, field.name, getattr(net, field.name))
    x, y = classes()
    with pytest.raises(ep.TrainingDiverged, match=r"state\[1\] of 5 of 5 examples"):
        ep.fit(bad, ep.SquaredError(), x, y, estimator=rule(), batch_size=5)


def test_configurations_survive_json():
    """config.json holds all of a recipe."""
    for recipe in ep.RECIPES.values():
        text = json.dumps(config_to_json(recipe.config))
        assert config_from_json(json.loads(text)) == recipe.config


def test_every_setting_is_a_keyword_of_fit_and_a_field_of_a_configuration():
    """Fails if a setting has a second default, or a run does not train with it."""
    keywords = inspect.signature(ep.fit).parameters
    changed = {
        "epochs": 3,
        "batch_size": 7,
        "seed": 5,
        "persistent": True,
        "shuffle": False,
        "precision": "bf16",
        "on_unsettled": "error",
        "dt": "auto",
    }
    config = ep.recipe("digits").config
    config = dataclasses.replace(config, estimator=rule(), **changed)
    fields = dataclasses.fields(Settings)
    assert {field.name for field in fields} == set(changed)
    for field in fields:
        assert keywords[field.name].default == field.default != changed[field.name]
    assert config.settings == Settings(**changed)
    assert type(config.settings) is Settings


def test_a_configuration_of_an_earlier_run_loads():
    """Fails if the order of the fields in config.json matters, or a default moved."""
    record = config_to_json(ep.recipe("digits").config)
    reverse = dict(reversed(record.items()))
    del reverse["dt"], reverse["on_unsettled"]
    assert config_from_json(reverse) == ep.recipe("digits").config


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"epochs": True}, "epochs is True"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"seed": 2**32}, r"seed is 4294967296; it must be below 2\*\*32"),
        ({"dt": 0.1}, "dt is 0.1; choose given, auto"),
    ],
)
def test_bad_settings(changed, message):
    with pytest.raises(ValueError, match=message):
        Settings(**changed)


def epoch_record(**changed):
    means = {"loss": 0.5, "train_error": None, "steps": 3.0, "settled": 1.0}
    means |= {"oscillating": 0.0, "masked": 0, "residual": 0.25}
    times = {"seconds": 2.0, "training_seconds": 5.0, "examples_per_second": 8.0}
    held_out = dict.fromkeys(("val_error", "val_loss", "test_error", "test_loss"))
    return EpochRecord(
        epoch=4, relative_change=[0.5], **means, **times, **held_out, **changed
    )


def test_a_record_is_also_a_mapping():
    """Fails if a name of a line of metrics.jsonl is lost or a new one appears."""
    record = epoch_record()
    assert record.seconds == record["seconds"] == record.get("seconds") == 2.0
    assert record["test_error"] is None
    assert record.get("dt", "none") == "none"
    assert "dt" not in record
    with pytest.raises(KeyError):
        record["dt"]
    assert set(epoch_record(dt=0.5)) - set(record) == {"dt"}
    assert len(record) == len(record.keys()) == 16
    with pytest.raises(KeyError):
        record["tset_error"]


@pytest.mark.parametrize("changed", [{}, {"dt": 0.5, "test_error_cold": 0.125}])
def test_a_record_survives_json(changed):
    record = epoch_record(**changed)
    read = EpochRecord.from_json(json.loads(json.dumps(record.to_json())))
    assert read == record == record.to_json()


def test_a_rule_with_phases_of_the_users_own_is_for_fit():
    """Fails if a run is kept that could not be read again."""

    class Halves(ep.Euler):
        """Steps of one's own."""

    phases = (Halves(0.5, 4), ep.Euler(0.5, 4))
    with pytest.raises(ValueError, match=r"Halves.*train it with ep\.fit"):
        dataclasses.replace(
            ep.recipe("digits").config, estimator=ep.EquilibriumPropagation(*phases)
        )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ep.Toy(activation="relu"), "model.activation is 'relu'; choose"),
        (lambda: ep.Toy(cost="nll"), "model.cost is 'nll'; choose"),
        (lambda: ep.Toy(hidden=-1), "model.hidden is -1"),
        (
            lambda: ep.Hopfield(cost="softmax-readout", output="linear"),
            "model.output is 'linear', but model.cost softmax-readout",
        ),
    ],
)
def test_models_that_are_none(make, message):
    """Fails if a word is looked up too late, or has no effect."""
    with pytest.raises(ValueError, match=message):
        make()


def test_integer_labels_are_classes():
    """A user's cost may take labels as they are."""

    class Labels(ep.AbstractCost):
        def __call__(self, prediction, y):
            return -jax.nn.log_softmax(prediction)[y]

    x, y = classes()
    labels = jnp.argmax(y, axis=1)
    found = ep.fit(hopfield(), Labels(), x, labels, estimator=rule(), epochs=1)
    assert 0 <= found.history[0]["train_error"] <= 1


def test_a_system_without_parameters_is_refused():
    """There is nothing to train."""

    class Fixed(ep.AbstractEnergy):
        def init_state(self, x):
            return x

        def energy(self, x, s):
            return 0.5 * jnp.sum((s - x) ** 2)

        def readout(self, s):
            return s[:2]

    x, y = classes()
    with pytest.raises(ValueError, match="Fixed has no parameters"):
        ep.fit(Fixed(), ep.SquaredError(), x, y, estimator=rule())
