"""Paper D: EP's updates are BPTT's gradients (Ernoult et al. 2019)."""

from typing import Any

from .._item import Paper
from .._train import Training
from .._verdict import Published
from ._convolution import convolution as small_convolution
from ._figures import bars, convolution, toy
from ._interleaved import interleaved

TABLE_1 = "Table 1: test (train) error of EP beside BPTT."
README = "T, K, β, rates and epochs are those of the commands in the code's README"
ENERGY = (
    f"{README}. Unlike that code, we have ρ′ at the output and x, not ρ(x), as input."
)
STEPPED = f"{README}. dt = 1 as in the paper; the released code has 0.2."
LATER = (
    "T, K, β, rates, epochs and dt = 1 are those of the same group's later code of "
    "continual EP. Paper D's own command has T = 40 and K = 15 (P-1h-K15)."
)
OSCILLATES = (
    "With synchronous steps (dt = 1) the network decouples into two networks (item "
    "D.interleaved). An example that has several fixed points may settle at two of "
    "them, and then oscillates between them forever."
)


def table_1(
    name: str, shows: str, minutes: float, settings: str, **options: Any
) -> Training:
    """A training of table 1."""
    return Training(
        f"D.table1.{name}",
        recipe=name.lower(),
        shows=shows,
        minutes=minutes,
        settings=settings,
        **{"in_paper": TABLE_1, **options},
    )


def errors(test: float, spread: float, train: float) -> tuple[Published, ...]:
    """Test and train error as table 1 prints them."""
    return (
        Published("test_error", test, spread, "S", 0.005),
        Published("train_error", train, None, "S", 0.005),
    )


PAPERS = (
    Paper(
        "D",
        "Ernoult et al. 2019, EP's updates are BPTT's gradients (arXiv 1905.13633)",
        (
            toy,
            bars,
            convolution,
            small_convolution,
            interleaved,
            table_1("EB-1h", "energy-based, 784-512-10, by EP", 15, ENERGY),
            table_1("EB-1h-BPTT", "energy-based, 784-512-10, by BPTT", 15, ENERGY),
            table_1(
                "EB-2h",
                "energy-based, 784-512-512-10, by EP",
                210,
                ENERGY,
                reason="In the last epoch 2 % of the examples have not settled after T "
                "steps, and their remaining motion is part of the contrast. With free "
                "phases that end once settled, the train error falls to 0.2 %. We "
                "tried nothing else.",
            ),
            table_1("EB-2h-BPTT", "energy-based, 784-512-512-10, by BPTT", 210, ENERGY),
            table_1(
                "P-1h",
                "prototypical, 784-512-10, by EP",
                10,
                LATER,
                published=(Published("test_error", 2.0, None, "F", 0.2, "about 2.0"),),
                in_paper="We do not know table 1's errors of this network. About 2.0 % "
                "is read off figure 5a of the same group's later paper on continual EP "
                "(arXiv 2005.04168).",
            ),
            table_1("P-1h-BPTT", "prototypical, 784-512-10, by BPTT", 10, LATER),
            table_1(
                "P-1h-K15",
                "P-1h with T = 40 and K = 15",
                10,
                STEPPED,
                reason=f"{OSCILLATES} With an odd K its contrast is that of two fixed "
                "points. In the last epoch 1.5 to 1.7 % of the examples have not "
                "settled. Free phases by sweeps (settled) fix it.",
            ),
            table_1(
                "P-2h",
                "prototypical, 784-512-512-10, by EP",
                60,
                STEPPED,
                published=errors(1.95, 0.10, 0.14),
                took="1 h 56 min [S]",
                reason=f"{OSCILLATES} The more such examples there are, the more the "
                "contrast is that of mixed states. In the last epoch 1.3 % of the "
                "examples have not settled. We do not know why this does not hurt the "
                "paper's own training.",
            ),
            table_1("P-2h-BPTT", "prototypical, 784-512-512-10, by BPTT", 60, STEPPED),
            table_1(
                "P-3h",
                "prototypical, 784-512-512-512-10, by EP",
                800,
                STEPPED,
                published=errors(2.01, 0.18, 0.10),
                took="8 h 27 min [S]",
            ),
            table_1(
                "P-3h-BPTT", "prototypical, 784-512-512-512-10, by BPTT", 800, STEPPED
            ),
            table_1(
                "P-conv",
                "prototypical, convolutions of 32 and 64 channels, by EP",
                1500,
                f"{README}.",
                published=errors(1.02, 0.04, 0.54),
                took="8 h 58 min [S]",
                in_paper=f"{TABLE_1} The abstract says about 1 % [P].",
            ),
            table_1(
                "P-conv-BPTT",
                "prototypical, convolutions of 32 and 64 channels, by BPTT",
                1500,
                f"{README}.",
            ),
        ),
    ),
)
