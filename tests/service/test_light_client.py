"""The client without the service: what `pip install cohort` brings is enough for it, and brings neither torch nor Ray.

It gets an environment of its own, made without an index: the declared dependencies and theirs, as they are installed
here, and nothing else.
"""

import json
import os
import subprocess
import sys
import sysconfig
import tomllib
from importlib.metadata import distribution
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if TYPE_CHECKING:
    from tests.service.conftest import LiveService
else:
    LiveService = object

CHECKOUT = Path(__file__).parents[2]
ROOMS = ("api", "grouping", "service", "workers")
SERVER_ONLY = ("torch", "ray", "sqlalchemy", "numpy", "scipy", "fastapi", "fsspec", "pydantic_settings")


def closure(requirements: list[str]) -> set[str]:
    """Names of the distributions that installing these brings, by what the installed ones declare."""
    todo, seen = [Requirement(each) for each in requirements], set()
    for requirement in todo:  # which grows on the way
        for one in {(canonicalize_name(requirement.name), extra) for extra in ("", *requirement.extras)} - seen:
            seen.add(one)
            further = [Requirement(each) for each in distribution(one[0]).requires or ()]
            todo += [each for each in further if each.marker is None or each.marker.evaluate({"extra": one[1]})]
    return {name for name, _ in seen}


@pytest.fixture(scope="module")
def client_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment that holds the client alone."""
    folder = tmp_path_factory.mktemp("client")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True, timeout=300)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
    declared = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]["dependencies"]
    for name in closure(declared):
        found = distribution(name)
        tops = {Path(file).parts[0] for file in found.files or () if ".." not in Path(file).parts}
        for top in tops - {"__pycache__"}:
            (site / top).symlink_to(Path(str(found.locate_file(top))))
    for room in ROOMS:
        (site / room).symlink_to(CHECKOUT / room)
    return folder / "bin" / "python"


def ask(python: Path, *arguments: str, home: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("COHORT_", "PYTHON"))}
    more = {} if home is None else {"COHORT_HOME": str(home)}
    command = [str(python), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment | more, cwd="/")


def test_the_client_alone_submits_looks_and_fetches(
    client_python: Path, live_service: LiveService, tmp_path: Path
) -> None:
    def cohort(*arguments: str) -> str:
        answer = ask(client_python, "-m", "service.cli", *arguments, home=live_service.home)
        assert answer.returncode == 0, answer.stderr
        return answer.stdout

    job = json.loads(cohort("submit", str(live_service.spec), "--json"))["id"]
    live_service.finish(job)
    assert "75.0" in cohort("results", job)
    cohort("pull", job, str(tmp_path / "bundle"))
    assert (tmp_path / "bundle/manifest.json").is_file()
    program = "import sys; from service.client import AsyncCohort, Cohort; print(next(Cohort(*sys.argv[1:]).jobs()).id)"
    assert ask(client_python, "-c", program, live_service.url, live_service.key).stdout.strip() == job


def test_the_client_brings_nothing_that_only_a_service_needs(client_python: Path) -> None:
    program = "import importlib.util, sys; print([name for name in sys.argv[1:] if importlib.util.find_spec(name)])"
    assert ask(client_python, "-c", program, "typer", *SERVER_ONLY).stdout.strip() == "['typer']"


@pytest.mark.parametrize("command", ["up", "demo", "doctor", "methods"])
def test_what_needs_the_service_says_what_to_install(client_python: Path, tmp_path: Path, command: str) -> None:
    answer = ask(client_python, "-m", "service.cli", command, home=tmp_path)
    assert answer.returncode == 1
    assert "pip install 'cohort[server]'" in answer.stderr
    assert "Traceback" not in answer.stderr
