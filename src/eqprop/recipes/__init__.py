"""Recipes: named configurations, one file a paper."""

from ._recipe import (
    GROUPS as GROUPS,
    Recipe as Recipe,
    recipe as recipe,
    RECIPES as RECIPES,
)
