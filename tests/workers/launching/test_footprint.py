"""Laws of what passes that ran tell about the memory of others."""

import numpy as np
import pytest

from workers.launching.footprint import USABLE, Footprint, Room, size_of
from workers.launching.work import GroupUnit
from workers.methods.config import MmAPConfig

GIB = 2**30


def ran(images: int, texts: int, peak: float, *, available: float = 100, total: float = 100) -> Footprint:
    """Beside weights of 1 GiB."""
    return Footprint(images, texts, GIB, int(peak * GIB), int(available * GIB), int(total * GIB))


def unit(images: int, texts: int) -> GroupUnit:
    return GroupUnit("g1", "plan", ("a",), MmAPConfig(), 3, images, texts)


def test_a_pass_needs_the_weights_once_and_the_larger_of_its_shares_of_the_rest():
    known = ran(32, 10, peak=5.0)
    assert known.needs(32, 10) == 5 * GIB
    assert known.needs(64, 10) == 9 * GIB
    assert known.needs(8, 20) == 9 * GIB
    assert known.needs(8, 0) == 2 * GIB


def test_no_pass_needs_more_than_it_is_said_to_however_images_and_sentences_share_the_memory():
    rng = np.random.default_rng(0)
    for _ in range(300):
        per_image, per_text = rng.uniform(0, 1e8, 2)
        sizes = rng.integers(1, 500, (4, 2))
        took = GIB + sizes @ [per_image, per_text]
        known = [
            Footprint(images, texts, GIB, int(peak) + 1, 0, 0)
            for (images, texts), peak in zip(sizes[:3].tolist(), took[:3], strict=True)
        ]
        assert min(each.needs(sizes[3, 0], sizes[3, 1]) for each in known) >= took[3]


def test_of_several_passes_the_one_that_promises_most_counts():
    known = [ran(2, 2, peak=2.0), ran(100, 100, peak=3.0, available=3.01 / USABLE)]
    assert Room(known, sharers=1).has([unit(60, 50), unit(40, 50)])
    assert not Room(known, sharers=1).has([unit(60, 50), unit(41, 50)])


def test_what_no_pass_had_is_not_known_to_fit_and_without_any_pass_all_is_taken_to():
    assert not Room([ran(8, 0, peak=2.0)], sharers=1).has([unit(8, 8)])
    assert Room([], sharers=2).has([unit(10**6, 10**6)])


def test_those_that_share_a_device_have_equal_parts_of_it_however_full_it_was_beside_the_one_that_was_measured():
    alone, beside = (ran(32, 10, peak=6.0, available=free, total=16) for free in (16, 10))
    for known in ([alone], [beside], [alone, beside]):
        assert Room(known, sharers=2).size == pytest.approx(USABLE * 8 * GIB)
        assert Room(known, sharers=2).has([unit(32, 10)]), "two of them ran side by side"
        assert not Room(known, sharers=4).has([unit(32, 10)])
    full = ran(32, 10, peak=6.0, available=7, total=16)
    assert Room([alone, full], sharers=2).size == pytest.approx(USABLE * 7 * GIB), "others use the rest"


@pytest.mark.parametrize(("parts", "images"), [(1, 15), (2, 8), (4, 4)])
def test_a_batch_in_parts_has_fewer_images_in_memory_and_as_many_sentences(parts, images):
    units = [GroupUnit(id, "plan", (id,), MmAPConfig(), 3, count, 7) for id, count in (("g1", 8), ("g2", 7))]
    assert size_of(units, parts) == (images, 14)
