"""Export a trained network for programs without eqprop.

`model.safetensors` holds every array by name.  `model.json` says what they mean: kind
of system and its equations, layers, shapes, activations, relaxation and units.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np

from .. import systems
from ..systems._parameters import parameter_name
from ..training import ACTIVATIONS, UserModel
from ._directory import RunDirectory
from ._environment import environment
from ._load import load
from ._run import Run

FORMAT = 1
ARRAYS, DESCRIPTION = "model.safetensors", "model.json"

LAYERED = (
    "Layer n = 1…L has the weights W_n = weights[n-1], from the layer below (n_in) to "
    "it (n_out), the biases b_n = biases[n-1] and the activation ρ_n = "
    "activations[n-1]; r_0 = x is the input, r_n = ρ_n(s_n), and a convolution stands "
    "for the product W_n r_{n-1}, pooled as its link says."
)
EQUATIONS: dict[type, str] = {
    systems.HopfieldEnergy: (
        "E(x, s) = Σ_n [½‖s_n‖² − (r_{n-1} W_n + b_n)·r_n], ds/dt = −∂E/∂s, so that a "
        "settled layer is s_n = ρ_n′(s_n)(r_{n-1} W_n + b_n + W_{n+1} r_{n+1}), kept "
        "within the activation's bounds"
    ),
    systems.XieSeungEnergy: (
        "E(x, s) = Σ_n γ^{n-L} [½‖s_n‖² − (r_{n-1} W_n + b_n)·r_n], ds/dt = −∂E/∂s, "
        "kept within the activation's bounds; γ is gamma"
    ),
    systems.DiscreteEnergy: (
        "Φ(x, s) = ½‖s‖² − ε E(x, s), s ← ∂Φ/∂s, kept within the activation's bounds; "
        "E is that of the inner system, E = Σ_n [½‖s_n‖² − (r_{n-1} W_n + b_n)·r_n], "
        "and ε is dt"
    ),
    systems.PrototypicalNetwork: (
        "s_n ← ρ_n(s_{n-1} W_n + b_n + W_{n+1} s_{n+1}), s_0 = x"
    ),
    systems.LeakyIntegrator: (
        "ds_n/dt = r_{n-1} W_n + b_n + B_{n+1} r_{n+1} − s_n with B_{n+1} = "
        "backward[n-1]; where discrete is true s_n ← ρ_n(s_{n-1} W_n + b_n + "
        "B_{n+1} s_{n+1})"
    ),
    systems.MaskedHopfieldEnergy: (
        "E(x, s) = ½‖s‖² − uᵀ(mask∘weight)u − bias·ρ(s) with u = (x, ρ(s)), ds/dt = "
        "−∂E/∂s, kept within the activation's bounds; the last `outputs` units are "
        "the prediction"
    ),
}
FORMULAS = {
    "hard-sigmoid": "ρ(s) = min(max(s, 0), 1), ρ′ = 1 for 0 ≤ s ≤ 1",
    "shifted-sigmoid": "ρ(s) = 1 / (1 + exp(−4 (s − ½)))",
    "clipped-sigmoid": "ρ(s) = 1 / (1 + exp(−4 (s − ½))), s kept in [0, 1]",
    "tanh": "ρ(s) = tanh(s)",
    "linear": "ρ(s) = s",
}
UNITS = {
    "time": "dt is in units of the neurons' time constant; steps are counted",
    "residual": "at the final state: of Euler the largest velocity ds/dt, of Sweep the "
    "largest velocity / curvature; bounds included; a state is settled below tol",
    "tol": "null: all steps are taken, and settled means below √eps of the dtype",
    "state": "dimensionless, every unit starts at zero",
    "weights": "dimensionless, [n_in, n_out] or [kernel, kernel, n_in, n_out]",
}


def export(
    run: str | Path, folder: str | Path, *, system: str | None = None
) -> dict[str, Any]:
    """Write `model.safetensors` and `model.json` of a run's newest parameters.

    `system` is FILE.py:NAME of the run's own model, which is executed only if named.

    **Returns:** the content of `model.json`.

    **Raises:** what `load` raises, and `OSError` if the files cannot be written.
    """
    from safetensors.numpy import save_file

    config = RunDirectory(Path(run)).config()
    if isinstance(config.model, UserModel) and system is None:
        name = Path(config.model.path).name
        raise ValueError(
            f"the network of {run} is a program, {name}, which is executed only if it "
            "is named: --system FILE.py:NAME"
        )
    loaded = load(run, system=system)
    arrays = named_arrays(loaded)
    description = described(loaded, arrays)
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(description, indent=1, ensure_ascii=False)
        (folder / DESCRIPTION).write_text(text + "\n", encoding="utf-8")
        metadata = {
            "description": DESCRIPTION,
            "input": description["input"]["preparation"],
        }
        save_file(arrays, folder / ARRAYS, metadata=metadata)
    except OSError as failure:
        failure.filename = f"cannot write into {folder}"
        raise
    return description


def named_arrays(run: Run) -> dict[str, np.ndarray]:
    """Parameters and constants of (system, cost) by name."""
    held = eqx.filter((run.system, run.cost), eqx.is_array)
    leaves = jax.tree_util.tree_leaves_with_path(held)
    return {
        parameter_name(path): np.ascontiguousarray(np.asarray(leaf))
        for path, leaf in leaves
    }


def described(run: Run, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """What `model.json` holds of a run and its `named_arrays`."""
    trained = eqx.filter((run.system, run.cost), eqx.is_inexact_array)
    learned = {
        parameter_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(trained)
    }
    dataset = run.problem.dataset
    inputs = run.problem.inputs
    known = environment()["packages"]
    return {
        "format": FORMAT,
        "arrays": ARRAYS,
        "made by": f"eqprop {known['eqprop']}",
        "run": run.path.resolve().name,
        "epoch": run.history[-1]["epoch"] if run.history else None,
        "system": _system(run),
        "cost": {"kind": type(run.cost).__name__, "outputs": _outputs(run.cost)},
        "parameters": {
            name: {
                "shape": list(array.shape),
                "dtype": str(array.dtype),
                "learned": name in learned,
            }
            for name, array in arrays.items()
        },
        "input": {
            "data": run.config.data,
            "shape": None if dataset is None else list(dataset.input_shape),
            "image_shape": run.problem.image_shape,
            "given": None if inputs is None else inputs.to_json(),
            "preparation": _preparation(run),
        },
        "classes": None if dataset is None else dataset.classes,
        "relaxation": _plain(run.config.estimator.free),
        "units": UNITS,
    }


def _system(run: Run) -> dict[str, Any]:
    """Return kind, equations and the fields that are not arrays."""
    system = run.system
    found: dict[str, Any] = {"kind": type(system).__name__}
    if isinstance(run.config.model, UserModel):
        found["program"] = Path(run.config.model.path).name
        found["equations"] = (system.__doc__ or "").strip() or None
        return found
    found["equations"] = EQUATIONS.get(type(system))
    inner = getattr(system, "system", system)
    if hasattr(inner, "links"):
        found["layers"] = LAYERED
    return found | _fields(system)


def _fields(module: Any) -> dict[str, Any]:
    """Return the constants of a module: numbers, shapes, links and activations."""
    found = {}
    for field in dataclasses.fields(module):
        value = getattr(module, field.name)
        if isinstance(value, systems.AbstractSystem):
            found[field.name] = {"kind": type(value).__name__, **_fields(value)}
        elif not any(eqx.is_array(leaf) for leaf in jax.tree.leaves(value)):
            found[field.name] = _plain(value)
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, systems.Activation):
        name = next((n for n, rho in ACTIVATIONS.items() if rho == value), "unknown")
        bounds = None if value.bounds is None else list(value.bounds)
        return {"name": name, "formula": FORMULAS.get(name), "bounds": bounds}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value) if field.init]
        fields = {name: _plain(getattr(value, name)) for name in names}
        return {"kind": type(value).__name__, **fields}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _outputs(cost: Any) -> str:
    if any(eqx.is_array(leaf) for leaf in jax.tree.leaves(cost)):
        return "prediction @ cost.weight + cost.bias, of the settled readout"
    return "the settled readout itself"


def _preparation(run: Run) -> str:
    """Return how a program must prepare x for the network."""
    dataset = run.problem.dataset
    if dataset is None:
        return "as the model's own program returns them"
    if dataset.inputs is None:
        return "not recorded by the eqprop that trained the run"
    flat = "flattened in row order" if run.config.flatten else "not flattened"
    source = ""
    if dataset.name == "digits":
        source = " (scikit-learn's pixels, 0 to 16, divided by 16)"
    return f"x of {dataset.inputs}{source}; float32, {flat}"
