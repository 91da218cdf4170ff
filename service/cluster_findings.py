"""What a look at a Ray cluster found, judged: what keeps jobs from running there, and what mends it.  Pure."""

import json
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from packaging.requirements import Requirement

from service.cluster_look import SAYS, needed
from service.settings import Settings
from workers.launching.nodes import NodeReport
from workers.storage_mark import read_mark

_ONE_IMAGE = "Use one image for all machines"
_NOT_INSTALLED = ("No module named", "ModuleNotFoundError")
_NO_PYTHON = ("not found", "No such file or directory")


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    subject: str
    verdict: Literal["ok", "warning", "wrong"]
    found: str
    fix: str = ""


@dataclass(frozen=True)
class Look:
    """What a look at a cluster found."""

    findings: tuple[Finding, ...]
    nodes: tuple[NodeReport, ...] = field(default=())
    """Empty where the look itself failed."""

    @property
    def wrong(self) -> list[Finding]:
        """What keeps jobs from running."""
        return [finding for finding in self.findings if finding.verdict == "wrong"]


def judge(said: str, settings: Settings) -> Look:
    """Judges what a look wrote."""
    line = next((line for line in said.splitlines() if line.startswith(SAYS)), None)
    if line is None:
        return Look((_no_answer(said, settings),))
    told: dict[str, Any] = json.loads(line.removeprefix(SAYS))
    nodes = tuple(NodeReport(**each) for each in told["nodes"])
    findings = list(_of_drivers(told, settings))
    sees_ours = not findings
    needs = [Requirement("cohort"), *needed(settings)]
    for node in nodes:
        faults = list(_of_node(node, needs, sees_ours=sees_ours))
        if not (node.computes or node.starts_drivers or settings.driver_resources.keys() & node.resources.keys()):
            faults = [replace(fault, verdict="warning") for fault in faults]  # nothing of ours runs there
        sound = not node.error and all(fault.verdict != "wrong" for fault in faults)
        findings += [*([Finding(f"node {node.label}", "ok", words(node))] if sound else []), *faults]
    findings += _of_all(nodes, settings)
    return Look(tuple(findings), nodes)


def words(node: NodeReport) -> str:
    """What a machine offers, for a person to read."""
    parts = [f"{node.resources.get('CPU', 0):g} CPUs"]
    parts += [f"{name} ({size / 1e9:.0f} GB)" for name, size in node.gpus]
    parts += [f"{node.resources['memory'] / 1e9:.0f} GB of memory"] if "memory" in node.resources else []
    parts += [f"{node.free_bytes / 1e9:.0f} GB of disk free", f"Python {node.python.split()[0]}"]
    parts += [f"{name} {node.versions[name]}" for name in ("ray", "torch") if name in node.versions]
    return ", ".join([*parts, *(["drivers start here"] if node.starts_drivers else [])])


def _no_answer(said: str, settings: Settings) -> Finding:
    """The look itself failed: on the machine where drivers start, something is missing."""
    last = next((line for line in reversed(said.strip().splitlines()) if line.strip()), "its log is empty")
    python = settings.ray_python or "the service's own Python"
    if any(words in said for words in _NOT_INSTALLED):
        fix = f"{_ONE_IMAGE}, or install Cohort there for the Python that COHORT_RAY_PYTHON names ({python})."
    elif any(words in last for words in _NO_PYTHON):
        fix = "Set COHORT_RAY_PYTHON to the Python in which Cohort is installed there, e.g. python3."
    else:
        fix = "Mend that; drivers of jobs would fail likewise."
    return Finding("cluster", "wrong", f"no driver can start on it: {last.strip()[:500]}", fix)


def _of_drivers(told: dict[str, Any], settings: Settings) -> Iterator[Finding]:
    """What drivers find otherwise than the service does."""
    if told["storage"] != settings.storage:
        found = f"drivers would write to {told['storage']}, and the service reads {settings.storage}"
        fix = (
            "Give Ray's processes the service's settings: COHORT_SETTINGS_FILE names the service's running.json there."
        )
        yield Finding("settings", "wrong", found, fix)
    elif (mark := read_mark(settings.storage_place)) is not None and mark.number != told["mark"]:
        found = f"{settings.storage} is not the service's storage on the machine where drivers start"
        yield Finding("storage", "wrong", found, "Mount the same folder there.")
    if told["database"]:
        fix = "Let the machine where drivers start reach the database."
        yield Finding("database", "wrong", f"drivers cannot reach it: {told['database']}", fix)


def _of_node(node: NodeReport, needs: Sequence[Requirement], *, sees_ours: bool) -> Iterator[Finding]:
    subject = f"node {node.label}"
    if node.error:
        wrong = any(words in node.error for words in _NOT_INSTALLED)
        fix = f"{_ONE_IMAGE}, or install Cohort there." if wrong else "See to it, or take it out of the cluster."
        yield Finding(subject, "wrong" if wrong else "warning", f"it did not answer: {node.error}", fix)
        return
    lacks = [need for need in needs if not _is_met(need, node.versions.get(need.name))]
    if lacks:
        told = ", ".join(_lack(need, node.versions.get(need.name)) for need in lacks)
        fix = f"{_ONE_IMAGE}, or install the same there as here for {node.python.partition(' at ')[2]}."
        yield Finding(subject, "wrong", told, fix)
    if node.storage and sees_ours:
        fix = "Mount the storage there as where the service runs, or take the machine out of the cluster."
        yield Finding(subject, "wrong", node.storage, fix)
    if node.cache:
        fix = "Let Ray's user write there, or set COHORT_HOME to a folder that it can write."
        yield Finding(subject, "wrong", node.cache, fix)
    offered = node.resources.get("GPU", 0)
    if offered > len(node.gpus):
        found = f"Ray offers {offered:g} GPUs there, and PyTorch finds {len(node.gpus)}"
        fix = "Install the torch build of its driver's CUDA version, or start Ray there with --num-gpus=0."
        yield Finding(subject, "wrong", f"{found} ({node.gpu_error})" if node.gpu_error else found, fix)
    if node.missing:
        fix = "Mount the data there: jobs that read it fail on that machine."
        yield Finding(subject, "warning", f"there is no {', '.join(node.missing)}", fix)


def _of_all(nodes: Sequence[NodeReport], settings: Settings) -> Iterator[Finding]:
    if not any(node.computes for node in nodes):
        fix = "Add one, or let the cluster grow by itself, and say how far (COHORT_MAX_GPUS)."
        yield Finding("cluster", "warning", "no machine of it offers a CPU or a GPU now; works wait for one", fix)
    for name in ("cohort", "torch"):
        versions = sorted({str(node.versions[name]) for node in nodes if node.versions.get(name)})
        if len(versions) > 1:
            found = f"{name} is not the same everywhere: {', '.join(versions)}"
            yield Finding("cluster", "warning", found, f"{_ONE_IMAGE}: results and checkpoints may differ.")
    away = [node.label for node in nodes if node.starts_drivers and node.name != socket.gethostname()]
    if away and settings.database_url.startswith("sqlite"):
        found = f"the database is a file of this machine (SQLite), and drivers start on {away[0]}"
        yield Finding("database", "warning", found, "Use PostgreSQL: COHORT_DATABASE_URL.")
    spares = any(not node.resources.get("GPU") for node in nodes)
    for node in nodes if spares and not settings.driver_resources else ():
        if node.starts_drivers and node.resources.get("GPU"):
            fix = (
                "Start Ray on a machine without GPUs with --resources='{\"cohort_driver\": 100}', and set "
                "COHORT_DRIVER_RESOURCES='{\"cohort_driver\": 1}'."
            )
            yield Finding(f"node {node.label}", "warning", "drivers start there, on a machine with GPUs", fix)


def _is_met(need: Requirement, version: str | None) -> bool:
    return version is not None and need.specifier.contains(version, prereleases=True)


def _lack(need: Requirement, version: str | None) -> str:
    return f"{need.name} is missing" if version is None else f"{need.name} {version} is not {need.specifier}"
