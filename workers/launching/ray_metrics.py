"""What running jobs tell Ray's metrics: `cohort_*` here, `ray_cohort_*` where Prometheus reads them.

Ray drops a series that is not set for twice its reporting interval (20 s as Ray comes): what is done goes away by
itself, and what goes on slowly is set again and again.  No tag holds a step, an attempt or an id that is drawn anew:
there are never more series than running jobs have tasks.  The tag is `job_id`, because Prometheus has a label `job` of
its own.
"""

from ray.util.metrics import Gauge

from workers.training.results import Progress

_OF_GROUP = ("job_id", "group")
_OF_TASK = ("job_id", "group", "task")


class GroupMetrics:
    """Of one group; lives in its actor."""

    def __init__(self, job: str, group: str) -> None:
        self._tags = {"job_id": job, "group": group}
        self._loss = Gauge("cohort_loss", "Training loss of a task.", tag_keys=_OF_TASK)
        self._val_loss = Gauge("cohort_val_loss", "Validation loss of a task.", tag_keys=_OF_TASK)
        self._score = Gauge("cohort_task_score", "Validation score of a task, 0 to 1.", tag_keys=_OF_TASK)
        self._progress = Gauge("cohort_group_progress", "Share of a group's steps taken, 0 to 1.", tag_keys=_OF_GROUP)
        self._speed = Gauge("cohort_images_per_second", "Training images per second of a group.", tag_keys=_OF_GROUP)
        self._bytes = Gauge(
            "cohort_device_bytes",
            "Memory that the process of a group holds on its device; on CPU, of the machine's.",
            tag_keys=_OF_GROUP,
        )

    def show(self, progress: Progress) -> None:
        of_tasks = (
            (self._loss, progress.losses),
            (self._val_loss, progress.val_losses),
            (self._score, progress.scores),
        )
        for gauge, values in of_tasks:
            for task, value in values.items():
                gauge.set(value, {**self._tags, "task": task})
        self._progress.set(progress.step / progress.num_steps if progress.num_steps else 1.0, self._tags)
        self._speed.set(progress.images_per_second, self._tags)
        self._bytes.set(progress.device_bytes, self._tags)


class StageMetrics:
    """Of a job; lives in its driver."""

    def __init__(self) -> None:
        self._stage = Gauge("cohort_stage", "1 for the stage that a job is in.", tag_keys=("job_id", "stage"))

    def show(self, job: str, stage: str) -> None:
        self._stage.set(1, {"job_id": job, "stage": stage})
