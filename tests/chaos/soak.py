"""Many small jobs one after another: none is lost, all come to the same, and the service does not grow with them."""

import time
from pathlib import Path

from service.states import JobState
from tests.chaos import jobs
from tests.chaos.jobs import Outcome
from tests.chaos.oracle import all_events, left_over, of_events
from tests.chaos.places import Storage
from tests.chaos.service import Overdue, Service
from tests.chaos.trials import Row

JOB_SECONDS = 120.0
"""The most that a job may take on the average."""
LOOKED_AT = 8
"""Of the jobs that wait, how many are looked at: they start in the order in which they came."""
WARM = 0.2
"""Share of the jobs after which the service counts as warm: what it holds then must be enough for the rest."""
GROWTH_BYTES = 64 * 2**20
GROWTH_FILES = 16


def soak(service: Service, storage: Storage, count: int) -> Row:
    """Submits them all at once; every job is a trial."""
    row = Row(f"soak of {count} jobs", injected=count)
    waiting = [service.client.submit(jobs.tiny(f"tiny-{number}")).id for number in range(count)]
    try:
        ended, warm = _all_end(service, waiting)
    except Overdue as error:
        row.complaints.append(str(error))
        return row
    first: Outcome | None = None
    for job_id in ended:
        job = service.client.job(job_id)
        told = of_events(all_events(service.client, job_id), job.state)
        if job.state != JobState.SUCCEEDED:
            told.append(f"it is {job.state}: {job.reason}")
        else:
            found = Outcome.of(service.client, job_id)
            first = first or found
            told += first.differences(found)
        row.survived += not told
        row.complaints += [f"{job_id}: {complaint}" for complaint in told]
    row.complaints += left_over(service, storage, ended[-1])
    memory, files = _held(service.pid)
    if memory - warm[0] > GROWTH_BYTES or files - warm[1] > GROWTH_FILES:
        row.complaints.append(
            f"the service held {warm[0] / 2**20:.0f} MiB and {warm[1]} files when it was warm, and "
            f"{memory / 2**20:.0f} MiB and {files} files in the end"
        )
    return row


def _all_end(service: Service, job_ids: list[str]) -> tuple[list[str], tuple[int, int]]:
    """The jobs as they ended, and what the service held once it was warm.  Overdue."""
    waiting, ended = list(job_ids), []
    warm: tuple[int, int] | None = None
    deadline = time.monotonic() + JOB_SECONDS * len(job_ids)
    while waiting:
        finished = [job_id for job_id in waiting[:LOOKED_AT] if service.client.job(job_id).is_finished]
        ended += finished
        waiting = [job_id for job_id in waiting if job_id not in finished]
        if warm is None and len(ended) >= WARM * len(job_ids):
            warm = _held(service.pid)
        if time.monotonic() > deadline:
            raise Overdue(
                f"{len(waiting)} of {len(job_ids)} jobs had not ended after {JOB_SECONDS * len(job_ids):.0f} s"
            )
        time.sleep(1.0)
    assert warm is not None
    return ended, warm


def _held(pid: int) -> tuple[int, int]:
    """Bytes of memory, and open files."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * 4096, len(list(Path(f"/proc/{pid}/fd").iterdir()))
