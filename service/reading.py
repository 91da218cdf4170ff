"""Reads what a stranger wrote in YAML or JSON into a spec, or tells every fault at once, in the writer's own words."""

import difflib
import json
from collections import Counter
from collections.abc import Hashable
from functools import cache
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticSerializationError

from service.errors import SpecError

MAX_BYTES = 2**20  # a thousand tasks with a few dozen class names each fit; more belongs into manifests
MAX_DEPTH = 32
MAX_DIGITS = 64  # of a YAML number; Python's own limit for decimals lies far above, and there is none for hexadecimals
MAX_TOLD = 50
_TOO_DEEP = f"The description nests more than {MAX_DEPTH} levels deep. About six are needed."

Model = TypeVar("Model", bound=BaseModel)


def read_spec(model: type[Model], source: str | bytes | dict) -> Model:
    """The spec that YAML or JSON text describes, or a dict read already.  SpecError names every fault at once."""
    data = source if isinstance(source, dict) else read_mapping(source)
    try:
        spec = model.model_validate(data)
        spec.model_dump_json()
        return spec
    except PydanticSerializationError as error:
        if "surrogates" in str(error):  # JSON can spell one alone, and no database can keep it
            raise SpecError("The description holds half a character (a lone surrogate). Send whole Unicode.") from error
        raise SpecError(f"The description cannot be written as JSON: {error}.") from error
    except ValidationError as error:
        known = _known_keys(model)
        faults = error.errors(include_url=False)  # a default that another fault kept from being made is none
        problems = tuple(_told(fault, data, known) for fault in faults if fault["type"] != "default_factory_not_called")
        told = [f"- {path}: {problem}" if path else f"- {problem}" for path, problem in problems[:MAX_TOLD]]
        lines = "\n".join(told + ["- and more"] * (len(problems) > MAX_TOLD))
        raise SpecError(f"The description has {len(problems)} fault(s):\n{lines}", problems[:MAX_TOLD]) from error


class _Loader(yaml.CSafeLoader):
    """Safe YAML that refuses a key given twice, instead of keeping the last, and reads 12:30 as text.

    (YAML 1.1 calls that a number to the base 60, whose value takes quadratic time to find.)
    """

    def resolve(self, kind: type[yaml.Node], value: str | None, implicit: Any) -> str:
        tag = super().resolve(kind, value, implicit)
        if value is None or tag not in ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float"):
            return tag
        if ":" in value:
            return "tag:yaml.org,2002:str"
        if len(value) > MAX_DIGITS:
            raise SpecError(
                f"The description has a number of {len(value)} characters ({value[:20]}...); "
                f"at most {MAX_DIGITS} are read. Round it, or quote what is a text."
            )
        return tag

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [key.value for key, _ in node.value]
        twice = [key for key, count in Counter(map(str, keys)).items() if count > 1]
        if twice:
            raise SpecError(f"The description gives {quoted(twice)} twice{node.start_mark}. Give every key once.")
        return super().construct_mapping(node, deep=deep)


def read_mapping(source: str | bytes) -> dict:
    """What YAML or JSON text says, nothing of it checked but that it is an object.  SpecError."""
    try:
        text = source.decode() if isinstance(source, bytes) else source
    except UnicodeDecodeError as error:
        raise SpecError(f"The description is not UTF-8 text ({error}). Send YAML or JSON.") from error
    size = len(text.encode(errors="surrogatepass"))
    if size > MAX_BYTES:
        raise SpecError(
            f"The description has {size} bytes; at most {MAX_BYTES} are read. Move class lists into manifests."
        )
    data = _read_json(text) if text.lstrip().startswith("{") else None
    if data is None:
        data = _read_yaml(text)
    if not isinstance(data, dict):
        given = "nothing" if data is None else f"a {type(data).__name__}"
        raise SpecError(f"The description holds {given}. Expected keys and values: name, backbone, tasks and so on.")
    return data


def _read_json(text: str) -> Any:
    """The value, or None where the text is not JSON (YAML may start with a brace, too) or nests past Python's limit."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        twice = [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]
        if twice:
            raise SpecError(f"The description gives {quoted(twice)} twice. Give every key once.")
        return dict(pairs)

    try:
        data = json.loads(text, object_pairs_hook=once)
    except SpecError:
        raise
    except (RecursionError, ValueError):
        return None
    level = [data]
    for _ in range(MAX_DEPTH):
        inner = [each.values() if isinstance(each, dict) else each for each in level]
        level = [value for values in inner for value in values if isinstance(value, dict | list)]
    if level:
        raise SpecError(_TOO_DEEP)
    return data


def _read_yaml(text: str) -> Any:
    """Aliases are refused (a few lines of them unfold into gigabytes), and so is nesting that no job has."""
    depth = 0
    try:
        for event in yaml.parse(text, Loader=_Loader):
            if isinstance(event, yaml.AliasEvent):
                raise SpecError(f"The description uses a YAML alias (*{event.anchor}). Write the value out instead.")
            if getattr(event, "tag", None) is not None:
                raise SpecError(f"The description uses the YAML tag {event.tag!r:.60}. Write plain values.")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_DEPTH:
                raise SpecError(_TOO_DEEP)
        return yaml.load(text, Loader=_Loader)  # the loader is a safe one
    except SpecError:
        raise
    except (yaml.YAMLError, RecursionError, ValueError, ArithmeticError) as error:  # 2001-99-99 is a ValueError
        raise SpecError(f"The description is neither YAML nor JSON: {error}.") from error


def _told(fault: Any, data: Any, known: list[str]) -> tuple[str, str]:
    """One pydantic fault as (path, sentence): what was given, what was expected, what to do."""
    kind, value = fault["type"], fault["input"]
    *parents, last = fault["loc"] or ("",)
    path, here = "", data
    for step in parents:  # union tags ('mmap', 'shots') stand in pydantic's path, but not in what the user wrote
        if isinstance(step, int):
            path += f"[{_shown(step)}]"
            here = here[step] if isinstance(here, list) else None
        elif isinstance(here, dict) and step in here:
            path += f".{step}" if path else str(step)
            here = here[step]
    named = isinstance(last, int) or kind in ("missing", "extra_forbidden") or (isinstance(here, dict) and last in here)
    full = f"{path}[{_shown(last)}]" if isinstance(last, int) else f"{path}.{last}".lstrip(".") if named else path
    full = full[:200].encode("utf-8", "backslashreplace").decode()
    if kind == "extra_forbidden":
        if last in known:
            return full, f"{last!r:.60} has no meaning here. Remove it."
        close = difflib.get_close_matches(str(last)[:60], known, n=1)
        return full, f"unknown key {last!r:.60}. " + (f"Did you mean {close[0]!r}?" if close else "Remove it.")
    if kind == "missing":
        return full, "missing. Add it."
    message = fault["msg"].removeprefix("Value error, ")
    if kind == "value_error" or (isinstance(value, dict | list) and len(_shown(value)) > 80):
        return full, message if message.endswith((".", "?")) else f"{message}."
    return full, f"given {_shown(value):.80}; expected: {message}."


def _shown(value: Any) -> str:
    try:
        return repr(value)
    except (ValueError, RecursionError):  # Python writes no decimal number of more than 4300 digits
        return "something too long to write"


@cache
def _known_keys(model: type[BaseModel]) -> list[str]:
    return sorted(_keys(model.model_json_schema()))


def _keys(schema: Any) -> set[str]:
    if isinstance(schema, dict):
        return set(schema.get("properties", ())).union(*map(_keys, schema.values()))
    return set().union(*map(_keys, schema)) if isinstance(schema, list) else set()


def quoted(names: list[str]) -> str:
    """The names as they were written, one after another."""
    return ", ".join(repr(name) for name in names)
