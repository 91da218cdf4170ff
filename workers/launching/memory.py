"""The memory of a process that computes: of its accelerator or, where it has none, of the process itself.  In bytes."""

import resource
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

_SELF = Path("/proc/self")


@dataclass(frozen=True)
class MemoryUse:
    """What was held at most since `forget_peak`, and what there was."""

    of: Literal["process", "device"]
    """`process`: its resident memory; `device`: memory of the accelerator."""
    peak: int
    available: int
    """For this process: what was free, and what it held itself."""
    total: int
    """Of the accelerator or, without one, of the machine or the container."""


def forget_peak(device: torch.device) -> None:
    """Lets the peak begin anew."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with suppress(OSError):  # a sandbox that refuses it: the peak is that of the process's whole life
        (_SELF / "clear_refs").write_text("5")


def memory_use(device: torch.device) -> MemoryUse:
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        peak = torch.cuda.max_memory_reserved(device)
        return MemoryUse("device", peak, free + torch.cuda.memory_reserved(device), total)
    own, machine = _lines(_SELF / "status"), _lines(Path("/proc/meminfo"))
    peak = own.get("VmHWM", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)  # sandboxes do not tell it
    total = min([machine["MemTotal"], *_limits()])
    return MemoryUse("process", peak, min(machine["MemAvailable"] + own["VmRSS"], total), total)


def _lines(path: Path) -> dict[str, int]:
    """What a file of /proc says in kB, in bytes."""
    lines = (line.split() for line in path.read_text().splitlines())
    return {words[0].rstrip(":"): int(words[1]) * 1024 for words in lines if words[-1] == "kB"}


def _limits() -> list[int]:
    """The limit of this process's container, if it has one (control groups, version 2)."""
    path = Path("/sys/fs/cgroup/memory.max")
    text = path.read_text().strip() if path.is_file() else "max"
    return [] if text == "max" else [int(text)]
