"""Runs a benchmark: one process per contestant, one record per cell, and only what has no record yet.

Torch-free: the processes compute.  One that dies takes the cell it was at with it, as failed, and another goes on with
the rest.
"""

import contextlib
import fcntl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from service.benchmark_cells import Cell, Part, PlanCell, cells
from service.benchmark_records import PlanRecord, Record, WorkerWork, read_plan, read_record, record_path
from service.benchmark_spec import BenchSpec, Contestant
from service.errors import CohortError
from workers.data.roots import DataRoots
from workers.storage import write

_REPOSITORY = Path(__file__).resolve().parent.parent
_STOP_SECONDS = 60.0
"""Time a process has to write its checkpoints."""


class BenchmarkRunning(CohortError):
    """Another process already fills this folder."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Where and how cells run."""

    roots: DataRoots
    cache: Path
    device: str = "auto"
    workers: int = 1
    """Processes at a time."""
    threads: int = 1
    """Of each process."""


@dataclass(frozen=True)
class Finished:
    """Something that has just run."""

    what: str
    """The contestant, or that groups were formed."""
    item: Cell | PlanCell
    record: Record | PlanRecord
    number: int
    """Counted from 1."""
    total: int
    """Things to run, of this call."""


Tell = Callable[[Finished], None]


def run(spec: BenchSpec, folder: Path, part: Part, machine: Machine, tell: Tell = lambda finished: None) -> None:
    """Runs every cell that has no record of success under `folder`.  Ctrl-C keeps the finished ones.

    A cell that fails leaves a record that says why, and is tried again by the next call.
    """
    matrix = cells(spec, part)
    with _locked(folder):
        missing = _once([(contestant, _missing(folder, of_contestant)) for contestant, of_contestant in matrix])
        plans = list({cell.plan.name: cell.plan for _, todo in missing for cell in todo if cell.plan}.values())
        plans = [plan for plan in plans if (found := read_plan(folder, plan)) is None or found.reason is not None]
        shares = [plans[first :: machine.workers] for first in range(machine.workers)]
        total = len(plans) + sum(len(todo) for _, todo in missing)
        runner = _Runner(folder, machine, tell, total)
        runner.run([("groups", share) for share in shares if share])
        runner.run([(contestant.title, todo) for contestant, todo in missing if todo])


class _Runner:
    """Keeps so many processes at work, and notices how each one ends."""

    def __init__(self, folder: Path, machine: Machine, tell: Tell, total: int) -> None:
        self._folder, self._machine, self._tell, self._total = folder, machine, tell, total
        self._number, self._commit = 0, _commit()
        self._telling = threading.Lock()
        self._stopping = False
        self._processes: set[subprocess.Popen[str]] = set()

    def run(self, queues: Sequence[tuple[str, Sequence[Cell | PlanCell]]]) -> None:
        """A process for every queue, as many at a time as the machine says."""
        with ThreadPoolExecutor(self._machine.workers) as pool:
            futures = [pool.submit(self._serve, what, list(items)) for what, items in queues]
            try:
                for future in futures:
                    future.result()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                self._stop()
                raise

    def _serve(self, what: str, items: list[Cell | PlanCell]) -> None:
        for item in items:  # what failed before is tried again
            record_path(self._folder, item).unlink(missing_ok=True)
        while items and not self._stopping:
            code = self._process(what, items)
            if items and not self._stopping:
                self._bury(what, items.pop(0), code)

    def _process(self, what: str, items: list[Cell | PlanCell]) -> int:
        """One process's life; what it finishes leaves `items`.  Its exit code."""
        work = WorkerWork(
            plans=tuple(item for item in items if isinstance(item, PlanCell)),
            cells=tuple(item for item in items if isinstance(item, Cell)),
            folder=self._folder,
            roots=self._machine.roots,
            cache=self._machine.cache,
            device=self._machine.device,
            threads=self._machine.threads,
            commit=self._commit,
        )
        with (self._folder / "log.txt").open("a") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "service.benchmark_worker"],
                cwd=_REPOSITORY,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,  # Ctrl-C reaches this process alone, which then ends the others in order
            )
        assert process.stdin is not None and process.stdout is not None
        self._processes.add(process)
        with process:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(work.model_dump_json() + "\n")
                process.stdin.flush()
            if self._stopping:
                _close(process)
            for _ in process.stdout:
                self._finished(what, items.pop(0))
        self._processes.discard(process)
        return process.returncode

    def _finished(self, what: str, item: Cell | PlanCell) -> None:
        record = read_record(self._folder, item) if isinstance(item, Cell) else read_plan(self._folder, item)
        assert record is not None, "a process says a name when its record is written"
        with self._telling:
            self._number += 1
            self._tell(Finished(what, item, record, self._number, self._total))

    def _bury(self, what: str, item: Cell | PlanCell, code: int) -> None:
        """The record of an item whose process died under it."""
        why = (
            "killed, perhaps for want of memory" if code == -9 else f"its last words are in {self._folder / 'log.txt'}"
        )
        reason = f"its process ended with exit code {code} ({why})."
        if isinstance(item, Cell):
            today = datetime.now(UTC).date().isoformat()
            record = Record(cell=item, date=today, commit=self._commit, hardware="", reason=reason)
        else:
            record = PlanRecord(cell=item, reason=reason)
        write(record_path(self._folder, item), record.model_dump_json(indent=1).encode())
        self._finished(what, item)

    def _stop(self) -> None:
        self._stopping = True
        for process in list(self._processes):
            _close(process)
        for process in list(self._processes):
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_STOP_SECONDS)
            if process.poll() is None:
                process.kill()


def _missing(folder: Path, wanted: Sequence[Cell]) -> list[Cell]:
    return [cell for cell in wanted if (found := read_record(folder, cell)) is None or found.reason is not None]


def _once(missing: Sequence[tuple[Contestant, list[Cell]]]) -> list[tuple[Contestant, list[Cell]]]:
    """Each cell at its first contestant: two labels may stand for the same method and setting."""
    seen: set[str] = set()
    first = []
    for contestant, todo in missing:
        first.append((contestant, [cell for cell in todo if cell.name not in seen]))
        seen |= {cell.name for cell in todo}
    return first


def _close(process: subprocess.Popen[str]) -> None:
    """Tells a process to stop: its standard input ends."""
    assert process.stdin is not None
    with contextlib.suppress(OSError):
        process.stdin.close()


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BenchmarkRunning(
                f"{folder} is being filled by another `cohort bench`. Wait for it, or give another --out."
            ) from error
        yield


def _commit() -> str | None:
    """The code's commit, with `+` behind it where files differ from it; None outside of a checkout."""

    def git(*words: str) -> str | None:
        try:
            found = subprocess.run(["git", "-C", str(_REPOSITORY), *words], capture_output=True, text=True)
        except FileNotFoundError:
            return None
        return found.stdout.strip() if found.returncode == 0 else None

    commit = git("rev-parse", "--short", "HEAD")
    return None if commit is None else commit + ("+" if git("status", "--porcelain", "-uno") else "")
