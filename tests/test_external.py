"""Hardware in the loop: a NumPy simulator with mismatch and noise, trained by EP."""

import signal
import threading
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tolerances import IDENTITY
from zoo import flat, SoftmaxReadout, batch, hopfield

import eqprop as ep
from eqprop.papers import beyond
from eqprop.training import UserModel

pytestmark = pytest.mark.usefixtures("x64")

COST = ep.SquaredError()
EULER = ep.Euler(0.3, 60)


class Chip(beyond.Chip):
    """The claim's simulator (NumPy, its own loop), which counts its calls."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.calls = []

    def settle(self, params, x, y, beta, state):
        self.calls.append((len(x), y is None, beta, jax.tree.map(np.copy, state)))
        return super().settle(params, x, y, beta, state)


def net():
    return hopfield((3, 5, 2))


def rule(device, nudging="centered", beta=0.1):
    loop = ep.HardwareInTheLoop(device)
    return ep.EquilibriumPropagation(loop, loop, beta, nudging)


@pytest.mark.parametrize("nudging", ["centered", "one-sided", "random-sign"])
def test_a_perfect_simulator_gives_eulers_gradient(nudging):
    """The same states and gradients; one call a phase, whole batches, no others."""
    (x, y), chip, key = batch(size=4), Chip(), jax.random.key(3)
    found = rule(chip.settle, nudging)(net(), COST, x, y, key=key)
    expected = ep.EquilibriumPropagation(EULER, EULER, 0.1, nudging)(
        net(), COST, x, y, key=key
    )
    np.testing.assert_allclose(flat(found.grads), flat(expected.grads), atol=IDENTITY)
    np.testing.assert_allclose(found.loss, expected.loss, rtol=IDENTITY)
    betas = [beta for _, _, beta, _ in chip.calls]
    assert [isinstance(beta, float) for beta in betas] == [True] * len(betas)
    assert betas[0] == 0
    if nudging == "random-sign":
        assert abs(betas[1]) == pytest.approx(0.1)
    else:
        assert betas[1:] == pytest.approx([0.1, -0.1][: len(betas) - 1])
    assert len(betas) == (3 if nudging == "centered" else 2)
    assert [(size, free) for size, free, _, _ in chip.calls] == [
        (4, k == 0) for k in range(len(betas))
    ]
    # Each nudged phase starts where the free one ended.
    for _, _, _, start in chip.calls[1:]:
        np.testing.assert_array_equal(start[0], found.equilibrium.state[0])


def test_what_it_reports():
    """One step, settled, and how far the model is from where the device is."""
    (x, y), chip = batch(size=4), Chip(mismatch=0.1)
    beta = jnp.array([0.1, -0.2, 0.3, 0.0])
    device = ep.HardwareInTheLoop(chip.settle)
    found = ep.relax(net(), x, device, cost=COST, y=y, beta=beta)
    np.testing.assert_array_equal(chip.calls[0][2], beta)
    expected = ep.relax(
        *(net(), x, ep.Euler(1.0, 0)), state=found.state, cost=COST, y=y, beta=beta
    )
    np.testing.assert_allclose(found.residual, expected.residual, rtol=IDENTITY)
    assert (found.residual > 1e-3).all()
    assert (found.steps == 1).all()
    assert (found.status == ep.Status.settled).all()


@pytest.mark.parametrize("kind", ["rbp", "implicit", "asym"])
def test_references_linearise_the_model_at_the_devices_states(kind):
    """As if those states had been given: no derivative passes the device."""
    (x, y), chip = batch(size=4), Chip(mismatch=0.1)
    here = ep.HardwareInTheLoop(chip.settle)
    state = ep.relax(net(), x, here).state

    def estimator(free):
        return {
            "rbp": lambda: ep.RecurrentBackpropagation(free, 0.3, 20),
            "implicit": lambda: ep.ImplicitDifferentiation(free),
            "asym": lambda: ep.AsymmetricEquilibriumPropagation(free, EULER, 0.1),
        }[kind]()

    found = estimator(here)(net(), COST, x, y)
    expected = estimator(ep.Euler(1.0, 0))(net(), COST, x, y, state=state)
    np.testing.assert_allclose(flat(found.grads), flat(expected.grads), atol=IDENTITY)


def test_no_derivative_goes_through_it():
    """`jax.grad` sees a constant; a layer takes its gradient from the adjoint rule."""
    (x, _), chip = batch(size=4), Chip()
    here = ep.HardwareInTheLoop(chip.settle)

    def through(system):
        return jnp.sum(flat(ep.relax(system, x, here).state))

    assert not flat(eqx.filter_jit(eqx.filter_grad(through))(net())).any()

    def layer(system, free):
        adjoint = ep.RecurrentBackpropagation(free, 0.3, 60)
        return jnp.sum(flat(ep.settle(system, x, adjoint=adjoint)) ** 2)

    slope = eqx.filter_jit(eqx.filter_grad(layer))
    found, expected = (slope(net(), free) for free in (here, EULER))
    np.testing.assert_allclose(flat(found), flat(expected), atol=1e-8)


def test_training_counts_its_calls_and_keeps_states():
    """In one compiled loop: 3 a step, 1 a batch evaluated, persistent states handed."""
    (x, y), chip = batch(size=8), Chip(noise=0.01)
    ep.fit(
        *(net(), COST, x, y),
        estimator=rule(chip.settle),
        epochs=2,
        batch_size=4,
        shuffle=False,
        persistent=True,
        validation=(x[:3], y[:3]),
    )
    nudged = [call for call in chip.calls if not call[1]]
    assert len(nudged) == 2 * 2 * 2
    training = [call for call in chip.calls if call[0] == 4 and call[1]]
    assert len(training) == 2 * 2
    assert not training[0][3][0].any()
    assert training[2][3][0].all()  # the second epoch starts where the first ended
    # Validation after each epoch, cold ones of both splits where states persist.
    rest = sum(call[0] in (3, 8) for call in chip.calls)
    assert len(chip.calls) == len(nudged) + len(training) + rest
    assert rest == 2 + 1 + 2


def test_noise_is_drawn_anew_in_every_call():
    """Two reads of the same state differ: calls are not merged."""
    (x, _), chip = batch(size=4), Chip(noise=0.01)
    here = ep.HardwareInTheLoop(chip.settle)

    @jax.jit
    def twice(x):
        system = net()
        first, _unused = ep.relax(system, x, here), ep.relax(system, x, here)
        return first.state[0], ep.relax(system, x, here).state[0]

    a, b = twice(x)
    assert len(chip.calls) == 3
    assert jnp.abs(a - b).max() > 1e-4


@pytest.mark.slow
def test_ep_trains_the_device():
    """5 % mismatch, 1 % read noise: better than training the model and deploying."""
    x, y = beyond.teacher_task()
    chip = Chip(mismatch=0.05, noise=0.01)
    start = chip.loss(beyond.network((3, 8, 2), seed=2), x, y)
    through = chip.loss(beyond.train(chip, 300), x, y)
    deployed = chip.loss(beyond.train(None, 300), x, y)
    assert through < 0.05 * start
    assert through < 0.5 * deployed


def failing(error):
    def device(params, x, y, beta, state):
        raise error

    return device


def answering(answer):
    return lambda params, x, y, beta, state: answer(state)


def test_an_exception_of_the_device_reaches_the_user(caplog):
    """As it is, from relax, an estimator and training, and it is told once."""
    x, y = batch(size=4)
    device = failing(OSError("no chip on /dev/ttyUSB0"))
    for call in (
        lambda: ep.relax(net(), x, ep.HardwareInTheLoop(device)),
        lambda: rule(device)(net(), COST, x, y),
        lambda: ep.fit(net(), COST, x, y, estimator=rule(device)),
    ):
        with pytest.raises(OSError, match="no chip on /dev/ttyUSB0"):
            call()
    assert not caplog.records


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda s: s[0], r"returned the structure \*; return \(\*, \*\)"),
        (
            lambda s: (s[0][0], s[1]),
            r"shape \(5,\) for state\[0\]; it must be \(4,",
        ),
        (lambda s: (s[0].astype(int), s[1]), r"returned int64 for state\[0\]; give fl"),
        (lambda s: (s[0] + 1j, s[1]), r"returned complex128 for state\[0\]; give floa"),
        (lambda s: (s[0], s[1] / 0), r"NaN or infinity for state\[1\], first in exam"),
        (lambda s: None, r"returned the structure None; return"),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_what_a_device_may_not_return(answer, message):
    """What was returned and what is expected."""
    device = ep.HardwareInTheLoop(answering(answer))
    with pytest.raises(ValueError, match=message):
        ep.relax(net(), batch(size=4)[0], device)


def test_its_buffers_are_its_own():
    """It may write into what it gets, and use what it returned again."""
    (x, _), kept = batch(size=4), []

    def device(params, x, y, beta, state):
        for leaf in (*state, x, *params.weights):
            leaf[:] = len(kept)
        kept.append(state)
        for old in kept[:-1]:
            old[0][:] = 99
        return state

    system = net()
    here = ep.HardwareInTheLoop(device)
    first, second = (ep.relax(system, x, here).state for _ in range(2))
    assert (first[0] == 0).all()
    assert (second[0] == 1).all()
    assert jnp.abs(system.weights[0]).max() > 0.01


def test_float32_programs_take_a_drivers_float64():
    """NumPy's usual floats are rounded to the state's."""
    with jax.enable_x64(False):
        (x, _), chip = batch(size=2), Chip()
        found = ep.relax(net(), x, ep.HardwareInTheLoop(chip.settle))
        assert found.state[0].dtype == jnp.float32


def test_large_batches_do_not_hang():
    """Megabytes to and from the callback."""
    x = np.ones((20_000, 3), np.float64)
    device = answering(lambda s: tuple(u + 0.1 for u in s))
    found = ep.relax(net(), x, ep.HardwareInTheLoop(device))
    assert (found.state[0] == 0.1).all()


def test_interrupting_a_slow_device():
    """Ctrl-C ends it as any Python."""

    main = threading.main_thread().ident
    pressed = []

    def device(params, x, y, beta, state):
        pressed.append(time.monotonic())
        signal.pthread_kill(main, signal.SIGINT)
        for _ in range(200):
            time.sleep(0.05)
        return state

    # A shell's background job starts with Ctrl-C ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            ep.relax(net(), batch(size=2)[0], ep.HardwareInTheLoop(device))
    finally:
        signal.signal(signal.SIGINT, before)
    assert time.monotonic() - pressed[0] < 8


def test_senseless_combinations_are_refused():
    """With the reason, before the device is called."""
    (x, y), chip = batch(size=4), Chip()
    here = ep.HardwareInTheLoop(chip.settle)
    with pytest.raises(ValueError, match="device is 'COM3'; give a function"):
        ep.HardwareInTheLoop("COM3")
    with pytest.raises(ValueError, match="holomorphic EP needs computed phases"):
        ep.HolomorphicEquilibriumPropagation(here, here)(net(), COST, x, y)
    with pytest.raises(ValueError, match="a device does not apply the correction"):
        ep.AsymmetricEquilibriumPropagation(EULER, here)
    with pytest.raises(ValueError, match="the cost SoftmaxReadout has parameters"):
        rule(chip.settle)(net(), SoftmaxReadout(jnp.eye(2)), x, y)
    with pytest.raises(ValueError, match="here the nudge is a cotangent"):
        ep.settle(net(), x, adjoint=rule(chip.settle))
    with pytest.raises(ValueError, match="HardwareInTheLoop, which cannot settle"):
        ep.verify(net(), COST, x, y, free=here)
    with pytest.raises(ValueError, match=r"has no single steps; use ep\.Euler"):
        here.step(None, None, None)
    with pytest.raises(ValueError, match="holds the function 'settle', but config"):
        ep.Config(
            estimator=rule(chip.settle),
            optimizer=ep.Optimizer("sgd", (0.1,)),
            model=UserModel("own.py:model"),
        )
