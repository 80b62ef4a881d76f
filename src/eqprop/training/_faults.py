"""What a run does about examples that do not settle, and about its step size."""

from typing import Any, get_args, Literal

from ..estimators import AbstractEstimator, settled_only
from ._step_size import has_dt

OnUnsettled = Literal["error", "warn", "mask"]
StepSize = Literal["given", "auto"]


def check_faults(on_unsettled: Any, dt: Any, estimator: AbstractEstimator) -> None:
    """A `ValueError` for what is no such choice, or does not go with the rule."""
    for name, value, known in (
        ("on_unsettled", on_unsettled, OnUnsettled),
        ("dt", dt, StepSize),
    ):
        if value not in get_args(known):
            raise ValueError(
                f"{name} is {value!r}; choose {', '.join(get_args(known))}"
            )
    if on_unsettled == "mask":
        settled_only(estimator)
    if dt == "auto" and not has_dt(estimator):
        raise ValueError(
            f"dt is 'auto', and no phase of {type(estimator).__name__} takes Euler "
            "steps; use ep.Euler, or leave dt out"
        )
