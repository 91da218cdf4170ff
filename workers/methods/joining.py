"""Several groups in one forward pass: their edits become one, with the copies of one group after those of another."""

from collections.abc import Sequence

import torch

from workers.clip.seam import Branch, Edits, Rows
from workers.methods.method import TowerEdits


def join_edits(parts: Sequence[TowerEdits]) -> TowerEdits:
    """The edits of several methods with one `batch_key`, as the edits of one pass over all their tasks.

    Prompts and branches can be joined; a method with anything else shares its passes with nobody.
    """
    if len(parts) == 1:
        return parts[0]
    for edits in [edits for part in parts for edits in (part.image, part.text)]:
        assert not edits.overrides and edits.contexts is None and edits.side is None
    firsts: list[int] = []
    copies: list[int] = []
    for part in parts:
        firsts.append(max(copies, default=-1) + 1)
        copies += [firsts[-1] + copy for copy in part.copies]
    return TowerEdits(
        image=_joined([part.image for part in parts], firsts),
        text=_joined([part.text for part in parts], firsts),
        copies=tuple(copies),
    )


def _joined(parts: Sequence[Edits], firsts: Sequence[int]) -> Edits:
    prompts = [part.prompts_CKMD for part in parts if part.prompts_CKMD is not None]
    branches = [part.branch for part in parts if part.branch is not None]
    assert len(prompts) in (0, len(parts)) and len(branches) in (0, len(parts))
    return Edits(
        prompts_CKMD=torch.cat(prompts) if prompts else None,
        branch=_join_branches(branches, firsts) if branches else None,
    )


def _join_branches(branches: Sequence[Branch], firsts: Sequence[int]) -> Branch:
    """Every row goes to the branch of its group.  Rows of a group are neighbours in every pass."""

    def branch(layer, name, x, rows):
        owners = [sum(copy >= first for first in firsts) - 1 for copy, _ in rows.blocks]
        outputs = []
        start = 0
        for place in sorted(set(owners)):
            blocks = [
                (copy - firsts[place], count)
                for owner, (copy, count) in zip(owners, rows.blocks, strict=True)
                if owner == place
            ]
            stop = start + sum(count for _, count in blocks)
            part = Rows(tuple(blocks), rows.index_B[start:stop] - firsts[place])
            outputs.append(branches[place](layer, name, x[start:stop], part))
            start = stop
        assert owners == sorted(owners)
        return torch.cat(outputs)

    return branch
