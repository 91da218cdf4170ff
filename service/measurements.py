"""What a job has measured of its tasks, read for planning: by the driver's stage and by every what-if alike."""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

import numpy as np

from grouping.measurement import Measurement, TaskFacts, measure
from service.artifacts import JobFiles
from workers.arrays import read_arrays, write_arrays
from workers.seals import Damaged

DATASETS = "datasets.json"
SIGNATURES = "profile/signatures.npz"
MEASUREMENT = "measurement.npz"
"""The few matrices that every plan of the job is made from."""
_SOURCE = "source"


def read_measurement(files: JobFiles) -> Measurement:
    """What is kept of the job's signatures for planning; made again where the signatures are others than it was of.

    ArtifactNotFound for a job without signatures.  Two that make it at once write the same.
    """
    source = files.info(SIGNATURES).tag
    with suppress(FileNotFoundError, Damaged):
        arrays = read_arrays(files.path(MEASUREMENT))
        if str(arrays.pop(_SOURCE, "")) == source:
            return Measurement.of_arrays(arrays)
    gradients, names, facts = _signatures(files)
    found = measure(gradients, names, facts)
    write_arrays(files.path(MEASUREMENT), {**found.arrays(), _SOURCE: np.array(source)}, "measurement")
    return found


def read_gradients(files: JobFiles) -> np.ndarray:
    """The signatures themselves, [snapshots, microbatches, tasks, params], tasks as the job has them."""
    return _signatures(files)[0]


def task_costs(files: JobFiles, batch_size: int) -> dict[str, float]:
    """Task -> its training images in one step, which is what `max_group_cost` counts."""
    return step_costs(files.read_json(DATASETS)["tasks"], batch_size)


def step_costs(tasks: Iterable[Mapping[str, Any]], batch_size: int) -> dict[str, float]:
    """The same of tasks as validation found them."""
    return {task["name"]: float(min(batch_size, task["num_train"])) for task in tasks}


def _signatures(files: JobFiles) -> tuple[np.ndarray, list[str], TaskFacts]:
    signatures = read_arrays(files.file(SIGNATURES))
    return signatures["gradients"], [str(name) for name in signatures["task_names"]], TaskFacts.of(signatures)
