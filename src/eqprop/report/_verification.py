"""The section on the gradient check: what `eqprop verify RUN` left in the run."""

from typing import Any

from ._record import count, number, Record

ALTS = {
    "processes": "EP's process dashed over that of BPTT, for a few units and weights",
    "layers": "Distance of EP's process to that of BPTT, layer by layer",
    "beta": "Error of the gradient against the nudge β",
    "flow": "Free and nudged phase in continuous time",
}


def verification_section(records: list[Record]) -> list[dict[str, Any]]:
    """Verdict, numbers and figures, of each run that was verified."""
    found = []
    for record in records:
        if record.verification is None:
            continue
        one = _one(record.verification)
        if len(records) > 1:
            one["title"] = f"{record.path} (seed {record.seed})"
        one["panels"] = [
            (ALTS.get(name, f"Figure {name} of eqprop verify"), data)
            for name, data in record.figures.items()
        ]
        found.append(one)
    return found


def _one(found: dict[str, Any]) -> dict[str, Any]:
    verdict = found.get("verdict")
    rows = [_agreement(row) for row in _listed(found.get("rows"), dict)]
    checks = [
        [
            str(check.get("name", "")),
            _number(check.get("measured")),
            str(check.get("promised", "")),
            str(check.get("outcome", "")),
        ]
        for check in _listed(found.get("checks"), dict)
    ]
    kept = sum(row[3] == "holds" for row in checks)
    failed = sum(row[3] == "fails" for row in checks)
    return {
        "title": None,
        "verdict": verdict if isinstance(verdict, str) else None,
        "findings": _listed(found.get("findings"), str),
        "rows": rows,
        "whole": [row for row in rows if row[1] == "all"],
        "checks": checks,
        "counts": f"{count(len(checks), 'check')}: {kept} passed, {failed} failed",
    }


def _agreement(row: dict[str, Any]) -> list[str]:
    values = row.get("agreement")
    values = values if isinstance(values, dict) else {}
    angle, signs = number(values.get("angle")), number(values.get("signs"))
    ratio = number(values.get("ratio"))
    return [
        str(row.get("estimator", "")),
        str(row.get("parameter", "")),
        _number(values.get("error")),
        "–" if angle is None else f"{angle:.3g}°",
        "–" if ratio is None else f"× {ratio:.3g}",
        "–" if signs is None else f"{100 * signs:.1f} %",
    ]


def _listed(value: Any, kind: type) -> list[Any]:
    items = value if isinstance(value, list) else []
    return [item for item in items if isinstance(item, kind)]


def _number(value: Any) -> str:
    found = number(value)
    return "–" if found is None else f"{found:.3g}"
