"""What a setting of a search means: dotted paths into a job's `method` and `training`, checked and applied.

Pure and torch-free, so that a space is refused when the job is posted and not when its first trial starts.
"""

import difflib
from collections.abc import Callable, Iterator, Mapping
from itertools import islice, product
from typing import Any

from pydantic import ValidationError

from workers.launching.search_config import Choice, Distribution, Grid, LogUniform, SearchConfig, Uniform, Value
from workers.methods.config import MethodConfig
from workers.spec import Spec
from workers.training.config import TrainConfig

Setting = Mapping[str, Value]
"""Path -> value: what one trial differs in from the job."""
Settings = tuple[MethodConfig, TrainConfig]

REFUSED = {
    "method.kind": "methods are compared, not searched: post a job for each, or use `cohort bench`",
    "method.sharing": "who shares is the plan's: post a job for each, or use `cohort bench`",
    "training.seed": "the best of several seeds is luck, which does not carry over to test images",
    "training.validations": "it changes nothing that is learned",
    "training.checkpoint_every": "it changes nothing that is learned",
}
_MAX_COMBINATIONS = 1000
_MAX_INTEGERS = 1000
_NO_INTEGER = {"int_from_float", "int_type", "int_parsing"}


def apply_setting(setting: Setting, method: MethodConfig, training: TrainConfig) -> Settings:
    """The job's method and training with a trial's values in their places.  ValueError where those do not fit."""
    rooms: dict[str, Any] = {"method": method.model_dump(), "training": training.model_dump()}
    for path, value in setting.items():
        *parents, last = path.split(".")
        place = rooms
        for name in parents:
            place = place[name]
        place[last] = value
    try:
        return type(method).model_validate(rooms["method"]), TrainConfig.model_validate(rooms["training"])
    except ValidationError as error:
        told = "; ".join(fault["msg"].removeprefix("Value error, ") for fault in error.errors(include_url=False))
        raise ValueError(f"{_given(setting)}: {told}") from error


def check_search(
    search: SearchConfig,
    method: MethodConfig,
    training: TrainConfig,
    check_method: Callable[[MethodConfig], object] = lambda method: None,
) -> None:
    """Refuses (ValueError, all faults at once) a space whose paths or values the job's own configs do not take, or with
    which `check_method` refuses the method."""
    faults = [fault for path in search.space for fault in _path_faults(path, search, method, training)]
    if not faults:
        faults = [
            fault for path in search.space for fault in _value_faults(path, search, method, training, check_method)
        ]
    if not faults and search.scheduler != "none" and training.validations < 2:
        faults = [
            f"scheduler={search.scheduler} ends trials by what they score along the way, but training.validations="
            f"{training.validations} looks once, at the end. Use scheduler: none, or more validations."
        ]
    if faults:
        raise ValueError("search: " + " ".join(faults))


def _given(setting: Setting) -> str:
    return ", ".join(f"{path}={value!r}" for path, value in setting.items())


def takes_only_integers(path: str, found: Uniform | LogUniform, method: MethodConfig, training: TrainConfig) -> bool:
    """Whether a range's field is a whole number."""
    low, _ = found.uniform if isinstance(found, Uniform) else found.loguniform
    try:
        apply_setting({path: int(low) + 0.5}, method, training)
    except ValueError as error:
        cause = error.__cause__
        return isinstance(cause, ValidationError) and any(fault["type"] in _NO_INTEGER for fault in cause.errors())
    return False


def _path_faults(path: str, search: SearchConfig, method: MethodConfig, training: TrainConfig) -> Iterator[str]:
    room, *names = path.split(".")
    if path in REFUSED:
        yield f"{path} cannot be searched: {REFUSED[path]}."
        return
    if room not in ("method", "training") or not names:
        yield f"{path!r:.80} is no path. Use training.FIELD or method.FIELD, such as training.lr."
        return
    if room == "training" and not method.trains:
        yield f"{path} has no effect: {method.kind} takes no training steps. Search its own fields (method.FIELD)."
        return
    if any(other.startswith(f"{path}.") for other in search.space):
        yield f"{path} holds fields that are searched, too. Search one or the other."
        return
    place: Any = method if room == "method" else training
    here = room
    for name in names:
        fields = list(type(place).model_fields) if isinstance(place, Spec) else []
        if name not in fields:
            close = difflib.get_close_matches(name, fields, n=1)
            if not fields:
                given = "null in this job" if place is None else f"{place!r:.40} and holds no fields"
                yield f"{path!r:.80}: {here} is {given}. Give the job a {here} with fields, or search {here} itself."
                return
            owner = f"{here} (kind {method.kind})" if room == "method" else here
            known = f"Did you mean {here}.{close[0]}?" if close else f"It has {', '.join(fields)}."
            yield f"{path!r:.80}: {owner} has no field {name!r:.60}. {known}"
            return
        place, here = getattr(place, name), f"{here}.{name}"


def _value_faults(
    path: str,
    search: SearchConfig,
    method: MethodConfig,
    training: TrainConfig,
    check_method: Callable[[MethodConfig], object],
) -> Iterator[str]:
    """A value is refused where it fits neither the job as it is nor any setting of the fields searched beside it."""

    def fault(setting: Setting) -> str | None:
        try:
            applied, _ = apply_setting(setting, method, training)
        except ValueError as error:
            return str(error)
        try:
            check_method(applied)
        except ValueError as error:
            return f"{_given(setting)}: {error}"
        return None

    others = {other: _tried(other, found, method, training) for other, found in search.space.items() if other != path}
    for value in _tried(path, search.space[path], method, training):
        if told := fault({path: value}):
            beside = islice(product(*others.values()), _MAX_COMBINATIONS) if others else ()
            settings = ({path: value, **dict(zip(others, values, strict=True))} for values in beside)
            if all(map(fault, settings)):
                yield told if told.endswith(".") else f"{told}."


def _tried(path: str, found: Distribution, method: MethodConfig, training: TrainConfig) -> list[Value]:
    """The values that stand for a distribution: all of a list, a range's ends and what lies between (its middle, or the
    whole numbers of a short one)."""
    match found:
        case Choice():
            return list(found.choice)
        case Grid():
            return list(found.grid)
        case Uniform():
            low, high = found.uniform
        case LogUniform():
            low, high = found.loguniform
    is_integer = takes_only_integers(path, found, method, training)
    if is_integer and high - low < _MAX_INTEGERS:
        return [low, *range(int(low) + 1, int(high)), high]
    return [low, high] if is_integer else [low, (low + high) / 2, high]
