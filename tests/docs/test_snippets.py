"""What the pages tell readers to type works: every snippet is run, and every link leads somewhere."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from typer.testing import CliRunner

from docs.generate import PLACE, pages
from service.cli import app
from service.cli_parts import DONE, FAILED
from service.client import Cohort
from service.settings import Settings
from service.spec import parse_spec
from tests.docs.snippets import CHECKOUT, DOCS, Snippet, snippets
from workers.methods.config import MethodConfig

if TYPE_CHECKING:
    from tests.docs.conftest import Served
else:
    Served = object

DEPLOY = CHECKOUT / "deploy/README.md"
PAGES = [*sorted(DOCS.rglob("*.md")), CHECKOUT / "README.md", DEPLOY]
ELSEWHERE = {
    "docker.md",
    "kubernetes.md",
    "bring-your-own-cluster.md",
    "devices.md",
    "pages.md",
    "metrics.md",
    "logs.md",
}
"""Pages about other machines: their snippets are read, not run.  What they tell is tested beside what they tell of."""
RUN = [page for page in PAGES if page.name not in ELSEWHERE and page != DEPLOY and any(snippets(page))]
LANGUAGES = {"bash", "python", "yaml", "json", "text", "promql", "toml", "ini", ""}
_SIMPLE = re.compile(r"^cohort [^|&;<>$`]*( \|\| true)?$")


def name_of(page: Path) -> str:
    return str(page.relative_to(CHECKOUT))


class Reader:
    """Somebody who follows one page, from its top, in a folder of their own."""

    def __init__(self, served: Served, folder: Path, first: str) -> None:
        self.served = served
        self.folder = folder
        self.first = first
        self.names: dict[str, Any] = {"__name__": "page"}
        self.left_out: list[str] = []
        """What this machine has no program for."""
        self.known = self._jobs()
        venv = Path(sys.executable).parent
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("COHORT_")},
            "PATH": f"{venv}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(CHECKOUT),
            "COHORT_HOME": str(served.home),
        }

    def follow(self, snippet: Snippet) -> None:
        text = self._in_place(snippet.text)
        if snippet.file is not None:
            (self.folder / snippet.file).write_text(text, encoding="utf-8")
        match snippet.language:
            case "bash" if snippet.elsewhere:
                read_as_bash(snippet)
            case "bash":
                self._type(text)
            case "python":
                exec(compile(text, "snippet", "exec"), self.names)
            case "yaml":
                self._describe(yaml.safe_load(text))
            case "json":
                Settings.model_validate({"home": self.served.home, **json.loads(text)})

    def _type(self, text: str) -> None:
        """At a shell: plain commands of ours in this process, which is quick, anything else in bash."""
        lines = [line for line in text.replace("\\\n", " ").splitlines() if line.strip() and not line.startswith("#")]
        commands = [line.partition(" #")[0].strip() for line in lines]
        if all(_SIMPLE.match(command) for command in commands):
            for command in commands:
                words, either, _ = self._in_place(command).partition(" || ")
                done = CliRunner().invoke(app, shlex.split(words)[1:], env={"COHORT_HOME": str(self.served.home)})
                expected = (DONE, FAILED) if either else (DONE,)
                assert done.exit_code in expected, f"{command}\n{done.output}{done.exception or ''}"
            return
        if "curl " in text and shutil.which("curl") is None:
            self.left_out.append(text)
            return
        script = 'set -euo pipefail\ncohort() { python -m service.cli "$@"; }\n' + text
        done = subprocess.run(
            ["bash", "-c", script], capture_output=True, text=True, cwd=self.folder, env=self.environment, timeout=280
        )
        assert done.returncode == 0, f"{text}\n{done.stdout}{done.stderr}"

    def _describe(self, found: Any) -> None:
        """A job, or a part of one beside the tutorial's; other files are tried by the commands that read them."""
        if isinstance(found, dict) and "name" in found:
            parse_spec(yaml.safe_dump(found))
        elif isinstance(found, dict) and set(found) & {"grouping", "search", "training", "profile", "method"}:
            base = yaml.safe_load(
                next(s.text for s in snippets(DOCS / "tutorial/first-job.md") if s.file == "first.yaml")
            )
            parse_spec(yaml.safe_dump(base | found))

    def _in_place(self, text: str) -> str:
        """With this service's address and key, and for JOB the newest job of this page, else the trained one."""
        new = [job for job in self._jobs() if job not in self.known]
        text = re.sub(r"\bJOB\b", new[0] if new else self.first, text)
        if not new:
            text = re.sub(r"(?<= )last\b", self.first, text)
        return text.replace("http://127.0.0.1:8080", self.served.url).replace("cohort_...", self.served.key)

    def _jobs(self) -> list[str]:
        with Cohort(self.served.url, self.served.key) as client:
            return [job.id for job in client.jobs(page=500)]


def read_as_bash(snippet: Snippet) -> None:
    """It is bash, and the targets of make that it names exist."""
    done = subprocess.run(["bash", "-n"], input=snippet.text, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"line {snippet.line}: {done.stderr}"
    targets = set(re.findall(r"^([a-z-]+):", (CHECKOUT / "Makefile").read_text(), re.MULTILINE))
    asked = {word for call in re.findall(r"\bmake (?:-C \S+ )?([a-z -]+)", snippet.text) for word in call.split()}
    assert asked <= targets, f"line {snippet.line}: make has no {sorted(asked - targets)}"


@pytest.fixture
def reader(served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Reader]:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").symlink_to(served.data)
    for snippet in snippets(DOCS / "tutorial/first-job.md"):
        if snippet.file is not None:
            (tmp_path / snippet.file).write_text(snippet.text)
    yield Reader(served, tmp_path, served.finished_job())
    served.rest()


@pytest.mark.parametrize("page", RUN, ids=name_of)
def test_every_snippet_of_a_page_works(page: Path, reader: Reader) -> None:
    for snippet in snippets(page):
        try:
            reader.follow(snippet)
        except Exception as error:
            raise AssertionError(f"{name_of(page)}, line {snippet.line}: {error}") from error
    if reader.left_out:
        pytest.skip(f"There is no curl here; the rest of the page was run, but not: {reader.left_out[0]}")


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_snippet_can_be_read(page: Path) -> None:
    for snippet in snippets(page):
        assert snippet.language in LANGUAGES, f"line {snippet.line}: {snippet.language}"
        if snippet.language == "bash":
            read_as_bash(snippet)
        if snippet.language == "yaml":
            list(yaml.safe_load_all(snippet.text))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_leads_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not target.startswith(("http://", "https://")):
            path, _, place = target.partition("#")
            found = page if not path else page.parent / path
            assert found.exists(), f"{target}: no such file"
            if place:
                heads = re.findall(r"^#+ (.*)$", found.read_text(), re.MULTILINE)
                anchors = {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}
                assert place in anchors, f"{target}: {path} has no such heading"


def test_the_reference_is_what_the_code_says() -> None:
    for name, text in pages().items():
        assert (PLACE / name).read_text() == text, f"docs/reference/{name} is out of date: run `make docs`"


def test_the_page_of_methods_names_every_method() -> None:
    text = (DOCS / "reference/methods.md").read_text()
    union = MethodConfig.__origin__  # type: ignore[attr-defined]
    missing = [kind for config in union.__args__ if f"`{(kind := config.model_fields['kind'].default)}`" not in text]
    assert missing == []


def test_the_index_names_every_page() -> None:
    index = (DOCS / "README.md").read_text()
    names = {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")} - {"README.md"}
    assert {name for name in names if f"({name}" not in index} == set()
