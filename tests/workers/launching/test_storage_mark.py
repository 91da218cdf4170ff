"""A machine that does not see the storage says so before anything is written there."""

import shutil
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from tests.object_stores import ObjectStore
from workers.failures import FailureClass
from workers.launching.inline import InlineLauncher
from workers.storage_mark import MARK, StorageMissing, mark_storage, read_mark, require_mark


def test_a_storage_keeps_its_mark(tmp_path: Path) -> None:
    mark = mark_storage(tmp_path)
    assert mark is not None and mark == mark_storage(tmp_path) == require_mark(tmp_path)
    mark.check()


def test_another_folder_of_the_same_name_is_another_storage(tmp_path: Path) -> None:
    place = tmp_path / "storage"
    place.mkdir()
    mark = mark_storage(place)
    assert mark is not None
    shutil.rmtree(place)
    for said, make in (("is missing", lambda: None), ("is missing", place.mkdir), ("is another one", lambda: None)):
        make()
        with pytest.raises(StorageMissing, match=f"{place} {said} on the machine {socket.gethostname()}. Mount it"):
            mark.check()
        if place.exists():
            mark_storage(place)


def test_an_object_store_bears_no_mark(object_store: ObjectStore) -> None:
    place = object_store.place()
    assert mark_storage(place) is None and require_mark(place) is None
    assert not (place / MARK).exists()


def test_a_work_where_the_storage_is_missing_fails_for_its_machine_and_writes_nothing(
    make_pass, tmp_path: Path
) -> None:
    place = tmp_path / "storage"
    place.mkdir()
    mark = mark_storage(place)
    shutil.rmtree(place)
    work = replace(make_pass({"g1": ("art", "photo")}, into="storage/groups"), mark=mark)
    launcher = InlineLauncher()
    running = launcher.start(work)
    launcher.wait([running], 60.0)
    outcome = running.poll().outcome
    launcher.close()
    assert outcome is not None and outcome.kind == "failed"
    assert outcome.fault is FailureClass.INFRASTRUCTURE, "another machine may see it"
    assert f"The storage {place} is missing on the machine" in outcome.error
    assert not place.exists() and read_mark(place) is None
