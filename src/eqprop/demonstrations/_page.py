"""The page of all claims that were measured into a folder."""

import json
from pathlib import Path


def write_page(folder: Path) -> Path:
    """`README.md`: verdict, claim, words and figure of every record in the folder."""
    records = {
        file.stem: json.loads(file.read_text(encoding="utf-8"))
        for file in sorted(folder.glob("*.json"))
    }
    names = " ".join(records)
    lines = [
        "# The learning rules' claims, measured",
        "",
        f"Made by `eqprop reproduce {names} --out {folder.as_posix()}`.",
        "",
        "| item | source | found |",
        "|---|---|---|",
    ]
    for name, record in records.items():
        verdict = "holds" if record["holds"] else "**does not hold**"
        link = f"[{name}](#{name.lower().replace('.', '')})"
        lines.append(f"| {link} | {record['source']} | {verdict} |")
    for name, record in records.items():
        lines += ["", f"## {name}", "", f"{_sentence(record['claim'])}", ""]
        lines += [f"**Found:** {record['words']}", "", f"![{name}]({name}.png)"]
    page = folder / "README.md"
    page.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return page


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}".rstrip(".") + "."
