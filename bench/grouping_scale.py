"""What planning costs against the number of tasks, from 10 to 10,000.

    OMP_NUM_THREADS=2 python -m bench.grouping_scale [--largest 10000]

Up to 1,000 tasks: a whole plan with an automatic number of groups, measured from gradients and planned without second
opinion, which a what-if does again and again.  Above: the factored form with the number of groups given, which never
builds a matrix of all pairs.  Every size runs in a process of its own, so that its peak memory is its own (the input's
120 MB at 10,000 tasks included), and the best of three runs counts.  Wall time is what a user waits; CPU time is told
beside it, because wall time is only meaningful on a machine that does nothing else.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from typing import TypeVar

import numpy as np
from sklearn.metrics import adjusted_rand_score

from bench.record import write_record
from grouping.config import GroupingConfig
from grouping.exact import exact_partition
from grouping.factor import factor_labels
from grouping.links import Limits
from grouping.measurement import measure
from grouping.plan import plan_from
from grouping.similarity import cross_fit
from grouping.structure import pair_threshold

Answer = TypeVar("Answer")
SIZES = (10, 30, 100, 200, 300, 1_000, 3_000, 10_000)
AUTOMATIC = 1_000


def planted(num_tasks: int, num_groups: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """T18's input in fp32: d=512, S=3, two halves, noise 1, common direction 0.5.  -> [3, 2, tasks, 512], labels"""
    rng = np.random.default_rng(seed)
    labels = np.arange(num_tasks) % num_groups
    gradients = np.empty((3, 2, num_tasks, 512), dtype=np.float32)
    for s in range(3):
        centres, own, common = (_unit(rng, rows) for rows in (num_groups, num_tasks, 1))
        for r in range(2):
            noise = rng.standard_normal((num_tasks, 512), dtype=np.float32) * np.sqrt(2 / 512)
            gradients[s, r] = centres[labels] + own + 0.5 * common + noise
    return gradients, labels


def measure_size(num_tasks: int) -> dict:
    """One size's figures, in this process."""
    num_groups = max(2, num_tasks // 20)
    gradients, truth = planted(num_tasks, num_groups)
    names = [f"task{index:05d}" for index in range(num_tasks)]
    if num_tasks <= AUTOMATIC:
        to_measure, measured = best(lambda: measure(gradients, names))
        to_plan, plan = best(lambda: plan_from(measured, GroupingConfig(), second_opinion=False))
        group_of = {task: group.id for group in plan.groups for task in group.tasks}
        found = [group_of[name] for name in names]
        figure = {"measure": to_measure, "plan": to_plan}
    else:
        to_group, labels = best(lambda: factor_labels(gradients, num_groups, seed=0))
        found, figure = labels.tolist(), {"group": to_group}
    figure = {"tasks": num_tasks, "groups_planted": num_groups, **figure}
    figure["groups_found"] = len(set(found))
    figure["ari"] = round(float(adjusted_rand_score(truth, found)), 4)
    figure["peak_gb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2, 2)
    return figure


def best(work: Callable[[], Answer]) -> tuple[dict[str, float], Answer]:
    """Least wall and CPU seconds of three runs, and what they found; one answer is kept at a time."""
    answer, wall, cpu = _timed(work)
    for _ in range(2):
        del answer
        answer, another_wall, another_cpu = _timed(work)
        wall, cpu = min(wall, another_wall), min(cpu, another_cpu)
    return {"seconds": round(wall, 3), "cpu_seconds": round(cpu, 3)}, answer


def _timed(work: Callable[[], Answer]) -> tuple[Answer, float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    answer = work()
    return answer, time.perf_counter() - wall, time.process_time() - cpu


def exact_forty() -> dict:
    """The exact partition of 40 planted tasks, proven."""
    gradients, truth = planted(40, 4)
    similarity = cross_fit(gradients).similarity_TT
    weights = similarity - pair_threshold(similarity[np.triu_indices(40, k=1)])
    np.fill_diagonal(weights, 0.0)
    took, found = best(lambda: exact_partition(weights, Limits(np.ones(40))))
    assert found is not None
    return {**took, "gap": found.gap, "ari": float(adjusted_rand_score(truth, found.labels))}


def main() -> None:
    """Prints one line a size and writes bench/results/grouping-scale.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--largest", type=int, default=SIZES[-1])
    parser.add_argument("--size", type=int, help="measure this size alone, and print its figures")
    parser.add_argument("--note", default="", help="kept with the figures, such as `the machine was busy`")
    arguments = parser.parse_args()
    if arguments.size:
        print(json.dumps(measure_size(arguments.size)))
        return
    rows = []
    for size in (size for size in SIZES if size <= arguments.largest):
        command = [sys.executable, "-m", "bench.grouping_scale", "--size", str(size)]
        rows.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
        print(json.dumps(rows[-1]), flush=True)
    exact = exact_forty()
    print(f"exact, 40 tasks: {json.dumps(exact)}")
    figures = {
        "threads": os.environ.get("OMP_NUM_THREADS", "all"),
        "load": [round(load, 1) for load in os.getloadavg()],
        "note": arguments.note,
        "sizes": rows,
        "exact_40": exact,
    }
    write_record("grouping-scale", "python -m bench.grouping_scale", figures)


def _unit(rng: np.random.Generator, rows: int) -> np.ndarray:
    vectors = rng.standard_normal((rows, 512), dtype=np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


if __name__ == "__main__":
    main()
