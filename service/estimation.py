"""What a whole job will take, from what a few images and steps of it took.  Pure: it knows no clock and no device.

The groups are not known before the profile, so the job's passes are laid out twice: as if all tasks trained in one
group, and as if each trained alone.  What both layouts and the spread of the steps leave open is the interval.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from grouping.plan import trivial_plan
from service.spec import JobSpec
from service.stages.units import can_share, train_units
from service.wire_estimate import Forecast, Interval, Memory, Speed, StageForecast, TaskSample
from workers.launching.estimate_work import Tried
from workers.launching.packing import MAX_IMAGES_PER_STEP, longest_first, pack
from workers.launching.work import GroupUnit, num_steps
from workers.methods.base_config import MethodSpec
from workers.training.config import LARGEST_SIGNATURES

SCORED = {"val": 16, "test": 32}
"""Part -> images of a task that an estimate scores."""
VARIES = Interval(low=0.8, high=1.3)
"""How far a machine's speed over a whole job lies from that of a minute of it."""
NOTHING = Interval(low=0.0, high=0.0)
STAGES = ("validate", "profile", "group", "search", "train", "publish")

Pass = tuple[GroupUnit, ...]


@dataclass(frozen=True)
class Sampled:
    """Everything that was tried."""

    validation: Tried
    profile: Tried | None
    """None for a job that has no profile."""
    passes: Sequence[tuple[Pass, Tried]]
    waited: float
    """Seconds from the start of the attempt until its first device worker got to work."""


def sample_of(spec: JobSpec) -> dict[str, int]:
    """Part -> images of every task that are read: enough to fill a batch, and two microbatches of the profile."""
    return {"train": max(spec.training.batch_size, 2 * spec.profile.microbatch_size), **SCORED}


def layouts(
    spec: JobSpec, tasks: Sequence[Mapping[str, Any]], workers: int, fits: Callable[[Sequence[GroupUnit]], bool]
) -> list[list[Pass]]:
    """The ways in which the job may come to train: what shares a forward pass, the costliest pass first."""
    num_train = {task["name"]: task["num_train"] for task in tasks}
    classes = {task["name"]: tuple(task["class_names"]) for task in tasks}
    can_all = len(tasks) > 1 and can_share(spec.method, classes)
    ways: list[Literal["alone", "all"]] = ["all", "alone"] if can_all else ["alone"]
    found: list[list[Pass]] = []
    if spec.trivial_sharing is not None:
        ways = [spec.trivial_sharing]
    for way in ways:
        units = train_units(spec, trivial_plan(list(num_train), way), num_train, classes).units
        if spec.resources.devices_per_group == 1:
            found.append([tuple(members) for members in pack(units, workers, MAX_IMAGES_PER_STEP, fits)])
        else:
            found.append([(unit,) for unit in sorted(units, key=lambda unit: unit.cost, reverse=True)])
    return found


def out_of_memory(spec: JobSpec, validation: Tried, workers: int, error: str) -> Forecast:
    """The forecast for a job that ran out of memory in small."""
    memory = Memory(of=None, peak_bytes=None, available_bytes=None, fits=False, sentence=f"It does not fit: {error}")
    problems = [*_problems(spec, validation, None), memory.sentence]
    return Forecast(tasks=_samples(validation), problems=problems, memory=memory, workers=workers, assumptions=[])


def forecast(spec: JobSpec, found: Sampled, ways: Sequence[Sequence[Pass]], workers: int) -> Forecast:
    """What the job will take, with `workers` passes at the same time."""
    costs, devices = _Costs(spec, found), spec.resources.devices_per_group
    one_plan = _hull(costs.of_pass(_planned(passes)) for passes in ways)
    spans, sums = [], []
    for passes in ways:
        each = [costs.of_pass(members) for members in passes]
        of_workers = longest_first(each, num_bins=workers, cost=lambda cost: cost.high)
        spans.append(_longest([_total(of_worker) for of_worker in of_workers]))
        sums.append(_total(each))
    times = {"validate": costs.arriving + costs.reading, "train": _hull(spans), "publish": Interval(low=0.1, high=5.0)}
    device = {"validate": costs.reading, "train": _hull(sums) * devices, "publish": NOTHING}
    if workers > 1:
        times["train"] += costs.arriving * Interval(low=0.0, high=1.0)
    if spec.trivial_sharing is None:
        times["profile"] = device["profile"] = costs.of_profile()
        times["group"], device["group"] = Interval(low=0.2, high=30 + 0.1 * len(spec.tasks)), NOTHING
    if spec.grouping.arbitrate:  # the plan, all in one and each alone; and perhaps as much again for changed plans
        trials = one_plan * spec.grouping.arbitrate_share * Interval(low=2.0, high=6.0) * devices
        times["group"], device["group"] = times["group"] + trials * (1 / workers / devices), trials
    if spec.search is not None:
        at_once = min(spec.search.max_concurrent or workers, workers)
        early = 1.0 if spec.search.scheduler == "none" else 0.3  # ASHA lets about a third go on
        trials = one_plan * (spec.search.num_trials * spec.search.grid_size) * Interval(low=early, high=1.0)
        most = (spec.search.max_seconds or math.inf) * (len(spec.tasks) if spec.search.scope == "group" else 1)
        span = trials * (1 / at_once) + costs.arriving
        times["search"] = Interval(low=min(span.low, most), high=min(span.high, most))
        device["search"] = times["search"] * at_once
    memory = _memory(found)
    return Forecast(
        tasks=_samples(found.validation),
        problems=_problems(spec, found.validation, found.profile) + ([] if memory.fits else [memory.sentence]),
        memory=memory,
        profile=_speed([] if found.profile is None else [found.profile]),
        groups=_speed([tried for _, tried in found.passes]),
        workers=workers,
        stages=[StageForecast(stage=s, seconds=times[s], device_seconds=device[s]) for s in STAGES if s in times],
        seconds=_total(times.values()),
        device_hours=_total(device.values()) * (1 / 3600),
        bundle_bytes=_bundle(spec, found),
        assumptions=_assumptions(spec, found, ways),
    )


class _Costs:
    """Seconds that parts of the job take on one device worker."""

    def __init__(self, spec: JobSpec, found: Sampled) -> None:
        self._spec, self._profile = spec, found.profile
        self._tasks = {task["name"]: task for task in found.validation.tasks}
        self.arriving = (found.waited + found.validation.backbone) * VARIES
        cold, again = (sum(map(seconds, self._tasks.values())) for seconds in (_cold, _again))
        self.reading = Interval(low=min(again, cold), high=cold) * VARIES  # some may be in the cache
        steps = [seconds / tried.images for _, tried in found.passes for seconds in tried.steps]
        scored = [tried.rest / tried.rest_images for _, tried in found.passes if tried.rest_images]
        self._per_image, self._per_scored = _range(steps) * VARIES, _range(scored) * VARIES
        self._setup = _range([tried.setup for _, tried in found.passes]) * VARIES
        if spec.method.feature_side:  # every training image is encoded before the first step
            self._setup *= _times_more(self._tasks.values(), sample_of(spec)["train"])

    def of_pass(self, members: Pass) -> Interval:
        """Units that train in one forward pass, and their evaluation."""
        images = sum(unit.num_steps * unit.images_per_step for unit in members) / self._spec.resources.devices_per_group
        validations = self._spec.training.validations
        scored = sum(
            self._tasks[task]["num_test"] + self._tasks[task]["num_val"] * (validations if unit.num_steps else 1)
            for unit in members
            for task in unit.tasks
        )
        return (
            self._again({t for u in members for t in u.tasks})
            + self._setup
            + (self._per_image * images + self._per_scored * scored)
        )

    def of_profile(self) -> Interval:
        """The shared prompt and the signatures."""
        assert self._profile is not None
        config, tried = self._spec.profile, self._profile
        length = {"epochs": config.epochs, "max_steps": config.max_steps}
        num_train = {name: task["num_train"] for name, task in self._tasks.items()}
        steps = num_steps(self._spec.training.model_copy(update=length), num_train)
        training = Interval(low=tried.setup, high=tried.setup) + _range(tried.steps) * steps

        def images(microbatches: int) -> int:
            return config.snapshots * sum(min(microbatches * config.microbatch_size, n) for n in num_train.values())

        first, more = images(config.microbatches), 0
        if config.max_microbatches > config.microbatches:  # taken where groups cannot be told from noise
            more = images(config.max_microbatches)
        signatures = Interval(low=first, high=first + more) * (tried.rest / tried.rest_images)
        return self._again(self._tasks) + (training + signatures) * VARIES

    def _again(self, tasks: Iterable[str]) -> Interval:
        """Reading the tasks' images from the cache."""
        return sum(_again(self._tasks[task]) for task in tasks) * VARIES


def _cold(task: Mapping[str, Any]) -> float:
    """Seconds until all images of a task are there for the first time."""
    return task["list_seconds"] + task["read_seconds"] * _num_images(task) / max(task["num_read"], 1)


def _again(task: Mapping[str, Any]) -> float:
    """The same with all of them in the cache."""
    reading = max(0.0, task["again_seconds"] - task["list_seconds"])
    return task["list_seconds"] + reading * _num_images(task) / max(task["num_read"], 1)


def _num_images(task: Mapping[str, Any]) -> int:
    return sum(task[f"num_{part}"] for part in ("train", "val", "test"))


def _times_more(tasks: Iterable[Mapping[str, Any]], sample: int) -> float:
    """Training images of the job for one of the sample."""
    counts = [task["num_train"] for task in tasks]
    return sum(counts) / sum(min(count, sample) for count in counts)


def _planned(passes: Sequence[Pass]) -> Pass:
    return tuple(unit for members in passes for unit in members if unit.kind == "plan")


def _samples(validation: Tried) -> list[TaskSample]:
    fields = [name for name in TaskSample.model_fields if name != "task"]
    return [TaskSample(task=task["name"], **{name: task[name] for name in fields}) for task in validation.tasks]


def _problems(spec: JobSpec, validation: Tried, profile: Tried | None) -> list[str]:
    """What the job would be refused for, though its sample was not."""
    budgets = {task.name: task.bad_image_budget for task in spec.tasks}
    told = [
        f"Task {task['name']!r}: {task['num_unreadable']} of {task['num_read']} images that were read cannot be; "
        f"bad_image_budget={budgets[task['name']]} allows fewer."
        for task in validation.tasks
        if task["num_unreadable"] > budgets[task["name"]] * task["num_read"]
    ]
    config = spec.profile
    if spec.trivial_sharing is None:
        told += [
            f"Task {task['name']!r}: {task['num_train']} training images cannot fill profile.microbatches="
            f"{config.microbatches} disjoint microbatches."
            for task in validation.tasks
            if task["num_train"] < config.microbatches
        ]
    if profile is not None:
        size = 4 * config.snapshots * config.microbatches * len(spec.tasks) * profile.signature
        if size > LARGEST_SIGNATURES:
            told.append(f"profile: its signatures take {_gb(size)}, more than {_gb(LARGEST_SIGNATURES)} are not kept.")
    return told


def _memory(found: Sampled) -> Memory:
    tried = [found.validation, *filter(None, [found.profile]), *(tried for _, tried in found.passes)]
    most = max(tried, key=lambda each: each.peak / each.available)
    fits = most.peak <= most.available
    sentence = (
        f"The largest pass takes {_gb(most.peak)} of the {_gb(most.available)} that are there for its {most.memory}"
        + ("." if fits else ": it does not fit. Use a smaller training.batch_size, or a machine with more memory.")
    )
    return Memory(of=most.memory, peak_bytes=most.peak, available_bytes=most.available, fits=fits, sentence=sentence)


def _speed(tried: Sequence[Tried]) -> Speed | None:
    trained = [each for each in tried if each.steps]
    if not trained:
        return None
    rates = [each.images / seconds for each in trained for seconds in each.steps]
    return Speed(
        seconds_per_step=_range([seconds for each in trained for seconds in each.steps]),
        images_per_step=_range([each.images for each in trained]),
        images_per_second=_range(rates),
    )


def _bundle(spec: JobSpec, found: Sampled) -> Interval:
    """Of what was learned by each task in small, and of the report and the records beside that."""
    units = [(unit, tried.sizes[unit.id]) for members, tried in found.passes for unit in members if unit.kind == "plan"]
    learned = _range([size / len(unit.tasks) for unit, size in units]) * len(spec.tasks)
    if type(spec.method).per_train_image is not MethodSpec.per_train_image:
        learned *= Interval(low=1.0, high=_times_more(found.validation.tasks, sample_of(spec)["train"]))
    return learned + Interval(low=10_000, high=60_000) * (len(spec.tasks) + 1)


def _assumptions(spec: JobSpec, found: Sampled, ways: Sequence[Sequence[Pass]]) -> list[str]:
    most = max(map(len, ways))
    told = [
        f"At most {sum(sample_of(spec).values())} images of a task were read, and {len(found.passes)} of up to {most} "
        "passes were tried for a few steps, as many at a time as the job would run.",
        "The groups are not known before the profile: from all tasks in one to each alone was counted with.",
        "Nothing fails and has to be tried again, the machine is as busy with other work as it was, and the time in "
        "the queue is not counted.",
    ]
    if spec.resources.devices_per_group > 1:
        told.append("A device's share of a batch was tried on one device; what the devices tell each other was not.")
    if spec.search is not None:
        told.append("Every trial of the search takes the job's own steps and batch size.")
    return told


def _range(values: Iterable[float]) -> Interval:
    kept = list(values)
    return Interval(low=min(kept), high=max(kept)) if kept else NOTHING


def _hull(intervals: Iterable[Interval]) -> Interval:
    kept = list(intervals)
    return Interval(low=min(each.low for each in kept), high=max(each.high for each in kept))


def _longest(intervals: Iterable[Interval]) -> Interval:
    kept = list(intervals)
    return Interval(low=max(each.low for each in kept), high=max(each.high for each in kept))


def _total(intervals: Iterable[Interval]) -> Interval:
    return sum(intervals, NOTHING)


def _gb(size: float) -> str:
    return f"{size / 1024**3:.2f} GiB"
