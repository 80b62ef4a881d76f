"""Inject one-line defects into rules and relaxations; the tests must catch each.

    python tests/mutants.py            # all, some minutes
    python tests/mutants.py 3 7        # only these

Each defect is made in a copy of `src`, so the tree is never touched.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ESTIMATORS = "tests/test_estimators.py"
RELAXATIONS = "tests/test_relaxations.py"
SYSTEMS = "tests/test_systems.py"
TRAINING = "tests/test_training.py"
REFERENCES = "tests/test_references.py"
PROCESSES = "tests/test_processes.py"
VERIFY = "tests/test_verify.py"
CONTRASTIVE = "tests/test_contrastive.py"
EP = "estimators/_equilibrium_propagation.py"

MUTANTS = [
    ("the ½ of the cost is lost", "costs.py", "0.5 * jnp.sum", "jnp.sum", ESTIMATORS),
    (
        "ρ′ excludes the bounds",
        "systems/_activations.py",
        "(s >= 0) & (s <= 1)",
        "(s > 0) & (s < 1)",
        SYSTEMS,
    ),
    (
        "biases are left out of the energy",
        "systems/_layered.py",
        "link.forward(weight, lower) + bias,",
        "link.forward(weight, lower) + 0 * bias,",
        SYSTEMS,
    ),
    (
        "the bound of the curvature is forgotten",
        "systems/_hopfield.py",
        "1 + self.activations[k].bend * jnp.abs(drives[k])",
        "1 + 0 * jnp.abs(drives[k])",
        RELAXATIONS,
    ),
    (
        "Euler does not project",
        "relaxations/_euler.py",
        "moved = dynamics.system.project(raw)",
        "moved = raw",
        RELAXATIONS,
    ),
    (
        "the nudge pushes away from the target",
        "relaxations/_base.py",
        "force = jax.tree.map(jnp.negative, slope)",
        "force = slope",
        RELAXATIONS,
    ),
    (
        "a settled example goes on moving",
        "relaxations/_base.py",
        "(residual >= tol)",
        "(residual >= 0)",
        RELAXATIONS,
    ),
    (
        "a sweep ignores the curvature of the cost",
        "relaxations/_blocks.py",
        "[a + jnp.maximum(c,",
        "[a + 0 * jnp.maximum(c,",
        RELAXATIONS,
    ),
    (
        "the centered contrast is divided by β, not 2β",
        EP,
        "width = betas[0] - betas[1]",
        "width = betas[0]",
        ESTIMATORS,
    ),
    (
        "the cost's own gradient is left out",
        EP,
        "value = nudge_energy(system, cost, x, y, s, beta)",
        "value = 0.0 * beta",
        ESTIMATORS,
    ),
    (
        "the vector-field rule has the wrong sign",
        EP,
        "values = values - jax.vmap(_along(",
        "values = values + jax.vmap(_along(",
        ESTIMATORS,
    ),
    (
        "weights are ignored",
        "estimators/_base.py",
        "if weight is None:\n        return jnp.mean(values)",
        "if True:\n        return jnp.mean(values)",
        ESTIMATORS,
    ),
    (
        "persistent states are stored for the next example",
        "training/_loop.py",
        "place = jnp.where(keeps, index, nowhere)",
        "place = jnp.where(keeps, index + 1, nowhere)",
        TRAINING,
    ),
    (
        "a failed step changes the parameters",
        "training/_loop.py",
        "jax.lax.cond(healthy, move, stay)",
        "move()",
        TRAINING,
    ),
    (
        "RBP iterates J in place of its transpose",
        "estimators/_recurrent_backpropagation.py",
        "return pull(error)[0], jax.tree.map(jnp.add, total, error)",
        "return jax.jvp(step_map(system, x, self.dt), (s,), (error,))[1], "
        "jax.tree.map(jnp.add, total, error)",
        REFERENCES,
    ),
    (
        "the references forget the projection",
        "estimators/_step.py",
        "moved, _ = Euler(dt=dt).step(free, s, None)",
        "moved = jax.tree.map(lambda u, v: u + dt * v, s, free.velocity(s))",
        REFERENCES,
    ),
    (
        "an inaccurate adjoint passes",
        "estimators/_implicit_differentiation.py",
        "accurate = residual <= (",
        "accurate = residual * 0 <= (",
        REFERENCES,
    ),
    (
        "settle does not scale the nudge to the cotangent",
        "estimators/_settle.py",
        "direction = jax.vmap(_flat)(cotangent) / safe[:, None]",
        "direction = jax.vmap(_flat)(cotangent)",
        REFERENCES,
    ),
    (
        "EP's process divides by β alone",
        "theory/_processes.py",
        "/ (width * dt), phases",
        "/ width, phases",
        PROCESSES,
    ),
    (
        "verify takes any order in β",
        "theory/_metrics.py",
        "low, high = self.expected * (1 - tolerance), ",
        "low, high = 0 * self.expected, ",
        VERIFY,
    ),
    (
        "verify does not look at the potential",
        "theory/_exactness.py",
        "return inner(eqx.combine(params, static).velocity(x, s), w)",
        "return of_rule(params)",
        VERIFY,
    ),
    (
        "layers of weak feedback relax odd and even",
        "systems/_xie_seung.py",
        "return tuple((k,) for k in range(len(self.weights)))",
        "return super().turns()",
        CONTRASTIVE,
    ),
    (
        "a subclass with other terms descends the energy of its class",
        "systems/_hopfield.py",
        "cls.velocity = AbstractEnergy.velocity",
        "pass",
        CONTRASTIVE,
    ),
    (
        "feedback is not weakened",
        "systems/_xie_seung.py",
        "return self.gamma * upper",
        "return upper",
        CONTRASTIVE,
    ),
]


def caught(file: str, old: str, new: str, tests: str) -> bool:
    """Whether the tests fail on a copy of the sources with this defect."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "src"
        shutil.copytree(ROOT / "src", copy)
        target = copy / "eqprop" / file
        source = target.read_text(encoding="utf-8")
        if source.count(old) < 1:
            raise SystemExit(f"{file} no longer holds {old!r}: renew this mutant")
        target.write_text(source.replace(old, new), encoding="utf-8")
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "pytest",
                "-xq",
                "-n0",
                "-p",
                "no:cacheprovider",
                tests,
            ],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(copy)},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode not in (0, 1):
            raise SystemExit(done.stdout[-2000:] + done.stderr[-2000:])
        return done.returncode == 1


def main() -> int:
    chosen = [int(word) for word in sys.argv[1:]] or range(1, len(MUTANTS) + 1)
    survivors = 0
    for number in chosen:
        what, *mutant = MUTANTS[number - 1]
        found = caught(*mutant)
        survivors += not found
        print(f"{number:>2} {'caught  ' if found else 'SURVIVED'} {what}", flush=True)
    return int(survivors > 0)


if __name__ == "__main__":
    sys.exit(main())
