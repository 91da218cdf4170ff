"""A job as its user wrote it: every room's own part, composed, and what can only be checked over all parts together."""

from collections import Counter
from typing import Any, Literal, get_args

from pydantic import Field, ValidationError, field_validator, model_validator

from grouping.config import GroupingConfig
from grouping.demands import check_links
from service.reading import quoted, read_spec
from workers.clip.config import BackboneConfig
from workers.data.config import DemoSource, ExplicitSplit, FractionSplit, HuggingFaceSource, ManifestSource, TaskConfig
from workers.data.locations import locations_of
from workers.data.roots import DataRoots
from workers.launching.search_config import SearchConfig
from workers.launching.search_space import check_search
from workers.methods.config import MethodConfig, MmAPConfig, Sharing
from workers.spec import Spec
from workers.training.config import ProfileConfig, TrainConfig

Baseline = Literal["zero_shot", "alone", "all"]
MAX_TASKS = 1000


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
    baselines: tuple[Baseline, ...] = Field(default_factory=lambda known: defined_baselines(known["method"]))
    """What every task is compared with.  Left out: zero_shot, and of alone and all what the method defines."""
    search: SearchConfig | None = None
    """Settings tried on validation images before the groups train with the best.  Left out: the job's own are taken."""
    resources: ResourcesConfig = ResourcesConfig()
    """Where groups train."""
    priority: int = Field(default=0, ge=-100, le=100)
    """Jobs of a higher priority start first.  It can be changed later."""
    deadline_hours: float | None = Field(default=None, gt=0, le=8760)
    """Hours after its first start at which the job is given up, wherever it stands; what it has written stays.
    Pauses do not stop this clock.  Left out: never."""

    @field_validator("method", mode="before")
    @classmethod
    def _sharing_has_something_to_share(cls, value: Any) -> Any:
        union, _ = get_args(MethodConfig)
        for config in get_args(union) if isinstance(value, dict) and "sharing" in value else ():
            kind = config.model_fields["kind"].default
            if value.get("kind") == kind and "sharing" not in config.model_fields:
                raise ValueError(f"{kind} has no parameters that tasks could share or not. Remove `sharing`.")
        return value

    @model_validator(mode="after")
    def _task_names_are_unique(self) -> "JobSpec":
        twice = sorted(name for name, count in Counter(task.name for task in self.tasks).items() if count > 1)
        if twice:
            raise ValueError(
                f"tasks: the name(s) {quoted(twice)} are given more than once. Give every task its own name."
            )
        return self

    @model_validator(mode="after")
    def _baselines_are_unique(self) -> "JobSpec":
        twice = sorted(name for name, count in Counter(self.baselines).items() if count > 1)
        if twice:
            raise ValueError(f"baselines: {quoted(twice)} given more than once. Name every baseline once.")
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
        self._check_kinds(self.method)
        return self

    @model_validator(mode="after")
    def _pairs_stay_on_one_device(self) -> "JobSpec":
        devices = self.resources.devices_per_group
        retrieval = [task.name for task in self.tasks if task.kind == "retrieval"]
        if devices > 1 and retrieval:
            raise ValueError(
                f"resources: devices_per_group={devices} given with retrieval tasks ({quoted(retrieval)}), but the "
                "pairs of a batch are contrasted with each other on one device. Use 1, or a job of their own for them."
            )
        return self

    @model_validator(mode="after")
    def _grouping_fits_the_tasks(self) -> "JobSpec":
        check_links(self.grouping, [task.name for task in self.tasks])
        demands = ("num_groups", "max_group_size", "max_group_cost", "pinned", "must_link", "cannot_link", "arbitrate")
        asked = [name for name in demands if getattr(self.grouping, name) != getattr(GroupingConfig(), name)]
        if self.trivial_sharing is not None and asked:
            sharing = sharing_of(self.method)
            chosen = f"kind={self.method.kind}" if sharing is None else f"sharing={sharing}"
            grouped = [name for name in type(self.method).sharings if name not in ("alone", "all")]
            instead = f", or set method.sharing to {' or '.join(grouped)}" if grouped else ""
            raise ValueError(
                f"grouping: {quoted(asked)} given, but method.{chosen} forms no groups and would ignore it. "
                f"Drop it{instead}."
            )
        if self.grouping.arbitrate and len(self.tasks) == 1:
            raise ValueError(
                "grouping: arbitrate given, but a single task has nothing to be grouped with. Drop it, or add tasks."
            )
        return self

    @model_validator(mode="after")
    def _comparisons_have_images(self) -> "JobSpec":
        blind = [task.name for task in self.tasks if _has_no_validation_images(task)]
        for compared in self.compared_on_validation if blind else ():
            raise ValueError(NO_VALIDATION.format(compared=compared, tasks=quoted(blind)))
        return self

    @model_validator(mode="after")
    def _search_fits_the_job(self) -> "JobSpec":
        if self.search is None:
            return self
        check_search(self.search, self.method, self.training, self._check_searched)
        kinds = sorted({task.kind for task in self.tasks})
        if self.search.metric == "val_loss" and len(kinds) > 1:
            raise ValueError(
                f"search: metric=val_loss given, but losses of {' and '.join(kinds)} tasks have no common scale. "
                "Use val_score."
            )
        return self

    def _check_kinds(self, method: MethodConfig) -> None:
        kinds = method.task_kinds()
        unfit = [task.name for task in self.tasks if task.kind not in kinds]
        if unfit:
            raise ValueError(
                f"tasks: {quoted(unfit)} given, but {method.kind} learns tasks of kind {' and '.join(kinds)} "
                "only with these settings. Choose another method, or leave them out."
            )

    def _check_searched(self, method: MethodConfig) -> None:
        """ValueError for a method that a search may choose and the job cannot train."""
        self._check_kinds(method)
        assert self.search is not None
        for baseline in self.baselines if self.search.scope == "job" else ():  # else they keep the job's own settings
            if baseline != "zero_shot":
                try:
                    with_sharing(method, baseline)
                except ValueError as error:
                    rest = ", ".join(other for other in self.baselines if other != baseline)
                    raise ValueError(
                        f"the baseline {baseline!r} trains with it, too, but {error} Drop the value, or give "
                        f"`baselines: [{rest}]`."
                    ) from error

    @property
    def trivial_sharing(self) -> Literal["alone", "all"] | None:
        """Who trains with whom when that needs no gradients: the job skips profile and group.  None: it needs both."""
        sharing = sharing_of(self.method) or "all"
        return sharing if sharing == "alone" or sharing == "all" else None

    @property
    def compared_on_validation(self) -> list[str]:
        """What the job compares on validation images, with the field that asks for it."""
        searched = [] if self.search is None else ["search: settings"]
        return [*searched, *(["grouping.arbitrate: groups"] if self.grouping.arbitrate else [])]


NO_VALIDATION = (
    "{compared} are compared on validation images, and {tasks} would have none. "
    "Give val_shots, val_fraction or a val source."
)


def _has_no_validation_images(task: TaskConfig) -> bool:
    """What can be told without the data: those may come with a validation part of their own."""
    match task.source:
        case ManifestSource():
            brings_parts = task.source.split_column is not None
        case HuggingFaceSource():
            brings_parts = task.source.val_split is not None
        case other:
            brings_parts = isinstance(other, DemoSource)
    match task.split:
        case ExplicitSplit():
            return task.split.val is None
        case FractionSplit():
            return task.split.val_fraction == 0 and not brings_parts
        case _:
            return task.split.val_shots == 0


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


def defined_baselines(method: MethodConfig) -> tuple[Baseline, ...]:
    """Every baseline that the method can be compared with."""

    def is_defined(baseline: Baseline) -> bool:
        try:
            return baseline == "zero_shot" or bool(with_sharing(method, baseline))
        except ValueError:
            return False

    return tuple(baseline for baseline in get_args(Baseline) if is_defined(baseline))


def check_roots(spec: JobSpec, roots: DataRoots) -> None:
    """Refuses (ValueError) a job that names a place outside the roots: a backbone's, a task's source or split."""
    spec.backbone.check(roots)
    for task in spec.tasks:
        for location in locations_of(task):
            roots.check(location)


def parse_spec(source: str | bytes | dict) -> JobSpec:
    """Reads a job description: YAML or JSON text, or a dict read already.  SpecError names every fault at once."""
    return read_spec(JobSpec, source)
