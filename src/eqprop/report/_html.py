"""Elements of a page: every text and attribute is escaped where it is written out."""

import base64
import io
from typing import Any
from xml.etree import ElementTree

import numpy as np

Element = ElementTree.Element
_CONTROLS = {code: None for code in range(32) if chr(code) not in "\n\t"}


def tag(name: str, /, *content: "str | Element | None", **attributes: Any) -> Element:
    """An element; `class_` is its class, and other _ in attributes stand for -."""
    named = {
        key.rstrip("_").replace("_", "-"): _clean(str(value))
        for key, value in attributes.items()
        if value is not None
    }
    element = Element(name, named)
    for item in content:
        if isinstance(item, Element):
            element.append(item)
        elif item:
            _add_text(element, _clean(item))
    return element


def table(
    heads: list[str],
    rows: list[list["str | Element"]],
    *,
    label: str,
    row_heads: bool = True,
) -> Element:
    """A table that scrolls by itself where the screen is narrower than it."""

    def cell(content: "str | Element", first: bool) -> Element:
        if first and row_heads:
            return tag("th", content, scope="row")
        numeric = isinstance(content, str) and content[:1] in "0123456789–-("
        return tag("td", content, class_="number" if numeric else None)

    body = [tag("tr", *(cell(c, not k) for k, c in enumerate(row))) for row in rows]
    head = [tag("tr", *(tag("th", text, scope="col") for text in heads))]
    whole = tag("table", tag("thead", *head) if any(heads) else None)
    whole.append(tag("tbody", *body))
    return scrolling(whole, label)


def scrolling(content: Element, label: str) -> Element:
    """A region that scrolls sideways, with the keyboard too."""
    return tag(
        "div", content, class_="wide", role="region", aria_label=label, tabindex="0"
    )


def image(data: bytes, alt: str, **attributes: Any) -> Element:
    """A picture that is part of the page."""
    kind = "png" if data.startswith(b"\x89PNG") else "svg+xml"
    source = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    return tag("img", src=source, alt=alt, **attributes)


def pixels(array: np.ndarray) -> bytes:
    """A PNG of an image `[height, width]` (or `[…, 3]`); its range becomes 0 to 1."""
    from matplotlib.image import imsave

    array = np.asarray(array, float)
    if array.ndim == 3 and array.shape[-1] not in (3, 4):
        array = array.mean(-1)
    low, high = min(array.min(), 0.0), max(array.max(), 1.0)
    file = io.BytesIO()
    scaled = (array - low) / (high - low)
    imsave(file, scaled, cmap="gray", vmin=0, vmax=1, format="png")
    return file.getvalue()


def page(title: str, style: str, body: list[Element]) -> str:
    """A whole document, which no browser lets load anything."""
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", title),
        tag("style", style),
    )
    document = tag("html", head, tag("body", tag("main", *body)), lang="en")
    text = ElementTree.tostring(document, encoding="unicode", method="html")
    return f"<!DOCTYPE html>\n{text}\n"


def _add_text(element: Element, text: str) -> None:
    if len(element):
        element[-1].tail = (element[-1].tail or "") + text
    else:
        element.text = (element.text or "") + text


def _clean(text: str) -> str:
    """Without control characters, and with nothing that UTF-8 cannot hold."""
    text = text.translate(_CONTROLS)
    return text.encode("utf-8", "replace").decode("utf-8")
