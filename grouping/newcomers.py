"""New tasks join later: each goes to the group it fits, or into a group of its own.

A newcomer is measured at the stored snapshots of the shared prompt, like the known tasks were. Its similarity to a
group is cross-fitted against the group's mean unit gradient. How similar a member is to its own group, and a stranger
to the nearest one, is learned from the known tasks by leaving each out of its group; where the two part, it is refused.

Noise places nobody: who joins a group is surely no stranger to it, and newcomers that start one together are surely
alike. Where the gradients tell no groups apart and there is one group, a newcomer joins it unless it surely opposes it.
"""

# S snapshots, R microbatches, T known tasks, N newcomers, G groups, P parameters

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel, ConfigDict
from scipy.stats import t as student_t

from grouping.config import GroupingConfig
from grouping.grams import unusable_tasks
from grouping.group_ids import group_ids
from grouping.links import ROUNDING, Limits
from grouping.local import local_partition
from grouping.measurement import check_gradients
from grouping.outline import VerdictKind
from grouping.similarity import MIN_RELIABILITY

CAUTION = 1.5
"""So many times as many deviations lie between the threshold and the members as between it and the strangers."""
LEAST_SPREAD = 0.05
"""A few members that agree to the last digit do not say that the next one must."""


class Placement(BaseModel):
    """Where a newcomer goes."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    task: str
    group: str
    """The id of a known group, or a new id."""
    is_new: bool
    """The group did not exist before."""
    similarity: float | None
    """To the nearest known group; null without a usable gradient."""
    standard_error: float | None
    """Of the similarity, from the spread of its cross products over halves and snapshots."""
    reliability: float | None
    """Its agreement with itself on other data; null without a usable gradient."""
    threshold: float
    """What it takes to join a known group; below 0 by what noise can do where groups cannot be told apart."""
    margin: float | None
    """Joining: how much nearer than the next known group; else how far below the threshold, less than 0 where a group
    that it fits takes nobody or noise forbids it to join."""
    sentence: str


@dataclass(frozen=True)
class _Fit:
    """How newcomers fit the known groups."""

    ids: list[str]
    similarity_NG: np.ndarray
    error_NG: np.ndarray
    reliability_N: np.ndarray
    threshold: float
    """Learned from the known tasks."""
    quantile: float
    """Standard errors from an estimate to the ends of its 95 % interval."""
    untold: bool
    """There is one group, because the gradients tell none apart."""

    @property
    def reach_NG(self) -> np.ndarray:
        return self.quantile * self.error_NG

    @property
    def threshold_NG(self) -> np.ndarray:
        return -self.reach_NG if self.untold else np.full_like(self.reach_NG, self.threshold)

    @property
    def noisy_NG(self) -> np.ndarray:
        """The interval holds the threshold and no similarity at all: the newcomer may be a member or a stranger."""
        low_NG, high_NG = self.similarity_NG - self.reach_NG, self.similarity_NG + self.reach_NG
        return (low_NG <= min(self.threshold, 0.0)) & (high_NG >= self.threshold)

    @property
    def joins_NG(self) -> np.ndarray:
        if self.untold:
            return self.similarity_NG >= self.threshold_NG
        return (self.similarity_NG > self.threshold) & ~self.noisy_NG

    def said(self, row: int, group: int) -> str:
        return f"{self.similarity_NG[row, group]:.2f} +- {self.reach_NG[row, group]:.2f}"


def place(
    known: np.ndarray,
    known_names: Sequence[str],
    groups: Mapping[str, Sequence[str]],
    newcomers: np.ndarray,
    newcomer_names: Sequence[str],
    config: GroupingConfig,
    *,
    costs: Mapping[str, float] | None = None,
    verdict: VerdictKind | None = None,
) -> list[Placement]:
    """One placement a newcomer.  Both [snapshots, microbatches >= 2, tasks, params], taken at the same prompts.

    Full groups (`max_group_size`, `max_group_cost`) and pinned ones take nobody. Newcomers that fit no group form new
    ones among themselves. `costs` per task, known and new, are for `max_group_cost`; `verdict` is what the known tasks'
    gradients say of their groups.
    """
    check_gradients(known, known_names)
    check_gradients(newcomers, newcomer_names)
    if known.shape[0] != newcomers.shape[0] or known.shape[3] != newcomers.shape[3]:
        raise ValueError(
            f"Newcomers were measured with shape {newcomers.shape}, the known tasks with {known.shape}; "
            "snapshots and params must be the same, because gradients are only comparable at one prompt."
        )
    if set(known_names) & set(newcomer_names):
        raise ValueError(f"{sorted(set(known_names) & set(newcomer_names))} are tasks of the job already. Rename them.")
    _check_costs([*known_names, *newcomer_names], newcomer_names, config, costs)
    bad, bad_known = unusable_tasks(newcomers), unusable_tasks(known)
    at = {name: index for index, name in enumerate(known_names) if index not in bad_known}
    ids = [group for group, tasks in groups.items() if any(task in at for task in tasks)]
    members = [[at[task] for task in groups[group] if task in at] for group in ids]
    usable = [task for task in range(len(newcomer_names)) if task not in bad]
    seated, of_task = [task for tasks in members for task in tasks], {}
    for g, tasks in enumerate(members):
        of_task.update(dict.fromkeys(tasks, g))
    halves_K, halves_N = _halves(known[:, :, seated]), _halves(newcomers[:, :, usable])
    membership_TG = np.zeros((len(seated), len(ids)))
    membership_TG[np.arange(len(seated)), [of_task[task] for task in seated]] = 1.0
    similarity_TG, _ = _to_groups(halves_K, membership_TG, halves_K, leave_out=True)
    similarity_NG, error_NG = _to_groups(halves_K, membership_TG, halves_N, leave_out=False)
    fit = _Fit(
        ids=ids,
        similarity_NG=similarity_NG,
        error_NG=error_NG,
        reliability_N=np.einsum("snp,snp->n", *halves_N) / len(known),
        threshold=_threshold(similarity_TG, membership_TG),
        quantile=float(student_t.ppf(0.975, 2 * len(known) - 1)),
        untold=verdict in ("too_noisy", "one_group") and len(ids) == 1,
    )
    barred = _barred(config, costs)
    pinned = {frozenset(tasks) for tasks in config.pinned}
    inside = {g: list(groups[ids[g]]) for g in range(len(ids))}
    closed = {g: "pinned" for g, tasks in inside.items() if frozenset(tasks) in pinned}
    joined: dict[int, int] = {}
    refused: dict[int, str] = {}
    for row in map(int, np.argsort(-similarity_NG.max(axis=1, initial=-np.inf), kind="stable") if ids else []):
        name = newcomer_names[usable[row]]
        for g in map(int, np.argsort(-similarity_NG[row], kind="stable")):
            if not fit.joins_NG[row, g]:
                continue
            why = closed.get(g) or barred([*inside[g], name])
            if why is None:
                joined[row] = g
                inside[g].append(name)
                break
            refused.setdefault(row, f"it would join {ids[g]} (similarity {fit.said(row, g)}), which is {why}")
    strangers = [row for row in range(len(usable)) if row not in joined]
    costs_N = np.array([(costs or {}).get(newcomer_names[usable[row]], 0.0) for row in strangers])
    halves = tuple(half[:, strangers] for half in halves_N)
    fresh = _among_themselves(halves, fit.threshold, fit.quantile, config, costs_N)
    new_names = sorted(sorted(newcomer_names[usable[strangers[i]]] for i in tasks) for tasks in fresh)
    new_names += [[newcomer_names[task]] for task in bad]
    numbered = group_ids([*groups.values(), *new_names], groups)[len(groups) :]
    new_of = {name: (group, tasks) for group, tasks in zip(numbered, new_names, strict=True) for name in tasks}
    rows = {task: row for row, task in enumerate(usable)}
    placements = []
    for task, name in enumerate(newcomer_names):
        row = rows.get(task)
        if row is not None and row in joined:
            placements.append(_joining(name, row, joined[row], fit, refused.get(row)))
        else:
            reason = bad[task] if row is None else refused.get(row)
            placements.append(_starting(name, row, *new_of[name], fit, reason))
    return placements


def _check_costs(
    names: Sequence[str], newcomer_names: Sequence[str], config: GroupingConfig, costs: Mapping[str, float] | None
) -> None:
    most = config.max_group_cost
    if most is None:
        return
    if missing := [name for name in names if name not in (costs or {})]:
        raise ValueError(f"max_group_cost={most:g}, and no cost is known of {missing}. Give the cost of every task.")
    assert costs is not None
    if dear := [name for name in newcomer_names if costs[name] > most + ROUNDING]:
        raise ValueError(
            f"max_group_cost={most:g}, but {dear} alone cost {[costs[name] for name in dear]}. Leave them out, or "
            "start a job with a larger cap."
        )


def _barred(config: GroupingConfig, costs: Mapping[str, float] | None) -> Callable[[list[str]], str | None]:
    """What keeps these tasks from being one group: the cap that they break, in words, or None."""
    size, most = config.max_group_size, config.max_group_cost

    def broken(tasks: list[str]) -> str | None:
        if size is not None and len(tasks) > size:
            return f"full: max_group_size={size}"
        if most is not None and costs is not None and sum(costs[task] for task in tasks) > most + ROUNDING:
            return f"full: max_group_cost={most:g}"
        return None

    return broken


def _halves(gradients: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means of even and odd microbatches in units of the root of both norms.  -> 2 x [S, T, P]"""
    if gradients.shape[1] < 2:
        raise ValueError("Newcomers are compared across microbatches, and there is 1 a snapshot. Measure at least 2.")
    a, b = gradients[:, 0::2].mean(axis=1, dtype=float), gradients[:, 1::2].mean(axis=1, dtype=float)
    norm = np.sqrt(np.linalg.norm(a, axis=2, keepdims=True)) * np.sqrt(np.linalg.norm(b, axis=2, keepdims=True))
    return a / np.maximum(norm, 1e-300), b / np.maximum(norm, 1e-300)


def _to_groups(
    known: tuple[np.ndarray, np.ndarray],
    membership_TG: np.ndarray,
    tasks: tuple[np.ndarray, np.ndarray],
    *,
    leave_out: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """Cross-fitted cosine of tasks with groups' mean gradients; members are left out of their own.  -> 2 x [tasks, G]

    Second its standard error: each snapshot has two products, of either half of the task with the other half of the
    group, that share no noise, and the numerator is the mean of them all.
    """
    count_G = membership_TG.sum(axis=0)
    products = np.zeros((2 * len(known[0]), tasks[0].shape[1], len(count_G)))
    square_G, own_T = np.zeros(len(count_G)), np.zeros(tasks[0].shape[1])
    for s in range(len(known[0])):
        sum_A, sum_B = membership_TG.T @ known[0][s], membership_TG.T @ known[1][s]
        products[2 * s], products[2 * s + 1] = tasks[0][s] @ sum_B.T, tasks[1][s] @ sum_A.T
        square_G += np.einsum("gp,gp->g", sum_A, sum_B) / len(known[0])
        own_T += np.einsum("tp,tp->t", tasks[0][s], tasks[1][s]) / len(known[0])
    numerator, error = _mean_and_error(products)
    square = np.tile(square_G, (len(numerator), 1))
    if leave_out:
        square -= membership_TG * (2 * numerator - own_T[:, None])
        numerator = numerator - membership_TG * own_T[:, None]
    left = np.maximum(count_G - (membership_TG if leave_out else 0.0), 0.0)
    scale = np.sqrt(np.maximum(own_T, MIN_RELIABILITY))[:, None] * np.sqrt(np.maximum(square, MIN_RELIABILITY * left))
    cosine = np.clip(np.divide(numerator, scale, out=np.full_like(scale, -1.0), where=left > 0), -1.0, 1.0)
    return cosine, np.divide(error, scale, out=np.zeros_like(scale), where=left > 0)


def _mean_and_error(samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Over the first axis, the mean and its standard error."""
    return samples.mean(axis=0), samples.std(axis=0, ddof=1) / np.sqrt(len(samples))


def _threshold(fit_TG: np.ndarray, membership_TG: np.ndarray) -> float:
    """Between members' similarity to their own group and to the nearest other, in deviations nearer to the other.

    A member sent away costs a training of its own; a stranger let in shows in its margin and in validation.
    """
    paired_T = membership_TG @ membership_TG.sum(axis=0) > 1
    own_T = (fit_TG * membership_TG).sum(axis=1)[paired_T]
    other_T = np.where(membership_TG > 0, -np.inf, fit_TG).max(axis=1, initial=-np.inf)
    other_T = other_T[np.isfinite(other_T)]
    if len(own_T) < 2 or len(other_T) < 2:
        known = own_T.min() - 0.5 if len(own_T) else 0.5
        return float(max(known, 0.0))
    spread_in = CAUTION * max(float(own_T.std()), LEAST_SPREAD)
    spread_out = max(float(other_T.std()), LEAST_SPREAD)
    between = (own_T.mean() * spread_out + other_T.mean() * spread_in) / (spread_in + spread_out)
    return float(np.clip(between, -1.0, 1.0))


def _among_themselves(
    halves: tuple[np.ndarray, ...], threshold: float, quantile: float, config: GroupingConfig, costs_N: np.ndarray
) -> list[list[int]]:
    """Groups of the newcomers that fit no known one: correlation clustering above the threshold.

    A pair speaks for sharing a group by what is left above the threshold after its standard error, and where it is
    surely above 0.
    """
    a, b = halves
    if a.shape[1] == 0:
        return []
    products_NN = [x @ y.T for x, y in zip(a, b, strict=True)]
    numerator_NN, error_NN = _mean_and_error(np.array([p for each in products_NN for p in (each, each.T)]))
    root_N = np.sqrt(np.maximum(np.diagonal(numerator_NN), MIN_RELIABILITY))
    weights_NN = numerator_NN - np.maximum(threshold * np.outer(root_N, root_N) + error_NN, quantile * error_NN)
    np.fill_diagonal(weights_NN, 0.0)
    size = None if config.max_group_size is None else float(config.max_group_size)
    limits = Limits(costs_N, config.max_group_cost, sizes_U=np.ones(len(root_N)), max_size=size)
    found = local_partition(weights_NN, limits, seed=config.seed)
    return [np.flatnonzero(found.labels == label).tolist() for label in np.unique(found.labels)]


def _joining(name: str, row: int, group: int, fit: _Fit, refused: str | None) -> Placement:
    best, needed = float(fit.similarity_NG[row, group]), float(fit.threshold_NG[row, group])
    others = np.delete(fit.similarity_NG[row], group)
    joins, said = f"{name} joins {fit.ids[group]}", fit.said(row, group)
    if fit.untold:
        sentence = (
            f"{joins}, the one group there is: the gradients tell no groups apart, and do not say that it opposes this "
            f"one (similarity {said})."
        )
    else:
        first = "" if refused is None else f"; {refused}"
        sentence = f"{joins}: similarity {said}, where {needed:.2f} is needed{first}."
    return Placement(
        task=name,
        group=fit.ids[group],
        is_new=False,
        similarity=best,
        standard_error=float(fit.error_NG[row, group]),
        reliability=float(fit.reliability_N[row]),
        threshold=needed,
        margin=best - (float(others.max()) if len(others) else needed),
        sentence=sentence,
    )


def _starting(name: str, row: int | None, group: str, tasks: list[str], fit: _Fit, reason: str | None) -> Placement:
    """`reason` where it is not the similarity that decided."""
    others = [task for task in tasks if task != name]
    start = f"{name} starts {group}" + (f" with {', '.join(others)}" if others else "")
    best, error, needed = None, None, fit.threshold
    if row is not None and fit.ids:
        nearest = int(fit.similarity_NG[row].argmax())
        best, error = float(fit.similarity_NG[row, nearest]), float(fit.error_NG[row, nearest])
        needed = float(fit.threshold_NG[row, nearest])
        if reason is None and fit.untold:
            reason = f"it opposes the one known group, {fit.ids[nearest]} (similarity {fit.said(row, nearest)})"
        elif reason is None:
            agrees = f"noisy, it agrees with itself by {fit.reliability_N[row]:.2f} on other data; "
            noisy = agrees if fit.noisy_NG[row, nearest] else ""
            said = f"{fit.ids[nearest]} at {fit.said(row, nearest)}"
            more = ", surely above 0" if noisy and best > needed else ""
            reason = f"{noisy}the nearest known group is {said}, and joining takes {needed:.2f}{more}"
    return Placement(
        task=name,
        group=group,
        is_new=True,
        similarity=best,
        standard_error=error,
        reliability=None if row is None else float(fit.reliability_N[row]),
        threshold=needed,
        margin=None if best is None else needed - best,
        sentence=f"{start}: {reason or 'no known group has a usable gradient'}.",
    )
