"""Items that are claims: a function measures each."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

from ..demonstrations import Demonstration
from ..runs import environment
from ._item import Context, Item, machine


@dataclasses.dataclass(frozen=True, kw_only=True)
class Demonstrated(Item):
    """A claim that holds or does not hold."""

    function: Callable[..., Demonstration]

    def measure(self, context: Context) -> dict[str, Any]:
        began = time.perf_counter()
        found = self.function(quick=context.version.quick)
        found.plot(context.figure)
        return {
            **found.record(),
            "quick": context.version.quick,
            "seconds": round(time.perf_counter() - began, 1),
            "environment": machine(environment()),
        }

    def verdict(self, record: dict[str, Any]) -> str:
        return "holds" if record["holds"] else "does not hold"

    def result(self, record: dict[str, Any]) -> str:
        return record["words"]
