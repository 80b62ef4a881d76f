"""The report's section on provenance: commands, versions, machine and data of runs."""

import shlex
from typing import Any

from ._record import Record


def provenance_section(records: list[Record]) -> dict[str, Any]:
    """The exact commands, then what they ran with, once for runs that agree."""
    facts = [_facts(record) for record in records]
    names = dict.fromkeys(name for one in facts for name in one)
    values = {name: dict.fromkeys(f.get(name, "–") for f in facts) for name in names}
    return {
        "one": len(records) == 1,
        "commands": list(dict.fromkeys(map(_command, records))),
        "facts": [(name, "; ".join(found)) for name, found in values.items()],
    }


def _command(record: Record) -> str:
    words = record.environment.get("command")
    if not isinstance(words, list) or not words:
        return f"# {record.path}: the command was not recorded; see its config.json"
    text = shlex.join(map(str, words))
    if str(words[0]) != "eqprop":
        seed = "" if record.seed is None else f", seed {record.seed}"
        return f"{text}  # a program of its own{seed}"
    return text


def _facts(record: Record) -> dict[str, str]:
    found = record.environment
    facts = {"seed": str(record.seed)}
    packages = found.get("packages")
    if isinstance(packages, dict):
        held = [f"{name} {v}" for name, v in packages.items() if v is not None]
        facts["versions"] = ", ".join(held)
    if found.get("python"):
        facts["Python"] = str(found["python"])
    facts["machine"] = _machine(found)
    facts["git commit"] = _commit(found.get("git"))
    facts["eqprop's commit"] = _commit(found.get("source"))
    facts["data"] = _data(found.get("data"))
    facts["started"] = _time(found.get("time"))
    facts["ended"] = _ended(found)
    return {name: text for name, text in facts.items() if text}


def _machine(found: dict[str, Any]) -> str:
    parts = [found.get("processor"), found.get("system")]
    if found.get("cores"):
        parts.append(f"{found['cores']} cores")
    devices = found.get("devices")
    if isinstance(devices, list):
        names = dict.fromkeys(map(str, devices))
        counted = [f"{devices.count(name)} × {name}" for name in names]
        parts.append(f"devices {', '.join(counted)}")
    if found.get("x64") is not None:
        parts.append("float64" if found["x64"] else "float32")
    return ", ".join(str(part) for part in parts if part)


def _commit(git: Any) -> str:
    if not isinstance(git, dict) or not git.get("commit"):
        return ""
    changed = " with uncommitted changes" if git.get("dirty") else ""
    return f"{git['commit']}{changed}"


def _data(found: Any) -> str:
    if not isinstance(found, dict):
        return ""
    sizes = found.get("examples")
    text = str(found.get("name") or "from the model's file")
    if isinstance(sizes, dict):
        counts = [f"{count} {split}" for split, count in sizes.items() if count]
        text += f": {', '.join(counts)}"
    if found.get("sha256"):
        text += f"; sha256 {found['sha256']}"
    return text


def _time(value: Any) -> str:
    return str(value).replace("T", " ").replace("+00:00", " UTC") if value else ""


def _ended(found: dict[str, Any]) -> str:
    """When the last session ended, and after how many resumptions."""
    again = found.get("resumed")
    again = again if isinstance(again, list) else []
    sessions = [found, *(s for s in again if isinstance(s, dict))]
    last = sessions[-1]
    if "outcome" not in last:
        return ""
    text = f"{_time(last.get('ended'))} ({last['outcome']})"
    if last["outcome"] is None:
        text = "not recorded: it was killed, or is still running"
    if len(sessions) > 1:
        text += f", after {len(sessions) - 1} resumptions"
    return text
