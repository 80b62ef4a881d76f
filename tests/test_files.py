"""Text files are there whole: the old one or the new one."""

from pathlib import Path

import pytest

from eqprop._files import write_whole


def test_a_file_is_written_and_replaced(tmp_path):
    file = tmp_path / "record.json"
    for text in ("first: θ", "second"):
        assert write_whole(file, text) == file
        assert file.read_text(encoding="utf-8") == text
    assert list(tmp_path.iterdir()) == [file]


def test_a_failure_leaves_the_old_file_and_names_it(tmp_path, monkeypatch):
    file = tmp_path / "record.json"
    file.write_text("old")

    def full(part, text, encoding):
        part.write_bytes(text[:3].encode(encoding))
        raise OSError(28, "No space left on device", str(part))

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match=r"No space left .*cannot write .*record\.json'"):
        write_whole(file, "new text")
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"cannot write .*missing"):
        write_whole(tmp_path / "missing" / "record.json", "text")
