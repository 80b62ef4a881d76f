"""The section on the gradient check: what `eqprop verify RUN` left in the run."""

from typing import Any

from ._html import Element, image, table, tag
from ._record import number, Record

ALTS = {
    "processes": "EP's process dashed over that of BPTT, for a few units and weights",
    "layers": "Distance of EP's process to that of BPTT, layer by layer",
    "beta": "Error of the gradient against the nudge β",
    "flow": "Free and nudged phase in continuous time",
}


def verification_section(records: list[Record]) -> list[Element]:
    """Verdict, numbers and figures, of each run that was verified."""
    content = []
    for record in records:
        if record.verification is None:
            continue
        if len(records) > 1:
            content.append(tag("h3", f"{record.path} (seed {record.seed})"))
        content += _one(record.verification)
        panels = [
            tag(
                "figure", image(data, ALTS.get(name, f"Figure {name} of eqprop verify"))
            )
            for name, data in record.figures.items()
        ]
        if panels:
            content.append(tag("div", *panels))
    return content


def _one(found: dict[str, Any]) -> list[Element]:
    content = []
    if isinstance(found.get("verdict"), str):
        content.append(tag("p", tag("strong", found["verdict"])))
    findings = _listed(found.get("findings"), str)
    if findings:
        content.append(tag("ul", *(tag("li", finding) for finding in findings)))
    rows = [_agreement(row) for row in _listed(found.get("rows"), dict)]
    heads = ["estimator", "parameter", "relative error", "angle", "equal signs"]
    whole = [row for row in rows if row[1] == "all"]
    if whole:
        content.append(table(heads, whole, label="Gradients against the exact one"))
    if len(rows) > len(whole):
        every = table(heads, rows, label="Gradients of each parameter")
        content.append(tag("details", tag("summary", "Each parameter"), every))
    checks: list[list[str | Element]] = [
        [
            str(check.get("name", "")),
            _number(check.get("measured")),
            str(check.get("promised", "")),
            str(check.get("outcome", "")),
        ]
        for check in _listed(found.get("checks"), dict)
    ]
    if checks:
        kept = sum(row[3] == "holds" for row in checks)
        failed = sum(row[3] == "fails" for row in checks)
        text = f"{len(checks)} checks: {kept} hold, {failed} fail"
        heads = ["check", "measured", "promised", "outcome"]
        every = table(heads, checks, label="Checks")
        content.append(tag("details", tag("summary", text), every))
    return content


def _agreement(row: dict[str, Any]) -> list["str | Element"]:
    values = row.get("agreement")
    values = values if isinstance(values, dict) else {}
    angle, signs = number(values.get("angle")), number(values.get("signs"))
    return [
        str(row.get("estimator", "")),
        str(row.get("parameter", "")),
        _number(values.get("error")),
        "–" if angle is None else f"{angle:.3g}°",
        "–" if signs is None else f"{100 * signs:.1f} %",
    ]


def _listed(value: Any, kind: type) -> list[Any]:
    items = value if isinstance(value, list) else []
    return [item for item in items if isinstance(item, kind)]


def _number(value: Any) -> str:
    found = number(value)
    return "–" if found is None else f"{found:.3g}"
