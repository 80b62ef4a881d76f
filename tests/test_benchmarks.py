"""The scripts of benchmarks/: they run, and what they compute is what they say."""

import math
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

import eqprop as ep
from eqprop.bench import _timing

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"
sys.path.insert(0, str(FOLDER))

import convolutions  # noqa: E402
import growth  # noqa: E402
import limit  # noqa: E402


def rows(page):
    """The cells of a page's tables, line by line."""
    lines = [line for line in page.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


@pytest.mark.slow
def test_limit_runs(capsys, monkeypatch):
    """A row for each net and relaxation, one for each link above the input's."""
    monkeypatch.setattr(_timing, "ON_PROCESSOR", (64,))
    monkeypatch.setattr(_timing, "DIFFERENCE", 1e-4)
    limit.main(["--quick"])
    page = capsys.readouterr().out
    assert page.startswith("# The limit")
    found = rows(page)
    assert [row[2] for row in found[1:3]] == ["Euler", "Sweep"]
    assert [row[1] for row in found[4:]] == ["2", "3"]


@pytest.mark.parametrize(
    "link",
    [ep.Convolution(3, 3, padding=1), ep.Convolution(2, 4, stride=2, padding=2)],
    ids=["odd", "strided"],
)
def test_products_of_a_link(link):
    """Ones convolved with ones count the products made, none with the padding."""
    sizes = ((9, 7, 2), link, 5)
    net = ep.HopfieldEnergy(sizes, key=jax.random.key(0), activation=ep.tanh)
    ones = jax.tree.map(jnp.ones_like, net)
    products = jnp.sum(net.links[0].forward(ones.weights[0], jnp.ones((9, 7, 2))))
    assert limit.link_flops(net, 0, batch=3) == 3 * 4 * float(products)
    dense = math.prod(net.shapes[1]) * 5
    assert limit.link_flops(net, 1, batch=3) == 3 * 4 * dense


@pytest.mark.slow
def test_growth_runs(capsys, tmp_path):
    """Every axis and relaxation has its row, and the figure is drawn."""
    growth.main(["--quick", "--figure", str(tmp_path / "growth.png")])
    page = capsys.readouterr().out
    found = rows(page)
    assert [row[0] for row in found[1:13]] == ["T"] * 4 + [
        name for name in list(growth.AXES.values())[1:] for _ in growth.RULES
    ]
    assert "test error" in page
    assert (tmp_path / "growth.png").stat().st_size > 10_000


def test_exponents_of_known_laws():
    """y = 3 x² has exponent 2 between all sizes; y = 5 · 1.7^x the factor 1.7."""
    x = [1.0, 2.0, 5.0, 9.0]
    assert growth.exponent(x, [3 * v**2 for v in x]) == pytest.approx((2, 2, 2))
    assert growth.factor(x, [5 * 1.7**v for v in x]) == pytest.approx((1.7,) * 3)
    middle, least, most = growth.exponent(x, [1, 2, 20, 30])
    assert least < middle < most


def test_memory_of_bptt_grows_with_the_steps_and_eps_does_not():
    """A state more for each step, against nothing."""

    def used(rule, steps):
        size = growth.Size(steps, depth=1, width=20, batch=5)
        return growth.temporaries(growth.RULES[rule](steps), size)

    state = 5 * (20 + 10) * 4
    assert used("EP", 100) == used("EP", 50)
    assert used("BPTT", 100) - used("BPTT", 50) >= 49 * state  # but for alignment


@pytest.mark.slow
def test_convolutions_run(capsys):
    """Every form has its time and an error of float32's size."""
    convolutions.main(["--quick"])
    (row,) = rows(capsys.readouterr().out)[1:]
    errors = [float(row[k]) for k in (3, 5, 7)]
    assert all(0 < error < 1e-5 for error in errors)
