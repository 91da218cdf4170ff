"""One forward pass for the tasks of one or several groups: the only way from images to logits.

# B images of one task's share, K texts of one task (classes, or the captions of the batch), E joint embedding
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from workers.clip.frozen import FrozenCLIP
from workers.clip.seam import Rows
from workers.clip.tokens import ClassList
from workers.methods.joining import join_edits
from workers.methods.method import Method, TowerEdits
from workers.training.batches import TaskBatch, to_pixels

Key = tuple[tuple[str, ...], str]
"""Texts and the template around them."""


@dataclass(frozen=True)
class Outputs:
    """What a pass computed for one task."""

    image_BE: torch.Tensor
    text_KE: torch.Tensor
    logits_BK: torch.Tensor


class ClassLists:
    """Tokenised class lists, made once, and their features on the frozen tower; equal sentences share both."""

    def __init__(self, clip: FrozenCLIP):
        self.clip = clip
        self._lists: dict[Key, ClassList] = {}
        self._frozen: dict[Key, torch.Tensor] = {}

    def __getitem__(self, key: Key) -> ClassList:
        if key not in self._lists:
            self._lists[key] = self.clip.class_list(*key)
        return self._lists[key]

    @torch.no_grad()
    def frozen(self, class_names: tuple[str, ...], template: str) -> torch.Tensor:
        """Class features with nothing plugged in, [K, E] fp32."""
        key = (class_names, template)
        if key not in self._frozen:
            (self._frozen[key],) = self.clip.text([self[key]])
        return self._frozen[key]


def text_features(
    clip: FrozenCLIP,
    lists: ClassLists,
    method_of: Sequence[tuple[Method, str]],
    edits: TowerEdits,
    captions: Sequence[tuple[str, ...]],
) -> list[torch.Tensor]:
    """Per (method, task) [K, E], not normalised: of its classes, or of the captions given for a retrieval task.

    Computed once per distinct copy of the prompts and list of sentences, and taken from memory where the text tower
    is the frozen one.
    """
    keys: list[list[tuple[int, Key]]] = []
    for (method, task), copy, texts in zip(method_of, edits.copies, captions, strict=True):
        names = texts or method.infos[task].class_names
        keys.append([(copy, (names, template)) for template in method.templates(task)])
    if edits.text.is_empty:
        features = {
            key: _frozen_captions(clip, key[1][0]) if texts else lists.frozen(*key[1])
            for of_task, texts in zip(keys, captions, strict=True)
            for key in of_task
        }
    else:
        made = {
            key: clip.caption_list(key[1][0], num_prompt_tokens=edits.text.num_tokens) if texts else lists[key[1]]
            for of_task, texts in zip(keys, captions, strict=True)
            for key in of_task
        }
        found = clip.text(list(made.values()), edits.text, [copy for copy, _ in made])
        features = dict(zip(made, found, strict=True))
    return [
        method.ensemble(torch.stack([features[key] for key in of_task]))
        for (method, _), of_task in zip(method_of, keys, strict=True)
    ]


def joint_outputs(
    clip: FrozenCLIP, methods: Sequence[Method], lists: ClassLists, batches: Sequence[TaskBatch]
) -> list[Outputs]:
    """The outputs of every batch, whose order is that of the methods' tasks.

    Several methods have one batch_key and share one pass; a single one may take several passes.
    """
    of_task = iter(batches)
    owned = [[(method, task, next(of_task)) for task in method.tasks] for method in methods]
    if len(methods) > 1:
        return _pass(clip, lists, [each for of_method in owned for each in of_method])
    (method,), (of_method,) = methods, owned
    found = {}
    for tasks in method.passes:
        part = [each for each in of_method if each[1] in tasks]
        found |= zip((task for _, task, _ in part), _pass(clip, lists, part), strict=True)
    return [found[task] for task in method.tasks]


def _pass(clip: FrozenCLIP, lists: ClassLists, parts: Sequence[tuple[Method, str, TaskBatch]]) -> list[Outputs]:
    methods = list(dict.fromkeys(method for method, _, _ in parts))
    edits = join_edits([method.edits([task for owner, task, _ in parts if owner is method]) for method in methods])
    batches = [batch for _, _, batch in parts]
    texts = text_features(
        clip, lists, [(method, task) for method, task, _ in parts], edits, [batch.captions for batch in batches]
    )
    counts = [len(batch.rows) for batch in batches]
    pixels = to_pixels(clip, batches)
    rows = Rows.of(list(zip(edits.copies, counts, strict=True)), pixels.device)
    with torch.set_grad_enabled(torch.is_grad_enabled() and not edits.image.is_empty):
        images = clip.image(pixels, edits.image, rows).split(counts)
    return [
        Outputs(image, text, method.task_logits(task, image, text))
        for (method, task, _), image, text in zip(parts, images, texts, strict=True)
    ]


@torch.no_grad()
def _frozen_captions(clip: FrozenCLIP, captions: tuple[str, ...]) -> torch.Tensor:
    return clip.text([clip.caption_list(captions)])[0]
