"""What holds for every command: JSON for programs, tables that fit, completion, an exit code that says how it went."""

import errno
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import typer
from rich.console import Console, RenderableType
from typer.testing import CliRunner, Result

from api.up import whereabouts
from service import live, show
from service.cli import app
from service.cli_demo import run_job
from service.cli_parts import TOLD, sentence
from service.client import Cohort
from service.connection import Connection
from service.settings import Settings
from service.states import JobState
from service.wire import Similarity

if TYPE_CHECKING:
    from tests.service.conftest import LiveService
else:
    LiveService = object

Run = Callable[..., Result]
Good = Callable[..., str]
Playing = Callable[[JobState], AbstractContextManager[None]]
ROOT = typer.main.get_command(app)


@pytest.fixture
def playing(live_service: LiveService) -> Playing:
    """`with playing(state):` whoever submits a job in there sees it end so."""

    @contextmanager
    def played(end: JobState) -> Iterator[None]:
        over = threading.Event()

        def play() -> None:  # its driver, once it is there
            while not over.wait(0.01):
                if jobs := live_service.store.list_jobs(state=JobState.QUEUED)[0]:
                    live_service.finish(jobs[0].id, end)
                    return

        driver = threading.Thread(target=play)
        driver.start()
        try:
            yield
        finally:
            over.set()
            driver.join()

    return played


def commands(group: Any, *names: str) -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, *names, name)
        else:
            yield " ".join((*names, name)), command


def drawn(part: RenderableType, width: int) -> list[str]:
    screen = io.StringIO()
    Console(file=screen, width=width, force_terminal=False).print(part)
    return screen.getvalue().splitlines()


def test_every_command_answers_in_json() -> None:
    without = {name for name, command in commands(ROOT) if "--json" not in [o for p in command.params for o in p.opts]}
    assert without == set()


def test_a_service_that_answers_says_in_one_line_of_json_where_it_is(tmp_path: Path) -> None:
    connection = Connection(url="http://127.0.0.1:1", key="a key", dashboard="http://127.0.0.1:2")
    (line,) = whereabouts(Settings(home=tmp_path), connection, as_json=True)
    assert json.loads(line) == connection.model_dump(exclude={"pid"}) | {"home": str(tmp_path)}


@pytest.mark.parametrize("end", [JobState.SUCCEEDED, JobState.FAILED])
def test_a_demo_in_json_is_one_object_with_the_job_as_it_ended_and_its_results(
    live_service: LiveService, playing: Playing, capsys: pytest.CaptureFixture[str], end: JobState
) -> None:
    with playing(end), Cohort(live_service.url, live_service.key) as client:
        job = run_job(client, live_service.spec, show.console(error=True), as_json=True)
        told, progress = capsys.readouterr()
        results = client.results(job.id).model_dump(mode="json")
    assert json.loads(told) == {"job": job.model_dump(mode="json"), "results": results}
    assert job.state == end
    assert job.id in progress


def test_every_verb_answers_in_json_with_the_job(live_service: LiveService, good: Good) -> None:
    job = live_service.submitted()
    for verb, wish in (("pause", "pause"), ("resume", "run"), ("cancel", "cancel")):
        assert json.loads(good(verb, job, "--json"))["desired"] == wish
    done = live_service.finish(live_service.submitted())
    for verb in ("archive", "unarchive", "delete", "restore"):
        assert json.loads(good(verb, done, "--json"))["id"] == done
    assert json.loads(good("pull", done, str(live_service.home / "out"), "--json"))["bundle"].endswith("/out")


def test_following_in_json_is_an_object_per_line_from_the_job_to_its_end(live_service: LiveService, run: Run) -> None:
    job = live_service.finish(live_service.submitted(), JobState.FAILED)
    result = run("watch", job, "--json")
    told = [json.loads(line) for line in result.stdout.splitlines()]
    assert result.exit_code == 1
    assert [set(line) for line in told] == [{"job"}, *[{"event"}] * (len(told) - 2), {"job"}]
    assert [line["event"]["seq"] for line in told[1:-1]] == list(range(1, len(told) - 1))
    assert told[-1]["job"]["state"] == "FAILED"


def test_a_new_job_of_an_old_one_is_followed_as_any_other(
    live_service: LiveService, playing: Playing, run: Run
) -> None:
    old = live_service.finish(live_service.submitted(), JobState.FAILED)
    with playing(JobState.SUCCEEDED):
        result = run("retry", old, "--watch", "--json")
    assert result.exit_code == 0, result.output
    first, *_, last = (json.loads(line) for line in result.stdout.splitlines())
    assert first["job"]["retry_of"] == old
    assert last["job"]["state"] == "SUCCEEDED"


def test_a_service_that_does_not_answer_and_a_wrong_line_have_codes_of_their_own() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
    for arguments, code in ((["--url", url, "ls"], 3), (["show"], 2), (["nothing"], 2)):
        assert CliRunner().invoke(app, arguments).exit_code == code


def test_ctrl_c_leaves_the_job_running_and_says_how_to_come_back(live_service: LiveService) -> None:
    job = live_service.submitted()
    command = [sys.executable, "-m", "service.cli", "--home", str(live_service.home), "watch", job]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background it is ignored
    try:
        watching = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    finally:
        signal.signal(signal.SIGINT, before)
    assert watching.stdout is not None
    assert watching.stdout.readline()  # it follows
    watching.send_signal(signal.SIGINT)
    _, told = watching.communicate(timeout=120)
    assert watching.returncode == 130
    assert f"{job} goes on. `cohort watch {job}` shows it again" in told
    assert live_service.store.get_job(job).desired == "run"


def test_a_shell_completes_commands_states_and_job_ids(live_service: LiveService) -> None:
    job = live_service.submitted()

    def completed(line: str) -> str:
        words = ["cohort", "--home", str(live_service.home), *line.split(" ")]
        asked = {"_COHORT_COMPLETE": "complete_bash", "COMP_WORDS": " ".join(words), "COMP_CWORD": str(len(words) - 1)}
        return CliRunner().invoke(app, [], env=asked, prog_name="cohort").output

    assert "submit" in completed("sub").split()
    assert "PARTIALLY_SUCCEEDED" in completed("ls --state PART").split()
    assert job in completed("show job-").split()
    live_service.control_plane.store.revoke_key(live_service.key.split("_")[1])
    assert completed("show job-").split() == [], "completion has no place for a message"


@pytest.mark.parametrize("width", [60, 80, 200])
def test_tables_fit_the_terminal_and_leave_ids_whole(live_service: LiveService, width: int) -> None:
    job = live_service.finish(live_service.submitted())
    with Cohort(live_service.url, live_service.key) as client:
        groups, results = client.groups(job), client.results(job)
        listing = drawn(show.jobs_table(list(client.jobs())), width)
    assert any(job in line for line in listing)
    for lines in (listing, drawn(show.groups_table(groups), width), drawn(show.results_table(results), width)):
        assert max(map(len, lines)) <= width


@pytest.mark.parametrize(("num_tasks", "whole"), [(5, True), (60, False)])
def test_a_matrix_that_is_too_wide_becomes_each_tasks_nearest(num_tasks: int, whole: bool) -> None:
    names = [f"task-{index}" for index in range(num_tasks)]
    matrix: list[list[float | None]] = [[1 / (1 + abs(a - b)) for b in range(num_tasks)] for a in range(num_tasks)]
    lines = drawn(show.SimilarityTable(Similarity(task_names=names, order=names, similarity=matrix)), 80)
    assert max(map(len, lines)) <= 80
    assert any("task-0" in line and "task-1 +0.50" in line for line in lines) is not whole
    assert any("too wide" in line for line in lines) is not whole


def test_a_picture_of_many_groups_fits_and_tells_the_time_left(live_service: LiveService) -> None:
    store, clock = live_service.store, [0.0]
    job = live_service.submitted()
    attempt = store.start_attempt(job)
    rows = [{"id": f"g{n}", "kind": "plan", "tasks": ["a"], "state": "waiting", "num_steps": 100} for n in range(1, 51)]
    rows[40] |= {"state": "running", "step": 10}
    store.put_groups(job, rows, attempt)
    with Cohort(live_service.url, live_service.key) as client:
        view = live.JobView(client, job, now=lambda: clock[0])
        view.look()
        store.update_group(job, "g41", attempt=attempt, step=20)
        view.look()
        clock[0] = 30.0
        lines = drawn(view.picture(height=24), 120)
    assert len(lines) <= 24
    assert next(line for line in lines if "g41" in line).split()[-4:] == ["20/100", "running", "4", "min"]
    assert any("0 of 50 groups done, step 20 of 5000" in line and "are not shown" in line for line in lines)


@pytest.mark.parametrize(
    "words",
    [
        ["doctor"],
        ["submit"],
        ["estimate"],
        ["add", "JOB"],
        ["clone", "JOB", "--overrides"],
        ["replan", "JOB", "--groups"],
        ["bench"],
        ["demo", "--spec"],
    ],
)
def test_a_folder_in_place_of_a_file_is_told_in_a_sentence(
    words: list[str], tmp_path: Path, live_service: LiveService, run: Run
) -> None:
    job = live_service.submitted()
    result = run(*(job if word == "JOB" else word for word in words), str(tmp_path))
    assert (result.exit_code, isinstance(result.exception, SystemExit)) == (1, True), result.exception
    assert str(tmp_path) in result.stderr


def test_what_the_system_refuses_is_told_with_its_path_and_without_a_number() -> None:
    refused = PermissionError(errno.EACCES, os.strerror(errno.EACCES), "job.yaml")
    assert isinstance(refused, TOLD)
    assert sentence(refused) == "job.yaml: Permission denied. Name another, or mend this one."
