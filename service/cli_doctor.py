"""`cohort doctor`: looks for what would keep Cohort, or one job, from working here and where jobs run, and says how to
mend it."""

import importlib
import json
import os
import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import typer

from service.cluster_findings import Finding
from service.connection import Connection
from service.doctor_cluster import examine
from service.roles import DEFAULT_TENANT
from service.settings import Settings

_FREE_GB = 5.0
_MARKS = {"ok": ("ok  ", "green"), "warning": ("warn", "yellow"), "wrong": ("BAD ", "red")}


def doctor(home: Path, spec: Path | None, *, as_json: bool) -> int:
    """Prints what was found; 1 if anything is wrong."""
    description = None if spec is None else spec.read_bytes()
    findings: list[Finding] = []

    def machines(home: Path) -> list[Finding]:
        return examine(Settings.load(home=home), description)

    for look in (_python, _torch, _torchvision, _backbones, _ray, _home_folder, _disk, _port, machines):
        try:
            findings.extend(look(home))
        except Exception as error:  # the border: whatever a broken installation raises is what was found
            subject = look.__name__.strip("_")
            findings.append(Finding(subject, "wrong", f"{type(error).__name__}: {error}", _fix_of(subject)))
    bad = any(finding.verdict == "wrong" for finding in findings)
    if as_json:
        typer.echo(json.dumps([asdict(finding) for finding in findings], indent=2))
        return int(bad)
    for finding in findings:
        mark, colour = _MARKS[finding.verdict]
        typer.secho(f"{mark}  ", fg=colour, nl=False)
        typer.echo(f"{finding.subject:<12}{'' if len(finding.subject) < 12 else ' '}{finding.found}")
        if finding.fix:
            typer.echo(f"{'':<18}-> {finding.fix}")
    typer.echo("Something is wrong; see above." if bad else "Cohort should work here.")
    return int(bad)


def _python(home: Path) -> Iterator[Finding]:
    number = ".".join(map(str, sys.version_info[:3]))
    if (3, 11) <= sys.version_info[:2] <= (3, 13):
        yield Finding("python", "ok", f"{number} at {sys.executable}")
    else:
        fix = "Make the environment anew: make clean setup PYTHON=python3.12"
        yield Finding("python", "wrong", f"{number}; Cohort needs 3.11 to 3.13", fix)


def _torch(home: Path) -> Iterator[Finding]:
    torch = importlib.import_module("torch")
    if torch.cuda.is_available():
        names = ", ".join(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))
        yield Finding("torch", "ok", f"{torch.__version__}, CUDA {torch.version.cuda}: {names}")
    elif shutil.which("nvidia-smi"):
        fix = "Install the torch build of your driver's CUDA version: https://pytorch.org/get-started/locally"
        yield Finding("torch", "warning", f"{torch.__version__} sees no GPU, but nvidia-smi is here", fix)
    else:
        yield Finding("torch", "ok", f"{torch.__version__} on {os.cpu_count()} CPU cores, no GPU")


def _torchvision(home: Path) -> Iterator[Finding]:
    native = importlib.import_module("workers.clip.torchvision_ops").ensure_torchvision_ops()
    importlib.import_module("torchvision")
    how = "" if native else " (without its native operators, which Cohort does not use)"
    yield Finding("torchvision", "ok", f"{version('torchvision')}{how}")


def _backbones(home: Path) -> Iterator[Finding]:
    shape = importlib.import_module("workers.clip.shape").backbone_shape("demo")
    yield Finding("backbones", "ok", f"the demo's CLIP is here ({shape.num_parameters:,} parameters)")


def _ray(home: Path) -> Iterator[Finding]:
    yield Finding("ray", "ok", version("ray"))
    connection = Connection.read(home)
    if connection is not None and _answers(connection.url):
        yield Finding("service", "ok", f"runs at {connection.url}")


def _home_folder(home: Path) -> Iterator[Finding]:
    place = next(folder for folder in (home, *home.parents) if folder.exists())
    if os.access(place, os.W_OK | os.X_OK):
        yield Finding("home", "ok", f"{home}{'' if home.exists() else ' (not made yet)'}")
    else:
        yield Finding("home", "wrong", f"{place} cannot be written", "Set COHORT_HOME to a folder of yours.")
    roots = Settings.load(home=home).roots_of(DEFAULT_TENANT).file_roots
    missing = [root for root in roots if not Path(root).is_dir()]
    if missing:
        fix = "Make the folder, or name others with --data-root or COHORT_DATA_ROOTS; the demo needs none."
        yield Finding("data", "warning", f"no folder {', '.join(missing)}", fix)
    else:
        yield Finding("data", "ok", f"jobs may read {', '.join(roots)}")


def _disk(home: Path) -> Iterator[Finding]:
    for place in {next(folder for folder in (home, *home.parents) if folder.exists()), Path("/tmp")}:
        free = shutil.disk_usage(place).free / 1e9
        low = free < _FREE_GB
        fix = f"Free some space: Ray and image caches want {_FREE_GB:.0f} GB." if low else ""
        yield Finding("disk", "warning" if low else "ok", f"{free:.0f} GB free at {place}", fix)


def _port(home: Path) -> Iterator[Finding]:
    settings = Settings.load(home=home)
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
        except OSError as error:
            fix = "`cohort up` takes a free port instead, unless you name this one."
            yield Finding("port", "warning", f"{settings.host}:{settings.port}: {error}", fix)
        else:
            yield Finding("port", "ok", f"{settings.host}:{settings.port} is free")


def _answers(url: str) -> bool:
    host, _, port = url.removeprefix("http://").rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=1.0):
            return True
    except OSError:
        return False


def _fix_of(subject: str) -> str:
    fixes: dict[str, Callable[[], str]] = {
        "backbones": lambda: "The demo's CLIP is missing or broken: check the checkout out again.",
        "ray": lambda: f"Install what is missing: make setup ({_installed('ray')}).",
    }
    return fixes.get(subject, lambda: "Install what the project pins: make setup")()


def _installed(name: str) -> str:
    try:
        return f"{name} {version(name)}"
    except PackageNotFoundError:
        return f"{name} is not installed"
