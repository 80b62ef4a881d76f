"""The README's code, the wheel outside the tree, and the shape of the project."""

import ast
import functools

import os
import re
import runpy
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import eqprop as ep

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("number", range(len(blocks("python"))))
def test_readme_python(number, tmp_path, monkeypatch):
    """What the README shows runs as it stands."""
    monkeypatch.chdir(tmp_path)
    exec(compile(blocks("python")[number], f"README block {number}", "exec"), {})


@pytest.mark.parametrize("page", ["own.md"])
def test_pages_of_code_run(page, tmp_path, monkeypatch):
    """A page's Python blocks are one program, and it runs."""
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    program = "\n".join(re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.M))
    exec(compile(program, page, "exec"), {})


def test_readme_is_short_and_shows_both_commands():
    """At most 120 lines; .ci/run finds the test command it runs."""
    assert len(README.splitlines()) <= 120
    assert "eqprop train" in blocks("bash")[0]
    assert re.search(r"<!-- tests -->\n```bash\n[^`]*pytest\n```\n", README)


def test_readme_results_are_those_kept():
    """Every row of the README's table was made by the program."""
    kept = (ROOT / "results" / "README.md").read_text(encoding="utf-8")
    rows = re.search(r"<!-- results -->\n(.*?)\n\n", README, re.DOTALL)
    assert rows is not None
    lines = rows.group(1).splitlines()
    assert len(lines) > 3
    for line in lines:
        assert line in kept.splitlines()


EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_examples_are_short_and_run(example, monkeypatch, capsys):
    """Under 80 lines; here for an epoch, and whole in the slow test below."""
    assert len(example.read_text(encoding="utf-8").splitlines()) < 80
    for name in ("train", "fit"):
        shortened = functools.partial(_with_one_epoch, getattr(ep, name))
        monkeypatch.setattr(ep, name, shortened)
    runpy.run_path(str(example), run_name="__main__")
    assert re.search(r"test error ([\d.]+) %", capsys.readouterr().out)


def _with_one_epoch(function, *arguments, **options):
    return function(*arguments, **options | {"epochs": 1})


@pytest.mark.slow
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_examples_do_what_they_say(example, tmp_path):
    """They train to less than 5 % test error."""
    done = subprocess.run(
        [sys.executable, str(example)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    error = re.search(r"test error ([\d.]+) %", done.stdout)
    assert error is not None, done.stdout
    assert float(error.group(1)) < 5


def test_wheel_works_outside_the_tree(tmp_path):
    """The wheel holds everything: typed marker, data readers, command line."""
    subprocess.run(
        [
            *(sys.executable, "-m", "build", "--wheel", "--no-isolation"),
            *("--outdir", str(tmp_path), str(ROOT)),
        ],
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "--no-deps", "--quiet"),
            *("--target", str(site), str(wheel)),
        ],
        check=True,
        capture_output=True,
    )
    assert (site / "eqprop" / "py.typed").exists()
    program = (
        "import eqprop, pathlib, sys\n"
        f"assert pathlib.Path(eqprop.__file__).is_relative_to({str(site)!r})\n"
        "from eqprop.cli import main\n"
        "sys.exit(main(['train', '--epochs', '1', '--model.hidden', '8', '--json']))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert '"epoch": 1' in done.stdout


def test_layers_of_imports():
    """Imports go one way: a package never imports one that comes after it."""
    order = [
        *("systems", "costs", "relaxations", "estimators", "data", "theory"),
        *("training", "recipes", "bench", "report", "runs", "papers", "cli"),
    ]
    for file in (ROOT / "src" / "eqprop").rglob("*.py"):
        parts = file.relative_to(ROOT / "src" / "eqprop").with_suffix("").parts
        if parts[0] not in order:
            continue
        for line in file.read_text(encoding="utf-8").splitlines():
            found = re.match(r"\s*from \.\.(\w+)", line)
            names = [found.group(1)] if found else []
            if found := re.match(r"\s*from \.\. import (.*)", line):
                names = re.findall(r"\w+", re.sub(r" as \w+", "", found.group(1)))
            for name in names:
                if name in order:
                    assert order.index(name) < order.index(parts[0]), (file, line)


@pytest.mark.parametrize("package", ["bench", "cli", "data", "papers", "runs"])
def test_no_circle_of_imports(package):
    """Files of a package can be read one after the other; late imports count too."""
    folder = ROOT / "src" / "eqprop" / package
    imports = {}
    for file in folder.glob("*.py"):
        nodes = ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        near = [n for n in nodes if isinstance(n, ast.ImportFrom) and n.level == 1]
        named = [[n.module] if n.module else [a.name for a in n.names] for n in near]
        imports[file.stem] = {name for names in named for name in names}
    while free := {f for f, names in imports.items() if not names & imports.keys()}:
        imports = {f: names for f, names in imports.items() if f not in free}
    assert not imports


def test_files_and_functions_stay_small():
    """Under 500 lines a file: larger is two things. A paper may take 800 in one."""
    for file in (ROOT / "src").rglob("*.py"):
        most = 800 if "papers" in file.parts else 500
        assert len(file.read_text(encoding="utf-8").splitlines()) < most, file


def test_floors_not_ceilings():
    """Dependencies state the oldest version that works, never a newest."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    for dependency in project["project"]["dependencies"]:
        assert ">=" in dependency, dependency
        assert "<" not in dependency, dependency
