"""Published numbers, and the rule by which ours agree with them or do not."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Literal

from ..report._record import mean_and_deviation

Mark = Literal["agrees", "better", "differs", "one seed", "no reference", "not run"]
Source = Literal["P", "C", "L", "S", "F"]
SEEDS = 3
"""seeds that a comparison needs"""
ERRORS = 2.0
"""standard errors within which two numbers agree"""


@dataclasses.dataclass(frozen=True)
class Published:
    """An error as a paper or its authors give it, in percent.

    - `key`: the record's name of the same quantity, e.g. `test_error`.
    - `value`, `spread`: mean and standard deviation; `None` where none is given.
    - `within`: the number stands for all that are so near: half of a printed range or
      of the last printed digit, or the accuracy of reading a figure.
    - `words`: how it is written, where not as `value ± spread`.
    - `source`: [P] the paper's text, [C] the authors' code or its comments, [L] a log
      in their repository, [S] a secondary source, [F] read off a figure.
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


def verdict(published: Published | None, ours: Sequence[float]) -> Mark:
    """The mark of our errors, one a seed and in percent, beside a published one.

    *agrees*: at least three seeds, and no further than two standard errors from what
    is published; *better* and *differs*: further below, or above.  The standard error
    is that of our mean, and the published spread in full where there is one, because
    the number of runs behind it is not known.
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
