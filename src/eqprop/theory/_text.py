"""Numbers and tables as text, for verdicts, tables and figures."""

import math


def number(value: float | None) -> str:
    """Write three digits, or a dash for a number that was not measured."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    return f"{value:.3g}"


def aligned(lines: list[tuple[str, ...]]) -> str:
    """Write rows in columns, with a rule below the first row."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = [
        "  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]
    return "\n".join([text[0], "─" * max(map(len, text)), *text[1:]])
