"""Writes the pages of docs/reference that follow from the code: `make docs`.

A test holds the written pages to what this gives, so they are never older than the code.
"""

import ast
import inspect
import json
import tempfile
from collections.abc import Iterable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import Any

import typer

from api.app import create_app
from service.cli import app
from service.cli_parts import EXIT_CODES
from service.control_plane import ControlPlane
from service.ray_jobs import FakeRayJobs
from service.settings import Settings
from service.spec import JobSpec
from service.states import JobState, Verb
from service.store import Store
from workers.failures import FailureClass

PLACE = Path(__file__).parent / "reference"
_NOTE = "<!-- Written by docs/generate.py from the code; `make docs` writes it anew. -->"


def pages() -> dict[str, str]:
    """File name -> text."""
    return {
        "cli.md": _page("The `cohort` command", _cli()),
        "settings.md": _page("Settings of a service", _settings()),
        "job.md": _page("The job description", _job()),
        "api.md": _page("The HTTP API", _api()),
        "states.md": _page("States, verbs and failures", _states()),
    }


def _page(title: str, parts: Iterable[str]) -> str:
    return "\n\n".join([f"# {title}", _NOTE, *(part.rstrip() for part in parts)]) + "\n"


def _table(*columns: str, rows: Iterable[Iterable[object]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(_cell(cell) for cell in line)} |" for line in lines)


def _cell(value: object) -> str:
    return " ".join(str(value).split()).replace("|", "\\|")


def _cli() -> Iterator[str]:
    root = typer.main.get_command(app)
    yield (
        "`cohort --help` and `cohort COMMAND --help` say the same in a terminal. Options of all commands come first: "
        "`cohort --url http://host:8080 ls`. `cohort --install-completion` makes your shell complete commands, states "
        "and the ids of jobs."
    )
    yield "## Exit codes\n\n" + _table("code", "means", rows=((f"`{code}`", text) for code, text in EXIT_CODES.items()))
    yield "## Options of all commands\n\n" + _options(root)
    for name, command in _commands(root):
        yield f"## `cohort {name}`\n\n{inspect.cleandoc(command.help or '')}\n\n{_options(command)}"


def _commands(group: Any, *names: str) -> Iterator[tuple[str, Any]]:
    for name, command in sorted(group.commands.items()):
        if hasattr(command, "commands"):
            yield from _commands(command, *names, name)
        elif not command.hidden:
            yield " ".join((*names, name)), command


def _options(command: Any) -> str:
    rows = []
    for each in command.params:
        if getattr(each, "hidden", False) or each.name in ("install_completion", "show_completion"):
            continue
        option = each.opts[0].startswith("-")
        names = ", ".join(f"`{name}`" for name in each.opts) if option else f"`{each.metavar or each.name.upper()}`"
        variable = f" In the environment: `{each.envvar}`." if each.envvar else ""
        rows.append((names, f"{each.help or ''}{variable}"))
    return _table("argument or option", "", rows=rows) if rows else ""


def _settings() -> Iterator[str]:
    yield (
        "A setting is an environment variable, or a key of `settings.json` in the service's home folder, which only "
        "its owner may be able to read (`chmod 600`). The environment wins over the file."
    )
    rows = []
    for name, field in Settings.model_fields.items():
        default = "" if field.default is None or field.default == "" else f"`{field.default}`"
        rows.append((f"`COHORT_{name.upper()}`", default, field.description or ""))
    yield _table("variable", "default", "", rows=rows)


def _job() -> Iterator[str]:
    schema = JobSpec.model_json_schema(ref_template="{model}")
    yield (
        "A job is YAML or JSON of this shape. What is not known is refused with the nearest name that is. `cohort "
        "submit --check` and `POST /v1/jobs/validate` check a description without submitting it."
    )
    yield from _model("A job", schema)
    for name, part in sorted(schema["$defs"].items()):
        if "properties" in part:
            yield from _model(f"`{name}`", part)


def _model(title: str, schema: dict[str, Any]) -> Iterator[str]:
    rows = []
    for name, field in schema["properties"].items():
        rows.append((f"`{name}`", _type(field), _default(name, field, schema), field.get("description", "")))
    text = inspect.cleandoc(schema.get("description", ""))
    yield f"## {title}\n\n{text}\n\n" + _table("field", "type", "default", "", rows=rows)


def _default(name: str, field: dict[str, Any], schema: dict[str, Any]) -> str:
    if name in schema.get("required", ()):
        return "needed"
    value = field.get("default")
    return "its own" if isinstance(value, dict) else "-" if value is None else f"`{json.dumps(value)}`"


def _type(field: dict[str, Any]) -> str:
    """A JSON schema's type in a few words, with links to the parts of the page."""
    if "$ref" in field:
        return _link(field["$ref"])
    for key in ("anyOf", "oneOf", "allOf"):
        if key in field:
            return " or ".join(_type(each) for each in field[key])
    if "const" in field:
        return f"`{field['const']}`"
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    kind = field.get("type", "any")
    if kind == "array":
        inner = field.get("items") or {}
        return f"list of {_type(inner)}" if inner else "list"
    if kind == "object" and isinstance(field.get("additionalProperties"), dict):
        return f"names to {_type(field['additionalProperties'])}"
    return kind + _bounds(field)


def _bounds(field: dict[str, Any]) -> str:
    words = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    said = [f"{sign} {field[name]}" for name, sign in words.items() if name in field]
    return f" ({', '.join(said)})" if said else ""


def _link(reference: str) -> str:
    name = reference.rpartition("/")[2]
    return f"[{name}](#{name.lower()})"


def _api() -> Iterator[str]:
    with tempfile.TemporaryDirectory() as home:
        settings = Settings.model_validate({"home": home})
        openapi = create_app(ControlPlane(settings, store=Store("sqlite://"), ray_jobs=FakeRayJobs())).openapi()
    yield (
        "A service describes itself: `/openapi.json` is the whole of it, `/docs` and `/redoc` are pages to try "
        "it on. An API key goes into `Authorization: Bearer`. Errors are `application/problem+json`. This is the map."
    )
    by_tag: dict[str, list[tuple[str, str, dict[str, Any]]]] = {}
    for path, operations in openapi["paths"].items():
        for method, operation in operations.items():
            by_tag.setdefault(operation["tags"][0], []).append((method.upper(), path, operation))
    for tag, operations in by_tag.items():
        rows = ((f"`{method} {path}`", each["summary"], _answer(each)) for method, path, each in operations)
        yield f"## {tag.capitalize()}\n\n" + _table("route", "", "answers with", rows=rows)


def _answer(operation: dict[str, Any]) -> str:
    """Status and message of the answer when all is well."""
    said = []
    for status, answer in operation["responses"].items():
        if status.startswith("2"):
            schemas = [content.get("schema", {}) for content in answer.get("content", {}).values()]
            names = [schema["$ref"].rpartition("/")[2] for schema in schemas if "$ref" in schema]
            said.append(f"{status} {names[0]}" if names else status)
    return ", ".join(said)


def _states() -> Iterator[str]:
    yield "## States of a job\n\n" + _members(JobState, "A job is in one of these, and these only.")
    yield "## What can be asked of a job\n\n" + _members(
        Verb, "`verbs` of a job lists those that would do something now."
    )
    yield "## Why something failed\n\n" + _members(FailureClass, "`failure` of a job is the class of what ended it.")


def _members(enum: type[StrEnum], text: str) -> str:
    """The members of an enum with the strings under them, which only its source holds."""
    (source,) = ast.parse(inspect.getsource(enum)).body
    assert isinstance(source, ast.ClassDef)
    rows = []
    for member, said in zip(source.body, source.body[1:], strict=False):
        match member, said:
            case ast.Assign(targets=[ast.Name(id=name)]), ast.Expr(value=ast.Constant(value=meaning)):
                rows.append((f"`{enum[name].value}`", str(meaning)))
    return f"{text}\n\n" + _table("name", "means", rows=rows)


if __name__ == "__main__":
    for name, text in pages().items():
        (PLACE / name).write_text(text, encoding="utf-8")
