"""Pages from the templates of this package: all text is escaped, nothing is loaded."""

import base64
import io
from typing import Any

import numpy as np

_CONTROLS = {code: None for code in range(32) if chr(code) not in "\n\t"}


def render(template: str, **data: Any) -> str:
    """A template filled in with data, which is escaped."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("eqprop.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        finalize=lambda value: _clean(value) if type(value) is str else value,
    )
    environment.filters |= {"uri": _uri, "anchor": anchor}
    environment.tests["number_like"] = lambda text: text[:1] in set("0123456789–-(")
    return environment.get_template(template).render(data).lstrip() + "\n"


def anchor(title: str) -> str:
    """The id of the section with this title."""
    return "-".join(title.lower().split())


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


def _uri(data: bytes) -> str:
    """A picture as a part of the page."""
    kind = "png" if data.startswith(b"\x89PNG") else "svg+xml"
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _clean(text: str) -> str:
    """Without control characters, and with nothing that UTF-8 cannot hold."""
    text = text.translate(_CONTROLS)
    return text.encode("utf-8", "replace").decode("utf-8")
