"""`python -m eqprop.cli` is `eqprop`."""

import sys

from . import main

sys.exit(main())
