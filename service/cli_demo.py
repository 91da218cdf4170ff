"""`cohort demo`: everything once, on the parts that a real service is made of.

1. Start `cohort up` as a process of its own, in a home of the demo's.  2. Submit the demo job and show how it goes.
3. Show what came out and where it lies.  4. Stop what was started (it also ends by itself if this process dies).
"""

import signal
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.text import Text

from service import live, show, show_why, wire
from service.cli_parts import tell
from service.client import ApiError, Cohort, Unreachable
from service.connection import Connection
from service.settings import Settings
from service.states import JobState

_SPEC = Path(__file__).resolve().parent.parent / "examples" / "demo.yaml"
_START_SECONDS = 120.0
_STOP_SECONDS = 40.0


def demo(*, home: Path, keep: bool, spec: Path | None, as_json: bool = False) -> int:
    """Runs it; the exit code.  The last line says SUCCEEDED, or why not; with `as_json` on standard error."""
    console = show.console(error=as_json)
    spec = spec or _SPEC
    if not spec.is_file():
        raise FileNotFoundError(f"{spec} is missing: the demo needs a checkout of Cohort. Name a job with --spec.")
    home = Settings.load(home=home).home
    console.print(f"Starting Cohort in {home} (API, SQLite, a local Ray) ...", highlight=False)
    began = time.monotonic()
    service = _start(home, keep)
    try:
        connection = _wait_until_it_answers(service, home)
        console.print(f"It answers at {connection.url} after {time.monotonic() - began:.0f} s.", highlight=False)
        with Cohort(connection.url, connection.key) as client:
            job = run_job(client, spec, console, as_json=as_json)
            if job.state != JobState.SUCCEEDED:
                console.print(
                    Text(f"\nThe demo job is {job.state}: {job.reason or 'no reason was given'}", style="red")
                )
                return 1
            _show(client, job, console)
        _where(job, home, connection, console, keep=keep)
    except (ApiError, Unreachable, TimeoutError) as error:
        console.print(Text(f"The demo failed: {error}\nThe service's log: {home / 'service.log'}", style="red"))
        return 1
    except KeyboardInterrupt:
        console.print("\nStopping ...")
        keep = False
        return 130
    finally:
        if not keep or sys.exc_info()[0] is not None:
            _stop(service)
    seconds = time.monotonic() - began
    console.print(f"The demo job {job.id} SUCCEEDED; {seconds:.0f} s in all.", highlight=False)
    return 0


def run_job(client: Cohort, spec: Path, console: Console, *, as_json: bool) -> wire.Job:
    """Follows a new job to its end; with `as_json` standard output is one object: the job as it ended, its results."""
    job = client.submit(spec)
    console.print(f"Submitted {spec.name}: {job.id}, {job.num_tasks} tasks.\n", highlight=False)
    job = live.follow(client, job.id, console)
    if as_json:
        tell({"job": job, "results": client.results(job.id)}, as_json, list)
    return job


def _start(home: Path, keep: bool) -> subprocess.Popen[bytes]:
    """The service, in a session of its own: Ctrl-C reaches this process alone, which then stops it in order."""
    home.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "service.cli", "--home", str(home), "up", "--port", "0"]
    with (home / "service.log").open("wb") as output:
        return subprocess.Popen(
            command if keep else [*command, "--until-stdin-closes"],
            cwd=_SPEC.parent.parent,
            stdin=subprocess.DEVNULL if keep else subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _wait_until_it_answers(service: subprocess.Popen[bytes], home: Path) -> Connection:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        connection = Connection.read(home)
        if connection is not None and connection.pid == service.pid:
            return connection  # its port was open before the file was written
        if service.poll() is not None:
            log = (home / "service.log").read_text(errors="replace")[-2000:]
            raise Unreachable(f"the service ended at once. It said:\n{log}")
        time.sleep(0.2)
    raise TimeoutError(f"the service did not answer within {_START_SECONDS:.0f} s.")


def _show(client: Cohort, job: wire.Job, console: Console) -> None:
    """How the tasks agree, the groups and why, and the test scores."""
    similarity, groups = client.similarity(job.id), client.groups(job.id)
    if similarity.similarity:
        console.print(Text("\nHow the tasks agree (similarity of their gradients)", style="bold"))
        console.print(show.SimilarityTable(similarity))
    console.print(Text("The groups, and why", style="bold"))
    console.print(show.groups_table(groups))
    if groups.plan is not None:
        console.print(show_why.plan_lines(groups.plan))
    console.print(show.reasons_table(groups))
    results = client.results(job.id)
    console.print(Text(show.results_title(results), style="bold"))
    for part in show.results_whole(results):
        console.print(part)


def _where(job: wire.Job, home: Path, connection: Connection, console: Console, *, keep: bool) -> None:
    folder = Path(Settings.load(home=home).storage) / "jobs" / job.id
    bundle = folder / "bundle"
    lines = {"report": bundle / "report.html", "bundle": bundle}
    lines |= {"API docs": f"{connection.url}/docs", "Ray dashboard": connection.dashboard}
    for name, place in lines.items():
        console.print(f"{name + ':':<15}{place}", highlight=False, soft_wrap=True)
    if keep:
        console.print(f"{'API key:':<15}{connection.key}\n{'stop it:':<15}kill {connection.pid}", highlight=False)
    else:
        console.print("The service stops now; `cohort demo --keep` leaves it running.", highlight=False)


def _stop(service: subprocess.Popen[bytes]) -> None:
    if service.stdin is not None:
        service.stdin.close()
    if service.poll() is None:
        service.send_signal(signal.SIGTERM)
    try:
        service.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        service.kill()
        service.wait()
