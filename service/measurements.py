"""What a job has measured of its tasks, read for planning: by the driver's stage and by every what-if alike."""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from io import BytesIO
from typing import Any

import numpy as np

from grouping.measurement import Measurement, TaskFacts, measure
from service.artifacts import JobFiles
from workers.training.results import write_atomically

DATASETS = "datasets.json"
SIGNATURES = "profile/signatures.npz"
MEASUREMENT = "profile/measurement.npz"
"""The few matrices that every plan of the job is made from."""
_SOURCE = "source"


def read_measurement(files: JobFiles) -> Measurement:
    """What is kept of the job's signatures for planning; made again where the signatures are others than it was of.

    ArtifactNotFound for a job without signatures.  Two that make it at once write the same.
    """
    source = _fingerprint(files)
    with suppress(FileNotFoundError), np.load(files.path(MEASUREMENT), allow_pickle=False) as arrays:
        if _SOURCE in arrays and arrays[_SOURCE].tolist() == source:
            return Measurement.of_arrays(arrays)
    gradients, names, facts = _signatures(files)
    found = measure(gradients, names, facts)
    buffer = BytesIO()
    np.savez(buffer, allow_pickle=False, **found.arrays(), **{_SOURCE: np.array(source)})
    write_atomically(files.path(MEASUREMENT), buffer.getvalue())
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
    with np.load(files.file(SIGNATURES), allow_pickle=False) as signatures:
        return signatures["gradients"], [str(name) for name in signatures["task_names"]], TaskFacts.of(signatures)


def _fingerprint(files: JobFiles) -> list[int]:
    status = files.file(SIGNATURES).stat()
    return [status.st_size, status.st_mtime_ns]
