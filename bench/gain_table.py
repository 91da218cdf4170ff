"""Does grouping by gradients pay?  Every way to group five tasks of the demo world, trained to its end.

    python -m bench.gain_table [--seeds 3]

All 31 non-empty subsets are trained with the demo job's method and settings, so every one of the 52 partitions has a
known score, and the regret of every selector against the best of them can be told.  Trainings are kept one a line
under var/gain-table as they come and are never done twice; the table and the figures go to bench/results.
"""

import argparse
import csv
import hashlib
import json
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from bench.gain_report import Measured, figures_of, show
from bench.record import RESULTS, write_record
from bench.subset_gains import Partition, Table, best, gains, higher_order, pair_gains, partitions, subsets, worths
from grouping.affinities import affinity, lookahead
from grouping.config import GroupingConfig
from grouping.measurement import TaskFacts, measure
from grouping.plan import Plan, plan_from
from grouping.verdict import SURE_DETECTION
from service.spec import JobSpec, parse_spec
from workers.clip.frozen import FrozenCLIP, load_clip
from workers.data.dataset import TaskData, load_task
from workers.data.roots import DataRoots
from workers.methods.config import MmAPConfig
from workers.storage import write
from workers.training.results import Progress
from workers.training.signatures import profile
from workers.training.train import GroupWork, train

SPEC = Path(__file__).parents[1] / "examples" / "demo.yaml"
KEPT = Path(__file__).parents[1] / "var" / "gain-table"
TASKS = ("digits-ink", "digits-inverted", "shapes-filled", "shapes-outlined", "textures-noise")
"""Two pairs of a family, and one task that belongs to nobody."""
PLANS = {
    "cross_fit (default)": GroupingConfig(),
    **{f"cross_fit, {count} groups": GroupingConfig(num_groups=count) for count in (2, 3, 4)},
    "cross_fit, exact program": GroupingConfig(solver="correlation"),
    **{name: GroupingConfig(similarity=name) for name in ("cosine", "tag", "text", "image")},
}
RANDOM = [GroupingConfig(similarity="random", seed=seed) for seed in range(20)]


def demo_job() -> JobSpec:
    """The demo job, with these tasks; its validation images are scored once, after the last step."""
    shipped = parse_spec(SPEC.read_text())
    assert isinstance(shipped.method, MmAPConfig)
    tasks = [task for task in shipped.tasks if task.name in TASKS]
    training = shipped.training.model_copy(update={"validations": 1})
    return shipped.model_copy(update={"tasks": tasks, "training": training})


def folder_of(spec: JobSpec) -> Path:
    """Where trainings with these settings are kept."""
    settings = [spec.method, spec.training, spec.profile, *spec.tasks]
    told = [part.model_dump_json(exclude_defaults=True) for part in settings]
    return KEPT / hashlib.sha256("\n".join(told).encode()).hexdigest()[:12]


def measure_seed(spec: JobSpec, clip: FrozenCLIP, seed: int, folder: Path) -> None:
    """Signatures and the trainings that are still missing.  The seed is that of the draw, start and order."""
    data = {
        task.name: load_task(
            task.model_copy(update={"split": task.split.model_copy(update={"seed": seed})}),
            clip.resize,
            roots=DataRoots(()),
            cache_dir=folder / "cache",
        )
        for task in spec.tasks
    }
    training = spec.training.model_copy(update={"seed": seed})
    assert isinstance(spec.method, MmAPConfig)
    profile(clip, data, spec.profile, training, spec.method, directory=folder / f"profile-{seed}")
    lines = folder / f"seed-{seed}.jsonl"
    rows = read_lines(lines)
    trained = {tuple(row["scores"]) for row in rows}
    for subset in subsets(tuple(data)):
        if subset not in trained:
            rows.append(row := train_subset(spec, clip, subset, data, seed, folder))
            write(lines, "".join(json.dumps(row) + "\n" for row in rows).encode())
            shutil.rmtree(folder / "groups" / f"seed-{seed}", ignore_errors=True)
            print(f"seed {seed}: {' + '.join(subset)} in {row['seconds']:.0f} s", flush=True)


def train_subset(
    spec: JobSpec, clip: FrozenCLIP, subset: tuple[str, ...], data: Mapping[str, TaskData], seed: int, folder: Path
) -> dict:
    """One group of these tasks, and the score of each on test and validation images."""
    told: list[Progress] = []
    name = "+".join(subset)
    work = GroupWork(name, subset, spec.method, folder / "groups" / f"seed-{seed}" / name)
    training = spec.training.model_copy(update={"seed": seed})
    began = time.perf_counter()
    (result,) = train(clip, [work], data, training, report=told.append).values()
    scores = {
        task: {
            "test": found.score,
            "validation": found.val_score,
            "test_loss": found.loss,
        }
        for task, found in result.results.items()
    }
    return {"seed": seed, "steps": result.steps, "seconds": time.perf_counter() - began, "scores": scores}


def read_lines(path: Path) -> list[dict]:
    """The trainings kept so far."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def read_seed(seed: int, folder: Path) -> Measured:
    """Gains from the trainings, and what every selector makes of the signatures."""
    rows = [row["scores"] for row in read_lines(folder / f"seed-{seed}.jsonl")]

    def gained(figure: str, unit: float) -> Table:
        scores = {tuple(row): {task: unit * of_task[figure] for task, of_task in row.items()} for row in rows}
        return gains(scores)

    test, validation = gained("test", 100.0), gained("validation", 100.0)
    with np.load(folder / f"profile-{seed}" / "signatures.npz", allow_pickle=False) as arrays:
        measurement = measure(arrays["gradients"], arrays["task_names"].tolist(), TaskFacts.of(arrays))
    assert measurement.usable == TASKS
    plans = {name: plan_from(measurement, config, second_opinion=False) for name, config in PLANS.items()}
    choices = {name: [_partition(plan)] for name, plan in plans.items()}
    one_group, *_, all_alone = partitions(TASKS)
    verdict = plans["cross_fit (default)"].verdict
    assert verdict is not None
    sure = verdict.kind == "groups" and (verdict.detection or 0.0) >= SURE_DETECTION
    guided = choices["cross_fit (default)"][0] if sure else all_alone if verdict.kind == "all_alone" else one_group
    choices |= {
        "verdict-guided": [guided],
        "random": [_partition(plan_from(measurement, config, second_opinion=False)) for config in RANDOM],
        "one group": [one_group],
        "all alone": [all_alone],
        "validation, all subsets": [best(worths(validation))],
        "validation, pairs only": [best(worths(higher_order(pair_gains(validation), TASKS)))],
        "test, pairs only (oracle)": [best(worths(higher_order(pair_gains(test), TASKS)))],
    }
    names = ("cross_fit", "cosine", "tag", "text", "image")
    affinities = {name: affinity(measurement, name, seed=0).similarity_TT for name in names}
    directed = lookahead(measurement)
    assert directed is not None
    affinities |= {"tag, directed": directed, "validation pairs": pair_gains(validation)}
    affinities["test pairs (oracle)"] = pair_gains(test)
    said = f"{verdict.kind}, R = {verdict.detection:.2f}" if verdict.detection is not None else verdict.kind
    return Measured(seed, test, validation, gained("test_loss", -1.0), choices, affinities, said)


def write_table(folder: Path, seeds: Sequence[int]) -> None:
    """All scores, a line for each task of each subset of each seed, to bench/results/gain-table.csv."""
    RESULTS.mkdir(exist_ok=True)
    with (RESULTS / "gain-table.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["seed", "subset", "task", "test", "validation", "test_loss"])
        for seed in seeds:
            for row in read_lines(folder / f"seed-{seed}.jsonl"):
                for task, of in row["scores"].items():
                    figures = [f"{of[key]:.4f}" for key in ("test", "validation", "test_loss")]
                    writer.writerow([seed, "+".join(row["scores"]), task, *figures])


def _partition(plan: Plan) -> Partition:
    groups = [tuple(task for task in TASKS if task in group.tasks) for group in plan.groups]
    return tuple(sorted(groups, key=lambda group: TASKS.index(group[0])))


def main() -> None:
    """Trains what is missing, prints the tables and writes bench/results/gain-table.json and .csv."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    spec = demo_job()
    clip, folder = load_clip(spec.backbone), folder_of(spec)
    seeds = range(1, arguments.seeds + 1)
    for seed in seeds:
        measure_seed(spec, clip, seed, folder)
    measured = [read_seed(seed, folder) for seed in seeds]
    write_table(folder, seeds)
    found = {f"seeds 1 to {count}": figures_of(measured[:count]) for count in sorted({3, len(measured)})}
    for figures in found.values():
        show(figures)
    training = spec.training.model_dump(exclude={"seed"})
    settings = {"tasks": TASKS, "method": spec.method.model_dump(), "training": training, "threads": 1}
    settings["profile"] = spec.profile.model_dump()
    write_record("gain-table", f"python -m bench.gain_table --seeds {arguments.seeds}", settings | found)


if __name__ == "__main__":
    main()
