"""Files that training leaves are written whole, and others may read them as far as the umask says."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from workers.storage import write


@pytest.fixture(params=[0o022, 0o027, 0o077], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_a_written_file_has_the_mode_of_any_new_file(tmp_path: Path, umask: int):
    (tmp_path / "plain").write_bytes(b"")
    written = tmp_path / "folder" / "written"
    for content in (b"first", b"second"):
        write(written, content)
        assert (
            stat.S_IMODE(written.stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode) == 0o666 & ~umask
        )
        assert written.read_bytes() == content


def test_a_write_that_fails_leaves_the_file_as_it_was_and_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / "file"
    write(path, b"before")

    def full(_: int) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="full"):
        write(path, b"after")
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]
