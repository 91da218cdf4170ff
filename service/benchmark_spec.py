"""A benchmark as its user wrote it: contestants x shots x seeds on given tasks.

Torch-free.  What a benchmark shares with a job (backbone, tasks, methods, training, grouping) is written as in a job.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field, PositiveInt, model_validator

from grouping.config import GroupingConfig
from grouping.demands import check_links
from service.reading import quoted, read_spec
from service.spec import MAX_TASKS, sharing_of, with_sharing
from workers.clip.config import BackboneConfig
from workers.data.config import ShotsSplit, TaskConfig
from workers.methods.config import MethodConfig, MmAPConfig, Sharing
from workers.spec import Spec
from workers.training.config import ProfileConfig, TrainConfig


@dataclass(frozen=True)
class Contestant:
    """One method under one sharing: the rows of the table, one for each number of shots."""

    label: str
    method: MethodConfig
    training: TrainConfig

    @property
    def sharing(self) -> Sharing | None:
        """Who shares the method's parameters; None where it has none to share."""
        return sharing_of(self.method)

    @property
    def title(self) -> str:
        """What the contestant is called where one name must do."""
        return self.label if self.sharing is None else f"{self.label} {self.sharing}"


class BenchMethod(Spec):
    """A method to measure.  Its fields may also stand by themselves: `{kind: coop, sharing: [alone, all]}`."""

    label: str | None = Field(default=None, min_length=1, max_length=60)
    """Its name in the table.  Left out: the method's kind."""
    method: MethodConfig
    """The method; a list as its `sharing` makes one contestant of each."""
    sharing: Annotated[tuple[Sharing, ...] | None, Field(min_length=1)] = None
    """Sharing modes to measure, each a contestant.  Left out: the method's own."""
    training: TrainConfig = TrainConfig()
    """What is set here replaces the benchmark's own training."""

    @model_validator(mode="before")
    @classmethod
    def _read_the_short_form(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        if "kind" in given:
            own = {name: value for name, value in given.items() if name not in ("label", "training")}
            given = {name: value for name, value in given.items() if name not in own} | {"method": own}
        method = given.get("method")
        modes = method.get("sharing") if isinstance(method, dict) else None
        if isinstance(method, dict) and isinstance(modes, list) and modes:
            given = {**given, "method": {**method, "sharing": modes[0]}, "sharing": modes}
        return given

    @model_validator(mode="after")
    def _sharing_is_defined(self) -> "BenchMethod":
        for sharing in self.sharing or ():
            with_sharing(self.method, sharing)
        _refuse_decided(self.training, "methods: training")
        return self

    def contestants(self, training: TrainConfig) -> list[Contestant]:
        """Itself under each of its sharing modes, trained by `training` where it does not say otherwise."""
        methods = [with_sharing(self.method, mode) for mode in self.sharing] if self.sharing else [self.method]
        label = self.label or self.method.kind
        return [Contestant(label, method, merged(training, self.training)) for method in methods]


class SharedPrompt(Spec):
    """The prompt over all tasks from whose gradients the groups are read."""

    method: MmAPConfig = MmAPConfig()
    """Its shape; the sharing does not matter."""
    training: TrainConfig = TrainConfig()
    """What is set here replaces the benchmark's own training; the length is the profile's."""


class BenchSpec(Spec):
    """Which methods are measured on which tasks, how often, and from how many images."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")
    """A name; results go to a folder of that name."""
    backbone: BackboneConfig
    """The frozen CLIP."""
    tasks: list[TaskConfig] = Field(min_length=1, max_length=MAX_TASKS)
    """The tasks, as in a job; `shots` and `seed` of their splits are replaced by the benchmark's.  Parts that are
    given (separate sources, fraction 1) are the same under every seed."""
    methods: list[BenchMethod] = Field(min_length=1)
    """The contestants."""
    shots: Annotated[tuple[PositiveInt, ...] | None, Field(min_length=1)] = None
    """Training images per class, each measured.  Left out: every task keeps the size of its own split."""
    seeds: tuple[int, ...] = Field(default=(1, 2, 3), min_length=1)
    """Each draws its own images (where they are not given), initialisation and data order."""
    training: TrainConfig = TrainConfig()
    """How every contestant trains, where it does not say otherwise itself."""
    shared_prompt: SharedPrompt = SharedPrompt()
    """What is trained to form groups; once for each seed and number of shots, for all contestants that need groups."""
    profile: ProfileConfig = ProfileConfig()
    """How long the shared prompt trains, and when its gradients are read."""
    grouping: GroupingConfig = GroupingConfig()
    """How tasks are split into groups."""

    @model_validator(mode="after")
    def _names_are_unique(self) -> "BenchSpec":
        names = {
            "tasks": [task.name for task in self.tasks],
            "methods": [contestant.title for contestant in self.contestants()],
            "shots": [str(shots) for shots in self.shots or ()],
            "seeds": [str(seed) for seed in self.seeds],
        }
        for key, given in names.items():
            if twice := sorted(name for name, count in Counter(given).items() if count > 1):
                raise ValueError(
                    f"{key}: {quoted(twice)} given more than once. "
                    f"{'Give each a label of its own.' if key == 'methods' else 'Name each once.'}"
                )
        return self

    @model_validator(mode="after")
    def _splits_are_by_shots(self) -> "BenchSpec":
        other = [task.name for task in self.tasks if not isinstance(task.split, ShotsSplit)]
        if self.shots and other:
            raise ValueError(
                f"shots: {list(self.shots)} given, but {quoted(other)} is not split by shots. Leave shots out (every "
                "task then keeps its split), or give the tasks splits by shots."
            )
        return self

    @model_validator(mode="after")
    def _methods_fit_the_tasks(self) -> "BenchSpec":
        for entry in self.methods:
            kinds = entry.method.task_kinds()
            if unfit := [task.name for task in self.tasks if task.kind not in kinds]:
                raise ValueError(
                    f"methods: {entry.method.kind} learns tasks of kind {' and '.join(kinds)} only, not "
                    f"{quoted(unfit)}. Leave the method or the tasks out."
                )
        return self

    @model_validator(mode="after")
    def _nothing_is_ignored(self) -> "BenchSpec":
        check_links(self.grouping, [task.name for task in self.tasks])
        _refuse_decided(self.training, "training")
        _refuse_decided(self.shared_prompt.training, "shared_prompt: training")
        if self.grouping.approve:
            raise ValueError("grouping: approve=true given, but a benchmark asks nobody. Leave it out.")
        own = {"shared_prompt": SharedPrompt(), "profile": ProfileConfig(), "grouping": GroupingConfig()}
        asked = [name for name, default in own.items() if getattr(self, name) != default]
        if asked and not any(forms_groups(contestant) for contestant in self.contestants()):
            raise ValueError(
                f"{quoted(asked)} given, but no method here forms groups, so it would be ignored. Leave it out, or "
                "give a method the sharing grouped or grouped+task."
            )
        return self

    def contestants(self) -> list[Contestant]:
        """Every method under every sharing it is measured with, in the order of the table."""
        return [contestant for entry in self.methods for contestant in entry.contestants(self.training)]


def parse_bench(source: str | bytes | dict) -> BenchSpec:
    """Reads a benchmark's description: YAML or JSON text.  SpecError names every fault at once."""
    return read_spec(BenchSpec, source)


def merged(base: TrainConfig, override: TrainConfig) -> TrainConfig:
    """`base` with every field that `override` was given; a length in epochs replaces one in steps."""
    given = {name: getattr(override, name) for name in override.model_fields_set}
    return base.model_copy(update=({"max_steps": None} if "epochs" in given else {}) | given)


def forms_groups(contestant: Contestant) -> bool:
    """Whether its sharing needs groups that are read from gradients."""
    return contestant.sharing not in (None, "alone", "all")


def _refuse_decided(training: TrainConfig, where: str) -> None:
    """What the benchmark itself decides."""
    if "seed" in training.model_fields_set:
        raise ValueError(f"{where}: seed={training.seed} given, but the benchmark's `seeds` decide. Leave it out.")
    if "validations" in training.model_fields_set and training.validations != 1:
        raise ValueError(
            f"{where}: validations={training.validations} given, but a benchmark scores the last step only. Leave it "
            "out."
        )
