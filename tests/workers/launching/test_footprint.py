"""Laws of what passes that ran tell about the memory of others."""

import numpy as np
import pytest

from workers.launching.footprint import Footprint, fits, size_of
from workers.launching.work import GroupUnit
from workers.methods.config import MmAPConfig

GIB = 2**30


def ran(images: int, texts: int, peak: float, weights: float = 1.0) -> Footprint:
    return Footprint(images, texts, int(weights * GIB), int(peak * GIB), 100 * GIB)


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
        known = [Footprint(*size, GIB, int(peak) + 1, 0) for size, peak in zip(sizes[:3], took[:3], strict=True)]
        assert min(each.needs(*sizes[3]) for each in known) >= took[3]


def test_of_several_passes_the_one_that_promises_most_counts():
    small, large = ran(2, 2, peak=2.0), ran(100, 100, peak=3.0)
    assert fits((100, 100), known=[small, large], room=3 * GIB)
    assert not fits((101, 100), known=[small, large], room=3 * GIB)


def test_what_no_pass_had_is_not_known_to_fit_and_without_any_pass_all_is_taken_to():
    assert not fits((8, 8), known=[ran(8, 0, peak=2.0)], room=50 * GIB)
    assert fits((10**6, 10**6), known=[], room=0.0)


@pytest.mark.parametrize(("parts", "images"), [(1, 15), (2, 8), (4, 4)])
def test_a_batch_in_parts_has_fewer_images_in_memory_and_as_many_sentences(parts, images):
    units = [GroupUnit(id, "plan", (id,), MmAPConfig(), 3, count, 7) for id, count in (("g1", 8), ("g2", 7))]
    assert size_of(units, parts) == (images, 14)
