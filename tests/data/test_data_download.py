"""MNIST and Fashion-MNIST: where they are looked for, and how they get there.

The files are tiny ones under the real names, served by a local server where a test
needs a mirror; the real files are read once where EQPROP_DATA names them.
"""

# pyright: reportOptionalMemberAccess=false

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from eqprop import data
from eqprop.data import _download

LOGIN_PAGE = b"<html>log in first</html>"
NAMES = list(_download.PUBLISHED["mnist"].md5)


@pytest.fixture
def mirrors(tiny, monkeypatch):
    """A server with one folder a kind of mirror; call it with the kinds to try in turn.

    forbidden: 403; wrong: another file; short: fewer bytes than announced; good; and
    labels-forbidden, which has the images only. `asked` lists the paths asked for.
    """
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            _, kind, file_name = self.path.split("/")
            if kind == "forbidden" or (
                kind.startswith("labels") and "labels" in file_name
            ):
                self.send_error(403)
                return
            body = tiny.gz[file_name.removesuffix(".gz")]
            body = LOGIN_PAGE if kind == "wrong" else body
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[:20] if kind == "short" else body)

        def log_message(self, format, *args):
            del format, args

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()

    def use(*kinds):
        urls = tuple(f"http://127.0.0.1:{server.server_port}/{k}/" for k in kinds)
        published = _download.Published(urls, _download.PUBLISHED["mnist"].md5)
        monkeypatch.setitem(_download.PUBLISHED, "mnist", published)
        return asked

    yield use
    server.shutdown()
    thread.join()
    server.server_close()


def files_in(folder):
    return sorted(p.name for p in Path(folder).rglob("*") if p.is_file())


ALL = sorted(f"{name}.gz" for name in NAMES)


# --- what is loaded


@pytest.mark.parametrize("gz", [True, False])
def test_published_arrays(tiny, put, tmp_path, monkeypatch, gz):
    """Fails if images and labels are mixed up, scaled wrongly or reordered."""
    put(tmp_path / "mnist", gz)
    monkeypatch.setenv("EQPROP_DATA", str(tmp_path))
    loaded = data.load("mnist", validation=10, flatten=False)
    assert (loaded.name, loaded.classes, loaded.image_shape) == ("mnist", 10, (4, 3))
    expected = tiny.x.astype(np.float64) / 255
    np.testing.assert_allclose(loaded.train.x, expected[:20], rtol=1e-6)
    np.testing.assert_allclose(loaded.validation.x, expected[20:], rtol=1e-6)
    np.testing.assert_allclose(loaded.test.x, tiny.x_test / 255.0, rtol=1e-6)
    np.testing.assert_array_equal(loaded.train.y, tiny.y[:20])
    np.testing.assert_array_equal(loaded.validation.y, tiny.y[20:])
    np.testing.assert_array_equal(loaded.test.y, tiny.y_test)
    assert loaded.train.x.dtype == np.float32
    assert loaded.train.x[0, 0, :2].tolist() == [0.0, 1.0]


def test_published_order_has_no_seed(put, tmp_path, monkeypatch):
    """Fails if the publisher's order, which papers count on, depends on a seed."""
    put(tmp_path / "mnist")
    monkeypatch.setenv("EQPROP_DATA", str(tmp_path))
    one, two = (data.load("mnist", split_seed=s, validation=0.5) for s in (0, 1))
    np.testing.assert_array_equal(one.train.x, two.train.x)
    assert one.input_shape == (12,)
    assert len(one.validation.y) == 15


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_real_files(given_folder, monkeypatch, name):
    """Fails if a checksum in the table is wrong, or the real files are misread."""
    if not given_folder or not (Path(given_folder) / name).is_dir():
        pytest.skip(f"EQPROP_DATA holds no {name}")
    monkeypatch.setenv("EQPROP_DATA", given_folder)
    assert data.find(name) == Path(given_folder) / name
    loaded = data.load(name, validation=10_000)
    sizes = [len(s.y) for s in (loaded.train, loaded.validation, loaded.test)]
    assert sizes == [50_000, 10_000, 10_000]
    assert (loaded.classes, loaded.image_shape) == (10, (28, 28))
    assert (loaded.train.x.min(), loaded.train.x.max()) == (0, 1)
    first = {"mnist": [5, 0, 4, 1, 9], "fashion-mnist": [9, 0, 0, 3, 0]}
    assert loaded.train.y[:5].tolist() == first[name]
    assert set(np.bincount(loaded.test.y)) == (
        {1000}
        if name == "fashion-mnist"
        else {980, 1135, 1032, 1010, 982, 892} | {958, 1028, 974, 1009}
    )


# --- where files are looked for


def test_environment_comes_before_the_cache(put, cache, tmp_path, monkeypatch):
    """Fails if a folder the user names is passed over for an old download."""
    put(cache / "mnist")
    assert data.find("mnist") == cache / "mnist"
    put(tmp_path / "mine" / "mnist", gz=False)
    monkeypatch.setenv("EQPROP_DATA", str(tmp_path / "mine"))
    assert data.find("mnist") == tmp_path / "mine" / "mnist"


def test_incomplete_folder_falls_back_on_the_cache(put, cache, tmp_path, monkeypatch):
    """Fails if a folder with some of the files hides a complete cache."""
    put(tmp_path / "mine" / "mnist", only=NAMES[:3])
    put(cache / "mnist")
    monkeypatch.setenv("EQPROP_DATA", str(tmp_path / "mine"))
    assert data.find("mnist") == cache / "mnist"
    assert len(data.load("mnist").train) == 30


def test_find_never_downloads(mirrors, cache):
    """Fails if asking where files lie starts a download or makes folders."""
    asked = mirrors("good")
    assert data.find("mnist") is None
    assert asked == []
    assert not cache.exists()


def test_find_knows_its_names():
    """Fails if a name without files is answered with None: not found yet."""
    with pytest.raises(ValueError, match=r"'digits'.*mnist and fashion-mnist"):
        data.find("digits")


@pytest.mark.parametrize("call", [data.find, data.load])
def test_environment_names_no_folder(call, tmp_path, monkeypatch):
    """Fails if a mistyped EQPROP_DATA silently starts a download."""
    monkeypatch.setenv("EQPROP_DATA", str(tmp_path / "typo"))
    with pytest.raises(ValueError, match=r"EQPROP_DATA = .*typo.*no such folder"):
        call("mnist")


def test_empty_environment_is_none(put, cache, tmp_path, monkeypatch):
    """Fails if EQPROP_DATA= (empty) is taken for the current folder."""
    put(cache / "mnist")
    put(tmp_path / "mnist")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EQPROP_DATA", "")
    assert data.find("mnist") == cache / "mnist"


@pytest.mark.parametrize("gz", [True, False])
def test_every_file_is_checked(tiny, put, tmp_path, monkeypatch, gz):
    """Fails if one of the eight kinds of file is loaded without its checksum."""
    monkeypatch.setenv("EQPROP_DATA", str(tmp_path))
    for name in NAMES:
        put(tmp_path / "mnist", gz)
        path = tmp_path / "mnist" / (f"{name}.gz" if gz else name)
        path.write_bytes(path.read_bytes()[:-1] + b"\x01\x02")
        with pytest.raises(ValueError, match="wrong checksum") as error:
            data.load("mnist")
        assert str(path) in str(error.value)
        assert _download.PUBLISHED["mnist"].md5[name][not gz] in str(error.value)


# --- downloads


def test_second_mirror(tiny, mirrors, cache):
    """Fails if a mirror that answers 403 ends the search, or files land elsewhere."""
    asked = mirrors("forbidden", "good")
    loaded = data.load("mnist")
    np.testing.assert_array_equal(loaded.train.y, tiny.y)
    assert files_in(cache) == ALL
    assert asked == [f"/{m}/{n}.gz" for n in NAMES for m in ("forbidden", "good")]
    data.load("mnist")
    assert len(asked) == 8, "a second load must not download again"


@pytest.mark.parametrize("kind", ["wrong", "short"])
def test_bad_content_goes_on_to_the_next_mirror(tiny, mirrors, cache, kind):
    """Fails if a log-in page or a torn connection is stored as a data set."""
    mirrors(kind, "good")
    assert len(data.load("mnist").train) == 30
    assert files_in(cache) == ALL


@pytest.mark.parametrize(
    ("kind", "reason"),
    [("forbidden", "HTTP 403"), ("wrong", "wrong checksum: md5 found"), ("short", "")],
)
def test_no_mirror_has_it(mirrors, cache, kind, reason):
    """Fails if a failed download leaves files behind or the message does not help."""
    mirrors(kind, "forbidden")
    with pytest.raises(ConnectionError) as error:
        data.load("mnist")
    assert files_in(cache) == []
    message = str(error.value)
    lines = [line for line in message.splitlines() if "http://" in line]
    assert len(lines) == 2, "one line a mirror"
    assert f"/{kind}/{NAMES[0]}.gz: {reason}" in lines[0]
    assert f"/forbidden/{NAMES[0]}.gz: HTTP 403 Forbidden" in lines[1]
    for part in (*ALL, str(cache / "mnist"), "EQPROP_DATA", "by hand"):
        assert part in message
    assert "is set" not in message


def test_wrong_checksum_is_told_in_full(tiny, mirrors):
    """Fails if the message names not both sums: is the table or the mirror wrong?"""
    mirrors("wrong")
    with pytest.raises(ConnectionError) as error:
        data.load("mnist")
    found = hashlib.md5(LOGIN_PAGE).hexdigest()
    expected = _download.PUBLISHED["mnist"].md5[NAMES[0]][0]
    assert f"md5 found {found}, expected {expected}" in str(error.value)


def test_unreachable_network(tiny, cache):
    """Fails if being offline shows connection pools and object addresses."""
    with pytest.raises(ConnectionError) as error:
        data.load("mnist")
    (line,) = [text for text in str(error.value).splitlines() if "http://" in text]
    assert "refused" in line
    assert "HTTPConnection" not in line
    assert "0x" not in line
    assert files_in(cache) == []


def test_incomplete_environment_is_mentioned(tiny, put, tmp_path, monkeypatch):
    """Fails if a user who set EQPROP_DATA is not told which file it lacks."""
    put(tmp_path / "mnist", only=NAMES[:3])
    monkeypatch.setenv("EQPROP_DATA", str(tmp_path))
    with pytest.raises(ConnectionError, match="is set, but") as error:
        data.load("mnist")
    last = str(error.value).splitlines()[-1]
    assert f"{NAMES[3]}.gz" in last
    assert NAMES[0] not in last
    assert str(tmp_path / "mnist") in last


def test_download_goes_on_where_it_stopped(mirrors, cache):
    """Fails if finished files are fetched again after an interruption."""
    mirrors("labels-forbidden")
    with pytest.raises(ConnectionError, match="train-labels"):
        data.load("mnist")
    assert files_in(cache) == ["train-images-idx3-ubyte.gz"]
    asked = mirrors("good")
    del asked[:]
    assert len(data.load("mnist").train) == 30
    assert asked == [f"/good/{n}.gz" for n in NAMES[1:]]


def test_files_put_by_hand_are_used(put, mirrors, cache):
    """Fails if what the message advises does not work, gunzipped or not."""
    asked = mirrors("good")
    put(cache / "mnist", only=NAMES[:2])
    put(cache / "mnist", gz=False, only=NAMES[2:])
    assert len(data.load("mnist").train) == 30
    assert asked == []


def test_cache_that_cannot_be_written(tiny, mirrors, cache):
    """Fails if a full or read-only disk is reported as a network problem."""
    mirrors("good")
    cache.parent.mkdir(parents=True)
    cache.write_text("a file where the folder should be")
    with pytest.raises(OSError, match="cannot write into") as error:
        data.load("mnist")
    assert not isinstance(error.value, ConnectionError)
    assert str(cache / "mnist") in str(error.value)


def test_mirror_table():
    """Fails if an address could not be joined with a file name, or a sum is no md5."""
    for published in _download.PUBLISHED.values():
        assert len(published.mirrors) > 1
        assert all(url.endswith("/") for url in published.mirrors)
        assert sorted(f"{name}.gz" for name in published.md5) == ALL
        sums = [s for pair in published.md5.values() for s in pair]
        assert len(set(sums)) == 8
        assert all(len(s) == 32 and int(s, 16) for s in sums)
