"""Data sets in memory: NumPy arrays, checked, split and ready for the training loop.

`load` reads a named data set or a user's `.npz`; `load_arrays` takes arrays in Python.
`digits` returns the bundled images; `find` returns the folder of a named data set. All
arrays pass the same checks, so that a data set is float32, finite and consistent.
`read_examples` reads new examples for a trained network, and `InputFormat` converts
them to the form and scale of the training. The package does not know JAX, systems or
training.

Flow, driven by `_sources`: `_download` (find files) -> `_readers` (files to arrays) ->
`_checks` (accept or refuse) -> `_splits` (train, validation, test) -> Dataset.
"""

from ._dataset import Dataset as Dataset
from ._dataset import Split as Split
from ._digits import digits as digits
from ._download import find as find
from ._download import PUBLISHED as PUBLISHED
from ._format import InputFormat as InputFormat
from ._sources import DATA_SETS as DATA_SETS
from ._sources import DataSet as DataSet
from ._sources import load as load
from ._sources import load_arrays as load_arrays
from ._sources import read_examples as read_examples
from ._sources import Raw as Raw
from ._sources import read_inputs as read_inputs
