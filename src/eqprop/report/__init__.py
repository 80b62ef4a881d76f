"""Report: figures drawn from a run's records."""

from ._plots import draw as draw
