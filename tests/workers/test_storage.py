"""What is written is there whole or not at all, in folders and object stores, and a reader finds every wrong bit."""

import errno
import pickle
import socket
from datetime import UTC
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from tests.object_stores import SECRET, ObjectStore
from workers import faults
from workers.arrays import read_arrays, write_arrays
from workers.failures import FailureClass, classify
from workers.seals import Damaged, read_sealed, seal, unseal, write_sealed
from workers.storage import (
    Site,
    append,
    files_below,
    has_file,
    move,
    open_place,
    problem,
    read_range,
    remove_drafts,
    remove_tree,
    write,
    writing,
)

ARRAYS = {"gradients": np.arange(600, dtype=np.float32), "names": np.array(["a", "b"])}
ERRORS = {"full": errno.ENOSPC, "io": errno.EIO, "denied": errno.EACCES}


@pytest.fixture(autouse=True)
def disarmed():
    yield
    faults.arm("")


def flips(content: bytes) -> list[bytes]:
    """The content with one bit turned in every eighth of it, and cut short there."""
    places = [min(len(content) - 1, part * len(content) // 8) for part in range(9)]
    turned = [content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :] for at in places]
    return [*turned, *(content[:at] for at in places)]


def test_the_same_calls_hold_for_folders_and_object_stores(storage: Path):
    place = storage / "jobs" / "a" / "x.json"
    write(place, b"hello")
    assert read_range(place, 1, 3) == b"el" and place.read_bytes() == b"hello"
    assert [(found.path, found.size) for found in files_below(storage)] == [("jobs/a/x.json", 5)]
    assert all(found.modified_at.tzinfo is UTC for found in files_below(storage))
    assert [path.parent.name for path in storage.glob("jobs/*/x.json")] == ["a"]
    before = next(files_below(storage)).tag
    write(place, b"other")
    assert next(files_below(storage)).tag != before
    move(place, place.with_name("y"), "json")
    assert not place.exists() and place.with_name("y").read_bytes() == b"other"
    append(storage / "log", b"one\n")
    append(storage / "log", b"two\n")
    assert (storage / "log").read_text() == "one\ntwo\n"
    for _ in range(2):
        remove_tree(storage / "jobs")
    assert not (storage / "jobs").exists()


@pytest.mark.parametrize("site", get_args(Site))
@pytest.mark.parametrize("action", ERRORS)
def test_a_write_that_fails_says_what_to_do_and_leaves_what_was_there(storage: Path, site: Site, action: str):
    place = storage / "file"
    write(place, b"before", site)
    faults.arm(f"write.{site}:{action}")
    with pytest.raises(OSError, match=r"file could not be written: .* then retry the job") as failed:
        write(place, b"after", site)
    assert failed.value.errno == ERRORS[action] and classify(failed.value) is FailureClass.STORAGE
    assert [(found.path, found.size) for found in files_below(storage)] == [("file", 6)]
    assert place.read_bytes() == b"before"
    write(place, b"after", site)
    assert place.read_bytes() == b"after"


def test_what_a_killed_writer_left_is_no_file_and_is_swept(tmp_path: Path):
    faults.arm("write.json:crash")
    with pytest.raises(faults.Crash):
        write(tmp_path / "groups" / "file", b"half", "json")
    assert len(list((tmp_path / "groups").iterdir())) == 1 and list(files_below(tmp_path)) == []
    remove_drafts(tmp_path, older_than=60.0)
    assert len(list((tmp_path / "groups").iterdir())) == 1, "somebody may still be writing it"
    remove_drafts(tmp_path)
    assert list((tmp_path / "groups").iterdir()) == []


def test_every_wrong_bit_of_a_sealed_object_is_noticed(tmp_path: Path):
    place = tmp_path / "state.json"
    write_sealed(place, {"step": 12, "curves": [0.25, 1e-9], "name": "ü"}, "commit")
    assert read_sealed(place) == {"step": 12, "curves": [0.25, 1e-9], "name": "ü"}
    whole = place.read_bytes()
    for wrong in [*flips(whole), b"", whole + b" ", whole.replace(b"12", b"13")]:
        with pytest.raises(Damaged, match=r"state\.json is damaged"):
            unseal(wrong, name="state.json")


def test_a_seal_returns_the_text_to_the_byte():
    text = '{\n "a": 1,\n "b": [true, null]\n}'
    assert unseal(seal(text), name="it") == text


def test_every_wrong_bit_of_arrays_is_noticed(storage: Path):
    place = storage / "signatures.npz"
    write_arrays(place, ARRAYS, "signatures")
    assert {name: array.tolist() for name, array in read_arrays(place).items()} == {
        name: array.tolist() for name, array in ARRAYS.items()
    }
    whole = place.read_bytes()
    for wrong in flips(whole):
        write(place, wrong)
        with pytest.raises(Damaged, match="is damaged"):
            read_arrays(place)


def test_arrays_stay_an_ordinary_npz_and_those_without_a_seal_are_read(tmp_path: Path):
    write_arrays(tmp_path / "sealed.npz", ARRAYS, "signatures")
    with np.load(tmp_path / "sealed.npz", allow_pickle=False) as found:
        assert found["names"].tolist() == ["a", "b"]
    np.savez(tmp_path / "plain.npz", allow_pickle=False, **ARRAYS)
    assert read_arrays(tmp_path / "plain.npz")["names"].tolist() == ["a", "b"]


def test_arrays_with_pickles_in_them_are_not_read(tmp_path: Path):
    np.savez(tmp_path / "evil.npz", names=np.array([{"a": 1}], dtype=object))
    with pytest.raises(Damaged, match="allow_pickle"):
        read_arrays(tmp_path / "evil.npz")


@pytest.mark.parametrize("uri", ["http://h/x", "s3://", "s3:///", "simplecache::s3://b/x", "s3://b/../x", "memory://x"])
def test_storage_lies_where_it_may_or_is_refused_in_words(uri: str):
    with pytest.raises(ValueError, match="expected a folder, or one URI of a bucket"):
        open_place(uri)


def test_a_place_travels_with_its_credentials_and_never_shows_them(object_store: ObjectStore):
    place = object_store.place()
    write(place / "file", b"content")
    travelled = pickle.loads(pickle.dumps(place / "file"))
    assert travelled == place / "file" and travelled.read_bytes() == b"content"
    assert SECRET not in f"{place} {place!r} {[place]}"


def test_storage_that_cannot_be_written_is_told_before_any_job(tmp_path: Path, object_store: ObjectStore):
    assert problem(object_store.place()) is None
    gone = open_place("s3://no-such-bucket-here/cohort", object_store.options)
    assert "cannot be written" in (problem(gone) or "")
    (tmp_path / "there").mkdir()
    assert problem(tmp_path / "there") is None
    assert "is missing" in (problem(tmp_path / "gone") or "")
    faults.arm("write.probe:full")
    assert "No space left" in (problem(tmp_path / "there") or "")


@pytest.mark.parametrize("fault", ["503", "cut", "slow"])
def test_an_object_store_that_stumbles_is_asked_again(object_store: ObjectStore, fault: str):
    place = object_store.place() / "file"
    write(place, b"before")
    object_store.faults = {"PUT": [fault]}
    write(place, b"after")
    object_store.faults = {"GET": [fault]}
    assert place.read_bytes() == b"after"


def test_an_object_store_that_stays_away_is_a_failure_that_passes_and_nothing_half_is_there(object_store: ObjectStore):
    place = object_store.place() / "file"
    write(place, b"before")
    object_store.faults = {"PUT": ["503"] * 50}
    with pytest.raises(OSError) as failed:
        write(place, b"after")
    object_store.faults = {}
    assert classify(failed.value) is FailureClass.INFRASTRUCTURE
    assert place.read_bytes() == b"before"


def test_an_object_store_that_stays_away_does_not_say_that_a_file_is_missing(object_store: ObjectStore):
    place = object_store.place() / "file"
    assert not has_file(place)
    write(place, b"there")
    assert has_file(place) and not has_file(place.parent)
    object_store.faults = dict.fromkeys(("GET", "HEAD"), ["503"] * 50)
    with pytest.raises(OSError):
        has_file(place)
    object_store.faults = {}


def test_a_name_that_cannot_be_resolved_is_a_network_that_is_away(tmp_path: Path):
    with pytest.raises(OSError) as failed, writing(tmp_path):
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
    assert classify(failed.value) is FailureClass.INFRASTRUCTURE
