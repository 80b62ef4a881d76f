"""Items that are claims: a function measures each, and its docstring is the claim."""

import dataclasses
import inspect
import time
from collections.abc import Callable
from typing import Any

import jax

from ..runs import environment
from ._figure import Curve, draw, Panel
from ._item import Context, Item, machine
from ._record import ClaimRecord, Finding


class Findings:
    """What the function of a claim returns.

    - `numbers`: the claim holds if every number lies in its range.
    - `panels`: those of the figure, in `rows`.
    - `fields`: what the braces in the claim's sentence stand for.
    """

    def __init__(self, rows: int = 1, **fields: Any):
        self.rows, self.fields = rows, fields
        self.numbers: list[Finding] = []
        self.panels: list[Panel] = []

    def add(self, name: str, value: Any, **limits: float | None) -> None:
        """Add a number; without `least` and `most` it is reported and not judged."""
        self.numbers.append(Finding(name, value, **limits))

    def near(self, name: str, value: Any, target: float, within: float) -> None:
        """Add a number that must be no further than `within` from `target`."""
        self.add(name, value, least=target - within, most=target + within)

    def panel(self, x: str, y: str, *curves: Curve, **options: Any) -> None:
        """Add a panel; the options are those of `Panel`."""
        self.panels.append(Panel(x, y, curves, **options))

    @property
    def holds(self) -> bool:
        return all(number.holds for number in self.numbers)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Claim(Item):
    """A statement that holds or does not hold.

    - `claim`: the statement; `source`: paper and equation.
    - `sentence`: what is measured, on which network and examples.
    - `function`: measures it; `quick`: arguments that make the quick version smaller,
      empty if the whole takes seconds.
    - `x64`: whether it computes in float64.
    """

    claim: str
    sentence: str
    source: str
    function: Callable[..., Findings]
    quick: dict[str, Any] = dataclasses.field(default_factory=dict)
    x64: bool = True

    def find(self, **options: Any) -> Findings:
        """Measure the claim, with options of its function."""
        with jax.enable_x64(self.x64):
            return self.function(**options)

    def measure(self, context: Context) -> ClaimRecord:
        began = time.perf_counter()
        quick = context.version.quick
        found = self.find(**self.quick if quick else {})
        title = f"{self.claim}\n({self.source})"
        draw(found.panels, found.rows, title, context.figure)
        return ClaimRecord(
            claim=self.claim,
            source=self.source,
            sentence=self.sentence.format(**found.fields),
            findings=tuple(found.numbers),
            holds=found.holds,
            panels=tuple(found.panels),
            quick=quick,
            seconds=round(time.perf_counter() - began, 1),
            environment=machine(environment()),
        )

    def verdict(self, record: ClaimRecord) -> str:
        return "holds" if record.holds else "does not hold"

    def result(self, record: ClaimRecord) -> str:
        findings = "; ".join(map(str, record.findings))
        return f"{record.sentence} Found: {findings}."


def claim(name: str, **options: Any) -> Callable[[Callable[..., Findings]], Claim]:
    """Make a claim of a function, whose docstring says in paragraphs:

    1. the claim;
    2. what is measured, on which network and examples; braces are fields of `Findings`;
    3. "In the paper: …", "Explanation: …" and notes, if there are any.
    """

    def made(function: Callable[..., Findings]) -> Claim:
        paragraphs = inspect.cleandoc(function.__doc__ or "–\n\n–").split("\n\n")
        statement, sentence, *others = (" ".join(each.split()) for each in paragraphs)
        titles = {"in_paper": "In the paper: ", "reason": "Explanation: "}
        for field, title in titles.items():
            for each in others:
                if each.startswith(title):
                    options[field] = each.removeprefix(title)
        text = {"claim": statement.rstrip("."), "sentence": sentence}
        return Claim(name, **text, function=function, **options)

    return made
