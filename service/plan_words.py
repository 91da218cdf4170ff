"""A plan's figures in words: where a task's agreement with others sits, how it went over the snapshots, what is proven.

The parts are exact shares of a similarity (`grouping.why`): they add up to it, and a negative one pulls against it.
"""

from collections.abc import Mapping, Sequence

from grouping.why import conflicting

WORTH_A_WORD = 0.05
"""A part that agrees is not named below this share of all parts together, signs aside."""
STEADY = 0.25
"""Similarities that differ by less than this share of the largest are called steady."""
NOTHING = 0.05
"""A similarity that never exceeds this is called none."""
NUM_NAMED = 3


def by_modality(parts: Mapping[str, float]) -> dict[str, float]:
    """Block (`text.0`) -> part becomes modality (`text`) -> the sum of its parts."""
    sums: dict[str, float] = {}
    for block, part in parts.items():
        modality = block.split(".")[0]
        sums[modality] = sums.get(modality, 0.0) + part
    return sums


def agreeing(parts: Mapping[str, float]) -> list[str]:
    """The blocks that carry the agreement, the strongest three at most."""
    least = WORTH_A_WORD * sum(map(abs, parts.values()))
    return sorted((block for block, part in parts.items() if part > least), key=lambda b: -parts[b])[:NUM_NAMED]


def parts_sentence(parts: Mapping[str, float], whom: str) -> str:
    """`With its group: text +0.31, image −0.05; most in text.2; against it image.5.`; empty where nothing is known."""
    if not parts:
        return ""
    said = [", ".join(f"{modality} {signed(part)}" for modality, part in by_modality(parts).items())]
    said += [f"most in {', '.join(blocks)}" for blocks in [agreeing(parts)] if blocks]
    said += [f"against it {', '.join(blocks)}" for blocks in [conflicting(parts)] if blocks]
    return f"With {whom}: {'; '.join(said)}."


def trend_words(trend: Sequence[float]) -> str:
    """How a similarity went over the snapshots; empty without any."""
    if not trend:
        return ""
    if len(trend) == 1:
        return f"{signed(trend[0])} at the only snapshot"
    first, last, low, high = trend[0], trend[-1], min(trend), max(trend)
    size, over = max(abs(low), abs(high)), f"over {len(trend)} snapshots"
    if size < NOTHING:
        return f"about 0 {over}"
    if high - low < STEADY * size:
        return f"steady at {signed(sum(trend) / len(trend))} {over}"
    if low < -NOTHING and high > NOTHING:
        return f"changes sign, between {signed(low)} and {signed(high)} {over}"
    if (first, last) == (low, high):
        return f"grows from {signed(first)} to {signed(last)} {over}"
    if (first, last) == (high, low):
        return f"falls from {signed(first)} to {signed(last)} {over}"
    return f"moves between {signed(low)} and {signed(high)} {over}"


def signed(value: float) -> str:
    """A similarity with its sign, a true minus; what is written as zero has none."""
    text = f"{value:+.2f}"
    return "0.00" if text in ("+0.00", "-0.00") else text.replace("-", "−")


def counted(number: int, noun: str) -> str:
    """`1 group`, `2 groups`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def gap_words(gap: float | None) -> str:
    """Whether the optimum was proven."""
    return "" if gap is None else ", proven best" if gap <= 1e-9 else f", within {100 * gap:.1f} % of the optimum"
