"""What a gain table says: the regret of every selector, and how well affinities foretell gains."""

# T tasks

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bench.subset_gains import Partition, Table, best, mean_of, predictive, regret, shared, spearman, worths


@dataclass(frozen=True)
class Measured:
    """All that is known of one seed.  Gains in points of accuracy, but for the loss."""

    seed: int
    test: Table
    validation: Table
    loss: Table
    """How much lower the test loss is than alone, in nats."""
    choices: dict[str, list[Partition]]
    """Of every selector: one partition, or several to be averaged over."""
    affinities: dict[str, np.ndarray]
    """[T, T] in the order of the tasks; the row's task on the column's where they are not symmetric."""
    verdict: str


def figures_of(seeds: Sequence[Measured]) -> dict:
    """What came out, over these seeds."""
    average = worths(mean_of([one.test for one in seeds]))
    own = [worths(one.test) for one in seeds]
    top, bottom = best(average), min(average, key=average.__getitem__)
    everyone, *_, alone = average
    landmarks = {"best": top, "one group": everyone, "all alone": alone, "worst": bottom}
    reference = {
        name: {"groups": _text(partition), "gain": _round(average[partition])} for name, partition in landmarks.items()
    }
    valued = [worths(one.validation) for one in seeds]
    between = [_rank(a, b) for i, a in enumerate(own) for b in own[i + 1 :]]
    return {
        "seeds": [one.seed for one in seeds],
        "verdicts": [one.verdict for one in seeds],
        "gains_of_the_mean_seed": reference | {"mean over partitions": {"gain": _round(np.mean([*average.values()]))}},
        "best_of_each_seed": [{"groups": _text(best(of)), "gain": _round(of[best(of)])} for of in own],
        "spearman_of_partitions": {
            "between_seeds": _round(np.mean(between)) if between else None,
            "validation_to_test": _rounded([_rank(a, b) for a, b in zip(valued, own, strict=True)]),
        },
        "selectors": {name: _regrets(name, seeds, own, average) for name in seeds[0].choices},
        "predictions": {name: _predictions(name, seeds) for name in seeds[0].affinities},
    }


def _regrets(name: str, seeds: Sequence[Measured], own: Sequence[dict], average: dict) -> dict:
    """In points; every seed's choice against the best of that seed's table, and against the best of the mean table."""
    chosen = [one.choices[name] for one in seeds]
    on_own = [np.mean([regret(of[p], of) for p in some], axis=0) for some, of in zip(chosen, own, strict=True)]
    on_mean = np.mean([regret(average[p], average) for some in chosen for p in some], axis=0)
    return {
        "groups": [_text(some[0]) if len(some) == 1 else f"{len(some)} partitions" for some in chosen],
        "gain": _rounded([np.mean([of[p] for p in some]) for some, of in zip(chosen, own, strict=True)]),
        "regret": _rounded([points for points, _ in on_own]),
        "relative_regret": _rounded([share for _, share in on_own]),
        "regret_on_mean_table": _round(on_mean[0]),
        "relative_regret_on_mean_table": _round(on_mean[1]),
    }


def _predictions(name: str, seeds: Sequence[Measured]) -> dict:
    """Of pairs and of larger groups, seed by seed and with affinity and gains both averaged over the seeds."""
    mean_TT = np.mean([one.affinities[name] for one in seeds], axis=0)
    asked = [(one.affinities[name], one.test) for one in seeds]
    asked += [(mean_TT, mean_of([one.test for one in seeds])), (mean_TT, mean_of([one.loss for one in seeds]))]
    found = {}
    for word, sizes in (("pairs", (2,)), ("larger groups", (3, 4, 5))):
        told = []
        for values_TT, gained in asked:
            symmetric = word == "pairs" and np.allclose(values_TT, values_TT.T)
            told.append(predictive(values_TT, shared(gained) if symmetric else gained, sizes))
        *by_seed, mean, loss = told
        found[word] = {
            "seeds": [None if one is None else _round(one.spearman) for one in by_seed],
            "mean_table": None if mean is None else _round(mean.spearman),
            "p_value": None if mean is None else _round(mean.p_value),
            "words": "says the same of all" if mean is None else mean.words,
            "mean_table_of_losses": None if loss is None else _round(loss.spearman),
        }
    return found


def show(figures: dict) -> None:
    """The tables, for people."""
    seeds = figures["seeds"]
    print(f"\nSeeds {seeds[0]} to {seeds[-1]}; gains over training alone, points of accuracy")
    for name, row in figures["gains_of_the_mean_seed"].items():
        print(f"  {name:<24}{row['gain']:>7.2f}  {row.get('groups', '')}")
    ranks = figures["spearman_of_partitions"]
    print(f"verdicts: {'; '.join(figures['verdicts'])}")
    print(
        f"partitions ranked alike: between seeds {ranks['between_seeds']}, by validation {ranks['validation_to_test']}"
    )
    print(f"\n{'selector':<28}{'gain':>7}{'regret':>8}{'share':>7}   on the mean table{'share':>7}")
    for name, row in figures["selectors"].items():
        means = [float(np.mean(row[key])) for key in ("gain", "regret", "relative_regret")]
        last = row["regret_on_mean_table"], row["relative_regret_on_mean_table"]
        print(f"{name:<28}{means[0]:>7.2f}{means[1]:>8.2f}{means[2]:>7.2f}   {last[0]:>17.2f}{last[1]:>7.2f}")
    heads = "".join(f"{word:>15}{'p':>6}{'of loss':>9}  {'':<16}" for word in ("pairs", "larger groups"))
    print(f"\n{'rank correlation':<22}{heads}")
    for name, row in figures["predictions"].items():
        cells = [
            f"{_shown(of['mean_table']):>15}{_shown(of['p_value']):>6}{_shown(of['mean_table_of_losses']):>9}"
            f"  {of['words']:<16}"
            for of in row.values()
        ]
        print(f"{name:<22}" + "".join(cells))


def _text(partition: Partition) -> str:
    return " | ".join(" + ".join(group) for group in partition)


def _rank(a: Mapping[Partition, float], b: Mapping[Partition, float]) -> float:
    return spearman(np.array([*a.values()]), np.array([*b.values()]))


def _round(value: float | np.floating) -> float:
    return round(float(value), 3) + 0.0  # no minus zero


def _rounded(values: Sequence[float | np.floating]) -> list[float]:
    return [_round(value) for value in values]


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
