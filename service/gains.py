"""What the groups of a job gained on test images over every baseline, and how sure that is.

Made once, when the job is published, from the figures per image that every finished group keeps; read from the file
`gains.json` from then on.
"""

from collections.abc import Mapping, Sequence

from grouping.gains import paired_gain
from service.artifacts import JobFiles
from service.scores import by_metric
from service.spec import Baseline
from service.wire_gains import Gain
from workers.training.results import TaskResult

ARTIFACT = "gains.json"
PER_IMAGE = {"mean_average_precision": "image_average_precision"}
"""A metric that is no mean over images -> the one that is compared in its place."""


def gains(grouped: Mapping[str, TaskResult], baselines: Mapping[Baseline, Mapping[str, TaskResult]]) -> list[Gain]:
    """Over every baseline, the mean over the tasks of each metric, and every task by itself.

    Only tasks that finished both ways are compared.
    """
    found = []
    for baseline, others in baselines.items():
        both = [result for task, result in grouped.items() if task in others]
        for metric, rows in by_metric(both).items():
            means = [(None, rows)] if len(rows) > 1 else []
            for task, compared in [*means, *((row.task, [row]) for row in rows)]:
                gain = paired_gain(_images(compared), _images([others[row.task] for row in compared]))
                what = {"task": task, "against": baseline, "metric": PER_IMAGE.get(metric, metric)}
                found.append(Gain.model_validate({**gain.model_dump(), **what}))
    return found


def read_gains(files: JobFiles) -> list[Gain]:
    """What was written of a job's gains; empty before, and for a job that an older version finished."""
    if not files.exists(ARTIFACT):
        return []
    return [Gain.model_validate(gain) for gain in files.read_json(ARTIFACT)]


def _images(results: Sequence[TaskResult]) -> dict[str, list[float]]:
    return {result.task: result.per_image for result in results}
