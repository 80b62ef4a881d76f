"""What a recipe is, and the table of all of them."""

import dataclasses
import difflib

from ..training import Config
from . import _best, _digits, _follow_ups, _paper_a, _paper_c, _paper_d, _practice

GROUPS = {
    "start here": (_practice,),
    "papers": (_paper_a, _paper_c, _paper_d, _follow_ups),
    "digits, one for each learning rule": (_digits,),
    "best results": (_best,),
}


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A configuration, where it comes from and what to expect of it."""

    name: str
    config: Config
    summary: str
    paper: str
    expected: str
    group: str


RECIPES: dict[str, Recipe] = {
    name: Recipe(name, *row, group=group)
    for group, files in GROUPS.items()
    for file in files
    for name, row in file.RECIPES.items()
}


def recipe(name: str) -> Recipe:
    """The recipe of that name.

    **Raises:** `ValueError` with the nearest name.
    """
    if name in RECIPES:
        return RECIPES[name]
    near = difflib.get_close_matches(name, RECIPES, 1)
    hint = f"did you mean {near[0]}? To" if near else "to"
    raise ValueError(f"there is no recipe {name!r}; {hint} list them: eqprop recipes")
