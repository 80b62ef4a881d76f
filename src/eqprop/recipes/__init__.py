"""Recipes: named configurations, one file a paper."""

from ._recipe import Recipe as Recipe, recipe as recipe, RECIPES as RECIPES
