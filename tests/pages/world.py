"""Jobs for pages to show: any number of tasks with real image files, a real plan and its review, curves and scores."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from grouping.config import GroupingConfig
from grouping.plan import Plan, plan_from
from grouping.review import review
from service.artifacts import JobFiles, plan_path, review_path
from service.control_plane import ControlPlane
from service.measurements import DATASETS, read_gradients, read_measurement
from service.ray_jobs import FakeRayJobs
from service.settings import Settings
from service.spec import parse_spec
from service.states import JobState
from service.store import Store
from tests.measured import write_signatures
from tests.service.report.conftest import drawn_scores, gains_of

CLASSES = ("red", "green", "blue")
ORDER = (
    JobState.VALIDATING,
    JobState.PROFILING,
    JobState.GROUPING,
    JobState.TRAINING,
    JobState.PUBLISHING,
    JobState.SUCCEEDED,
)


def make_control_plane(home: Path, **settings: object) -> ControlPlane:
    values = {"home": home / "home", "data_roots": [str(home / "data")], "poll_seconds": 0.05, **settings}
    return ControlPlane(Settings.model_validate(values), store=Store("sqlite://"), ray_jobs=FakeRayJobs())


def names_of(count: int) -> tuple[str, ...]:
    return tuple(f"task-{number:03d}" for number in range(count))


def describe(tasks: Sequence[str], **changes: object) -> dict:
    entries = [{"name": task, "source": {"kind": "folder", "uri": task}} for task in tasks]
    return {"name": "office-home", "backbone": {"model": "demo"}, "tasks": entries, **changes}


def write_images(control_plane: ControlPlane, tasks: Sequence[str], *, per_class: int = 3) -> None:
    """A folder of small images per task, one of them broken."""
    root = Path(control_plane.settings.data_roots[0])
    for task in tasks:
        for number, name in enumerate(CLASSES):
            folder = root / task / name
            folder.mkdir(parents=True)
            for image in range(per_class + number):
                colour = tuple(230 if part == number else 30 + 40 * image for part in range(3))
                Image.new("RGB", (24, 24), colour).save(folder / f"{image}.png")
    (root / tasks[0] / "red" / "broken.png").write_bytes(b"no image")


class Played:
    """A job whose driver is played by hand, stage by stage."""

    def __init__(self, control_plane: ControlPlane, tasks: Sequence[str], **changes: object) -> None:
        self.store, self.tasks = control_plane.store, tuple(tasks)
        self.id = self.store.create_job(parse_spec(describe(tasks, **changes)))[0].id
        self.files = JobFiles(control_plane.settings.storage_place, self.id)
        self.attempt = 0

    def start(self) -> None:
        self.attempt = self.store.start_attempt(self.id)

    def move(self, state: JobState, **more: object) -> None:
        self.store.move(self.id, state, attempt=self.attempt, **more)  # type: ignore[arg-type]

    def validate(self) -> None:
        self.move(JobState.VALIDATING)
        found = {"class_names": list(CLASSES), "num_train": 12, "num_val": 3, "num_test": 60, "kind": "classification"}
        rows = [
            {"name": task, **found, "num_unreadable": int(number == 0), "unreadable": ["red/broken.png"][: number == 0]}
            for number, task in enumerate(self.tasks)
        ]
        self.files.write_json(DATASETS, {"tasks": rows})
        self.store.add_event(
            self.id, "validated", f"{len(rows)} tasks; 1 unreadable.", level="warning", attempt=self.attempt
        )

    def measure(self) -> None:
        self.move(JobState.PROFILING)
        write_signatures(self.files, self.tasks)
        self.move(JobState.GROUPING)

    def plan(self, *, approved: bool = True, num_groups: int | str = 2, with_review: bool = True) -> Plan:
        measurement = read_measurement(self.files)
        plan = plan_from(measurement, GroupingConfig.model_validate({"num_groups": num_groups}), second_opinion=False)
        content = plan.model_dump_json()
        number = self.store.add_plan(
            self.id,
            plan.outline(),
            lambda n: self.files.write_text(plan_path(n), content),
            approved=approved,
            attempt=self.attempt,
        )
        assert number is not None
        if with_review:
            found = review(read_gradients(self.files), measurement, plan, resamples=5)
            self.files.write_text(review_path(number), found.model_dump_json())
        return plan

    def train(self, plan: Plan, *, step: int = 300, state: str = "done") -> None:
        self.move(JobState.TRAINING)
        rows = [
            {"id": "shared", "kind": "shared", "tasks": list(self.tasks), "state": "done", "step": 40, "num_steps": 40}
        ]
        rows += [
            {"id": "all", "kind": "all", "tasks": list(self.tasks), "state": state, "step": step, "num_steps": 300}
        ]
        rows += [{"id": "zero-shot", "kind": "zero_shot", "tasks": list(self.tasks), "state": "done"}]
        rows += [
            {"id": group.id, "kind": "plan", "tasks": group.tasks, "state": state, "step": step, "num_steps": 300}
            | {"losses": dict.fromkeys(group.tasks, 0.5)}
            for group in plan.groups
        ]
        rows += [
            {"id": f"alone-{task}", "kind": "alone", "tasks": [task], "state": state, "step": step, "num_steps": 300}
            for task in self.tasks
        ]
        self.store.put_groups(self.id, rows, self.attempt)
        for group in plan.groups:
            self.add_points(group.id, group.tasks, range(5, step + 1, 5))
            self.files.append_log(group.id, [f"step {at} of 300" for at in range(5, step + 1, 5)])

    def add_points(self, group: str, tasks: Sequence[str], steps: Sequence[int]) -> None:
        rng = np.random.default_rng(len(group))
        points = [
            {
                "group": group,
                "task": task,
                "step": at,
                "name": "loss",
                "value": 2 * np.exp(-at / 90) + rng.normal(0.4, 0.05),
            }
            for task in tasks
            for at in steps
        ]
        points += [
            {"group": group, "task": task, "step": at, "name": "val_score", "value": 0.9 - 0.5 * np.exp(-at / 80)}
            for task in tasks
            for at in steps
            if at % 50 == 0
        ]
        self.store.add_metrics(self.id, points, self.attempt)

    def publish(self, plan: Plan) -> None:
        rng = np.random.default_rng(1)
        scores = drawn_scores(self.tasks, plan, rng, class_names=CLASSES, num_test=60)
        ways = (("grouped", None), ("zero_shot", "zero_shot"), ("alone", "alone"), ("all", "all"))
        rows = [
            {"task": score.task, "group": score.group, "baseline": baseline, "metric": "accuracy"}
            | {"score": getattr(score, way), "metrics": {"accuracy": getattr(score, way)}, "loss": 0.4, "num_test": 60}
            for score in scores
            for way, baseline in ways
        ]
        self.store.put_results(self.id, rows, self.attempt)
        self.files.write_text("gains.json", json.dumps([gain.model_dump() for gain in gains_of(scores)]))
        self.move(JobState.PUBLISHING)
        self.files.write_text("bundle/report.html", "<h1>Report</h1>")
        self.files.write_text("bundle/manifest.json", "{}")
        self.move(JobState.SUCCEEDED)


def finished(
    control_plane: ControlPlane, tasks: Sequence[str], *, num_groups: int | str = 2, **changes: object
) -> Played:
    """A job from its submission to SUCCEEDED."""
    job = Played(control_plane, tasks, **changes)
    job.start()
    job.validate()
    job.measure()
    plan = job.plan(num_groups=num_groups)
    job.train(plan)
    job.publish(plan)
    return job


def training(
    control_plane: ControlPlane, tasks: Sequence[str], *, num_groups: int | str = 2, step: int = 120
) -> Played:
    """A job that trains."""
    job = Played(control_plane, tasks)
    job.start()
    job.validate()
    job.measure()
    job.train(job.plan(num_groups=num_groups), step=step, state="running")
    return job


def waiting(control_plane: ControlPlane, tasks: Sequence[str]) -> Played:
    """A job whose plan waits for a person."""
    job = Played(control_plane, tasks, grouping={"approve": True})
    job.start()
    job.validate()
    job.measure()
    job.plan(approved=False)
    job.move(JobState.AWAITING_APPROVAL)
    return job
