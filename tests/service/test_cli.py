"""The `cohort` command, against a real server on loopback."""

import io
import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

from grouping.plan import trivial_plan
from service import live
from service.cli import app
from service.client import Cohort
from service.connection import Connection
from service.spec import parse_spec
from service.states import JobState

if TYPE_CHECKING:
    from tests.service.conftest import LiveService
else:
    LiveService = object

Run = Callable[..., Result]
Good = Callable[..., str]


def test_a_job_is_submitted_listed_and_steered(live_service: LiveService, good: Good) -> None:
    job = json.loads(good("submit", str(live_service.spec), "--json"))["id"]
    assert "two-tasks" in good("ls")
    assert json.loads(good("ls", "--json", "--limit", "1"))[0]["num_tasks"] == 2
    assert "a, b" in good("show", job)
    for verb, wish in (("pause", "pause"), ("resume", "run"), ("cancel", "cancel")):
        assert f"asked to {wish}" in good(verb, job)


def test_a_check_names_the_fault_and_submits_nothing(
    live_service: LiveService, tmp_path: Path, run: Run, good: Good
) -> None:
    assert "a: 2 images, 2 classes" in good("submit", str(live_service.spec), "--check")
    bad = tmp_path / "bad.yaml"
    bad.write_text(live_service.spec.read_text() + "trainin: {}\n")
    result = run("submit", str(bad), "--check")
    assert result.exit_code == 1
    assert "Did you mean 'training'?" in result.output
    assert "No jobs" in good("ls")


def test_what_came_out_is_shown_and_fetched(live_service: LiveService, tmp_path: Path, good: Good) -> None:
    job = live_service.finish(live_service.submitted())
    shown = good("groups", "last")
    assert "+0.25" in shown
    assert "a and b agree." in shown
    assert set(json.loads(good("groups", job, "--json"))) == {"groups", "similarity"}
    assert "75.0" in good("results", job)
    assert str(tmp_path / "out") in good("pull", job, str(tmp_path / "out"))
    assert (tmp_path / "out/manifest.json").is_file()


def test_a_plan_is_approved_by_its_newest_number(live_service: LiveService, good: Good) -> None:
    job = live_service.submitted()
    live_service.store.add_plan(job, trivial_plan(["a", "b"], "all").outline(), lambda number: None)
    assert good("approve", job) == f"Plan 0 of {job} is approved.\n"
    assert live_service.store.plans(job)[0].approved


@pytest.mark.parametrize(("state", "code"), [(JobState.SUCCEEDED, 0), (JobState.FAILED, 1)])
def test_watching_without_a_terminal_is_lines_and_ends_with_the_state(
    live_service: LiveService, state: JobState, code: int, run: Run
) -> None:
    job = live_service.finish(live_service.submitted(), state)
    result = run("watch", job)
    assert result.exit_code == code
    assert "g1 (a, b): done, step 4/4, loss 0.375, val. accuracy 87.5 %" in result.output
    assert result.output.rstrip().splitlines()[-1].startswith(f"{job} is {state}.")
    assert "\x1b[" not in result.output


def test_watching_in_a_terminal_draws_stages_and_a_bar_per_group(live_service: LiveService) -> None:
    job = live_service.finish(live_service.submitted())
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=140)
    with Cohort(live_service.url, live_service.key) as client:
        assert live.follow(client, job, console, poll_seconds=0).state == JobState.SUCCEEDED
    drawn = screen.getvalue()
    for part in ("validate", "train", "publish", "g1", "4/4 done", "0.375", "87.5 %", "━", "SUCCEEDED"):
        assert part in drawn


def test_watching_tells_a_validation_score_for_each_metric(live_service: LiveService) -> None:
    text = live_service.spec.read_text().replace(
        "{name: b, source: {kind: folder", "{name: b, kind: retrieval, source: {kind: manifest"
    )
    store = live_service.store
    job = store.create_job(parse_spec(text))[0].id
    attempt = store.start_attempt(job)
    store.put_groups(job, [{"id": "g1", "kind": "plan", "tasks": ["a", "b"], "state": "running"}], attempt)
    point = {"group": "g1", "step": 4, "name": "val_score"}
    store.add_metrics(job, [{**point, "task": "a", "value": 0.875}, {**point, "task": "b", "value": 0.5}], attempt)
    with Cohort(live_service.url, live_service.key) as client:
        view = live.JobView(client, job)
        view.look()
        assert view.scores(view.groups[0]) == "accuracy 87.5 %, recall@1 50.0 %"


def test_an_error_is_one_sentence_and_exit_code_1(run: Run, tmp_path: Path) -> None:
    for arguments, told in (
        (["show", "job-000000000000"], "There is no job"),
        (["show", "last"], "There is no job yet"),
        (["submit", str(tmp_path / "gone.yaml")], "is no file"),
        (["--key", "cohort_wrong", "ls"], "unknown, expired or revoked"),
    ):
        result = run(*arguments)
        assert result.exit_code == 1, result.output
        assert told in result.output
        assert "Traceback" not in result.output


def test_without_a_service_the_command_says_how_to_start_one(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["--home", str(tmp_path), "ls"])
    assert result.exit_code == 1
    assert "cohort up" in result.output


def test_the_connection_is_its_owners_alone_and_its_key_goes_nowhere_else(tmp_path: Path) -> None:
    path = Connection(url="http://127.0.0.1:1", key="k").write(tmp_path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert Connection.find(tmp_path, None, None).key == "k"
    assert Connection.find(tmp_path, "http://127.0.0.1:1/", None).key == "k"
    assert Connection.find(tmp_path, "http://elsewhere", None).key is None
    assert Connection.find(tmp_path, "http://elsewhere", "other").key == "other"


def test_every_command_explains_itself() -> None:
    runner = CliRunner()
    text = runner.invoke(app, ["--help"]).output
    commands = ["up", "submit", "ls", "show", "watch", "groups", "results", "cancel", "pause", "resume", "approve"]
    commands += ["add", "pull", "predict", "methods", "bench", "doctor", "demo"]
    for command in commands:
        assert command in text
        result = runner.invoke(app, [command, "--help"])
        assert result.exit_code == 0
        assert len(result.output) > 100


def test_methods_are_listed_with_what_they_train(tmp_path: Path) -> None:
    arguments = ["methods", "--backbone", "ViT-B-16-quickgelu", "--classes", "65", "--json"]
    rows = json.loads(CliRunner().invoke(app, arguments).output)
    paper = [row for row in rows if row["setting"] == "paper_budget" and row["sharing"] == "grouped+task"]
    assert [round(row["percent"], 2) for row in paper] == [0.09]


def test_methods_that_do_not_fit_the_backbone_are_named() -> None:
    result = CliRunner().invoke(app, ["methods", "--backbone", "demo", "--tasks", "1", "--json"])
    assert result.exit_code == 0, "one task has one group"
    assert ("compacter", "default") not in {(row["method"], row["setting"]) for row in json.loads(result.stdout)}
    told = result.stderr.splitlines()
    assert len(told) == 1 and "compacter default (" in told[0] and "num_terms=4" in told[0]


def test_a_backbone_that_wants_another_package_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def create(*_: object, **__: object) -> None:
        raise RuntimeError("Please `pip install transformers`")

    monkeypatch.setattr("open_clip.create_model", create)
    result = CliRunner().invoke(app, ["methods", "--backbone", "ViT-B-32"])
    assert result.exit_code == 1 and isinstance(result.exception, SystemExit)
    assert "'ViT-B-32' cannot be built here: Please `pip install transformers`" in result.stderr


def test_the_doctor_names_what_it_looked_at(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["--home", str(tmp_path), "doctor", "--json"])
    findings = {finding["subject"]: finding for finding in json.loads(result.output)}
    assert {"python", "torch", "torchvision", "backbones", "ray", "home", "data", "disk", "port"} <= set(findings)
    assert findings["torch"]["verdict"] == "ok"
    assert all(finding["fix"] for finding in findings.values() if finding["verdict"] != "ok")
    assert result.exit_code == int(any(finding["verdict"] == "wrong" for finding in findings.values()))
