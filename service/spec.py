"""A job as its user wrote it: every room's own part, composed, what can only be checked over all parts together, and
the reading of it from YAML or JSON that a stranger sent.
"""

import difflib
import json
from collections import Counter
from collections.abc import Hashable
from typing import Any, Literal, get_args

import yaml
from pydantic import Field, ValidationError, model_validator
from pydantic_core import PydanticSerializationError

from grouping.config import GroupingConfig
from grouping.links import check_links
from service.errors import SpecError
from workers.clip.config import BackboneConfig
from workers.data.config import ExplicitSplit, FolderSource, ManifestSource, TaskConfig
from workers.data.roots import DataRoots
from workers.methods.config import MethodConfig, MmAPConfig, Sharing
from workers.spec import Spec
from workers.training.config import ProfileConfig, TrainConfig

Baseline = Literal["zero_shot", "alone", "all"]
MAX_TASKS = 1000
MAX_BYTES = 2**20  # a thousand tasks with a few dozen class names each fit; more belongs into manifests
MAX_DEPTH = 32
MAX_TOLD = 50


class ResourcesConfig(Spec):
    """Where groups train."""

    devices_per_group: int = Field(default=1, ge=1, le=64)
    """Devices that train one group together."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` takes a GPU where Ray has one."""


class JobSpec(Spec):
    """One request to train one method over many tasks."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")
    """A name for people; it need not be unique."""
    backbone: BackboneConfig
    """The frozen CLIP."""
    tasks: list[TaskConfig] = Field(min_length=1, max_length=MAX_TASKS)
    """The tasks, each with its own images, and classes or captions for them."""
    method: MethodConfig = MmAPConfig()
    """What is trained on the backbone."""
    profile: ProfileConfig = ProfileConfig()
    """The shared prompt, from whose gradients the groups are read."""
    grouping: GroupingConfig = GroupingConfig()
    """How tasks are split into groups."""
    training: TrainConfig = TrainConfig()
    """How groups and baselines train."""
    baselines: tuple[Baseline, ...] = Field(default_factory=lambda known: _defined_baselines(known["method"]))
    """What every task is compared with.  Left out: zero_shot, and of alone and all what the method defines."""
    search: None = None
    """Hyper-parameter search is not available yet; only `null` is accepted."""
    resources: ResourcesConfig = ResourcesConfig()
    """Where groups train."""

    @model_validator(mode="after")
    def _task_names_are_unique(self) -> "JobSpec":
        twice = sorted(name for name, count in Counter(task.name for task in self.tasks).items() if count > 1)
        if twice:
            raise ValueError(
                f"tasks: the name(s) {_quoted(twice)} are given more than once. Give every task its own name."
            )
        return self

    @model_validator(mode="after")
    def _baselines_are_unique(self) -> "JobSpec":
        twice = sorted(name for name, count in Counter(self.baselines).items() if count > 1)
        if twice:
            raise ValueError(f"baselines: {_quoted(twice)} given more than once. Name every baseline once.")
        return self

    @model_validator(mode="after")
    def _baselines_are_defined(self) -> "JobSpec":
        for baseline in self.baselines:
            if baseline != "zero_shot":
                try:
                    with_sharing(self.method, baseline)
                except ValueError as error:
                    raise ValueError(f"baselines: {baseline!r} given, but {error} Drop the baseline.") from error
        return self

    @model_validator(mode="after")
    def _method_fits_the_tasks(self) -> "JobSpec":
        kinds = type(self.method).kinds
        unfit = [task.name for task in self.tasks if task.kind not in kinds]
        if unfit:
            raise ValueError(
                f"tasks: {_quoted(unfit)} given, but {self.method.kind} learns tasks of kind {' and '.join(kinds)} "
                "only. Choose another method, or leave them out."
            )
        return self

    @model_validator(mode="after")
    def _pairs_stay_on_one_device(self) -> "JobSpec":
        devices = self.resources.devices_per_group
        retrieval = [task.name for task in self.tasks if task.kind == "retrieval"]
        if devices > 1 and retrieval:
            raise ValueError(
                f"resources: devices_per_group={devices} given with retrieval tasks ({_quoted(retrieval)}), but the "
                "pairs of a batch are contrasted with each other on one device. Use 1, or a job of their own for them."
            )
        return self

    @model_validator(mode="after")
    def _grouping_fits_the_tasks(self) -> "JobSpec":
        check_links(self.grouping, [task.name for task in self.tasks])
        demands = ("num_groups", "max_group_size", "must_link", "cannot_link")
        asked = [name for name in demands if getattr(self.grouping, name) != getattr(GroupingConfig(), name)]
        if self.trivial_sharing is not None and asked:
            sharing = sharing_of(self.method)
            chosen = f"kind={self.method.kind}" if sharing is None else f"sharing={sharing}"
            grouped = [name for name in type(self.method).sharings if name not in ("alone", "all")]
            instead = f", or set method.sharing to {' or '.join(grouped)}" if grouped else ""
            raise ValueError(
                f"grouping: {_quoted(asked)} given, but method.{chosen} forms no groups and would ignore it. "
                f"Drop it{instead}."
            )
        return self

    @property
    def trivial_sharing(self) -> Literal["alone", "all"] | None:
        """Who trains with whom when that needs no gradients: the job skips profile and group.  None: it needs both."""
        sharing = sharing_of(self.method) or "all"
        return sharing if sharing == "alone" or sharing == "all" else None


def sharing_of(method: MethodConfig) -> Sharing | None:
    """Who shares the method's parameters; None where it has none to share."""
    return getattr(method, "sharing", None)


def with_sharing(method: MethodConfig, sharing: Sharing) -> MethodConfig:
    """The same method under another sharing.  ValueError where the method does not define it."""
    if sharing_of(method) is None:
        raise ValueError(f"{method.kind} has nothing that tasks could share or not.")
    try:
        return type(method).model_validate(method.model_dump() | {"sharing": sharing})
    except ValidationError as error:
        reasons = (fault["msg"].removeprefix("Value error, ") for fault in error.errors(include_url=False))
        raise ValueError(" ".join(reasons)) from error


def _defined_baselines(method: MethodConfig) -> tuple[Baseline, ...]:
    """Every baseline that the method can be compared with."""

    def is_defined(baseline: Baseline) -> bool:
        try:
            return baseline == "zero_shot" or bool(with_sharing(method, baseline))
        except ValueError:
            return False

    return tuple(baseline for baseline in get_args(Baseline) if is_defined(baseline))


def check_roots(spec: JobSpec, roots: DataRoots) -> None:
    """Refuses (ValueError) a job that names a path outside the roots: a backbone folder, a task's source or split."""
    kind, _, path = spec.backbone.model.partition(":")
    if kind == "local-dir":
        roots.check(path)
    for task in spec.tasks:
        if isinstance(task.source, FolderSource | ManifestSource):
            roots.check(task.source.uri)
        if isinstance(task.split, ExplicitSplit):
            for uri in (task.split.train, task.split.val, task.split.test):
                if uri is not None:
                    roots.check(uri)


def parse_spec(source: str | bytes | dict) -> JobSpec:
    """Reads a job description: YAML or JSON text, or a dict read already.  SpecError names every fault at once."""
    data = source if isinstance(source, dict) else _read(source)
    try:
        spec = JobSpec.model_validate(data)
        spec.model_dump_json()
        return spec
    except PydanticSerializationError as error:  # a lone surrogate, which JSON can spell and no database can keep
        raise SpecError("The job description holds half a character (a lone surrogate). Send whole Unicode.") from error
    except ValidationError as error:
        faults = error.errors(include_url=False)  # a default that another fault kept from being made is none
        problems = tuple(_told(fault, data) for fault in faults if fault["type"] != "default_factory_not_called")
        told = [f"- {path}: {problem}" if path else f"- {problem}" for path, problem in problems[:MAX_TOLD]]
        lines = "\n".join(told + ["- and more"] * (len(problems) > MAX_TOLD))
        raise SpecError(f"The job description has {len(problems)} fault(s):\n{lines}", problems[:MAX_TOLD]) from error


class _Loader(yaml.CSafeLoader):
    """Safe YAML that refuses a key given twice, instead of keeping the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [key.value for key, _ in node.value]
        twice = [key for key, count in Counter(map(str, keys)).items() if count > 1]
        if twice:
            raise SpecError(f"The job description gives {_quoted(twice)} twice{node.start_mark}. Give every key once.")
        return super().construct_mapping(node, deep=deep)


def _read(source: str | bytes) -> dict:
    try:
        text = source.decode() if isinstance(source, bytes) else source
    except UnicodeDecodeError as error:
        raise SpecError(f"The job description is not UTF-8 text ({error}). Send YAML or JSON.") from error
    size = len(text.encode(errors="surrogatepass"))
    if size > MAX_BYTES:
        raise SpecError(
            f"The job description has {size} bytes; at most {MAX_BYTES} are read. Move class lists into manifests."
        )
    data = _read_json(text) if text.lstrip().startswith("{") else None
    if data is None:
        data = _read_yaml(text)
    if not isinstance(data, dict):
        given = "nothing" if data is None else f"a {type(data).__name__}"
        raise SpecError(
            f"The job description holds {given}. Expected keys and values: name, backbone, tasks and so on."
        )
    return data


def _read_json(text: str) -> Any:
    """The value, or None where the text is not JSON (YAML may start with a brace, too)."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        twice = [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]
        if twice:
            raise SpecError(f"The job description gives {_quoted(twice)} twice. Give every key once.")
        return dict(pairs)

    try:
        return json.loads(text, object_pairs_hook=once)
    except SpecError:
        raise
    except (RecursionError, ValueError):
        return None


def _read_yaml(text: str) -> Any:
    """Aliases are refused (a few lines of them unfold into gigabytes), and so is nesting that no job has."""
    depth = 0
    try:
        for event in yaml.parse(text, Loader=_Loader):
            if isinstance(event, yaml.AliasEvent):
                raise SpecError(
                    f"The job description uses a YAML alias (*{event.anchor}). Write the value out instead."
                )
            if getattr(event, "tag", None) is not None:
                raise SpecError(f"The job description uses the YAML tag {event.tag!r:.60}. Write plain values.")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_DEPTH:
                raise SpecError(f"The job description nests more than {MAX_DEPTH} levels deep. A job needs about six.")
        return yaml.load(text, Loader=_Loader)  # the loader is a safe one
    except SpecError:
        raise
    except (yaml.YAMLError, RecursionError, ValueError) as error:  # a date such as 2001-99-99 is a ValueError
        raise SpecError(f"The job description is neither YAML nor JSON: {error}.") from error


def _told(fault: Any, data: Any) -> tuple[str, str]:
    """One pydantic fault as (path, sentence): what was given, what was expected, what to do."""
    kind, value = fault["type"], fault["input"]
    *parents, last = fault["loc"] or ("",)
    path, here = "", data
    for step in parents:  # union tags ('mmap', 'shots') stand in pydantic's path, but not in what the user wrote
        if isinstance(here, dict) and step not in here:
            continue
        path += f"[{step}]" if isinstance(step, int) else f".{step}" if path else str(step)
        here = here[step] if isinstance(here, dict) or (isinstance(here, list) and isinstance(step, int)) else None
    named = isinstance(last, int) or kind in ("missing", "extra_forbidden") or (isinstance(here, dict) and last in here)
    full = f"{path}[{last}]" if isinstance(last, int) else f"{path}.{last}".lstrip(".") if named else path
    full = full[:200].encode("utf-8", "backslashreplace").decode()
    if kind == "extra_forbidden":
        close = difflib.get_close_matches(str(last)[:60], _ALL_KEYS, n=1)
        return full, f"unknown key {last!r:.60}. " + (f"Did you mean {close[0]!r}?" if close else "Remove it.")
    if kind == "missing":
        return full, "missing. Add it."
    message = fault["msg"].removeprefix("Value error, ")
    if kind == "value_error" or (isinstance(value, dict | list) and len(repr(value)) > 80):
        return full, message if message.endswith((".", "?")) else f"{message}."
    return full, f"given {value!r:.80}; expected: {message}."


def _keys(schema: Any) -> set[str]:
    if isinstance(schema, dict):
        return set(schema.get("properties", ())).union(*map(_keys, schema.values()))
    return set().union(*map(_keys, schema)) if isinstance(schema, list) else set()


_ALL_KEYS = sorted(_keys(JobSpec.model_json_schema()))


def _quoted(names: list[str]) -> str:
    return ", ".join(repr(name) for name in names)
