"""Array kernels below the systems: convolution as fast correlation.

A kernel knows arrays only: no states, no parameters, no learning.
"""

from ._correlation import (
    correlate as correlate,
    Image as Image,
    Kernel as Kernel,
    prepare as prepare,
    Prepared as Prepared,
    windows as windows,
)
