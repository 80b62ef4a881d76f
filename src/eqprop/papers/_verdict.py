"""Published numbers, and the rule that compares our errors with them."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Literal

from ..report import mean_and_deviation

Mark = Literal["agrees", "better", "differs", "one seed", "no reference", "not run"]
Source = Literal["P", "C", "L", "S", "F"]
SEEDS = 3
"""number of seeds that a comparison needs"""
ERRORS = 2.0
"""number of standard errors within which two numbers agree"""


@dataclasses.dataclass(frozen=True)
class Published:
    """An error as a paper or its authors give it, in percent.

    - `key`: the name of the error in a run's record, e.g. `test_error`.
    - `value`, `spread`: mean and standard deviation; `None` if it is not given.
    - `source`: [P] the paper's text, [C] the authors' code or its comments, [L] a log
      in their repository, [S] a secondary source, [F] read off a figure.
    - `within`: half the width of the published range, half of the last printed digit,
      or the accuracy of reading a figure.
    - `words`: how the number is printed if it is not `value ± spread`.
    """

    key: str
    value: float
    spread: float | None
    source: Source
    within: float = 0.0
    words: str = ""

    def __str__(self) -> str:
        spread = "" if self.spread is None else f" ± {self.spread:.2f}"
        words = self.words or f"{self.value:.2f}{spread}"
        return f"{words} % [{self.source}]"

    @property
    def quantity(self) -> str:
        """The number with its name: `test 1.95 ± 0.10 % [S]`."""
        return f"{self.key.removesuffix('_error')} {self}"


def verdict(published: Published | None, ours: Sequence[float]) -> Mark:
    """Compare our errors, one a seed and in percent, with a published one.

    *agrees*: at least three seeds, and the distance is at most two standard errors;
    *better* and *differs*: further below or above. The standard error combines that of
    our mean with the published spread. That spread counts in full, because the number
    of runs behind it is not known.
    """
    found = mean_and_deviation(list(ours))
    if found is None:
        return "not run"
    if published is None:
        return "no reference"
    if len(ours) < SEEDS:
        return "one seed"
    mean, deviation = found
    own = (deviation or 0.0) / math.sqrt(len(ours))
    error = math.hypot(own, published.spread or 0.0)
    distance = abs(mean - published.value) - published.within
    if distance <= ERRORS * error + 1e-9:
        return "agrees"
    return "better" if mean < published.value else "differs"
