"""A checkpoint that is there is whole; a damaged one gives way to the one before it, in folders and object stores."""

import math
from pathlib import Path

import pytest
import torch

from tests.object_stores import ObjectStore
from workers import faults
from workers.seals import Damaged
from workers.storage import files_below, write
from workers.training.checkpoint import load_checkpoint, remove_checkpoints, save_checkpoint
from workers.training.results import LEARNED, RESULT, GroupResult, read_trained

TENSORS = {"learned/a": torch.arange(64.0), "optimizer/0/momentum_buffer": torch.ones(3)}


@pytest.fixture(autouse=True)
def disarmed():
    yield
    faults.arm("")


def save(directory: Path, *steps: int) -> None:
    for step in steps:
        save_checkpoint(directory, {name: tensor + step for name, tensor in TENSORS.items()}, {"step": step, "lr": 0.1})


def step_of(directory: Path) -> int | None:
    found = load_checkpoint(directory).checkpoint
    if found is None:
        return None
    assert torch.equal(found.tensors["learned/a"], TENSORS["learned/a"] + found.state["step"])
    return found.state["step"]


def test_the_newest_two_are_kept(storage: Path):
    save(storage, 2, 4, 10)
    assert step_of(storage) == 10
    assert sorted(path.name for path in storage.glob("step-*.json")) == ["step-00000004.json", "step-00000010.json"]
    remove_checkpoints(storage)
    assert step_of(storage) is None and list(files_below(storage)) == []


def test_a_loss_that_is_no_number_is_kept(tmp_path: Path):
    save_checkpoint(tmp_path, TENSORS, {"step": 2, "val_losses": {"a": math.inf, "b": math.nan}})
    found = load_checkpoint(tmp_path).checkpoint
    assert (
        found is not None and found.state["val_losses"]["a"] == math.inf and math.isnan(found.state["val_losses"]["b"])
    )


@pytest.mark.parametrize("name", ["step-00000004.safetensors", "step-00000004.json"])
@pytest.mark.parametrize("part", range(9))
@pytest.mark.parametrize("wrong", ["bit", "cut"])
def test_a_checkpoint_with_a_wrong_bit_anywhere_gives_way_to_the_one_before_it(
    tmp_path: Path, name: str, part: int, wrong: str
):
    save(tmp_path, 2, 4)
    content = (tmp_path / name).read_bytes()
    at = min(len(content) - 1, part * len(content) // 8)
    rest = b"" if wrong == "cut" else bytes([content[at] ^ 1]) + content[at + 1 :]
    (tmp_path / name).write_bytes(content[:at] + rest)
    found = load_checkpoint(tmp_path)
    assert found.checkpoint is not None and found.checkpoint.state["step"] == 2
    (told,) = found.damaged
    assert "is damaged" in told and "step-00000004" in told
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000002.json", "step-00000002.safetensors"]


def test_without_its_tensors_a_checkpoint_is_damaged_and_without_any_there_is_none(storage: Path):
    save(storage, 2, 4)
    (storage / "step-00000004.safetensors").unlink()
    assert "is gone" in load_checkpoint(storage).damaged[0]
    assert step_of(storage) == 2
    (storage / "step-00000002.json").unlink()
    assert step_of(storage) is None


@pytest.mark.parametrize("site", ["checkpoint", "commit"])
@pytest.mark.parametrize("action", ["full", "io", "denied", "crash"])
def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before_it(storage: Path, site: str, action: str):
    save(storage, 2)
    faults.arm(f"write.{site}:{action}")
    with pytest.raises(faults.Crash if action == "crash" else OSError):
        save(storage, 4)
    assert step_of(storage) == 2
    save(storage, 4)
    assert step_of(storage) == 4


def test_storage_that_cannot_be_read_is_no_damage(object_store: ObjectStore):
    place = object_store.place()
    save(place, 2, 4)
    object_store.faults = {"GET": ["503"] * 50}
    with pytest.raises(OSError):
        load_checkpoint(place)
    object_store.faults = {}
    assert step_of(place) == 4


def test_a_result_vouches_for_its_files_and_for_itself(storage: Path):
    result = GroupResult("g1", ("a",), {}, [], {"total": 1}, 0.5, 3, 12)
    assert GroupResult.read(storage) is None
    result.write(storage, b"learned", b"texts")
    assert GroupResult.read(storage) == result and read_trained(storage)[LEARNED] == b"learned"
    sealed = (storage / RESULT).read_bytes()
    for name, content in ((LEARNED, b"learnet"), (RESULT, sealed.replace(b"0.5", b"0.6"))):
        before = (storage / name).read_bytes()
        write(storage / name, content)
        with pytest.raises(Damaged, match=name):
            GroupResult.read(storage)
        write(storage / name, before)
    (storage / LEARNED).unlink()
    with pytest.raises(Damaged, match="vouches for it"):
        GroupResult.read(storage)
