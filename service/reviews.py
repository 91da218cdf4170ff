"""Reviews of plans: worked out one at a time, each in a process of its own, so that the service goes on answering.

A review takes from a second to a minute and is kept beside its plan, `plans/<number>-review.json`.  What is asked twice
is worked out once; what a stopped service left undone is asked again at the next look.  The process is
`python -m service.reviews JOB NUMBER BATCH_SIZE`, which hears from its standard input where the storage is: it loads
neither torch nor ray and ends with its review.
"""

import json
import logging
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

from grouping.plan import Plan
from grouping.review import review
from service.artifacts import JobFiles, plan_path, review_path
from service.measurements import read_gradients, read_measurement, task_costs
from service.settings import Settings
from workers.storage import open_place

log = logging.getLogger(__name__)


def write_review(files: JobFiles, number: int, batch_size: int) -> None:
    """Works out the review of a job's plan and writes it."""
    plan = Plan.model_validate_json(files.read_text(plan_path(number)))
    found = review(read_gradients(files), read_measurement(files), plan, costs=task_costs(files, batch_size))
    files.write_text(review_path(number), found.model_dump_json(indent=1))


class Reviews:
    """The reviews that are asked for and not there yet."""

    def __init__(self, settings: Settings) -> None:
        self._storage = json.dumps([settings.storage, settings.storage_options])
        self._lock = threading.Lock()
        self._queue: ThreadPoolExecutor | None = None
        self._process: subprocess.Popen[str] | None = None
        self._pending: set[tuple[str, int]] = set()
        self._failed: dict[tuple[str, int], str] = {}

    def ask(self, job_id: str, number: int, batch_size: int) -> None:
        """Has a review worked out, unless it is waited for already or has failed before."""
        key = (job_id, number)
        with self._lock:
            if key in self._pending or key in self._failed:
                return
            self._pending.add(key)
            self._queue = self._queue or ThreadPoolExecutor(1, thread_name_prefix="reviews")
            self._queue.submit(self._work, key, batch_size)

    def problem(self, job_id: str, number: int) -> str | None:
        """Why the review failed; None if it did not."""
        return self._failed.get((job_id, number))

    def close(self) -> None:
        """Ends at once; what is not finished is given up."""
        with self._lock:
            queue, self._queue = self._queue, None
            if self._process is not None:
                self._process.kill()
        if queue is not None:
            queue.shutdown(cancel_futures=True)
        self._pending.clear()

    def _work(self, key: tuple[str, int], batch_size: int) -> None:
        try:
            problem = self._run(*key, batch_size)
        except OSError as error:
            problem = str(error)
        with self._lock:
            self._process = None
            self._pending.discard(key)
            if problem is not None and self._queue is not None:
                self._failed[key] = problem

    def _run(self, job_id: str, number: int, batch_size: int) -> str | None:
        """Why it failed; None where it did not."""
        command = [sys.executable, "-m", __name__, job_id, str(number), str(batch_size)]
        with self._lock:
            if self._queue is None:
                return None
            # A process group of its own: Ctrl-C in the service's terminal is the service's to hear.
            self._process = process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True, process_group=0
            )
        _, said = process.communicate(self._storage)
        if process.returncode == 0 or self._queue is None:
            return None
        log.error("the review of plan %d of %s failed: %s", number, job_id, said)
        return said.strip().rpartition("\n")[2] or f"its process ended with {process.returncode}"


def main(job_id: str, number: str, batch_size: str) -> None:
    os.nice(10)  # whoever waits for an answer of the service goes first
    write_review(JobFiles(open_place(*json.load(sys.stdin)), job_id), int(number), int(batch_size))


if __name__ == "__main__":
    main(*sys.argv[1:])
