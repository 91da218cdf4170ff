"""Laws of the search stage: the best setting trains the groups, wishes are honoured, what ended is kept."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray

from service.artifacts import JobFiles
from service.driver import run_job
from service.settings import Settings
from service.spec import JobSpec, parse_spec
from service.stages.run import JobRun
from service.stages.search import tuned
from service.states import Desired, JobState
from service.store import Store
from workers.launching.board import Outcome, Update
from workers.launching.inline import InlineLauncher
from workers.launching.launcher import Launcher, Running
from workers.launching.ray_launcher import RayLauncher
from workers.launching.search_config import SearchConfig
from workers.launching.trials import Trial
from workers.launching.work import SearchWork, Work

LR = "training.lr"
TASKS = ("art", "photo")


class WishingStore(Store):
    """A store whose user changes their mind when the first trial has ended."""

    next_wish: Desired | None = None

    def add_event(self, job_id: str, kind: str, message: str, **fields: Any) -> int | None:
        if kind == "trial_ended" and self.next_wish is not None:
            wish, self.next_wish = self.next_wish, None
            self.set_desired(job_id, wish)
        return super().add_event(job_id, kind, message, **fields)


class Ended(Running):
    """A search that was over as soon as it began."""

    @property
    def worker(self) -> str:
        return "nowhere"

    def poll(self) -> Update:
        return Update(outcome=Outcome("done", value={"num_not_run": 2}))

    def stop(self) -> None: ...

    def abandon(self) -> None: ...


class ScriptedLauncher(InlineLauncher):
    """Works in this process, but a search's trials are written down and not run: trials by scope."""

    def __init__(self, **scopes: list[Trial]) -> None:
        super().__init__()
        self.scopes = scopes
        self.searched: list[str] = []

    def check_search(self, search: SearchConfig) -> None: ...

    def start(self, work: Work) -> Any:
        if not isinstance(work, SearchWork):
            return super().start(work)
        self.searched.append(work.scope)
        for trial in self.scopes[work.scope]:
            trial.write(work.directory)
        return Ended(work)


def done(number: int, setting: dict[str, Any], score: float) -> Trial:
    return Trial(number, setting, "done", val_score=score, val_loss=1.0, step=20, num_steps=20, seconds=1.5)


class World:
    """An installation in a folder, whose jobs are searched on Ray."""

    def __init__(self, home: Path, base: Path) -> None:
        self.settings = Settings(home=home, data_roots=[str(base)], poll_seconds=0.1)
        self.store = WishingStore("sqlite://")
        self.store.create_schema()

    def attempt(self, job: str, launcher: Launcher | None = None) -> JobState:
        launcher = launcher or RayLauncher(device="cpu")
        try:
            return run_job(
                job,
                self.store.start_attempt(job),
                store=self.store,
                files=self.files(job),
                launcher=launcher,
                settings=self.settings,
            )
        finally:
            launcher.close()
            while ray.is_initialized() and ray.util.list_named_actors(all_namespaces=True):
                time.sleep(0.05)  # an attempt of its own Ray job would find them gone

    def run(self, job: str) -> JobRun:
        found = self.store.get_job(job)
        return JobRun(job, found.attempt, found.spec, self.store, self.files(job), InlineLauncher(), self.settings)

    def files(self, job: str) -> JobFiles:
        return JobFiles(self.settings.storage, job)

    def told(self, job: str, kind: str) -> list[str]:
        return [event.message for event in self.store.events(job) if event.kind == kind]


@pytest.fixture
def world(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path / "home", tmp_path_factory.getbasetemp())


@pytest.fixture
def make_spec(tiny_clip_dir: Path, task_folders: Callable[..., Path]) -> Callable[..., JobSpec]:
    def make(space: dict[str, Any], search: dict[str, Any] | None = None, **changes: Any) -> JobSpec:
        spec = {
            "name": "tiny",
            "backbone": {"model": f"local-dir:{tiny_clip_dir}"},
            "tasks": [
                {
                    "name": name,
                    "source": {"kind": "folder", "uri": str(task_folders(name))},
                    "split": {"shots": 4, "val_shots": 2},
                }
                for name in TASKS
            ],
            "method": {"kind": "mmap", "num_tokens": 2, "source_shape": [2, 2], "depth": 2, "sharing": "all"},
            "training": {"max_steps": 20, "batch_size": 4, "warmup_epochs": 0, "lr": 0.01, "validations": 2},
            "baselines": ["zero_shot", "alone"],
            "search": {"space": space, "num_trials": 1} | (search or {}),
        }
        return parse_spec(spec | changes)

    return make


def test_a_search_without_ray_is_refused_before_anything_is_read(world: World, make_spec):
    job = world.store.create_job(make_spec({LR: {"choice": [0.1]}}))[0].id
    assert world.attempt(job, InlineLauncher()) == JobState.FAILED
    reason = world.store.get_job(job).reason or ""
    assert "without Ray. Run it on Ray (`cohort up`" in reason
    assert not world.files(job).exists("datasets.json")


def test_tasks_found_without_validation_images_fail_the_job(world: World, make_spec, tmp_path_factory, task_folders):
    folder = task_folders("art")
    rows = [
        f"{path},{path.parent.name},{'test' if number % 2 else 'train'}"
        for number, path in enumerate(sorted(folder.rglob("*.png")))
    ]
    table = tmp_path_factory.mktemp("tables") / "art.csv"
    table.write_text("\n".join(["path,label,part", *rows]))
    source = {"kind": "manifest", "uri": str(table), "split_column": "part"}
    task = {"name": "art", "source": source, "split": {"fraction": 0.9}}
    spec = make_spec({LR: {"choice": [0.1]}}, tasks=[task])

    job = world.store.create_job(spec)[0].id
    assert world.attempt(job, ScriptedLauncher()) == JobState.FAILED
    assert "'art' would have none. Give val_shots" in (world.store.get_job(job).reason or "")


@pytest.mark.ray
def test_the_best_setting_trains_groups_and_baselines_and_lies_in_the_bundle(world: World, make_spec, local_ray):
    space = {LR: {"grid": [1e-8, 0.05, 1e15]}, "method.num_tokens": {"choice": [4]}}
    job = world.store.create_job(make_spec(space, {"metric": "val_loss"}))[0].id
    assert world.attempt(job) == JobState.SUCCEEDED, world.store.get_job(job).reason
    files = world.files(job)
    found = files.read_json("search.json")
    assert files.read_json("bundle/search.json") == found
    one = found["searches"]["job"]
    assert one["best"]["setting"] == {LR: 0.05, "method.num_tokens": 4}
    assert [trial["status"] for trial in one["trials"]] == ["done", "done", "failed"]
    assert one["trials"][0]["number"] == one["best"]["number"] == 1
    assert "loss is" in one["trials"][2]["reason"]
    assert {group["method"]["num_tokens"] for group in files.read_json("bundle/manifest.json")["groups"]} == {4}
    assert [event.data["to"] for event in world.store.events(job) if event.kind == "state"][-4:] == [
        "SEARCHING",
        "TRAINING",
        "PUBLISHING",
        "SUCCEEDED",
    ]
    assert len(world.told(job, "trial_ended")) == 3
    (best,) = world.told(job, "search_done")
    assert best.startswith("Search: trial 1 of 3 is best with val_loss")
    assert "trial 1 |" in files.read_text("logs/search.log")


@pytest.mark.ray
def test_a_search_that_is_paused_goes_on_with_what_is_missing(world: World, make_spec, local_ray):
    space = {"training.max_steps": {"grid": [4, 600, 5]}}
    job = world.store.create_job(make_spec(space, {"max_concurrent": 1}, baselines=[]))[0].id
    world.store.next_wish = Desired.PAUSE
    assert world.attempt(job) == JobState.PAUSED, world.store.get_job(job).reason
    files = world.files(job)
    assert not files.exists("search.json")
    kept = files.read_text("search/job/trials/0.json")
    world.store.set_desired(job, Desired.RUN)
    assert world.attempt(job) == JobState.SUCCEEDED, world.store.get_job(job).reason
    assert files.read_text("search/job/trials/0.json") == kept
    trials = files.read_json("search.json")["searches"]["job"]["trials"]
    assert sorted((trial["number"], trial["status"]) for trial in trials) == [(0, "done"), (1, "done"), (2, "done")]
    assert len(world.told(job, "trial_ended")) == 3


TOKENS = "method.num_tokens"


def test_the_report_shows_the_trials_best_first_with_what_failed_and_what_was_left_out(world: World, make_spec):
    trials = [
        done(0, {TOKENS: 2}, 0.5),
        done(1, {TOKENS: 4}, 0.75),
        Trial(2, {TOKENS: 8}, "failed", reason="<too> big"),
    ]
    job = world.store.create_job(make_spec({TOKENS: {"choice": [2, 4, 8]}}))[0].id
    assert world.attempt(job, ScriptedLauncher(job=trials)) == JobState.SUCCEEDED, world.store.get_job(job).reason
    report = world.files(job).read_text("bundle/report.html")
    section = report[report.index("Settings that were tried") :]
    places = [section.index(f"{TOKENS}={tokens}") for tokens in (4, 2, 8)]
    assert places == sorted(places)
    assert "75.0" in section and "&lt;too&gt; big" in section and "2 more were not begun" in section
    (told,) = world.told(job, "search_done")
    assert told == (
        "Search: trial 1 of 3 is best with val_score 75.0%: method.num_tokens=4. 2 more were not begun in time."
    )
    assert [event.level for event in world.store.events(job) if event.kind == "trial_ended"] == [
        "info",
        "info",
        "warning",
    ]


def test_every_group_trains_with_its_own_best_setting_and_the_baselines_with_the_jobs(world: World, make_spec):
    method = {"kind": "mmap", "num_tokens": 2, "source_shape": [2, 2], "depth": 2, "sharing": "alone"}
    space = {TOKENS: {"choice": [2, 4]}, "training.batch_size": {"choice": [4, 8]}}
    spec = make_spec(space, {"scope": "group"}, method=method, baselines=["alone", "all"])
    job = world.store.create_job(spec)[0].id
    launcher = ScriptedLauncher(
        g1=[done(0, {TOKENS: 4, "training.batch_size": 8}, 0.5)],
        g2=[done(0, {TOKENS: 2, "training.batch_size": 4}, 0.5)],
    )
    assert world.attempt(job, launcher) == JobState.SUCCEEDED, world.store.get_job(job).reason
    assert launcher.searched == ["g1", "g2"]
    found = tuned(world.run(job))
    assert (found.common[0].model_dump()["num_tokens"], found.common[1].batch_size) == (2, 4)
    assert {group: settings[1].batch_size for group, settings in found.groups.items()} == {"g1": 8, "g2": 4}
    learned = {group.id: sum((group.parameters or {}).values()) for group in world.store.groups(job)}
    assert learned["g1"] > learned["g2"] == learned["alone-art"] == learned["all"]
    assert "alone-photo" not in learned  # the same as g2, which found nothing better than the job's own


def test_a_search_of_failures_fails_the_job_with_every_reason(world: World, make_spec):
    trials = [Trial(n, {LR: lr}, "failed", reason=f"loss is nan at {n}.") for n, lr in enumerate((1e15, 1e14))]
    job = world.store.create_job(make_spec({LR: {"grid": [1e15, 1e14]}}))[0].id
    assert world.attempt(job, ScriptedLauncher(job=trials)) == JobState.FAILED
    reason = world.store.get_job(job).reason or ""
    assert reason.startswith("Search: no setting could be scored. trial 0 (training.lr=1e+15): loss is nan at 0.;")
    assert "trial 1 (training.lr=1e+14): loss is nan at 1." in reason


def test_a_finished_search_of_a_group_is_not_begun_again(world: World, make_spec):
    method = {"kind": "mmap", "num_tokens": 2, "source_shape": [2, 2], "depth": 2, "sharing": "alone"}
    spec = make_spec({TOKENS: {"choice": [4]}}, {"scope": "group"}, method=method, baselines=[])
    job = world.store.create_job(spec)[0].id
    one = done(0, {TOKENS: 4}, 0.5)
    first = ScriptedLauncher(g1=[one], g2=[one])
    world.store.next_wish = Desired.PAUSE  # as soon as g1's trial is told
    assert world.attempt(job, first) == JobState.PAUSED
    world.store.set_desired(job, Desired.RUN)
    again = ScriptedLauncher(g1=[one], g2=[one])
    assert world.attempt(job, again) == JobState.SUCCEEDED, world.store.get_job(job).reason
    assert first.searched == ["g1"]
    assert again.searched == ["g2"]
