"""One forward pass for the tasks of one or several groups: the only way from images to logits.

# B images of the pass, T tasks, K classes of one task, E joint embedding
"""

from collections.abc import Mapping, Sequence

import torch

from workers.clip.frozen import FrozenCLIP
from workers.clip.tokens import ClassList
from workers.data.dataset import TaskData
from workers.methods.method import Method, TowerEdits, join_edits


class ClassLists:
    """The tokenised classes of every task, made once; tasks with the same sentences share one list."""

    def __init__(self, clip: FrozenCLIP, data: Mapping[str, TaskData]):
        self._clip = clip
        self._data = data
        self._lists: dict[tuple, ClassList] = {}

    def key(self, task: str) -> tuple:
        """Equal for tasks with equal class sentences."""
        return (self._data[task].class_names, self._data[task].template)

    def __getitem__(self, task: str) -> ClassList:
        key = self.key(task)
        if key not in self._lists:
            self._lists[key] = self._clip.class_list(*key)
        return self._lists[key]


def text_features(clip: FrozenCLIP, lists: ClassLists, edits: TowerEdits, tasks: Sequence[str]) -> list[torch.Tensor]:
    """Per task [K, E], not normalised.  Computed once per distinct pair of prompts and class list."""
    wanted: dict[tuple, int] = {}
    index = [
        wanted.setdefault((copy, lists.key(task)), len(wanted)) for task, copy in zip(tasks, edits.copies, strict=True)
    ]
    first = {place: position for position, place in reversed(list(enumerate(index)))}
    segments = [first[place] for place in range(len(wanted))]
    features = clip.text(
        [lists[tasks[position]] for position in segments],
        edits.text,
        [edits.copies[position] for position in segments],
    )
    return [features[place] for place in index]


def joint_logits(
    clip: FrozenCLIP,
    methods: Sequence[Method],
    lists: ClassLists,
    pixels: torch.Tensor,
    counts: Sequence[int],
) -> list[torch.Tensor]:
    """Logits of a pass, per task [images of the task, K] in fp32.

    `methods` have one batch_key; `pixels` [B, 3, H, W] holds the images of their tasks in order, `counts` how many
    each.
    """
    edits = join_edits([method.edits() for method in methods])
    owners = [(method, task) for method in methods for task in method.tasks]
    texts = text_features(clip, lists, edits, [task for _, task in owners])
    sizes = torch.tensor(counts, device=pixels.device)
    copy_B = torch.repeat_interleave(torch.tensor(edits.copies, device=pixels.device), sizes)
    images = clip.image(pixels, edits.image, copy_B).split(list(counts))
    return [method.logits(task, image, text) for (method, task), image, text in zip(owners, images, texts, strict=True)]
