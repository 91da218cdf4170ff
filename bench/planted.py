"""The planted-answer cases of grouping over many seeds: the long form of tests/grouping.

    python -m bench.planted [--seeds 10]

60 tasks in 6 groups, 200 parameters, 5 snapshots, 2 microbatches, unless said; ids are those of the tests.  Every case
prints its figure beside what it must reach.
"""

import argparse
from collections.abc import Callable

import numpy as np
from sklearn.metrics import adjusted_rand_score, roc_auc_score

from bench.record import write_record
from grouping.confidence import confidence
from grouping.config import GroupingConfig
from grouping.decision import find
from grouping.measurement import measure
from grouping.newcomers import place
from grouping.plan import Plan, plan_from
from grouping.similarity import cross_fit, cross_fitted
from grouping.spectral import spectral_labels
from tests.grouping.planted import planted

SIX = np.arange(60) % 6
SOURCES = np.arange(60) // 10


def names_of(labels: np.ndarray) -> list[str]:
    return [f"task{index:03d}" for index in range(len(labels))]


def labels_of(plan: Plan) -> list[str]:
    group_of = {task: group.id for group in plan.groups for task in group.tasks}
    return [group_of[name] for name in plan.task_names]


def mean_ari(job: Callable[[int], np.ndarray], truth: np.ndarray, seeds: int, **settings) -> float:
    config = GroupingConfig(**settings)
    plans = [plan_from(measure(job(s), names_of(truth)), config, second_opinion=False) for s in range(seeds)]
    return float(np.mean([adjusted_rand_score(truth, labels_of(plan)) for plan in plans]))


def unlike(a: float, b: float, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).permutation(np.repeat([a, b], 30))


def partitions(seeds: int) -> dict[str, tuple[float, str]]:
    """T2, T3, T5, T7, T8, T10."""
    sizes = np.repeat(range(5), [30, 15, 8, 4, 3])
    singles = np.concatenate([np.repeat(range(4), 12), np.arange(4, 16)])
    rows = {
        "T2 noise 2": (mean_ari(lambda s: planted(SIX, sigma=2, seed=s), SIX, seeds), ">= .99"),
        "T3 noise 4, K given": (mean_ari(lambda s: planted(SIX, sigma=4, seed=s), SIX, seeds, num_groups=6), ">= .90"),
        "T7 unlike sizes": (mean_ari(lambda s: planted(sizes, sigma=2, seed=s), sizes, seeds), ">= .95"),
        "T8 singletons": (mean_ari(lambda s: planted(singles, sigma=2, seed=s), singles, seeds), ">= .90"),
        "T8 singletons, correlation": (
            mean_ari(lambda s: planted(singles, sigma=2, seed=s), singles, seeds, solver="correlation"),
            ">= .95",
        ),
    }
    for noise in (3.0, 5.0):
        job = lambda s, noise=noise: planted(SIX, sigma=unlike(1, noise, s), gamma=2, seed=s)  # noqa: E731
        rows[f"T5 noise 1 and {noise:g}"] = (mean_ari(job, SIX, seeds), ">= .95")
    for shared in (0.25, 0.5, 0.9):
        job = lambda s, shared=shared: planted(SIX, sigma=3, shared_noise=shared, sources=SOURCES, seed=s)  # noqa: E731
        rows[f"T10 shared noise {shared}"] = (mean_ari(job, SIX, seeds), ">= .95")
    return rows


def false_structure(seeds: int) -> dict[str, tuple[float, str]]:
    """T6: one group, or no two tasks related; equal and unlike noise."""
    found = []
    for related in (True, False):
        for gamma in (0, 2):
            for mixed in (False, True):
                for seed in range(seeds):
                    sigma = np.random.default_rng(seed).permutation(np.linspace(1, 3, 60)) if mixed else 2.0
                    labels = np.zeros(60, dtype=int) if related else np.arange(60)
                    finding = find(cross_fit(planted(labels, sigma=sigma, gamma=gamma, seed=seed)), 0)
                    found.append(finding.structure.found and not finding.noisy)
    return {f"T6 false structure, {len(found)} jobs": (float(np.mean(found)), "<= .02")}


def trust(seeds: int) -> dict[str, tuple[float, str]]:
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
        "T4 share told too noisy": (float(np.mean(noisy)), "= 1"),
        "T4 bootstrap ARI": (float(np.max(rands)), "< .1"),
        f"T19 AUC at noise 4.5, {right.count(False)} tasks misplaced": (float(roc_auc_score(right, margins)), ">= .9"),
    }


def detection(seeds: int) -> dict[str, tuple[float, str]]:
    """T20: seven designs at seven noise levels, K given."""
    designs = [(60, 6, 5, 200), (60, 3, 3, 200), (40, 2, 5, 200), (40, 4, 3, 300), (20, 4, 5, 200), (24, 3, 5, 100)]
    designs.append((100, 10, 5, 200))
    sure, lost = [], []
    for num_tasks, num_groups, snapshots, params in designs:
        truth = np.arange(num_tasks) % num_groups
        for sigma in (1, 2, 3, 4, 5, 6, 8):
            found = []
            for seed in range(seeds):
                job = planted(
                    truth, sigma=sigma, num_snapshots=snapshots, num_params=params, num_microbatches=4, seed=seed
                )
                fitted = cross_fitted(measure(job, names_of(truth)))
                labels = spectral_labels(fitted.numerator_TT, num_groups, seed=0)
                found.append(adjusted_rand_score(truth, labels) if labels is not None else 0.0)
            gap = 1 / (2 + sigma**2)
            ratio = gap * np.sqrt(params * snapshots) * (num_tasks / num_groups) / (2 * np.sqrt(num_tasks))
            sure += [float(np.mean(found))] if ratio >= 1 else []
            lost += [float(np.mean(found))] if ratio < 0.5 else []
    return {
        f"T20 least ARI of {len(sure)} designs with R >= 1": (min(sure), ">= .9"),
        f"T20 mean ARI of {len(lost)} designs with R < .5": (float(np.mean(lost)), "<= .5"),
    }


def newcomers(seeds: int) -> dict[str, tuple[float, str]]:
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


def main() -> None:
    """Prints one line a case and writes bench/results/planted.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    seeds = parser.parse_args().seeds
    figures = {}
    for case, count in (
        (newcomers, seeds),
        (partitions, seeds),
        (detection, max(2, seeds // 3)),
        (trust, seeds),
        (false_structure, 20 * seeds),
    ):
        for name, (value, must) in case(count).items():
            figures[name] = {"value": round(value, 4), "must": must}
            print(f"{name}: {value:.3f} ({must})", flush=True)
    write_record("planted", f"python -m bench.planted --seeds {seeds}", {"cases": figures})


if __name__ == "__main__":
    main()
