"""A job whose tasks are of several kinds: one classifies, one finds several labels, one matches images and captions."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from service.cli import app
from service.spec import JobSpec
from service.states import JobState
from service.views import Views
from workers.bundle import load_bundle
from workers.data.config import METRICS

if TYPE_CHECKING:
    from tests.service.conftest import World
else:
    World = object


@pytest.fixture
def mixed_spec(make_spec: Callable[..., JobSpec], task_folders: Callable[..., Path], tmp_path: Path):
    """`mixed_spec(**changes)`: a job with a task of every kind over the same images."""
    images = sorted(task_folders("art").rglob("*.png"))
    tags = [{"path": str(p), "label": [p.parent.name, "early"] if p.stem < "004" else [p.parent.name]} for p in images]
    pairs = [{"path": str(p), "caption": [f"a {p.parent.name} card", f"number {p.stem}"]} for p in images]
    for name, rows in (("tags", tags), ("pairs", pairs)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tasks = [
        {"name": "art", "source": {"kind": "folder", "uri": str(task_folders("art"))}, "split": {"shots": 4}},
        {"name": "tags", "kind": "multi_label", "source": {"kind": "manifest", "uri": str(tmp_path / "tags.jsonl")}},
        {"name": "pairs", "kind": "retrieval", "source": {"kind": "manifest", "uri": str(tmp_path / "pairs.jsonl")}},
    ]
    for task in tasks[1:]:  # images are drawn by their paths, which differ from run to run: enough for every class
        task["split"] = {"fraction": 0.6, "val_fraction": 0.2}
    return lambda **changes: make_spec(tasks=tasks, **changes)


def test_every_task_is_scored_by_its_own_metric_from_validation_to_the_bundle(
    make_world: Callable[..., World], mixed_spec: Callable[..., JobSpec]
) -> None:
    world = make_world()
    job = world.submit(mixed_spec())
    assert world.attempt(job) == JobState.SUCCEEDED, world.why(job)

    found = {task["name"]: task for task in world.files(job).read_json("datasets.json")["tasks"]}
    assert {name: task["kind"] for name, task in found.items()} == {
        "art": "classification",
        "tags": "multi_label",
        "pairs": "retrieval",
    }
    assert {name: task["num_captions"] for name, task in found.items()} == {"art": 0, "tags": 0, "pairs": 48}
    assert found["tags"]["class_names"] == ["blue", "early", "green", "red"]

    rows = world.store.results(job)
    assert len(rows) == 12
    for row in rows:
        assert row.metric == METRICS[found[row.task]["kind"]]
        assert row.metrics[row.metric] == row.score
    assert any("recall@5" in name for row in rows if row.task == "pairs" for name in row.metrics)

    table = Views(world.store, world.settings).results(job).table
    assert [(row.task, row.metric) for row in table] == [
        ("art", "accuracy"),
        ("tags", "mean_average_precision"),
        ("pairs", "recall@1"),
    ]
    told = [event.message for event in world.store.events(job) if event.kind == "group_done"]
    assert all(" % mAP" in message for message in told if "tags " in message)
    assert all("recall@1" in message for message in told if "pairs " in message)
    report = (world.folder(job) / "bundle" / "report.html").read_text()
    assert "48 captions" in report
    assert "Validation mAP over steps" in report
    bundle = json.loads((world.folder(job) / "bundle" / "manifest.json").read_text())
    assert {task["name"]: task["kind"] for task in bundle["tasks"]} == {n: t["kind"] for n, t in found.items()}


def test_groups_of_every_kind_of_task_are_put_to_the_test_image_by_image(
    make_world: Callable[..., World], mixed_spec: Callable[..., JobSpec]
) -> None:
    world = make_world()
    job = world.submit(mixed_spec(grouping={"arbitrate": True, "arbitrate_share": 1.0}, baselines=[]))
    assert world.attempt(job) == JobState.SUCCEEDED, world.why(job)
    found = world.files(job).read_json("datasets.json")["tasks"]
    trials = [json.loads(path.read_text()) for path in (world.folder(job) / "arbitration").glob("try-*.json")]
    for task in found:
        (trial,) = [each for each in trials if list(each["per_image"]) == [task["name"]]]
        assert trial["metrics"] == {task["name"]: METRICS[task["kind"]]}
        assert len(trial["per_image"][task["name"]]) == task["num_val"] > 0
    tested = {tuple(group["tasks"]): group for group in world.files(job).read_json("arbitration.json")["tested"]}
    over_alone = tested["art", "pairs", "tags"]["over_alone"]
    assert over_alone["num_tasks"] == 3 and over_alone["num_images"] == sum(task["num_val"] for task in found)


def test_a_bundle_answers_as_the_kind_of_its_task_asks(
    make_world: Callable[..., World], mixed_spec: Callable[..., JobSpec], task_folders: Callable[..., Path]
) -> None:
    world = make_world()
    job = world.submit(mixed_spec(method={"kind": "zero_shot"}))
    assert world.attempt(job) == JobState.SUCCEEDED, world.why(job)
    bundle = world.folder(job) / "bundle"
    image = str(sorted(task_folders("art").rglob("*.png"))[0])

    def predict(*arguments: str) -> Any:
        return CliRunner().invoke(app, ["predict", str(bundle), *arguments])

    labels = json.loads(predict("tags", image, "--json").output)[0]
    assert set(labels["probabilities"]) == {"blue", "early", "green", "red"}
    assert list(labels["probabilities"].values()) == sorted(labels["probabilities"].values(), reverse=True)
    likely = [name for name, value in labels["probabilities"].items() if value > 0.5]
    assert labels["classes"] == likely
    assert sorted(likely) == sorted(load_bundle(bundle).classifier("tags").predict([image])[0])
    assert (f"{image}: " + (likely or ["no class; likeliest"])[0]) in predict("tags", image).output
    refused = predict("pairs", image)
    assert refused.exit_code == 1
    assert "is a retrieval task" in refused.output
    assert "rank(images, texts)" in refused.output
    assert json.loads(predict("art", image, "--json").output)[0]["class"] in ("red", "green", "blue")


def test_what_a_method_says_of_its_tasks_reaches_the_report(
    make_world: Callable[..., World], make_spec: Callable[..., JobSpec]
) -> None:
    world = make_world()
    job = world.submit(make_spec(method={"kind": "taskres"}))
    assert world.attempt(job) == JobState.SUCCEEDED, world.why(job)
    assert {row.baseline for row in world.store.results(job)} == {None, "zero_shot", "alone"}
    report = (world.folder(job) / "bundle" / "report.html").read_text()
    assert "Transfer difficulty" in report
    assert "residual norm" in report
