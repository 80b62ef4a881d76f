"""The papers' figures, tables and claims: items that one command measures again.

One module a paper. An item is a claim, which a function measures, or a training, which
a recipe defines; each gives a record, a figure and a verdict. This package stands above
runs and reports and uses the library through its public names.
"""

from ._claim import Claim as Claim, claim as claim, Findings as Findings
from ._item import Context as Context, Item as Item
from ._items import ITEMS as ITEMS, PAPERS as PAPERS
from ._page import (
    check_page as check_page,
    duration as duration,
    unknown as unknown,
    write_page as write_page,
)
from ._record import (
    ClaimRecord as ClaimRecord,
    Finding as Finding,
    KEPT as KEPT,
    place as place,
    read_records as read_records,
    Record as Record,
    SeedRecord as SeedRecord,
    to_json as to_json,
    TrainingRecord as TrainingRecord,
    Version as Version,
    versions as versions,
    write_record as write_record,
)
from ._train import Training as Training
from ._verdict import Published as Published, verdict as verdict
