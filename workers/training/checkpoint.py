"""Checkpoints of one group: learned tensors, optimiser and position, written so that a kill at any moment loses
nothing.

A checkpoint is a safetensors file and a JSON file that names its sha256.  The JSON is written last and is the commit.
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

from workers.training.results import write_atomically

KEPT = 2


@dataclass(frozen=True)
class Checkpoint:
    """A point to go on from."""

    tensors: dict[str, torch.Tensor]
    """Learned tensors (`learned/NAME`) and optimiser tensors (`optimizer/INDEX/KEY`)."""
    state: dict
    """JSON: step, curves, seconds, settings fingerprint, scaler."""


def save_checkpoint(directory: Path, tensors: Mapping[str, torch.Tensor], state: dict) -> None:
    """Commits a checkpoint of step `state["step"]` and removes all but the newest two."""
    name = f"step-{state['step']:08d}"
    content = pack_tensors(tensors)
    write_atomically(directory / f"{name}.safetensors", content)
    commit = json.dumps(state | {"sha256": sha256(content).hexdigest()}).encode()
    write_atomically(directory / f"{name}.json", commit)
    for path in sorted(directory.glob("step-*.json"))[:-KEPT]:
        path.unlink()
        path.with_suffix(".safetensors").unlink(missing_ok=True)


def pack_tensors(tensors: Mapping[str, torch.Tensor]) -> bytes:
    """A safetensors file of copies: safetensors refuses tensors that share memory."""
    return save({key: value.detach().cpu().clone() for key, value in tensors.items()})


def load_checkpoint(directory: Path) -> Checkpoint | None:
    """The newest checkpoint whose files are whole, or None.  A damaged one is passed over for the one before it."""
    for path in sorted(directory.glob("step-*.json"), reverse=True):
        tensors = path.with_suffix(".safetensors")
        try:
            state = json.loads(path.read_text())
            content = tensors.read_bytes()
        except (OSError, ValueError):
            continue
        if isinstance(state, dict) and state.pop("sha256", None) == sha256(content).hexdigest():
            return Checkpoint(tensors=load(content), state=state)
    return None


def remove_checkpoints(directory: Path) -> None:
    """Clears the checkpoints of a finished group."""
    for path in directory.glob("step-*"):
        path.unlink()
