"""All papers and all items, in the order of the list."""

from . import a, b, beyond, c, continual, d, laborieux, scellier
from ._item import Item

PAPERS = [
    paper
    for module in (a, b, c, d, continual, laborieux, scellier, beyond)
    for paper in module.PAPERS
]
ITEMS: dict[str, Item] = {
    item.name: item
    for paper in PAPERS
    for item in sorted(paper.items, key=lambda item: item.name)
}
