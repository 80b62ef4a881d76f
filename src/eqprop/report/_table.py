"""The table of a report: one row a configuration, mean ± std over its seeds."""

import csv
import dataclasses
import io
import math
from collections.abc import Callable
from typing import Any

from ._record import Group, mean_and_deviation, number


def decimals(count: int) -> Callable[[float, float | None], str]:
    """`2.31 ± 0.12`: both with so many decimals."""

    def form(mean: float, spread: float | None) -> str:
        text = f"{mean:.{count}f}"
        return text if spread is None else f"{text} ± {spread:.{count}f}"

    return form


def digits(mean: float, spread: float | None) -> str:
    """`0.2001 ± 0.0071`: two digits of the deviation, as many decimals of the mean."""
    if not spread:
        text = f"{mean:.3g}"
        return text if spread is None else f"{text} ± 0"
    exponent = math.floor(math.log10(max(abs(mean), spread)))
    places = 1 - math.floor(math.log10(spread))
    if -4 < exponent < 6:
        return decimals(max(places, 0))(mean, spread)
    scale, places = 10.0**exponent, max(places + exponent, 0)
    return f"({decimals(places)(mean / scale, spread / scale)})e{exponent:+03d}"


def duration(mean: float, spread: float | None) -> str:
    """`3.84 ± 0.26 s`, from two minutes on in minutes, from two hours on in hours."""
    unit, size = "s", 1
    if mean >= 120:
        unit, size = ("min", 60) if mean < 7200 else ("h", 3600)
    return f"{digits(mean / size, None if spread is None else spread / size)} {unit}"


@dataclasses.dataclass(frozen=True)
class Column:
    """One quantity of a run's last epoch: heading, unit, scale and form."""

    key: str
    heading: str
    unit: str
    scale: float
    form: Callable[[float, float | None], str]

    def values(self, group: Group) -> list[float | None]:
        return [number(run.last.get(self.key)) for run in group.runs]

    def cell(self, values: list[float | None]) -> str:
        """`2.31 ± 0.12`, without a deviation of a single run, – of none."""
        found = mean_and_deviation([v and v * self.scale for v in values])
        return "–" if found is None else self.form(*found)

    @property
    def title(self) -> str:
        return f"{self.heading} ({self.unit})" if self.unit else self.heading


COLUMNS = (
    Column("train_error", "train error", "%", 100, decimals(2)),
    Column("val_error", "validation error", "%", 100, decimals(2)),
    Column("test_error", "test error", "%", 100, decimals(2)),
    Column("test_error_cold", "test error, cold", "%", 100, decimals(2)),
    Column("loss", "train loss", "", 1, digits),
    Column("test_loss", "test loss", "", 1, digits),
    Column("settled", "settled", "%", 100, decimals(1)),
    Column("steps", "steps", "", 1, decimals(1)),
    Column("residual", "residual", "", 1, digits),
    Column("training_seconds", "training time", "", 1, duration),
)
NAMED = 4
ALWAYS = {"train_error", "test_error", "loss", "settled"}


BY_KEY = {column.key: column for column in COLUMNS}


def columns(groups: list[Group]) -> list[Column]:
    """The quantities that some run has measured, and those a reader looks for."""
    return [
        column
        for column in COLUMNS
        if column.key in ALWAYS
        or any(v is not None for group in groups for v in column.values(group))
    ]


def rows(groups: list[Group]) -> tuple[list[str], list[list[str]]]:
    """Headings, and the cells of each configuration."""
    chosen = columns(groups)
    heads = ["configuration", "seeds", "epochs", *(c.title for c in chosen)]
    cells = [
        [
            described(group),
            seeds(group),
            epochs(group),
            *(column.cell(column.values(group)) for column in chosen),
        ]
        for group in groups
    ]
    return heads, cells


def described(group: Group) -> str:
    """What the configuration is, in as few words as tell it from the others."""
    config = group.runs[0].config
    words = [str(config.get("data") or "own data"), *map(_kind, _parts(config))]
    name = ", ".join(words)
    if not group.differs:
        return name
    apart = [f"{name} {value}" for name, value in group.differs.items()]
    more = f" and {len(apart) - NAMED} more" if len(apart) > NAMED else ""
    return f"{group.label}: {', '.join(apart[:NAMED])}{more}"


def _parts(config: dict[str, Any]) -> list[Any]:
    return [config.get(name) for name in ("model", "estimator") if config.get(name)]


def _kind(part: Any) -> str:
    if not isinstance(part, dict):
        return str(part)
    return str(part.get("path") or part.get("type"))


def seeds(group: Group) -> str:
    """`0 1 2`, each seed as often as it was used."""
    return " ".join(str(run.seed) for run in group.runs)


def epochs(group: Group) -> str:
    """`25`, or `3/25 of 25` where a run has not come to its end."""
    done = sorted({run.last.get("epoch", 0) for run in group.runs})
    planned = group.runs[0].config.get("epochs")
    text = "/".join(map(str, done))
    return text if done == [planned] else f"{text} of {planned}"


def markdown(groups: list[Group]) -> str:
    """A table of GitHub's Markdown."""
    heads, cells = rows(groups)
    lines = [heads, ["---"] * len(heads), *cells]
    return "".join(
        "| " + " | ".join(_one_line(c).replace("|", "\\|") for c in line) + " |\n"
        for line in lines
    )


def comma_separated(groups: list[Group]) -> str:
    """Plain numbers in the units of `metrics.jsonl`: a mean and a std of each."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    chosen = columns(groups)
    names = [f"{c.key}_{what}" for c in chosen for what in ("mean", "std")]
    writer.writerow(["configuration", "runs", "seeds", "epochs", *names])
    for group in groups:
        found = [mean_and_deviation(c.values(group)) or (None, None) for c in chosen]
        numbers = ["" if v is None else repr(v) for pair in found for v in pair]
        head = [described(group), len(group.runs), seeds(group), epochs(group)]
        writer.writerow([*head, *numbers])
    return text.getvalue()


_LATEX = str.maketrans(
    {c: f"\\{c}" for c in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}"}
    | {"^": r"\textasciicircum{}", "±": r"$\pm$", "–": "--", "→": r"$\to$"}
)


def latex(groups: list[Group]) -> str:
    """A tabular with the rules of booktabs."""
    heads, cells = rows(groups)
    lines = [
        " & ".join(_one_line(cell).translate(_LATEX) for cell in line) + r" \\"
        for line in (heads, *cells)
    ]
    body = [r"\toprule", lines[0], r"\midrule", *lines[1:], r"\bottomrule"]
    begin = rf"\begin{{tabular}}{{{'l' * 3}{'r' * (len(heads) - 3)}}}"
    first = r"% needs \usepackage{booktabs}"
    return "\n".join([first, begin, *body, r"\end{tabular}"]) + "\n"


def _one_line(text: str) -> str:
    return " ".join(text.split())


TABLES: dict[str, Callable[[list[Group]], str]] = {
    "md": markdown,
    "csv": comma_separated,
    "latex": latex,
}
