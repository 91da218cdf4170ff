"""Checkpoints of one group: learned tensors, optimiser and position, written so that a kill at any moment loses
nothing.

A checkpoint is a safetensors file and a sealed JSON file that names its sha256.  The JSON is written last and is the
commit.
Data order, augmentation and initialisation are functions of seed, task and step (see batches.py), so the step is the
whole position and no generator state exists to be saved.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import torch
from safetensors.torch import load, save

from workers.seals import Damaged, read_sealed, seal
from workers.storage import write

KEPT = 2


@dataclass(frozen=True)
class Checkpoint:
    """A point to go on from."""

    tensors: dict[str, torch.Tensor]
    """Learned tensors (`learned/NAME`) and optimiser tensors (`optimizer/INDEX/KEY`)."""
    state: dict
    """JSON: step, curves, seconds, settings fingerprint, scaler."""


@dataclass(frozen=True)
class Found:
    """What a directory holds to go on from."""

    checkpoint: Checkpoint | None
    """The newest whole one."""
    damaged: tuple[str, ...]
    """One sentence for each that was newer and could not be used."""


def save_checkpoint(directory: Path, tensors: Mapping[str, torch.Tensor], state: dict) -> None:
    """Commits a checkpoint of step `state["step"]` and removes all but the newest two."""
    name = f"step-{state['step']:08d}"
    content = pack_tensors(tensors)
    write(directory / f"{name}.safetensors", content, "checkpoint")
    commit = state | {"tensors": sha256(content).hexdigest()}  # a validation's loss in it may be no number
    write(directory / f"{name}.json", seal(json.dumps(commit)), "commit")
    for path in _commits(directory)[:-KEPT]:
        _remove(path)


def pack_tensors(tensors: Mapping[str, torch.Tensor]) -> bytes:
    """A safetensors file of copies: safetensors refuses tensors that share memory."""
    return save({key: value.detach().cpu().clone() for key, value in tensors.items()})


def load_checkpoint(directory: Path) -> Found:
    """The newest checkpoint whose files are whole; damaged ones before it are removed.

    OSError where the storage cannot be read: that is no damage, and to begin anew would lose what is there.
    """
    damaged = []
    for path in reversed(_commits(directory)):
        try:
            return Found(_read(path), tuple(damaged))
        except Damaged as error:
            damaged.append(str(error))
            _remove(path)
        except FileNotFoundError:  # removed by another rank, which found it damaged as well
            continue
    return Found(None, tuple(damaged))


def remove_checkpoints(directory: Path) -> None:
    """Clears the checkpoints of a finished group."""
    for path in sorted(directory.glob("step-*")):
        path.unlink(missing_ok=True)


def _read(path: Path) -> Checkpoint:
    state = read_sealed(path)
    tensors = path.with_suffix(".safetensors")
    try:
        content = tensors.read_bytes()
    except FileNotFoundError as error:
        raise Damaged(f"{tensors} is gone.") from error
    if state.pop("tensors") != sha256(content).hexdigest():
        raise Damaged(f"{tensors} is damaged: its sha256 is not the one that {path.name} names.")
    return Checkpoint(tensors=load(content), state=state)


def _commits(directory: Path) -> list[Path]:
    """Oldest first."""
    return sorted(directory.glob("step-*.json"), key=lambda path: path.name)


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.with_suffix(".safetensors").unlink(missing_ok=True)
