"""Report: figures, tables and pages made from the records of runs."""

from ._comparison import draw_comparison as draw_comparison
from ._page import write_page as write_page
from ._plots import draw as draw, first_weights as first_weights
from ._record import (
    count as count,
    grouped as grouped,
    mean_and_deviation as mean_and_deviation,
    number as number,
    Outcome as Outcome,
    Record as Record,
    spread as spread,
)
from ._results import keep as keep, write_table as write_table
from ._search import draw_search as draw_search
from ._table import TABLES as TABLES
