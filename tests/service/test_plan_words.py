"""A plan's figures in words say what the figures say."""

import pytest

from grouping.why import BlockShare, TaskWhy, conflicting, where_sentence
from service.plan_words import agreeing, by_modality, gap_words, parts_sentence, signed, trend_words

PARTS = {"text.0": 0.30, "text.1": 0.01, "image.0": -0.10, "image.1": 0.05}


def test_modalities_are_the_sums_of_their_layers() -> None:
    sums = by_modality(PARTS)
    assert list(sums) == ["text", "image"]
    assert sum(sums.values()) == pytest.approx(sum(PARTS.values()))


def test_layers_that_carry_and_layers_that_pull_against_are_named_and_small_ones_are_not() -> None:
    assert agreeing(PARTS) == ["text.0", "image.1"]
    assert conflicting(PARTS) == ["image.0"]
    said = parts_sentence(PARTS, "its group")
    assert said == "With its group: text +0.31, image −0.05; most in text.0, image.1; against it image.0."


def test_the_sentence_of_a_reason_and_its_figures_name_the_same_layers_as_conflicting() -> None:
    parts = {"text.0": 0.5, "text.1": -0.3, "image.0": -0.013, "image.1": -0.009, "image.2": 0.0215}
    why = TaskWhy(blocks=[BlockShare(block=block, own=part, other=None) for block, part in parts.items()], trend=[])
    assert conflicting(parts) == ["text.1", "image.0"]
    assert where_sentence(why).endswith(f"against {', '.join(conflicting(parts))}.")
    assert f"against it {', '.join(conflicting(parts))}." in parts_sentence(parts, "its group")
    assert "and 0 % from the image prompts" in where_sentence(why)


def test_nothing_is_said_of_layers_that_were_not_measured() -> None:
    assert parts_sentence({}, "its group") == ""


@pytest.mark.parametrize(
    ("trend", "said"),
    [
        ([], ""),
        ([0.4], "+0.40 at the only snapshot"),
        ([0.40, 0.42, 0.41], "steady at +0.41 over 3 snapshots"),
        ([0.1, 0.3, 0.5], "grows from +0.10 to +0.50 over 3 snapshots"),
        ([0.5, 0.3, 0.1], "falls from +0.50 to +0.10 over 3 snapshots"),
        ([-0.2, 0.3], "changes sign, between −0.20 and +0.30 over 2 snapshots"),
        ([3.07, -0.4, 1.23], "changes sign, between −0.40 and +3.07 over 3 snapshots"),
        ([0.2, 0.6, 0.3], "moves between +0.20 and +0.60 over 3 snapshots"),
        ([0.01, -0.02], "about 0 over 2 snapshots"),
    ],
)
def test_a_trend_is_told_by_its_ends_and_its_extremes(trend: list[float], said: str) -> None:
    assert trend_words(trend) == said


def test_what_is_written_as_zero_has_no_sign() -> None:
    assert (signed(-0.001), signed(0.001), signed(-0.01)) == ("0.00", "0.00", "−0.01")


def test_a_proof_is_claimed_only_where_there_is_one() -> None:
    assert (gap_words(None), gap_words(0.0)) == ("", ", proven best")
    assert gap_words(0.025) == ", within 2.5 % of the optimum"
