"""Text files that are there whole or not at all."""

import contextlib
import os
from pathlib import Path


def write_whole(file: Path, text: str) -> Path:
    """Write `text` as UTF-8; return the file.

    Who reads, or is interrupted here, finds the old file or the new one.

    **Raises:** `OSError` that names the file and not the temporary one beside it.
    """
    part = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(file)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        error.filename, error.filename2 = f"cannot write {file}", None
        raise
    return file
