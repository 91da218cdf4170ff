"""The image: what goes into it, and that its packages are the ones that are tested."""

import fnmatch
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from service.settings import Settings
from tests.deploy.rendered import DEPLOY, image_environment

ROOT = DEPLOY.parent
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
# torch's own libraries for CUDA follow from torch
BROUGHT_BY_TORCH = re.compile(r"nvidia-|cuda-|triton$")


def extras() -> set[str]:
    (named,) = re.findall(r"^ARG EXTRAS=(\S+)$", DOCKERFILE, re.MULTILINE)
    return set(named.split(","))


def needed(name: str, wanted: set[str], found: dict[str, set[str]]) -> dict[str, set[str]]:
    """All packages that one brings, with the extras it is asked for."""
    key = canonicalize_name(name)
    if key in found and wanted <= found[key]:
        return found
    found[key] = found.get(key, set()) | wanted
    for line in importlib.metadata.requires(name) or []:
        requirement = Requirement(line)
        places = [{"extra": extra} for extra in sorted(found[key]) or [""]]
        if requirement.marker is None or any(requirement.marker.evaluate(place) for place in places):
            needed(requirement.name, requirement.extras, found)
    return found


def test_the_dockerfile_is_as_its_linter_wants_it() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([str(hadolint), str(DEPLOY / "Dockerfile")], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout


def test_every_package_of_the_image_has_its_tested_version() -> None:
    pins = {
        canonicalize_name(line.split("==")[0])
        for line in (ROOT / "constraints.txt").read_text().split()
        if "==" in line
    }
    packages = needed("cohort", extras(), {})
    loose = {name for name in packages if name not in pins and not BROUGHT_BY_TORCH.match(name)} - {
        "cohort",
        "setuptools",
    }
    assert not loose, f"constraints.txt pins no version of {sorted(loose)}"


def test_the_image_can_all_that_a_service_can() -> None:
    known = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])
    assert extras() == known - {"test", "dev"}


def test_the_image_runs_as_nobody_special() -> None:
    last = DOCKERFILE.rpartition("\nFROM ")[2]
    assert re.findall(r"^USER (\S+)$", last, re.MULTILINE) == ["1000:1000"]


def test_what_the_image_sets_is_a_setting() -> None:
    names = {name.removeprefix("COHORT_").lower() for name in image_environment() if name.startswith("COHORT_")}
    assert names <= set(Settings.model_fields)


def test_nothing_gets_into_the_image_that_is_not_named() -> None:
    """Keys, jobs and data lie beside the code; the list lets in what the Dockerfile copies and nothing more."""
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*"
    let_in = {line.removeprefix("!") for line in lines if line.startswith("!")}
    copied = set()
    for line in re.findall(r"^COPY (?!--from)(?:--chown=\S+ )?(.*)$", DOCKERFILE, re.MULTILINE):
        copied |= set(line.split()[:-1])
    assert copied == let_in
    secret = ["deploy/.env", "var/settings.json", "data/a.png", ".git/config", "settings.json", ".venv/bin/python"]
    assert not [path for path in secret if any(fnmatch.fnmatch(path.split("/")[0], each) for each in let_in)]
    assert all((ROOT / each).exists() for each in let_in)


def test_every_file_of_the_rooms_is_installed() -> None:
    """The image holds an installed Cohort, not a checkout: what no package names stays behind."""
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    named = {
        path
        for package, patterns in tools["package-data"].items()
        for pattern in patterns
        for path in (ROOT / package.replace(".", "/")).glob(re.sub(r"\*\*$", "**/*", pattern))
    }
    for room in ("api", "service", "workers", "grouping"):
        files = {path for path in (ROOT / room).rglob("*") if path.is_file() and "__pycache__" not in path.parts}
        code = {path for path in files if path.suffix == ".py"}
        assert sorted(files - code - named) == []
        assert all((path.parent / "__init__.py").exists() for path in code)
