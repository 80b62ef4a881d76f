"""Data sets in memory: NumPy arrays, checked, split and ready for the training loop.

`load` reads a named data set or a user's `.npz`, `load_arrays` takes arrays given in
Python; `digits` are the bundled images, `find` says where the files of a named data set
lie. All pass the same checks, so what leaves this package is float32, finite and
consistent. `read_examples` reads what a trained network is given later, and
`InputFormat` brings it to the form and scale of the training. The package knows nothing
of JAX, systems or training.

Flow, driven by `_sources`: `_download` (where files lie) -> `_readers` (files to
arrays) -> `_checks` (what is accepted) -> `_splits` (who trains, who tests) -> Dataset.
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
