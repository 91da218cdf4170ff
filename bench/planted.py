"""The planted-answer cases of grouping over many seeds: the long form of tests/grouping.

    OMP_NUM_THREADS=1 python -m bench.planted [--seeds 10]

60 tasks in 6 groups, 200 parameters, 5 snapshots, 2 microbatches, unless said; ids are those of the tests.  Every case
prints its figure beside what it must reach, and whether it does.  T14 (invariants) is in tests/grouping/test_plan.py,
T16 (one backward) in tests/workers/training/test_signatures.py and bench/speed.py, T18 in bench/grouping_scale.py.
"""

import argparse
import operator
import time
from collections.abc import Callable

import numpy as np
from sklearn.metrics import adjusted_rand_score, roc_auc_score

from bench.record import write_record
from grouping.confidence import confidence
from grouping.config import GroupingConfig
from grouping.decision import find
from grouping.exact import exact_partition
from grouping.links import Limits
from grouping.local import local_partition
from grouping.measurement import measure
from grouping.newcomers import place
from grouping.partition import pair_sum
from grouping.plan import Plan, plan_from
from grouping.similarity import cross_fit, cross_fitted, mean_cosine
from grouping.spectral import spectral_labels
from grouping.verdict import detection_ratio
from tests.grouping.planted import partitions, planted, planted_weights, random_weights
from workers.launching.packing import longest_first

SIX = np.arange(60) % 6
SOURCES = np.arange(60) // 10
NULL_SEEDS = 200
"""Seeds of the jobs in which nothing was planted, each with two relations, two common directions and two noises."""

Rows = dict[str, tuple[float, str]]
"""Figure and what it must reach, by name of the case."""


def names_of(labels: np.ndarray) -> list[str]:
    return [f"task{index:03d}" for index in range(len(labels))]


def labels_of(plan: Plan) -> list[str]:
    group_of = {task: group.id for group in plan.groups for task in group.tasks}
    return [group_of[name] for name in plan.task_names]


def plans(job: Callable[[int], np.ndarray], truth: np.ndarray, seeds: int, **settings) -> list[Plan]:
    config = GroupingConfig(**settings)
    return [plan_from(measure(job(s), names_of(truth)), config, second_opinion=False) for s in range(seeds)]


def mean_ari(found: list[Plan], truth: np.ndarray) -> float:
    return float(np.mean([adjusted_rand_score(truth, labels_of(plan)) for plan in found]))


def unlike(a: float, b: float, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).permutation(np.repeat([a, b], 30))


def noise_levels(seeds: int) -> Rows:
    """T1, T2, T3, T5, T24."""
    rows: Rows = {}
    solvers: list[dict] = [{}, {"num_groups": 6}, {"max_group_size": 10}, {"solver": "correlation"}]
    for settings in (*solvers, {"similarity": "cosine"}):
        found = plans(lambda s: planted(SIX, seed=s), SIX, seeds, **settings)
        exact = [plan.num_groups == 6 and adjusted_rand_score(SIX, labels_of(plan)) == 1 for plan in found]
        rows[f"T1 no noise, {settings or 'defaults'}: share exact"] = float(np.mean(exact)), ">= 1"
    found = plans(lambda s: planted(SIX, sigma=2, seed=s), SIX, seeds)
    rows["T2 noise 2"] = mean_ari(found, SIX), ">= .99"
    rows["T2 noise 2, share with 6 groups"] = float(np.mean([plan.num_groups == 6 for plan in found])), ">= 1"
    for halves in (2, 4):
        job = lambda s, halves=halves: planted(SIX, sigma=4, num_microbatches=halves, seed=s)  # noqa: E731
        rows[f"T3 noise 4, K given, {halves} microbatches"] = (
            mean_ari(plans(job, SIX, seeds, num_groups=6), SIX),
            ">= .90",
        )
    for noise in (3.0, 5.0):
        job = lambda s, noise=noise: planted(SIX, sigma=unlike(1, noise, s), gamma=2, seed=s)  # noqa: E731
        rows[f"T5 noise 1 and {noise:g}"] = mean_ari(plans(job, SIX, seeds), SIX), ">= .95"
    for sigma in (1.0, 5.0):
        pairs = [planted([0, 0], sigma=sigma, seed=s) for s in range(10 * seeds)]
        raw = float(np.mean([mean_cosine(pair).similarity_TT[0, 1] for pair in pairs]))
        fitted = float(np.mean([cross_fit(pair).similarity_TT[0, 1] for pair in pairs]))
        rows[f"T24 cosine .5 at noise {sigma:g}, plain"] = raw, ""
        rows[f"T24 cosine .5 at noise {sigma:g}, cross-fitted: off by"] = abs(fitted - 0.5), "<= .1"
    return rows


def shapes(seeds: int) -> Rows:
    """T7, T8, T9, T10."""
    sizes = np.repeat(range(5), [30, 15, 8, 4, 3])
    singles = np.concatenate([np.repeat(range(4), 12), np.arange(4, 16)])
    rows: Rows = {
        "T7 unlike sizes": (mean_ari(plans(lambda s: planted(sizes, sigma=2, seed=s), sizes, seeds), sizes), ">= .95")
    }
    for solver, must in (("spectral", ">= .90"), ("correlation", ">= .95")):
        found = plans(lambda s: planted(singles, sigma=2, seed=s), singles, seeds, solver=solver)
        rows[f"T8 singletons, {solver}"] = mean_ari(found, singles), must
        rows[f"T8 singletons, {solver}: groups found of 16"] = float(np.mean([plan.num_groups for plan in found])), ""
    corners = np.repeat(range(4), 5)
    simplex = np.broadcast_to((np.eye(4) - 0.25)[corners], (5, 2, 20, 4)).copy()
    plan = plan_from(measure(simplex, names_of(corners)), GroupingConfig(), second_opinion=False)
    rows["T9 zero-sum simplex"] = float(adjusted_rand_score(corners, labels_of(plan))), ">= 1"
    for shared in (0.25, 0.5, 0.9):
        job = lambda s, shared=shared: planted(SIX, sigma=3, shared_noise=shared, sources=SOURCES, seed=s)  # noqa: E731
        found = plans(job, SIX, seeds)
        rows[f"T10 shared noise {shared}"] = mean_ari(found, SIX), ">= .95"
        rows[f"T10 shared noise {shared}, to the data source"] = mean_ari(found, SOURCES), "<= .1"
    return rows


def solvers(seeds: int) -> Rows:
    """T11, T12, T13, T15; what they say does not depend on chance, so the number of seeds is theirs."""
    gaps, misses = [], []
    for seed, count in enumerate([10, 12, 15, 18, 20, 20, 25, 30, 35, 40]):
        weights = planted_weights(count, 4, 2.0 if count > 20 else 3.0, seed)
        exact = exact_partition(weights, Limits(np.ones(count)), time_limit=60.0)
        assert exact is not None and exact.gap == 0.0
        gaps.append(1 - local_partition(weights, Limits(np.ones(count)), seed=0).objective / exact.objective)
    for seed in range(3):
        weights = random_weights(9, seed)
        exact = exact_partition(weights, Limits(np.ones(9)))
        assert exact is not None
        misses.append(abs(exact.objective - max(pair_sum(weights, labels) for labels in partitions(9))))
    costs = np.random.default_rng(0).integers(1, 6, size=20).astype(float)
    weights = planted_weights(20, 4, 1.0, 0)
    sized = exact_partition(weights, Limits(np.ones(20), max_cost=3.0))
    priced = exact_partition(weights, Limits(costs, max_cost=12.0))
    assert sized is not None and priced is not None
    spans = [
        max(sum(members) for members in longest_first(jobs, num_bins=count, cost=float))
        for jobs, count in (
            ([4, 5, 6, 7, 8], 2),
            ([4, 5, 6, 7, 8], 3),
            ([7, 7, 6, 6, 5, 5, 4, 4, 4], 4),
            ([3, 3, 2, 2, 2], 2),
        )
    ]
    return {
        "T11 local search, worst gap": (max(gaps), "<= .10"),
        "T11 local search, median gap": (float(np.median(gaps)), "<= 0"),
        "T12 program against 21,147 partitions, worst miss": (max(misses), "<= 0"),
        "T13 largest group of at most 3": (float(np.bincount(sized.labels).max()), "<= 3"),
        "T13 costliest group of at most 12": (float(np.bincount(priced.labels, weights=costs).max()), "<= 12"),
        "T13 gap of both": (max(sized.gap or 0.0, priced.gap or 0.0), "<= 0"),
        "T15 makespans 17, 11, 15, 7: share right": (float(np.mean(np.array(spans) == [17, 11, 15, 7])), ">= 1"),
    }


def false_structure(seeds: int) -> Rows:
    """T6: one group, or no two tasks related; equal and unlike noise."""
    rows: Rows = {}
    for related in (True, False):
        for gamma in (0, 2):
            for mixed in (False, True):
                found = []
                for seed in range(NULL_SEEDS * seeds // 10):
                    sigma = np.random.default_rng(seed).permutation(np.linspace(1, 3, 60)) if mixed else 2.0
                    labels = np.zeros(60, dtype=int) if related else np.arange(60)
                    finding = find(cross_fit(planted(labels, sigma=sigma, gamma=gamma, seed=seed)), 0)
                    found.append(finding.structure.found and not finding.noisy)
                kind = f"{'one group' if related else 'unrelated'}, common {gamma}, noise {'1 to 3' if mixed else '2'}"
                rows[f"T6 false structure, {kind}, {len(found)} jobs"] = float(np.mean(found)), "<= .02"
    return rows


def trust(seeds: int) -> Rows:
    """T4 and T19: the verdict and the confidence under strong noise."""
    noisy, rands, right, margins = [], [], [], []
    for seed in range(seeds):
        job = planted(SIX, sigma=8, seed=seed)
        measured = measure(job, names_of(SIX))
        plan = plan_from(measured, GroupingConfig(), second_opinion=False)
        noisy.append(plan.verdict is not None and plan.verdict.kind == "too_noisy")
        sure = confidence(job, measured, GroupingConfig(), [g.tasks for g in plan.groups], resamples=10)
        rands.append(1.0 if sure is None else sure.rand_index)
        config = GroupingConfig(num_groups=6)
        job = planted(SIX, sigma=4.5, num_snapshots=6, num_microbatches=4, seed=seed)
        measured = measure(job, names_of(SIX))
        labels = labels_of(plan := plan_from(measured, config, second_opinion=False))
        sure = confidence(job, measured, config, [g.tasks for g in plan.groups])
        assert sure is not None
        of = np.array(labels)
        most = {group: np.bincount(SIX[of == group]).argmax() for group in set(labels)}
        right += [most[group] == truth for group, truth in zip(labels, SIX, strict=True)]
        margins += [task.margin for task in sure.tasks]
    return {
        "T4 share told too noisy": (float(np.mean(noisy)), ">= 1"),
        "T4 bootstrap ARI": (float(np.max(rands)), "< .1"),
        f"T19 AUC at noise 4.5, {right.count(False)} tasks misplaced": (float(roc_auc_score(right, margins)), ">= .9"),
    }


def detection(seeds: int) -> Rows:
    """T20: seven designs at seven noise levels, K given; R as the verdict tells it, and by the planted formula."""
    designs = [(60, 6, 5, 200), (60, 3, 3, 200), (40, 2, 5, 200), (40, 4, 3, 300), (20, 4, 5, 200), (24, 3, 5, 100)]
    designs.append((100, 10, 5, 200))
    told, planned, found = [], [], []
    for num_tasks, num_groups, snapshots, params in designs:
        truth = np.arange(num_tasks) % num_groups
        for sigma in (1, 2, 3, 4, 5, 6, 8):
            ratios, agreed = [], []
            for seed in range(seeds):
                job = planted(
                    truth, sigma=sigma, num_snapshots=snapshots, num_params=params, num_microbatches=4, seed=seed
                )
                fitted = cross_fitted(measure(job, names_of(truth)))
                labels = spectral_labels(fitted.numerator_TT, num_groups, seed=0)
                assert labels is not None
                ratios.append(detection_ratio(fitted, labels) or 0.0)
                agreed.append(adjusted_rand_score(truth, labels))
            told.append(ratios)
            found.append(agreed)
            gap = 1 / (2 + sigma**2)
            planned.append(gap * np.sqrt(params * snapshots) * (num_tasks / num_groups) / (2 * np.sqrt(num_tasks)))
    ratio, ari = np.mean(told, axis=1), np.mean(found, axis=1)
    jobs, planned = np.ravel(told), np.array(planned)
    rows: Rows = {
        f"T20 least ARI of {int((ratio >= 1).sum())} designs with R >= 1": (float(ari[ratio >= 1].min()), ">= .9"),
        f"T20 mean ARI of {int((ratio < 0.5).sum())} designs with R < .5": (float(ari[ratio < 0.5].mean()), "<= .5"),
        f"T20 share of {int((jobs >= 1).sum())} single jobs with R >= 1 whose ARI is below .9": (
            float((np.ravel(found)[jobs >= 1] < 0.9).mean()),
            "",
        ),
        f"T20 by the planted gap, plain cosine: least ARI of {int((planned >= 1).sum())} designs with R >= 1": (
            float(ari[planned >= 1].min()),
            "",
        ),
        f"T20 by the planted gap: mean ARI of {int((planned < 0.5).sum())} designs with R < .5": (
            float(ari[planned < 0.5].mean()),
            "<= .5",
        ),
    }
    for low, high in ((0.5, 0.6), (0.6, 0.8), (0.8, 1.0), (1.0, 1.3)):
        inside = (jobs >= low) & (jobs < high)
        rows[f"T20 mean ARI of jobs with R from {low} to {high}"] = float(np.ravel(found)[inside].mean()), ""
    return rows


def newcomers(seeds: int) -> Rows:
    """T17."""
    labels = np.concatenate([SIX, np.arange(20) % 6, np.full(10, 6)])
    names = names_of(labels)
    groups = {f"g{k + 1}": [names[t] for t in range(60) if labels[t] == k] for k in range(6)}
    right, new, alarms = [], [], []
    for seed in range(seeds):
        job = planted(labels, sigma=2, gamma=1, seed=seed)
        found = place(job[:, :, :60], names[:60], groups, job[:, :, 60:], names[60:], GroupingConfig())
        right += [placed.group == f"g{labels[60 + t] + 1}" for t, placed in enumerate(found[:20])]
        alarms += [placed.is_new for placed in found[:20]]
        new += [placed.is_new for placed in found[20:]]
    return {
        "T17 newcomers placed right": (float(np.mean(right)), ">= .99"),
        "T17 unseen detected": (float(np.mean(new)), ">= .95"),
        "T17 false alarms": (float(np.mean(alarms)), "<= .01"),
    }


CASES = {
    "newcomers": newcomers,
    "noise": noise_levels,
    "shapes": shapes,
    "solvers": solvers,
    "detection": detection,
    "false_structure": false_structure,
    "trust": trust,
}


def reached(value: float, must: str) -> bool:
    """Whether a figure is what it must be, such as `>= .9`."""
    relation, bound = must.split()
    return {">=": operator.ge, "<=": operator.le, "<": operator.lt}[relation](round(value, 9), float(bound))


def main() -> None:
    """Prints one line a case and writes bench/results/planted.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10, help="the cases without structure take twenty times as many")
    parser.add_argument("--case", choices=CASES, help="this one alone, and no record")
    arguments = parser.parse_args()
    figures: dict = {}
    for case, measured in CASES.items():
        if arguments.case not in (None, case):
            continue
        started = time.process_time()
        for name, (value, must) in measured(arguments.seeds).items():
            verdict = None if not must else reached(value, must)
            figures[name] = {"value": round(value, 4), "must": must, "reached": verdict}
            print(f"{name}: {value:.3f} {'' if verdict is None else f'({must}: {verdict})'}", flush=True)
        print(f"{case}: {time.process_time() - started:.0f} processor seconds", flush=True)
    if arguments.case is None:
        write_record("planted", f"python -m bench.planted --seeds {arguments.seeds}", {"cases": figures})


if __name__ == "__main__":
    main()
