"""Laws of the learned costs: they find what a step costs, never go below nothing, and put the longest group first."""

import numpy as np
import pytest

from workers.launching.cost_model import Step, learn
from workers.launching.packing import pack
from workers.launching.work import GroupUnit
from workers.methods.config import MmAPConfig


def steps(per_step: float, per_image: float, per_text: float, *, noise: float = 0.0, count: int = 30) -> list[Step]:
    rng = np.random.default_rng(0)
    found = []
    for _ in range(count):
        images, texts = int(rng.integers(16, 160)), int(rng.integers(5, 400))
        seconds = (per_step + per_image * images + per_text * texts) * float(np.exp(noise * rng.normal()))
        found.append(Step(images, texts, seconds))
    return found


@pytest.mark.parametrize("truth", [(0.02, 0.001, 0.0005), (0.0, 0.01, 0.0), (0.1, 0.0, 0.002)])
def test_what_a_step_costs_is_found_from_noisy_groups(truth: tuple[float, float, float]) -> None:
    model = learn(steps(*truth, noise=0.05))
    assert model is not None
    for images, texts in ((32, 50), (64, 65), (160, 390)):
        assert model.seconds(images, texts) == pytest.approx(truth[0] + truth[1] * images + truth[2] * texts, rel=0.12)


def test_nothing_is_learned_from_nothing() -> None:
    assert learn([]) is None
    assert learn([Step(0, 10, 1.0), Step(16, 10, 0.0)]) is None


def test_equal_groups_say_only_that_seconds_go_by_the_images() -> None:
    model = learn([Step(32, 20, 0.5)] * 4)
    assert model is not None
    assert model.seconds(32, 20) == pytest.approx(0.5, rel=0.02)
    assert model.seconds(320, 20) > 4 * model.seconds(32, 20)


def test_no_part_of_a_cost_is_negative() -> None:
    rng = np.random.default_rng(1)
    for _ in range(50):
        odd = [
            Step(int(rng.integers(1, 100)), int(rng.integers(0, 100)), float(rng.uniform(1e-3, 5))) for _ in range(6)
        ]
        model = learn(odd)
        assert model is not None
        assert min(model.per_step, model.per_image, model.per_text) >= 0


def test_a_machine_that_became_slower_is_believed_before_its_past() -> None:
    model = learn([*steps(0.0, 0.001, 0.0, count=300), *steps(0.0, 0.002, 0.0, count=300)])
    assert model is not None
    assert model.seconds(100, 100) == pytest.approx(0.2, rel=0.1)


def test_a_group_with_many_classes_goes_before_one_with_more_images_where_texts_cost_more() -> None:
    crowded = GroupUnit("crowded", "plan", ("a",), MmAPConfig(), 10, images_per_step=16, texts_per_step=400)
    pictures = GroupUnit("pictures", "plan", ("b", "c"), MmAPConfig(), 10, images_per_step=32, texts_per_step=20)
    assert [unit.id for (unit,) in pack([crowded, pictures], 2)] == ["pictures", "crowded"]
    model = learn(steps(0.0, 0.001, 0.001))
    priced = [unit.priced(model) for unit in (crowded, pictures)]
    assert [unit.id for (unit,) in pack(priced, 2)] == ["crowded", "pictures"]
    assert priced[0].cost == pytest.approx(10 * 0.416, rel=0.05)
