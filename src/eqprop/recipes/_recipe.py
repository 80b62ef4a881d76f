"""What a recipe is, and the table of all of them."""

import dataclasses
import difflib

from ..training import Config
from . import _best, _digits, _follow_ups, _paper_a, _paper_c, _paper_d, _practice

_FILES = (_practice, _best, _digits, _paper_a, _paper_c, _paper_d, _follow_ups)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A configuration, where it comes from and what to expect of it."""

    name: str
    config: Config
    summary: str
    paper: str
    expected: str


RECIPES: dict[str, Recipe] = {
    name: Recipe(name, *row) for file in _FILES for name, row in file.RECIPES.items()
}


def recipe(name: str) -> Recipe:
    """The recipe of that name; a `ValueError` with the nearest one where none is."""
    if name in RECIPES:
        return RECIPES[name]
    near = difflib.get_close_matches(name, RECIPES, 1)
    hint = f"did you mean {near[0]}?" if near else "see eqprop recipes"
    raise ValueError(f"there is no recipe {name!r}; {hint} ({', '.join(RECIPES)})")
