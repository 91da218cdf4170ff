"""A job description as the fields of a form, and back.  Every field is called as the place in the description that it
fills, so that a fault finds its field; what a form has no field for is written as YAML."""

import re
from collections.abc import Mapping
from typing import Any, get_args

import yaml

from service.errors import SpecError
from service.settings import Settings
from service.spec import check_roots
from service.submission import read_spec
from workers.methods.config import MethodConfig

METHODS = sorted(config.model_fields["kind"].default for config in get_args(get_args(MethodConfig)[0]))
"""What can be trained."""
_NUMBERS = ("training.epochs", "training.max_steps", "training.batch_size", "training.lr", "grouping.num_groups")
_TEXTS = ("name", "backbone.model", "backbone.pretrained", "backbone.precision", "method.kind", "method.sharing")
_CHECKED = ("grouping.approve", "grouping.arbitrate")
_OF_SOME_SOURCES = ("revision", "label_column", "label_extension")
"""Settings of a source that not all kinds have; which do is what its check says."""
_TASK = re.compile(r"tasks\[(\d{1,4})\]\.name")
EMPTY = {"name": "my-job", "backbone.model": "demo"}
"""What the form holds at first, beside an empty task."""

Fields = Mapping[str, str]


def task_numbers(fields: Fields) -> list[int]:
    """The numbers of the tasks that a form holds; some may have been taken out."""
    return sorted(int(found.group(1)) for name in fields if (found := _TASK.fullmatch(name)))


def description(fields: Fields) -> str:
    """The description in YAML.  Fields that are left empty are left out."""
    spec: dict[str, Any] = {}
    for name in (*_TEXTS, *_NUMBERS, "priority"):
        if text := fields.get(name, "").strip():
            _set(spec, name, text if name in _TEXTS else _number(text))
    for name in _CHECKED:
        if name in fields:
            _set(spec, name, True)
    spec["tasks"] = [_task(fields, f"tasks[{number}]") for number in task_numbers(fields)]
    return yaml.safe_dump(spec, sort_keys=False, allow_unicode=True)


def fields_of(spec: Mapping[str, Any]) -> dict[str, str] | None:
    """A description, as it was written, as fields; None where it says more than the form has fields for."""
    fields: dict[str, str] = {}
    try:
        for number, task in enumerate(spec.get("tasks", [])):
            source, split = task.get("source", {}), task.get("split", {})
            place = {
                "name": task.get("name", ""),
                "template": task.get("template", ""),
                "shots": split.get("shots", ""),
            }
            place |= {
                "source.kind": source.get("kind", "folder"),
                "source.uri": source.get("uri", source.get("task", "")),
            }
            place |= {f"source.{name}": source[name] for name in _OF_SOME_SOURCES if name in source}
            fields |= {f"tasks[{number}].{name}": str(value) for name, value in place.items()}
        for name in (*_TEXTS, *_NUMBERS, *_CHECKED, "priority"):
            value: Any = spec
            for part in name.split("."):
                value = value.get(part, {})
            if value not in ({}, False, None):
                fields[name] = str(value)
        is_whole = yaml.safe_load(description(fields)) == spec
    except AttributeError:  # a list or a text where settings belong
        return None
    return fields if is_whole else None


def quick_faults(settings: Settings, text: str, *, tenant: str) -> list[tuple[str, str]]:
    """What is wrong with a description, (place, problem), without a look at any data."""
    try:
        check_roots(read_spec(text.encode(errors="surrogatepass"), json_only=False), settings.roots_of(tenant))
    except SpecError as error:
        return list(error.problems) or [("", str(error))]
    except ValueError as error:
        return [("", str(error))]
    return []


def field_of(place: str, fields: Fields) -> str:
    """The field in which a fault's place is written.  Tasks are counted in the description, and numbered in a form."""
    numbers = task_numbers(fields)
    if (found := re.match(r"tasks\[(\d+)\]", place)) and int(found.group(1)) < len(numbers):
        place = f"tasks[{numbers[int(found.group(1))]}]" + place[found.end() :]
    for task_place, field in ((".source.task", ".source.uri"), (".split.shots", ".shots")):
        if place.endswith(task_place):
            return place.removesuffix(task_place) + field
    return place


def _task(fields: Fields, place: str) -> dict[str, Any]:
    def given(name: str) -> str:
        return fields.get(f"{place}.{name}", "").strip()

    kind = given("source.kind")
    task: dict[str, Any] = {"name": given("name")}
    task["source"] = {"kind": kind, "task" if kind == "demo" else "uri": given("source.uri")}
    task["source"] |= {name: text for name in _OF_SOME_SOURCES if (text := given(f"source.{name}"))}
    if shots := given("shots"):
        task["split"] = {"shots": _number(shots)}
    if template := given("template"):
        task["template"] = template
    return task


def _set(spec: dict[str, Any], name: str, value: Any) -> None:
    *rooms, last = name.split(".")
    for room in rooms:
        spec = spec.setdefault(room, {})
    spec[last] = value


def _number(text: str) -> int | float | str:
    """A number, or the text as it is: the description's own check says what is wrong with it."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
