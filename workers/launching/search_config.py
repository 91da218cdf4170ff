"""How hyper-parameters are searched: the space, the budget, who proposes settings and who ends a trial.  Torch-free.

What a path or a value means is not known here: search_space.py holds it against the method and the training.
"""

import math
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, field_validator, model_validator

from workers.spec import Spec

MAX_TRIALS = 1000
LARGEST = 1e15
"""No number beyond it, so that every one has a midpoint with another and fits where integers have 64 bits."""


def _bounded(value: Any) -> Any:
    if isinstance(value, int | float) and not -LARGEST <= value <= LARGEST:
        raise ValueError(f"a searched number must lie between {-LARGEST:g} and {LARGEST:g}.")
    return value


def _number(value: Any) -> Any:
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    except (TypeError, ValueError):
        number = None
    if number is None or isinstance(value, bool):
        raise ValueError(f"{value!r:.40} is no number. Use {{uniform: [0, 0.1]}}, say.")
    _bounded(number)
    return value if isinstance(value, int) else number


Number = Annotated[int | float, BeforeValidator(_number)]
Value = Annotated[bool | int | float | str | list[bool | int | float | str] | None, BeforeValidator(_bounded)]
"""What a choice may hold: whatever a field of a method or a training can be, except further fields."""


class Uniform(Spec):
    """Any number between two, all equally likely; whole numbers where the field takes only those."""

    uniform: tuple[Number, Number]
    """From and to, both included."""

    @model_validator(mode="after")
    def _is_a_range(self) -> "Uniform":
        low, high = self.uniform
        if not low < high:
            raise ValueError(f"uniform={list(self.uniform)} must hold from < to. Use [0, 0.1], say.")
        return self


class LogUniform(Spec):
    """Any number between two, all orders of magnitude equally likely."""

    loguniform: tuple[Number, Number]
    """From and to, both included and above 0."""

    @model_validator(mode="after")
    def _is_a_range(self) -> "LogUniform":
        low, high = self.loguniform
        if not 0 < low < high:
            raise ValueError(f"loguniform={list(self.loguniform)} must hold 0 < from < to. Use [0.001, 0.1], say.")
        return self


class Choice(Spec):
    """One of some values, all equally likely."""

    choice: list[Value] = Field(min_length=1, max_length=MAX_TRIALS)
    """The values."""


class Grid(Spec):
    """Every one of some values, with every setting of the other fields."""

    grid: list[Value] = Field(min_length=1, max_length=MAX_TRIALS)
    """The values."""


def _distribution_kind(value: Any) -> str | None:
    keys = value.keys() if isinstance(value, dict) else getattr(type(value), "model_fields", ())
    return next((key for key in ("uniform", "loguniform", "choice", "grid") if key in keys), None)


Distribution = Annotated[
    Annotated[Uniform, Tag("uniform")]
    | Annotated[LogUniform, Tag("loguniform")]
    | Annotated[Choice, Tag("choice")]
    | Annotated[Grid, Tag("grid")],
    Discriminator(
        _distribution_kind,
        custom_error_type="distribution",
        custom_error_message="one of {uniform: [from, to]}, {loguniform: [from, to]}, {choice: [...]}, {grid: [...]}",
    ),
]


class SearchConfig(Spec):
    """Settings are drawn from a space, each trained for a trial and scored on validation images; the best one trains
    the groups."""

    space: dict[str, Distribution] = Field(min_length=1, max_length=32)
    """Field of `method` or `training`, as a dotted path (`training.lr`) -> what its values are drawn from."""
    num_trials: int = Field(default=16, ge=1, le=MAX_TRIALS)
    """Settings drawn; times the size of the grid, where there is one.  A setting drawn twice is tried once."""
    max_seconds: float | None = Field(default=None, gt=0)
    """Time for the whole search; trials that still run then are stopped.  Left out: none."""
    scheduler: Literal["none", "asha", "median"] = "none"
    """Who ends a trial before its last step: nobody, ASHA (about the best third goes on after the first validation
    that follows the warm-up, and again after three times as many), or the median rule (worse than the other trials'
    median so far)."""
    searcher: Literal["random", "optuna"] = "random"
    """Who proposes settings: chance, or Optuna's TPE, which learns from the trials before (needs Optuna installed)."""
    metric: Literal["val_score", "val_loss"] = "val_score"
    """What is best: the tasks' mean score, or their mean loss, on validation images."""
    scope: Literal["job", "group"] = "job"
    """One setting for all groups and the baselines, or one for every group (the baselines keep the job's own)."""
    max_concurrent: int | None = Field(default=None, ge=1)
    """Trials at the same time, never more than there are device workers.  Left out: as many as those."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """The same seed and space draw the same settings."""

    @field_validator("searcher", mode="before")
    @classmethod
    def _grids_stand_in_the_space(cls, value: Any) -> Any:
        if value == "grid":
            raise ValueError(
                "'grid' is no searcher: a grid is written in the space, {training.lr: {grid: [0.001, 0.01]}}, and "
                "every value of it is tried. Use random or optuna, or leave searcher out."
            )
        return value

    @property
    def grid_size(self) -> int:
        """Combinations of all grids; 1 where there is none."""
        return math.prod(len(found.grid) for found in self.space.values() if isinstance(found, Grid))

    @property
    def mode(self) -> Literal["max", "min"]:
        """Whether more of the metric is better, or less."""
        return "max" if self.metric == "val_score" else "min"

    @model_validator(mode="after")
    def _optuna_takes_no_grid(self) -> "SearchConfig":
        grids = [path for path, found in self.space.items() if isinstance(found, Grid)]
        if self.searcher == "optuna" and grids:
            raise ValueError(
                f"searcher=optuna proposes settings one by one and cannot exhaust the grid of {', '.join(grids)}. "
                "Use choice there, or searcher: random."
            )
        return self

    @model_validator(mode="after")
    def _trials_are_bounded(self) -> "SearchConfig":
        if (trials := self.num_trials * self.grid_size) > MAX_TRIALS:
            raise ValueError(
                f"num_trials={self.num_trials} times a grid of {self.grid_size} are {trials} trials; "
                f"at most {MAX_TRIALS} are run. Lower num_trials, or use choice in place of grid."
            )
        return self
