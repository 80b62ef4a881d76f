"""`eqprop export`: a network that other programs load without eqprop."""

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import eqprop as ep
from eqprop import cli
from eqprop.runs import Problem
from eqprop.runs._export import described, named_arrays

# NumPy and safetensors only: what a reader of model.json would write.
READER = """
import json, sys
for name in ("eqprop", "jax", "equinox"):
    sys.modules[name] = None
import numpy as np
from safetensors.numpy import load_file

folder, inputs, outputs = sys.argv[1:]
model = json.load(open(f"{folder}/model.json", encoding="utf-8"))
arrays = load_file(f"{folder}/{model['arrays']}")
for name, facts in model["parameters"].items():
    assert list(arrays[name].shape) == facts["shape"], name
    assert str(arrays[name].dtype) == facts["dtype"], name
system = model["system"]
assert system["kind"] == "HopfieldEnergy"
layers = len(system["activations"])
W = [arrays[f"weights[{n}]"].astype(float) for n in range(layers)]
b = [arrays[f"biases[{n}]"].astype(float) for n in range(layers)]
known = {"hard-sigmoid": lambda s: np.clip(s, 0, 1), "linear": lambda s: s}
rho = [known[a["name"]] for a in system["activations"]]
x = np.load(inputs).astype(float)
s = [np.zeros((len(x), *shape)) for shape in system["shapes"][1:]]
for _ in range(3000):  # ds/dt = -dE/ds where rho' = 1, kept within the bounds
    r = [x, *(f(u) for f, u in zip(rho, s))]
    for n in range(layers):
        drive = r[n] @ W[n] + b[n]
        if n + 1 < layers:
            drive = drive + r[n + 2] @ W[n + 1].T
        bounds = system["activations"][n]["bounds"] or (-np.inf, np.inf)
        s[n] = np.clip(s[n] + 0.1 * (drive - s[n]), *bounds)
np.save(outputs, s[-1])
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory, x, y):
    """A run of three layers of weights, whose free phase settles."""
    folder = tmp_path_factory.mktemp("exported")
    np.savez(folder / "own.npz", x=x, y=y)
    config = ep.recipe("digits").config
    ep.train(
        config,
        run=folder / "run",
        data=folder / "own.npz",
        model=ep.Hopfield(hidden=(6, 5), output="linear"),
        estimator=ep.EquilibriumPropagation(ep.Sweep(100), ep.Sweep(10), 0.2),
        epochs=2,
    )
    return folder / "run"


def export(capsys, *words):
    status = cli.main(["export", *map(str, words), "--json"])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_the_prediction_again_by_hand(run, x, capsys, tmp_path):
    """A program that knows only the two files finds the settled predictions."""
    status, out, err = export(capsys, run, "--out", "network")
    assert status == 0, err
    assert json.loads(out)["folder"] == "network"
    np.save("x.npy", x)
    subprocess.run(
        [sys.executable, "-c", READER, "network", "x.npy", "y.npy"],
        check=True,
        cwd=tmp_path,
    )
    loaded = ep.load(run)
    assert ep.evaluate(loaded)["settled"] == 1
    np.testing.assert_allclose(np.load("y.npy"), ep.predict(loaded, x), atol=1e-4)


def test_arrays_are_those_of_the_run(run, capsys):
    """Bit for bit, all of them, and the description knows which have learned."""
    from safetensors.numpy import load_file

    assert export(capsys, run)[0] == 0
    arrays = load_file(run / "export" / "model.safetensors")
    system = ep.load(run).system
    for n in range(3):
        np.testing.assert_array_equal(arrays[f"weights[{n}]"], system.weights[n])
        np.testing.assert_array_equal(arrays[f"biases[{n}]"], system.biases[n])
    assert len(arrays) == 6
    text = (run / "export" / "model.json").read_text(encoding="utf-8")
    model = json.loads(text)
    assert all(facts["learned"] for facts in model["parameters"].values())
    relaxation = model["relaxation"]
    assert relaxation.items() >= {"kind": "Sweep", "steps": 100, "tol": None}.items()
    assert relaxation["omega"] == 1
    assert model["input"]["shape"] == [4]
    assert model["classes"] == 3


@pytest.mark.parametrize(
    ("model", "facts"),
    [
        (ep.XieSeung(hidden=(5,), gamma=0.5), {"gamma": 0.5}),
        (ep.DiscreteHopfield(hidden=(5,), dt=0.3), {"dt": 0.3}),
        (ep.Leaky(hidden=(5,), discrete=True), {"discrete": True}),
        (ep.Prototypical(hidden=(5,)), {"kind": "PrototypicalNetwork"}),
        (ep.Toy(hidden=4), {"outputs": 10}),
        (ep.Hopfield(hidden=(5,), cost="softmax-readout"), {}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_every_kind_of_network(model, facts):
    """Each says what it is, its equations, and which of its arrays have learned."""
    config = dataclasses.replace(ep.recipe("digits").config, model=model)
    problem = Problem.build(config)
    system, cost = problem.system, problem.cost
    run = ep.Run(Path("run"), config, system, cost, [], problem, None)
    found = json.loads(json.dumps(described(run, named_arrays(run))))
    assert found["system"]["equations"]
    assert facts.items() <= found["system"].items()
    constants = [n for n, p in found["parameters"].items() if not p["learned"]]
    assert constants == (["mask"] if isinstance(model, ep.Toy) else [])
    readout = model == ep.Hopfield(hidden=(5,), cost="softmax-readout")
    assert ("cost.weight" in found["parameters"]) == readout
    assert ("cost.weight" in found["cost"]["outputs"]) == readout


def test_what_cannot_be_exported(run, capsys, tmp_path):
    """A clear error where there is no run, no checkpoint, or no place to write."""
    status, _, err = export(capsys, "nowhere")
    assert status == 2
    assert "no run directory nowhere" in err
    Path("file").write_text("in the way")
    status, _, err = export(capsys, run, "--out", "file")
    assert status == 2
    assert "cannot write into file" in err
    shutil.copytree(run, "empty")
    shutil.rmtree("empty/checkpoints")
    status, _, err = export(capsys, "empty")
    assert status == 2
    assert "no checkpoint" in err
