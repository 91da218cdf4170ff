"""Who starts next, and what the others wait for.

The order: a higher priority first; inside one, jobs of the tenant that has the fewest running or ahead of it; then the
older job.  A tenant at its quota is passed by, and its own jobs never overtake each other.  Pure: it sees who waits,
who runs, what each tenant may use and how much room there is; no clock, no database.
"""

import heapq
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

RAY_AWAY = "Ray does not answer; no job can start."
CLUSTER = "The cluster: "
"""Begins the reasons that have to do with the machines that jobs run on."""
OF_RAY = (RAY_AWAY, CLUSTER)
"""Begin the reasons that nobody can tell the end of."""
QUOTA = "Quota: "
"""Begins the reasons that have to do with what the job's own tenant uses."""


@dataclass(frozen=True)
class Quota:
    """What a tenant may use at most.  None: as much as there is."""

    max_running_jobs: int | None = None
    max_devices: int | None = None
    max_storage_bytes: int | None = None
    max_priority: int | None = None


@dataclass(frozen=True)
class Waiting:
    """A job that could start."""

    id: str
    tenant: str
    priority: int = 0
    waits_for: str | None = None
    """The reason that it was told last."""

    @property
    def is_held_back(self) -> bool:
        """Whether its own tenant's quota keeps it from its turn, so that others pass it by."""
        return (self.waits_for or "").startswith(QUOTA)


@dataclass(frozen=True)
class Holding:
    """A job that an attempt owns."""

    tenant: str
    devices: int | None = None
    """None: as many as it likes."""


@dataclass(frozen=True)
class Need:
    """Devices that a job takes."""

    least: int
    """With fewer it cannot train."""
    most: int
    """It has no use for more."""


@dataclass
class Seating:
    """Who starts, and why the others do not."""

    starts: dict[str, int | None] = field(default_factory=dict)
    """Job -> devices that it may hold, in the order of the starts; None: as many as it likes."""
    waits: dict[str, str] = field(default_factory=dict)
    """Job -> what it waits for."""


def line_up(waiting: Sequence[Waiting], running: Mapping[str, int]) -> list[Waiting]:
    """The jobs in the order in which they start as room comes free.  `running`: tenant -> jobs that run."""
    ahead = Counter(running)
    turns = {}
    for job in sorted(waiting, key=lambda job: (-job.priority, job.id)):
        turns[job.id] = ahead[job.tenant]
        ahead[job.tenant] += 1
    return sorted(waiting, key=lambda job: (-job.priority, turns[job.id], job.id))


def seat(
    line: Sequence[Waiting],
    running: Sequence[Holding],
    *,
    room: int,
    quotas: Mapping[str, Quota],
    stored: Mapping[str, int],
    need: Callable[[str], Need],
) -> Seating:
    """Gives the room to the first in line whose tenant may have it.

    Args:
        line: from `line_up`.
        room: jobs that may run at the same time, those of `running` included.
        stored: tenant -> bytes of its files, at least for tenants whose quota has a limit for them.
        need: asked for the jobs whose tenant has a limit on devices, until one of them has to wait.
    """
    seating = Seating()
    held: dict[str, list[int | None]] = defaultdict(list)
    for each in running:
        held[each.tenant].append(each.devices)
    blocked: dict[str, str] = {}
    left_in_line = Counter(job.tenant for job in line)
    for job in line:
        quota = quotas.get(job.tenant, Quota())
        left_in_line[job.tenant] -= 1
        own = held[job.tenant]
        if job.tenant in blocked:
            seating.waits[job.id] = blocked[job.tenant]
        elif reason := _at_quota(quota, len(own), stored.get(job.tenant, 0)):
            seating.waits[job.id] = blocked[job.tenant] = reason
        elif sum(map(len, held.values())) >= room:
            seating.waits[job.id] = f"Room: {room} of {room} jobs run on this service."
        elif quota.max_devices is None:
            seating.starts[job.id] = None
            own.append(None)
        else:
            wants = need(job.id)
            free = quota.max_devices - sum(quota.max_devices if devices is None else devices for devices in own)
            if wants.least > quota.max_devices:  # it alone can never start: the others of its tenant go on
                seating.waits[job.id] = (
                    f"{QUOTA}it needs {wants.least} devices at a time, and its tenant may use {quota.max_devices}. "
                    "Ask for fewer, or an admin for a higher quota."
                )
            elif wants.least > free:
                seating.waits[job.id] = blocked[job.tenant] = (
                    f"{QUOTA}its tenant's jobs hold {quota.max_devices - free} of {quota.max_devices} devices, and it "
                    f"needs {wants.least}."
                )
            else:
                startable = room - sum(map(len, held.values()))
                if quota.max_running_jobs is not None:
                    startable = min(startable, quota.max_running_jobs - len(own))
                share = free // min(startable, 1 + left_in_line[job.tenant])
                seating.starts[job.id] = devices = min(free, max(wants.least, min(share, wants.most)))
                own.append(devices)
    return seating


def _at_quota(quota: Quota, num_running: int, stored: int) -> str | None:
    if quota.max_running_jobs is not None and num_running >= quota.max_running_jobs:
        return f"{QUOTA}its tenant runs {num_running} of {quota.max_running_jobs} jobs."
    if quota.max_storage_bytes is not None and stored >= quota.max_storage_bytes:
        return (
            f"{QUOTA}its tenant's files take {stored} of {quota.max_storage_bytes} bytes. Delete jobs that are done "
            "with (their files count until `purge_at`), or ask an admin for a higher quota."
        )
    return None


def wait_until_start(position: int, elapsed: Sequence[float], slots: int, typical: float) -> float:
    """Seconds until the job at `position` of the line (from 1) starts, if every job takes the typical time.

    Args:
        elapsed: seconds that the running jobs have run so far; one that has run longer may end at any time.
        slots: jobs that may run at the same time.
        typical: seconds that a job runs.
    """
    ends = [max(0.0, typical - seconds) for seconds in elapsed]
    ends += [0.0] * (slots - len(ends))
    heapq.heapify(ends)
    for _ in range(max(0, len(ends) - slots)):  # more run than may: so many ends let nobody in
        heapq.heappop(ends)
    for _ in range(position - 1):
        heapq.heapreplace(ends, ends[0] + typical)
    return ends[0]
