"""Every tolerance of the tests, in one place."""

IDENTITY = 1e-10
"""float64 identities that hold exactly."""
FIXED_POINT = 1e-9
"""float64 states that settled to a residual of 1e-12."""
FINITE_DIFFERENCE = 1e-6
"""float64 central differences of a settled cost, relative."""
SLOPE = 0.05
"""How far a measured order in β may be from 1 or 2."""
FLOAT32 = 1e-4
"""float32 results of the same computation done in another order."""
