"""Records of training: the numbers of an epoch, and of an epoch in progress.

The loop makes them, observers receive them, and a run writes an `EpochRecord` as one
line of `metrics.jsonl`.  `record.loss` and `record["loss"]` are the same.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, Self


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class AbstractRecord(Mapping[str, Any]):
    """Means over the training examples that an epoch has visited so far.

    A record is also a read-only mapping from names to values.  The mapping leaves out
    a field that defaults to `None` and was not measured.
    """

    epoch: int
    """number of the epoch, from 1"""
    loss: float
    """mean cost of the examples in the gradient"""
    train_error: float | None
    """share of misclassified examples; `None` if the targets are not classes"""
    steps: float
    """mean relaxation steps of a free phase"""
    settled: float
    """share of the measured examples whose free phase settled"""
    oscillating: float
    """share of the measured examples that oscillate with period 2"""
    masked: int
    """number of examples left out of the gradient"""
    residual: float
    """mean residual of the measured examples"""
    relative_change: list[float]
    """mean ‖ΔW‖/‖W‖ of an update, for each weight"""

    def __getitem__(self, name: str) -> Any:
        if name in list(self):
            return getattr(self, name)
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        for field in dataclasses.fields(self):
            required = field.default is dataclasses.MISSING
            if required or getattr(self, field.name) is not None:
                yield field.name

    def __len__(self) -> int:
        return len(list(iter(self)))


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ChunkRecord(AbstractRecord):
    """The numbers of an epoch in progress."""

    step: int
    """updates of this epoch so far"""
    steps_in_epoch: int
    """updates of the whole epoch"""
    seconds: float
    """training time of this epoch so far"""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class EpochRecord(AbstractRecord):
    """The numbers of a finished epoch.

    `val_…` and `test_…` are `None` without such a set, errors also if the targets are
    not classes.  With persistent states, `…_error` starts from the persistent states,
    as in paper A, and `…_error_cold` of the last epoch from fresh ones.
    """

    dt: float | None = None
    """step size of the Euler phases, with `dt="auto"`"""
    alignment_trace: list[float] | None = None
    """tr(W Bᵀ) for each pair of forward and backward weights"""
    alignment_angle: list[float] | None = None
    """angle between W and B for each pair (degrees)"""
    val_error_cold: float | None = None
    val_error: float | None
    val_loss: float | None
    test_error_cold: float | None = None
    test_error: float | None
    test_loss: float | None
    residual_cold: float | None = None
    """mean residual of the first training examples from fresh states"""
    seconds: float
    """training time of the epoch, without evaluation"""
    training_seconds: float
    """training time of all epochs so far"""
    examples_per_second: float

    def to_json(self) -> dict[str, Any]:
        """Return the record as a JSON object, one line of `metrics.jsonl`."""
        return dict(self)

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Self:
        """Return the record that `to_json` wrote; what it lacks is `None`."""
        names = [field.name for field in dataclasses.fields(cls)]
        fields: dict[str, Any] = {name: record.get(name) for name in names}
        return cls(**fields)
