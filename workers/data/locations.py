"""The places that a task names: its source's own and those of an explicit split, braces written out.

Neither a disk nor a network is asked, so that a client can do it.
"""

import itertools
import math
import re
from collections.abc import Sequence

from workers.data.config import DemoSource, ExplicitSplit, TaskConfig, WebDatasetSource

MAX_SHARDS = 10_000
"""Shards that one pattern may stand for."""

_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d{1,9})\.\.(\d{1,9})")


def locations_of(task: TaskConfig) -> list[str]:
    """Every path or URI that the task reads from, none of them checked.  ValueError for a pattern that is none."""
    if isinstance(task.source, DemoSource):
        return []
    named = [task.source.uri]
    if isinstance(task.split, ExplicitSplit):
        named += [uri for uri in (task.split.train, task.split.val, task.split.test) if uri is not None]
    if isinstance(task.source, WebDatasetSource):
        return [shard for uri in named for shard in expand_braces(uri)]
    return named


def expand_braces(pattern: str) -> list[str]:
    """`x-{008..010}.tar` is x-008.tar, x-009.tar and x-010.tar; `{a,b}` is a and b; several multiply.

    ValueError for braces within braces, for one that is not closed, and for more than 10,000 shards.
    """
    pieces = _BRACES.split(pattern)  # literal, content, literal, content, ..., literal
    literals, choices = pieces[::2], [_choices(content, pattern) for content in pieces[1::2]]
    if any("{" in literal or "}" in literal for literal in literals):
        raise ValueError(f"Shards {pattern!r}: braces must be closed, and hold none. Write {{000..015}} or {{a,b}}.")
    if (number := math.prod(map(len, choices))) > MAX_SHARDS:
        raise ValueError(f"Shards {pattern!r} are {number}, more than {MAX_SHARDS}. Make larger shards.")
    return [
        "".join(itertools.chain.from_iterable(zip(literals, [*chosen, ""], strict=True)))
        for chosen in itertools.product(*choices)
    ]


def _choices(content: str, pattern: str) -> Sequence[str]:
    if bounds := _RANGE.fullmatch(content):
        first, last = bounds.groups()
        numbers = range(int(first), int(last) + 1)
        if not 1 <= len(numbers) <= MAX_SHARDS:
            raise ValueError(
                f"Shards {pattern!r}: {{{content}}} are {len(numbers)} numbers. Count upwards, to {MAX_SHARDS} at most."
            )
        return [str(number).zfill(len(first)) for number in numbers]
    if "," not in content:
        raise ValueError(f"Shards {pattern!r}: {{{content}}} is no choice. Write {{000..015}} or {{a,b}}.")
    return content.split(",")
