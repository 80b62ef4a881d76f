"""The papers' figures and tables, each an item that one command measures again.

Above runs and reports: an item is a claim that is demonstrated or a recipe that is
trained, and either way leaves a record, a figure and a mark.
"""

from ._item import Context as Context, Item as Item
from ._items import ITEMS as ITEMS, PAPERS as PAPERS
from ._page import (
    check_page as check_page,
    duration as duration,
    quantity as quantity,
    seconds as seconds,
    unknown as unknown,
    write_page as write_page,
)
from ._records import (
    KEPT as KEPT,
    place as place,
    read_records as read_records,
    Version as Version,
    versions as versions,
    write_record as write_record,
)
from ._trained import Trained as Trained
from ._verdict import Published as Published, verdict as verdict
