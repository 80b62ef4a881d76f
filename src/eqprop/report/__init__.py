"""Report: figures and tables made from the records of runs."""

from ._comparison import draw_comparison as draw_comparison
from ._plots import draw as draw
from ._results import keep as keep, write_table as write_table
from ._search import draw_search as draw_search
