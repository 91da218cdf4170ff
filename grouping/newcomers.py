"""New tasks join later: each goes to the group it fits, or into a group of its own.

A newcomer is measured at the stored snapshots of the shared prompt, like the known tasks were. Its similarity to a
group is cross-fitted against the group's mean unit gradient. How similar a member is to its own group, and a stranger
to the nearest one, is learned from the known tasks by leaving each out of its group; where the two part, it is refused.
"""

# S snapshots, R microbatches, T known tasks, N newcomers, G groups, P parameters

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict

from grouping.config import GroupingConfig
from grouping.grams import unusable_tasks
from grouping.group_ids import group_ids
from grouping.links import ROUNDING, Limits
from grouping.local import local_partition
from grouping.measurement import check_gradients
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
    threshold: float
    """What it takes to join a known group here."""
    margin: float | None
    """Joining: how much nearer than the next known group; else how far below the threshold."""
    sentence: str


def place(
    known: np.ndarray,
    known_names: Sequence[str],
    groups: Mapping[str, Sequence[str]],
    newcomers: np.ndarray,
    newcomer_names: Sequence[str],
    config: GroupingConfig,
    *,
    costs: Mapping[str, float] | None = None,
) -> list[Placement]:
    """One placement a newcomer.  Both [snapshots, microbatches >= 2, tasks, params], taken at the same prompts.

    Full groups (`max_group_size`, `max_group_cost`) and pinned ones take nobody. Newcomers that fit no group form new
    ones among themselves. `costs` per task, known and new, are for `max_group_cost`.
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
    fit_TG = _to_groups(halves_K, membership_TG, halves_K, leave_out=True)
    threshold = _threshold(fit_TG, membership_TG)
    fit_NG = _to_groups(halves_K, membership_TG, halves_N, leave_out=False)
    caps = _caps(config, costs)
    pinned = {frozenset(tasks) for tasks in config.pinned}
    inside = {g: list(groups[ids[g]]) for g in range(len(ids)) if frozenset(groups[ids[g]]) not in pinned}
    joined: dict[int, int] = {}
    for row in np.argsort(-fit_NG.max(axis=1, initial=-np.inf), kind="stable") if ids else []:
        name = newcomer_names[usable[row]]
        nearest = (int(g) for g in np.argsort(-fit_NG[row], kind="stable") if int(g) in inside)
        g = next((g for g in nearest if all(fits([*inside[g], name]) for fits in caps)), None)
        if g is not None and fit_NG[row, g] > threshold:
            joined[int(row)] = g
            inside[g].append(name)
    strangers = [row for row in range(len(usable)) if row not in joined]
    costs_N = np.array([(costs or {}).get(newcomer_names[usable[row]], 0.0) for row in strangers])
    fresh = _among_themselves(tuple(half[:, strangers] for half in halves_N), threshold, config, costs_N)
    new_names = [[newcomer_names[usable[strangers[i]]] for i in tasks] for tasks in fresh]
    new_names += [[newcomer_names[task]] for task in bad]
    numbered = group_ids([*groups.values(), *new_names], groups)[len(groups) :]
    new_of = {name: (group, tasks) for group, tasks in zip(numbered, new_names, strict=True) for name in tasks}
    rows = {task: row for row, task in enumerate(usable)}
    return [
        _placement(name, rows.get(task), bad.get(task), joined, fit_NG, ids, new_of, threshold)
        for task, name in enumerate(newcomer_names)
    ]


def _caps(config: GroupingConfig, costs: Mapping[str, float] | None) -> list[Callable[[list[str]], bool]]:
    """Whether a group of these tasks keeps each of the caps that there are."""
    size, most = config.max_group_size, config.max_group_cost
    caps: list[Callable[[list[str]], bool]] = []
    if size is not None:
        caps.append(lambda tasks: len(tasks) <= size)
    if most is not None:
        if costs is None:
            raise ValueError(
                f"max_group_cost={most:g}, and no task's cost is known. Give costs, or use max_group_size."
            )
        caps.append(lambda tasks: sum(costs[task] for task in tasks) <= most + ROUNDING)
    return caps


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
) -> np.ndarray:
    """Cross-fitted cosine of tasks with groups' mean gradients; members are left out of their own.  -> [tasks, G]"""
    count_G = membership_TG.sum(axis=0)
    numerator = np.zeros((tasks[0].shape[1], len(count_G)))
    square_G, own_T = np.zeros(len(count_G)), np.zeros(tasks[0].shape[1])
    for s in range(len(known[0])):
        sum_A, sum_B = membership_TG.T @ known[0][s], membership_TG.T @ known[1][s]
        numerator += 0.5 * (tasks[0][s] @ sum_B.T + tasks[1][s] @ sum_A.T) / len(known[0])
        square_G += np.einsum("gp,gp->g", sum_A, sum_B) / len(known[0])
        own_T += np.einsum("tp,tp->t", tasks[0][s], tasks[1][s]) / len(known[0])
    square = np.tile(square_G, (len(numerator), 1))
    if leave_out:
        square -= membership_TG * (2 * numerator - own_T[:, None])
        numerator = numerator - membership_TG * own_T[:, None]
    left = np.maximum(count_G - (membership_TG if leave_out else 0.0), 0.0)
    scale = np.sqrt(np.maximum(own_T, MIN_RELIABILITY))[:, None] * np.sqrt(np.maximum(square, MIN_RELIABILITY * left))
    return np.clip(np.divide(numerator, scale, out=np.full_like(scale, -1.0), where=left > 0), -1.0, 1.0)


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
    halves: tuple[np.ndarray, ...], threshold: float, config: GroupingConfig, costs_N: np.ndarray
) -> list[list[int]]:
    """Groups of the newcomers that fit no known one: correlation clustering above the threshold."""
    a, b = halves
    if a.shape[1] == 0:
        return []
    numerator_NN = np.mean([0.5 * (x @ y.T + y @ x.T) for x, y in zip(a, b, strict=True)], axis=0)
    root_N = np.sqrt(np.maximum(np.diagonal(numerator_NN), MIN_RELIABILITY))
    weights_NN = numerator_NN - threshold * np.outer(root_N, root_N)
    np.fill_diagonal(weights_NN, 0.0)
    size = None if config.max_group_size is None else float(config.max_group_size)
    limits = Limits(costs_N, config.max_group_cost, sizes_U=np.ones(len(root_N)), max_size=size)
    found = local_partition(weights_NN, limits, seed=config.seed)
    return [np.flatnonzero(found.labels == label).tolist() for label in np.unique(found.labels)]


def _placement(
    name: str,
    row: int | None,
    reason: str | None,
    joined: Mapping[int, int],
    fit_NG: np.ndarray,
    ids: Sequence[str],
    new_of: Mapping[str, tuple[str, list[str]]],
    threshold: float,
) -> Placement:
    if row is not None and row in joined:
        group = joined[row]
        best = float(fit_NG[row, group])
        others = np.delete(fit_NG[row], group)
        margin = best - float(others.max()) if len(others) else best - threshold
        sentence = f"{name} joins {ids[group]}: similarity {best:.2f}, where {threshold:.2f} is needed."
        return Placement(
            task=name,
            group=ids[group],
            is_new=False,
            similarity=best,
            threshold=threshold,
            margin=margin,
            sentence=sentence,
        )
    group, tasks = new_of[name]
    others = [task for task in tasks if task != name]
    start = f"{name} starts {group}" + (f" with {', '.join(others)}" if others else "")
    if row is None:
        return Placement(
            task=name,
            group=group,
            is_new=True,
            similarity=None,
            threshold=threshold,
            margin=None,
            sentence=f"{start}: {reason}.",
        )
    best = float(fit_NG[row].max(initial=-1.0))
    nearest = f"{ids[int(fit_NG[row].argmax())]} at {best:.2f}" if ids else "none"
    return Placement(
        task=name,
        group=group,
        is_new=True,
        similarity=best,
        threshold=threshold,
        margin=threshold - best,
        sentence=f"{start}: the nearest known group is {nearest}, and joining takes {threshold:.2f}.",
    )
