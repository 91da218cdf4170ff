"""What short training runs of groups showed: scores on held-out images, group by group.

A group that was tested is known by its tasks alone; one that is not here was not tested, or its run failed.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from grouping.gains import Gain, paired_gain

Composition = frozenset[str]
"""The tasks of a group."""
Partition = Sequence[Composition]


@dataclass(frozen=True)
class Trials:
    """Scores per image of every task under every group that was tested."""

    scores: Mapping[Composition, Mapping[str, Sequence[float]]]
    """Group -> task -> one score per validation image, the same images in every group."""
    seed: int = 0

    def of(self, groups: Iterable[Composition]) -> "Trials":
        """Only these groups."""
        return Trials({group: self.scores[group] for group in groups if group in self.scores}, self.seed)

    def know(self, partition: Iterable[Composition]) -> bool:
        """Whether every group was tested."""
        return all(group in self.scores for group in partition)

    def over_alone(self, group: Composition, tasks: Collection[str] | None = None) -> Gain | None:
        """What these tasks of the group (all) gain over training alone; None where nothing can be compared."""
        inside = [task for task in (group if tasks is None else tasks) if frozenset([task]) in self.scores]
        if group not in self.scores or len(group) < 2 or not inside:
            return None
        own = {task: self.scores[group][task] for task in inside}
        return paired_gain(own, {task: self.scores[frozenset([task])][task] for task in inside}, seed=self.seed)

    def gain(self, first: Partition, second: Partition, tasks: Collection[str] | None = None) -> Gain | None:
        """What the first partition gains over the second, over these tasks (all that both tested); None without any."""
        own, other = self._task_scores(first), self._task_scores(second)
        common = sorted(own.keys() & other.keys() & (own.keys() if tasks is None else set(tasks)))
        if not common:
            return None
        return paired_gain({task: own[task] for task in common}, {task: other[task] for task in common}, seed=self.seed)

    def mean(self, partition: Partition) -> float:
        """Mean over tasks of a partition that was tested."""
        return fmean(fmean(scores) for scores in self._task_scores(partition).values())

    def observations(self) -> list[tuple[str, Composition, float]]:
        """A task, its partners, and what it gained over training alone."""
        return [
            (task, group - {task}, gain.mean)
            for group in sorted(self.scores, key=sorted)
            for task in sorted(group)
            if (gain := self.over_alone(group, [task])) is not None
        ]

    def _task_scores(self, partition: Partition) -> dict[str, Sequence[float]]:
        return {task: self.scores[group][task] for group in partition if group in self.scores for task in group}


def first_round(groups: Mapping[str, Sequence[str]]) -> list[Composition]:
    """What is tested first: every group of a plan, one group of all tasks, and every task alone; each once."""
    planned = [frozenset(tasks) for tasks in groups.values()]
    everything = frozenset().union(*planned)
    return list(dict.fromkeys([*planned, everything, *(frozenset([task]) for task in sorted(everything))]))
