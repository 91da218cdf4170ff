"""The bundle that a finished job leaves: a folder, and its manifest written last, so its presence means complete.

manifest.json names backbone, tasks, groups, versions and the sha256 of every file; beside it lie the learned tensors
and text features of every group, and the documents that the job adds (spec, plan, similarity, metrics, report).
Torch-free, so that a driver starts at once; bundle.py opens a bundle and predicts with it.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from workers.clip.config import BackboneConfig
from workers.data.config import TaskKind
from workers.methods.config import MethodConfig
from workers.storage import Site, write
from workers.training.results import read_trained

MANIFEST = "manifest.json"
FORMAT = 1


@dataclass(frozen=True)
class BundleTask:
    """A task of the bundle."""

    name: str
    class_names: tuple[str, ...]
    template: str
    group: str
    """The group whose tensors serve it."""
    fingerprint: str
    """Of its dataset."""
    kind: TaskKind = "classification"
    num_train: int = 0
    """Training images."""


@dataclass(frozen=True)
class BundleGroup:
    """A trained group of the bundle."""

    id: str
    tasks: tuple[str, ...]
    method: MethodConfig
    directory: Path
    """Where training left the group's learned tensors and text features."""


def write_bundle(
    folder: Path,
    *,
    job: str,
    backbone: BackboneConfig,
    tasks: Sequence[BundleTask],
    groups: Sequence[BundleGroup],
    documents: Mapping[str, str],
    versions: Mapping[str, str],
) -> None:
    """Writes a bundle; the manifest last.  Written again over a half-written one, it is the same bundle.

    `documents` are text files by name (`spec.json`, `plan.json`, `report.html`, ...).
    """
    files: dict[str, dict[str, Any]] = {}

    def add(name: str, content: bytes, site: Site) -> None:
        write(folder / name, content, site)
        files[name] = {"sha256": sha256(content).hexdigest(), "bytes": len(content)}

    for name, text in documents.items():
        add(name, text.encode(), "report" if name.endswith(".html") else "bundle")
    for group in groups:
        for name, content in read_trained(group.directory).items():
            add(f"groups/{group.id}/{name}", content, "bundle")
    manifest = {
        "format": FORMAT,
        "job": job,
        "backbone": backbone.model_dump(),
        "tasks": [
            {"name": task.name, "class_names": task.class_names, "template": task.template, "group": task.group}
            | {"fingerprint": task.fingerprint, "kind": task.kind, "num_train": task.num_train}
            for task in tasks
        ],
        "groups": [
            {"id": group.id, "tasks": group.tasks, "method": group.method.model_dump(mode="json")} for group in groups
        ],
        "versions": dict(versions),
        "files": dict(sorted(files.items())),
    }
    write(folder / MANIFEST, (json.dumps(manifest, indent=2) + "\n").encode(), "manifest")
