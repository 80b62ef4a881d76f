"""CONTRIBUTING's promise: a new rule, relaxation or data set takes one line each."""

import json
import os
import subprocess
import sys

import pytest

TOY = """
import jax
import jax.numpy as jnp
import numpy as np

import eqprop as ep
from eqprop.data import DATA_SETS, DataSet, Raw
from eqprop.estimators import ESTIMATORS, Gradient, Stats
from eqprop.relaxations import RELAXATIONS


class ToyRelaxation(ep.AbstractRelaxation):
    dt: float = 0.5
    steps: int = 3
    tol: float | None = None

    def step(self, dynamics, s, key):
        velocity = dynamics.velocity(s)
        moved = jax.tree.map(lambda u, v: u + self.dt * v, s, velocity)
        size = [jnp.max(jnp.abs(v)) for v in jax.tree.leaves(velocity)]
        return dynamics.system.project(moved), jnp.max(jnp.stack(size))


class ToyRule(ep.AbstractEstimator):
    free: ep.AbstractRelaxation
    own: ep.AbstractRelaxation = ToyRelaxation()

    def at(self, system, cost, x, y, free, keys, weight):
        rule = ep.ImplicitDifferentiation(self.free)
        found = rule.at(system, cost, x, y, free, keys, weight)
        return Gradient(
            found.loss, found.grads, found.cost_grads, free, Stats("toy rule", {})
        )


def toy_data():
    random = np.random.default_rng(0)
    return Raw(random.random((40, 6), np.float32), random.integers(0, 3, 40))


ESTIMATORS["toy"] = ToyRule
RELAXATIONS["toy"] = ToyRelaxation
DATA_SETS["toys"] = DataSet(toy_data, (6,), 3)
"""

SCRIPT = """
import contextlib, io, json, sys
import toy
from eqprop.cli import main

folder, *names = sys.argv[1:]
found = {}
small = "--model.hidden 4 --estimator toy".split()
words = {
    "help": ["train", "--help-all"],
    "train": [*"train digits --data toys --epochs 1 --json --run".split(),
              folder + "/run", *small],
    "info": ["info", "--json"],
    "unknown": ["train", "digits", "--data", "toyz"],
    "verify": [*"verify digits --estimator toy --json --examples 2 --steps 5".split(),
               "--out", folder],
    "bench": [*"bench digits --json --rounds 1 --optimizer.lr 0.001".split(), *small],
}
for name in names:
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
        try:
            code = main(words[name])
        except SystemExit as stop:
            code = stop.code
    found[name] = [code, text.getvalue()]
json.dump(found, open(folder + "/found.json", "w"))
"""


def answers(folder, *names):
    """(status, output) of commands in a process that imports the toy module first."""
    (folder / "toy.py").write_text(TOY)
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    ran = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(folder), *names],
        env=dict(os.environ, PYTHONPATH=path, COLUMNS="200"),
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads((folder / "found.json").read_text())


def test_toys_are_words_of_the_command_line(tmp_path):
    """A rule for `--estimator`, a data set for `--data`, a relaxation in a config."""
    found = answers(tmp_path, "help", "train", "info", "unknown")
    assert "toy" in found["help"][1]
    code, text = found["train"]
    assert code == 0, text
    assert json.loads(text)["epoch"] == 1
    record = json.loads((tmp_path / "run" / "config.json").read_text())
    assert record["data"] == "toys"
    assert record["estimator"]["type"] == "ToyRule"
    assert record["estimator"]["own"]["type"] == "ToyRelaxation"
    assert json.loads(found["info"][1])["data"]["toys"] == "bundled"
    assert found["unknown"][0] == 2
    assert "'toys'" in found["unknown"][1]


@pytest.mark.slow
def test_verify_and_bench_take_a_toy_rule(tmp_path):
    """Its gradient is the exact one, so the verification holds."""
    found = answers(tmp_path, "verify", "bench")
    code, text = found["verify"]
    assert code == 0, text
    assert "the rule" in {row["estimator"] for row in json.loads(text)["rows"]}
    code, text = found["bench"]
    assert code == 0, text
    assert json.loads(text)["training"]
