"""What an estimate says, as it is kept and as it travels."""

from datetime import datetime
from typing import Literal

from pydantic import Field

from service.message import Message
from service.states import TERMINAL, JobState


class Interval(Message):
    """From and to."""

    low: float
    """At least, as far as could be seen."""
    high: float
    """At most, as far as could be seen."""

    def __add__(self, other: "Interval") -> "Interval":
        return Interval(low=self.low + other.low, high=self.high + other.high)

    def __mul__(self, other: "Interval | float") -> "Interval":
        low, high = (other.low, other.high) if isinstance(other, Interval) else (other, other)
        return Interval(low=self.low * low, high=self.high * high)

    __rmul__ = __mul__


class TaskSample(Message):
    """What a sample of a task's images showed."""

    task: str
    """Its name."""
    num_train: int
    """Training images by its split, had all of them been read."""
    num_val: int
    """Validation images by its split."""
    num_test: int
    """Test images by its split."""
    num_read: int
    """Images that were opened."""
    num_unreadable: int
    """How many of them cannot be read."""
    unreadable: list[str]
    """The first 20 of these, by key."""


class Memory(Message):
    """Whether the largest pass fits."""

    of: Literal["process", "device"] | None
    """Whose memory it is: that of a device worker's process, or of its accelerator; null where neither was seen."""
    peak_bytes: int | None
    """The most that was held at a time; null where memory ran out before that could be seen."""
    available_bytes: int | None
    """What there was for it."""
    fits: bool
    """Whether the one is within the other."""
    sentence: str
    """The same in words."""


class Speed(Message):
    """How fast steps go, on one device worker."""

    seconds_per_step: Interval
    """Of one optimiser step."""
    images_per_step: Interval
    """Training images in it."""
    images_per_second: Interval
    """Training images that one device worker takes per second."""


class StageForecast(Message):
    """How long a stage will take."""

    stage: str
    """`validate`, `profile`, `group`, `search`, `train` or `publish`."""
    seconds: Interval
    """From its start to its end."""
    device_seconds: Interval
    """Seconds times the devices that compute."""


class Forecast(Message):
    """What the whole job will take, judged by a sample."""

    tasks: list[TaskSample]
    """In the order of the job."""
    problems: list[str]
    """What would keep the job from working, in words."""
    memory: Memory
    """Whether it fits."""
    profile: Speed | None = None
    """Of the shared prompt; null for a job without one, and where memory ran out."""
    groups: Speed | None = None
    """Of the passes in which groups and baselines train; null where nothing trains or memory ran out."""
    workers: int
    """Device workers that would train at the same time."""
    stages: list[StageForecast] = Field(default_factory=list)
    """In their order; empty where memory ran out."""
    seconds: Interval | None = None
    """From the start of the job's first attempt to its end; null where memory ran out."""
    device_hours: Interval | None = None
    """Hours of one device, or two for half as long; null where memory ran out."""
    bundle_bytes: Interval | None = None
    """Size of the bundle; null where memory ran out."""
    assumptions: list[str]
    """What it rests on."""


class Estimate(Message):
    """A dry run of a job: where it stands, and what it found."""

    id: str
    """Its own id, `job-` and 12 characters: it is cancelled like a job."""
    name: str
    """Of the job."""
    state: JobState
    """SUCCEEDED once the forecast is there."""
    reason: str | None
    """Why it failed, which is why the job would, or what it waits for."""
    forecast: Forecast | None
    """What the job will take; null until that is known."""
    wait_seconds: float | None
    """About how long the job would wait for its turn if it were submitted now; null where nothing tells."""
    created_at: datetime
    """When it was asked for."""
    finished_at: datetime | None
    """When it had ended."""
    expires_at: datetime | None
    """From when on it is no longer kept; null while it is archived."""

    @property
    def is_finished(self) -> bool:
        return self.state in TERMINAL
