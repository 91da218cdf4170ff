"""The jobs that are harmed: small, of several groups, and the same to the last bit however often they are interrupted.

Each group has a pass of its own, so that trying one again changes nothing in what another computes.
"""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from service.client import Cohort

STEPS = 160
PAIR, SINGLE = ("digits-ink", "digits-inverted"), ("shapes-filled",)


def two_groups(name: str = "two-groups", **training: Any) -> dict[str, Any]:
    """A shared prompt, signatures, a plan, and two groups that train side by side on two device workers."""
    return {
        "name": name,
        "backbone": {"model": "demo"},
        "tasks": [_task(task) for task in (*PAIR, *SINGLE)],
        "method": {"kind": "mmap", "num_tokens": 2, "source_shape": [2, 2]},
        "profile": {"max_steps": 8, "snapshots": 2, "microbatches": 2, "microbatch_size": 4, "max_microbatches": 0},
        "grouping": {"pinned": [PAIR, SINGLE]},
        "training": _training(**training),
        "baselines": [],
    }


def two_ranks(name: str = "two-ranks", **training: Any) -> dict[str, Any]:
    """One group that trains over two devices, with Ray Train."""
    return {
        "name": name,
        "backbone": {"model": "demo"},
        "tasks": [_task(task) for task in PAIR],
        "method": {"kind": "mmap", "num_tokens": 2, "source_shape": [2, 2], "sharing": "all"},
        "training": _training(**training),
        "baselines": [],
        "resources": {"devices_per_group": 2},
    }


def tiny(name: str, **training: Any) -> dict[str, Any]:
    """As little as a job can be: one group, a few steps."""
    return {
        "name": name,
        "backbone": {"model": "demo"},
        "tasks": [_task(task) for task in SINGLE],
        "method": {"kind": "mmap", "num_tokens": 2, "source_shape": [2, 2], "sharing": "all"},
        "training": _training(**({"max_steps": 3} | training)),
        "baselines": [],
    }


@dataclass(frozen=True)
class Outcome:
    """What a finished job found, as far as it must not depend on its fate."""

    weights: dict[str, str]
    """File of the bundle -> sha256: learned tensors and text features of every group."""
    signatures: str
    """How the tasks agree, to the last digit."""
    scores: dict[str, float | None]
    """Task -> test score."""

    @classmethod
    def of(cls, client: Cohort, job_id: str) -> "Outcome":
        """Every file that the manifest names is fetched, and must be what the manifest says."""
        files = json.loads(client.artifact(job_id, "bundle/manifest.json"))["files"]
        weights = {name: said["sha256"] for name, said in files.items() if name.endswith(".safetensors")}
        for name, said in weights.items():
            found = hashlib.sha256(client.artifact(job_id, f"bundle/{name}")).hexdigest()
            if found != said:
                raise ValueError(f"bundle/{name} has sha256 {found}; its manifest says {said}.")
        similarity = client.similarity(job_id).similarity
        scores = {row.task: row.score for row in client.results(job_id).results if row.baseline is None}
        return cls(weights, json.dumps(similarity), scores)

    def differences(self, other: "Outcome") -> list[str]:
        """In what the other one differs, in words; empty where it does not."""
        told = []
        if self.weights != other.weights:
            names = sorted(self.weights.keys() | other.weights.keys())
            told.append(f"weights differ: {[n for n in names if self.weights.get(n) != other.weights.get(n)]}")
        if self.signatures != other.signatures:
            told.append("similarities differ")
        if self.scores != other.scores:
            told.append(f"scores differ: {self.scores} and {other.scores}")
        return told


def _task(name: str) -> dict[str, Any]:
    split = {"shots": 4, "val_shots": 2, "seed": 1}
    return {"name": name, "source": {"kind": "demo", "task": name}, "split": split, "template": "a {}."}


def _training(**given: Any) -> dict[str, Any]:
    usual = {"max_steps": STEPS, "batch_size": 4, "augment": None, "checkpoint_every": 10, "validations": 1, "seed": 1}
    return usual | given
