"""Class names as token ids, and how much of a sentence the classes of a task have in common.

# R class sentences (rows), L text positions
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class ClassList:
    """The sentences of one task's classes, tokenised and padded to the model's context length."""

    ids_RL: torch.Tensor
    """Token ids, int64."""
    end_R: torch.Tensor
    """Position whose output is the sentence's feature (the end-of-text token)."""
    num_shared: int
    """Leading tokens (start-of-text and template words) that all rows have in common, at least 1 and before every
    end."""

    def __len__(self) -> int:
        return len(self.ids_RL)


def class_sentences(class_names: Sequence[str], template: str) -> list[str]:
    """The template with every class name in its place."""
    if template.count("{}") != 1:
        raise ValueError(f"template {template!r} must hold `{{}}` exactly once, where the class name goes.")
    return [template.replace("{}", name) for name in class_names]


def make_class_list(
    sentences: Sequence[str],
    tokenize: Callable[..., torch.Tensor],
    find_end: Callable[[torch.Tensor], torch.Tensor],
    *,
    context_length: int,
    room: int,
    device: torch.device,
) -> ClassList:
    """Tokenises class sentences.  `room` is how many tokens a sentence may have: the context less the prompts.

    A sentence that is too long is refused, and so are two that read the same to the model: a tokenizer would cut one
    silently or spell the other alike, and two classes would become one.
    """
    ids_RL = tokenize(list(sentences), context_length=context_length + 1).to(torch.long)  # one more, to see a cut
    end_R = find_end(ids_RL)
    seen: dict[tuple[int, ...], str] = {}
    for sentence, end, ids in zip(sentences, end_R.tolist(), ids_RL.tolist(), strict=True):
        if end + 1 > room:
            raise ValueError(
                f"class sentence {sentence!r} takes {end + 1} tokens or more; {room} fit beside the prompts. "
                "Shorten the class name or the template, or use fewer prompt tokens."
            )
        if (other := seen.setdefault(tuple(ids[: end + 1]), sentence)) is not sentence:
            raise ValueError(
                f"class sentences {other!r} and {sentence!r} are the same to the tokenizer. Rename one of the classes."
            )
    return _listed(ids_RL[:, :context_length], end_R, device)


def make_caption_list(
    captions: Sequence[str],
    tokenize: Callable[..., torch.Tensor],
    find_end: Callable[[torch.Tensor], torch.Tensor],
    *,
    context_length: int,
    room: int,
    device: torch.device,
) -> ClassList:
    """Tokenises captions.  One that is too long is cut at `room` tokens, as CLIP does it; equal ones are welcome."""
    ids_RL = torch.zeros(len(captions), context_length, dtype=torch.long)
    ids_RL[:, :room] = tokenize(list(captions), context_length=room)
    return _listed(ids_RL, find_end(ids_RL), device)


def _listed(ids_RL: torch.Tensor, end_R: torch.Tensor, device: torch.device) -> ClassList:
    shortest = int(end_R.min())
    same = (ids_RL == ids_RL[:1]).all(dim=0)[:shortest]
    num_shared = shortest if bool(same.all()) else int((~same).nonzero()[0])
    return ClassList(ids_RL=ids_RL.to(device), end_R=end_R.to(device), num_shared=max(num_shared, 1))
