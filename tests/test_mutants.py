"""The defects of `mutants.py` are of the sources as they stand."""

import pytest
from mutants import MUTANTS, ROOT


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant[0])
def test_the_line_to_break_is_there(mutant):
    """Else the script stops, and nobody knows what the tests would let pass."""
    _, file, old, new, tests = mutant
    assert old in (ROOT / "src" / "eqprop" / file).read_text(encoding="utf-8")
    assert new != old
    assert (ROOT / tests).exists()
