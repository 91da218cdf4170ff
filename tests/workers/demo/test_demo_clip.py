"""Laws of the CLIP that ships with the demo world: it is small, ordinary, and knows the tasks, though not perfectly."""

from functools import cache
from typing import Any

import pytest
import torch

from workers.clip.scratch import CONFIG_FILE, WEIGHTS_FILE, load_scratch_clip, new_tokenizer
from workers.demo.measure import linear_probe_accuracy, zero_shot_accuracy
from workers.demo.pretrain import CLIP_FOLDER
from workers.demo.tasks import DEMO_TASKS


@cache
def model() -> Any:
    return load_scratch_clip(CLIP_FOLDER)


def published() -> dict[str, tuple[float, ...]]:
    """The model card's table: task -> chance, zero-shot, linear probe, in percent."""
    rows = [line.strip("| ").split(" | ") for line in (CLIP_FOLDER / "README.md").read_text().splitlines()]
    return {row[0]: tuple(float(x.rstrip("%")) for x in row[1:]) for row in rows if row[0] in DEMO_TASKS}


def test_the_folder_is_an_ordinary_open_clip_folder_of_at_most_16_mb() -> None:
    assert {path.name for path in CLIP_FOLDER.iterdir()} == {CONFIG_FILE, WEIGHTS_FILE, "README.md"}
    assert sum(path.stat().st_size for path in CLIP_FOLDER.iterdir()) <= 16e6


def test_open_clip_loads_it_whole() -> None:
    images, tokens = torch.zeros(2, 3, 32, 32), new_tokenizer(model().context_length)(["stripes", "a red circle."])
    with torch.inference_mode():
        assert model().encode_image(images).shape == model().encode_text(tokens).shape == (2, 96)
    assert tokens.shape == (2, 32)
    assert model().token_embedding.weight.shape[0] == 49408
    assert all(torch.isfinite(value).all() for value in model().state_dict().values())


@pytest.mark.parametrize("task", DEMO_TASKS)
def test_zero_shot_is_at_least_twice_chance_and_as_published(task: str) -> None:
    chance, zero_shot, _ = published()[task]
    measured = 100 * zero_shot_accuracy(model(), task)
    assert measured >= 2 * chance
    assert measured == pytest.approx(zero_shot, abs=1.0)  # a picture or two may tip on another processor


@pytest.mark.parametrize("task", ["digits-ink", "shapes-noise"])
def test_a_linear_probe_scores_as_published(task: str) -> None:
    assert 100 * linear_probe_accuracy(model(), task) == pytest.approx(published()[task][2], abs=2.0)
