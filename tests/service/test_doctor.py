"""What the doctor says about a job on given machines, and how the command ends."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from service.cli import app
from service.settings import Settings
from service.spec import JobSpec, parse_spec
from service.spec_check import check_spec, places_of
from workers.launching.nodes import NodeReport

H200 = ("H200", 150 * 10**9)
VIT = 150_000_000


def job(**fields: Any) -> JobSpec:
    task = {"name": "a", "source": {"kind": "demo", "task": "digits-ink"}, "split": {"shots": 4}}
    return parse_spec({"name": "x", "backbone": {"model": "demo"}, "tasks": [task], **fields})


def machine(**fields: Any) -> NodeReport:
    usual: dict[str, Any] = {"id": "f" * 12, "name": "box", "ip": "10.0.0.5", "starts_drivers": True}
    usual["resources"] = {"CPU": 8.0}
    return NodeReport(**usual | fields)


def told(spec: JobSpec, *nodes: NodeReport, parameters: int = VIT, **settings: Any) -> dict[str, tuple[str, str]]:
    known = Settings(home=Path("/tmp"), **settings)
    found = check_spec(spec, known, nodes, places_of(spec, known.roots_of("default")), parameters)
    return {each.subject: (each.verdict, f"{each.found} {each.fix}") for each in found}


@pytest.mark.parametrize(
    ("resources", "nodes", "settings", "words"),
    [
        ({}, [machine()], {}, "2 pass(es) at a time, each on 1 CPU(s) of 8"),
        ({}, [machine(resources={"CPU": 1.0})], {}, "1 pass(es) at a time"),
        ({}, [machine(resources={"GPU": 2.0}), machine()], {}, "2 pass(es) at a time, each on a share of 1 GPU of 2"),
        ({}, [machine(resources={"GPU": 2.0})], {"gpus_per_worker": 0.5}, "4 pass(es) at a time"),
        (
            {},
            [machine(resources={"GPU": 1.0})],
            {"max_gpus": 8},
            "8 pass(es) at a time, each on a share of 1 GPU of 8,",
        ),
        ({"device": "cuda"}, [], {"max_gpus": 4}, "of which 0 are there now"),
        ({"devices_per_group": 2}, [machine(resources={"GPU": 5.0})], {}, "2 pass(es) at a time, each on 2 GPU(s)"),
        ({"device": "cpu"}, [machine(resources={"GPU": 2.0, "CPU": 4.0})], {}, "each on 1 CPU(s) of 4"),
    ],
)
def test_the_doctor_tells_what_a_job_would_use(
    resources: dict[str, Any], nodes: list[NodeReport], settings: dict[str, Any], words: str
) -> None:
    verdict, found = told(job(resources=resources), *nodes, **settings)["devices"]
    assert (verdict, words in found) == ("ok", True), found


@pytest.mark.parametrize(
    ("resources", "words"),
    [
        ({"device": "cuda"}, "device=cuda, but there is no GPU Use auto"),
        ({"devices_per_group": 9}, "devices_per_group=9, but there are 8 CPUs Use at most 8"),
    ],
)
def test_devices_that_are_not_there_are_wrong(resources: dict[str, Any], words: str) -> None:
    verdict, found = told(job(resources=resources), machine())["devices"]
    assert (verdict, words in found) == ("wrong", True), found


def test_a_backbone_that_no_share_of_a_gpu_holds_is_wrong() -> None:
    gpus = machine(resources={"GPU": 1.0}, gpus=(H200, ("small", 2 * 10**9)))
    assert told(job(), gpus)["backbone"][0] == "ok"
    verdict, found = told(job(), gpus, gpus_per_worker=0.25)["backbone"]
    assert verdict == "wrong" and "takes 0.6 GB" in found and "has 0.5 GB" in found
    half = job(backbone={"model": "demo", "precision": "bf16"})
    assert told(half, gpus, gpus_per_worker=0.25)["backbone"][0] == "ok"


def test_data_that_a_machine_lacks_is_wrong_with_the_machine_and_the_task(tmp_path: Path) -> None:
    art = str(tmp_path / "art")
    spec = job(tasks=[{"name": "art", "source": {"kind": "folder", "uri": art}, "split": {"shots": 1}}])
    sound, blind = machine(), machine(name="blind", missing=(art,))
    idle = machine(name="head", missing=(art,), resources={})
    assert told(spec, sound, idle, data_roots=[str(tmp_path)])["places"][0] == "ok"
    verdict, found = told(spec, sound, blind, data_roots=[str(tmp_path)])["places"]
    assert verdict == "wrong" and f"blind (10.0.0.5, ffffff) has no {art} (art)" in found


def test_a_search_with_optuna_needs_it_where_drivers_start() -> None:
    spec = job(search={"searcher": "optuna", "num_trials": 2, "space": {"training.lr": {"loguniform": [0.001, 0.1]}}})
    assert told(spec, machine(versions={"optuna": None}))["search"][0] == "wrong"
    assert "search" not in told(spec, machine(versions={"optuna": "5.0"}))


def doctor(home: Path, spec: dict[str, Any] | str) -> tuple[int, dict[str, dict[str, str]]]:
    file = home / "job.yaml"
    file.write_text(spec if isinstance(spec, str) else yaml.safe_dump(spec))
    result = CliRunner().invoke(app, ["--home", str(home), "doctor", str(file), "--json"])
    return result.exit_code, {each["subject"]: each for each in json.loads(result.output)}


def test_the_doctor_judges_a_description_on_this_machine(tmp_path: Path) -> None:
    code, found = doctor(tmp_path, job().model_dump(mode="json", exclude_unset=True))
    assert found["cluster"]["verdict"] == found["devices"]["verdict"] == found["backbone"]["verdict"] == "ok"
    assert code == int(any(each["verdict"] == "wrong" for each in found.values()))


@pytest.mark.parametrize(
    ("spec", "subject", "words"),
    [
        ("{name: x, tasks: []}", "job", "backbone"),
        (
            "{name: x, backbone: {model: demo}, tasks: [{name: a, source: {kind: folder, uri: /etc}}]}",
            "job",
            "outside the data roots",
        ),
    ],
)
def test_a_description_that_would_be_refused_is_wrong(tmp_path: Path, spec: str, subject: str, words: str) -> None:
    code, found = doctor(tmp_path, spec)
    assert code == 1 and found[subject]["verdict"] == "wrong" and words in found[subject]["found"]


def test_a_cluster_that_does_not_answer_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COHORT_RAY_ADDRESS", "http://127.0.0.1:9")
    code, found = doctor(tmp_path, job().model_dump(mode="json", exclude_unset=True))
    assert code == 1 and "COHORT_RAY_ADDRESS" in found["cluster"]["fix"]
    assert "devices" not in found, "nobody knows what it offers"


def test_a_description_that_is_not_there_is_told_in_a_sentence(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["--home", str(tmp_path), "doctor", str(tmp_path / "none.yaml")])
    assert result.exit_code == 1 and "No such file" in result.output
