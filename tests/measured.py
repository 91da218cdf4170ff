"""A job whose tasks are measured: signatures with planted groups, without any training."""

from collections.abc import Sequence

import numpy as np

from grouping.config import GroupingConfig
from grouping.plan import plan_from
from service.artifacts import JobFiles, plan_path
from service.measurements import DATASETS, SIGNATURES, read_measurement
from service.settings import Settings
from service.spec import parse_spec
from service.states import JobState
from service.store import Store

NAMES = ("a", "b", "c", "d", "e", "f")
PLANTED = {"g1": ["a", "c", "e"], "g2": ["b", "d", "f"]}
_ON_THE_WAY = (JobState.VALIDATING, JobState.PROFILING, JobState.GROUPING, JobState.TRAINING, JobState.PUBLISHING)


def measured_job(
    store: Store, settings: Settings, state: JobState = JobState.SUCCEEDED, *, names: Sequence[str] = NAMES, **spec
) -> str:
    """A job in that state, its tasks in turn of one group and of another; `spec` are further parts of its description.

    Its driver has written signatures and no plan.
    """
    tasks = [{"name": name, "source": {"kind": "folder", "uri": name}} for name in names]
    job = store.create_job(parse_spec({"name": "measured", "backbone": {"model": "demo"}, "tasks": tasks, **spec}))[0]
    files = JobFiles(settings.storage, job.id)
    write_signatures(files, names)
    files.write_json(DATASETS, {"tasks": [{"name": name, "num_train": 8} for name in names]})
    attempt = store.start_attempt(job.id)
    stops = [*_ON_THE_WAY[: _ON_THE_WAY.index(state) + 1]] if state in _ON_THE_WAY else [*_ON_THE_WAY, state]
    for stop in stops if state != JobState.AWAITING_APPROVAL else [*_ON_THE_WAY[:3], state]:
        store.move(job.id, stop, attempt=attempt)
    return job.id


def train_a_plan(store: Store, settings: Settings, job: str) -> None:
    """Its groups are the plan that the job has trained."""
    files = JobFiles(settings.storage, job)
    plan = plan_from(read_measurement(files), GroupingConfig(num_groups=2), second_opinion=False)

    def save(number: int) -> None:
        files.write_text(plan_path(number), plan.model_dump_json())

    store.add_plan(job, plan.outline(), save, approved=True)


def write_signatures(files: JobFiles, names: Sequence[str], *, seed: int = 0) -> None:
    rng = np.random.default_rng(seed)
    directions = rng.normal(size=(2, 256))
    clean = directions[np.arange(len(names)) % 2]
    path = files.path(SIGNATURES)
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = rng.normal(size=(3, 4, len(names), 256))
    np.savez(path, allow_pickle=False, gradients=(clean + noise).astype(np.float32), task_names=np.array(names))
