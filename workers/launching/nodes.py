"""Looks at every machine of a Ray cluster: what it offers, what is installed there, and whether it sees the files.

The question travels by value, and asks with nothing but the standard library until it knows what is there: a machine
without Cohort is to say so, not to fail over the question.
"""

import importlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import ray
from ray import cloudpickle
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from workers.launching.ray_group import NAMESPACE

_GPU_SECONDS = 60.0
_GPUS = """
import json, torch
found = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
print(json.dumps([[each.name, each.total_memory] for each in found]))
"""


@dataclass(frozen=True)
class Question:
    """What a machine is asked."""

    distributions: tuple[str, ...]
    """Names of packages."""
    storage: Any
    """Where results go: the path of a folder, or the place in an object store."""
    mark: tuple[str, str] | None
    """Name and content of the file that the folder must hold."""
    cache: str
    """A folder of the machine's own, which is made where it is not there."""
    paths: tuple[str, ...] = ()
    """Folders and files that jobs read."""


@dataclass(frozen=True)
class NodeReport:
    """What a machine is and has."""

    id: str
    """Ray's."""
    name: str
    """Its host name."""
    ip: str
    starts_drivers: bool
    """Whether the driver that looked runs there."""
    resources: dict[str, float]
    """What it offers, as Ray counts it."""
    error: str = ""
    """Why it did not answer; what follows is unknown then."""
    python: str = ""
    """Its version and where it is."""
    versions: dict[str, str | None] = field(default_factory=dict)
    """Package -> version; None: it is missing."""
    storage: str = ""
    """What is wrong with the storage as seen from there; empty: nothing."""
    cache: str = ""
    """What is wrong with the cache folder; empty: nothing."""
    missing: tuple[str, ...] = ()
    """Paths that are not there."""
    free_bytes: int = 0
    """Of the disk that the cache is on."""
    gpus: tuple[tuple[str, int], ...] = ()
    """Name and bytes of every GPU that PyTorch sees."""
    gpu_error: str = ""
    """Why PyTorch could not be asked for them."""

    @property
    def computes(self) -> bool:
        """Whether it offers a device."""
        return any(self.resources.get(kind, 0) > 0 for kind in ("CPU", "GPU"))

    @property
    def label(self) -> str:
        """How it is called: as the dashboard tells it apart from the others."""
        return f"{self.name} ({self.ip}, {self.id[:6]})"


def look_at_nodes(question: Question, *, seconds: float, address: str = "auto") -> list[NodeReport]:
    """What every machine that is alive answers within that time; this process is or becomes a driver.

    A machine takes nothing to answer, so one whose devices are all taken answers, too.
    """
    if not ray.is_initialized():
        ray.init(address=address, namespace=NAMESPACE, log_to_driver=False)
    own = ray.get_runtime_context().get_node_id()
    nodes = [node for node in ray.nodes() if node["Alive"]]
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    asked = [_ask(question, node) for node in nodes]
    answered, _ = ray.wait(asked, num_returns=len(asked), timeout=seconds)
    reports = []
    for node, ref in zip(nodes, asked, strict=True):
        known: dict[str, Any] = {
            "id": node["NodeID"],
            "name": node["NodeManagerHostname"],
            "ip": node["NodeManagerAddress"],
            "starts_drivers": node["NodeID"] == own,
            "resources": node["Resources"],
        }
        try:
            told: dict[str, Any] = ray.get(ref) if ref in answered else {"error": f"no answer within {seconds:g} s"}
        except (RayError, ImportError) as error:  # it went away, or cannot even read the question
            lines = str(error).strip().splitlines() or [type(error).__name__]
            told = {"error": lines[-1]}
        reports.append(NodeReport(**known, **told))
    return reports


def _ask(question: Question, node: dict[str, Any]) -> Any:
    there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
    once: Any = ray.remote(num_cpus=0, max_retries=0, max_calls=1)(answer)  # its process ends with what it loaded
    return once.options(scheduling_strategy=there).remote(question, node["Resources"].get("GPU", 0) > 0)


def answer(question: Question, has_gpus: bool) -> dict[str, Any]:
    """What this machine answers, as fields of `NodeReport`."""
    versions = {name: _version(name) for name in question.distributions}
    cache = _existing(Path(question.cache))
    found = {
        "python": f"{sys.version.split()[0]} at {sys.executable}",
        "versions": versions,
        "storage": _storage_problem(question),
        "cache": "" if os.access(cache, os.W_OK | os.X_OK) else f"{cache} cannot be written",
        "missing": tuple(path for path in question.paths if not os.path.exists(path)),
        "free_bytes": shutil.disk_usage(cache).free,
    }
    return found | (_gpus() if has_gpus else {})


def _version(name: str) -> str | None:
    with suppress(PackageNotFoundError):
        return version(name)
    return None


def _existing(folder: Path) -> Path:
    return next(place for place in (folder, *folder.parents) if place.exists())


def _storage_problem(question: Question) -> str:
    if question.mark is None:
        if importlib.util.find_spec("workers") is None:
            return "not looked at: Cohort is missing there"
        return importlib.import_module("workers.storage").problem(question.storage) or ""
    name, number = question.mark
    try:
        found = Path(question.storage, name).read_text()
    except OSError as error:
        return f"{question.storage} is not mounted there ({error.strerror}: {name})"
    if found != number:
        return f"{question.storage} is another folder there than where the service runs"
    if not os.access(question.storage, os.W_OK | os.X_OK):
        return f"{question.storage} cannot be written there"
    return ""


def _gpus() -> dict[str, Any]:
    """In a process of its own: Ray hides the GPUs from one that was granted none."""
    command = ["env", "-u", "CUDA_VISIBLE_DEVICES", sys.executable, "-c", _GPUS]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=_GPU_SECONDS)
    except subprocess.TimeoutExpired:
        return {"gpu_error": f"PyTorch did not find them within {_GPU_SECONDS:g} s"}
    if said.returncode:
        return {"gpu_error": (said.stderr.strip().splitlines() or ["no reason was given"])[-1]}
    return {"gpus": tuple((name, size) for name, size in json.loads(said.stdout))}
