import numpy as np
import pytest
import torch

from workers.training.augment import apply_crops, draw_crops
from workers.training.config import AugmentConfig

WHOLE = [0.0, 0.0, 1.0, 1.0, 0.0]


def draw(num=64, *, seed=1, task="art", step=3, **config):
    return draw_crops(AugmentConfig(**config), seed=seed, task=task, step=step, num=num)


@pytest.fixture
def images():
    return torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def test_same_seed_same_bytes():
    assert draw().tobytes() == draw().tobytes()


@pytest.mark.parametrize("other", [{"seed": 2}, {"task": "clipart"}, {"step": 4}])
def test_seed_task_and_step_change_every_crop(other):
    assert (draw()[:, :4] != draw(**other)[:, :4]).all()


def test_a_larger_batch_keeps_the_crops_of_the_first_images():
    assert np.array_equal(draw(64)[:10], draw(10))


def test_crops_stay_inside_and_keep_their_area_and_shape():
    top, left, height, width, flip = draw(20000, crop_scale=(0.2, 0.6)).T
    assert top.min() >= 0 and left.min() >= 0
    assert (top + height).max() <= 1 + 1e-12 and (left + width).max() <= 1 + 1e-12
    area, aspect = height * width, width / height
    assert 0.2 - 1e-9 <= area.min() < 0.22 and 0.58 < area.max() <= 0.6 + 1e-9
    assert 0.75 - 1e-9 <= aspect.min() < 0.77 and 1.3 < aspect.max() <= 4 / 3 + 1e-9
    assert abs(np.log(aspect).mean()) < 0.01
    assert set(flip) == {0.0, 1.0} and abs(flip.mean() - 0.5) < 0.02


def test_flips_can_be_turned_off():
    assert draw(flip=False)[:, 4].max() == 0


def test_a_scale_of_one_is_the_whole_image():
    crops = draw(crop_scale=(1.0, 1.0), flip=False)
    assert np.array_equal(crops, np.tile(WHOLE, (64, 1)))


def test_the_whole_image_comes_back_unchanged(images):
    assert torch.allclose(apply_crops(images, np.tile(WHOLE, (6, 1))), images, atol=1e-5)


def test_a_flip_mirrors_the_crop(images):
    crops = draw(6)
    plain, flipped = crops.copy(), crops.copy()
    plain[:, 4], flipped[:, 4] = 0, 1
    assert torch.allclose(apply_crops(images, flipped), apply_crops(images, plain).flip(-1), atol=1e-5)


def test_a_slice_of_the_batch_equals_the_batch_of_the_slice(images):
    crops = draw(6)
    assert torch.equal(apply_crops(images, crops)[2:5], apply_crops(images[2:5], crops[2:5]))


def test_a_quarter_is_enlarged_as_torch_does_it(images):
    corner = np.tile([0.5, 0.0, 0.5, 0.5, 0.0], (6, 1))
    enlarged = torch.nn.functional.interpolate(images[:, :, 8:, :8], scale_factor=2.0, mode="bilinear")
    # Pixels beside the cut mix with their neighbours outside it, which a piece cut out does not have.
    assert torch.allclose(apply_crops(images, corner)[:, :, 1:, :-1], enlarged[:, :, 1:, :-1], atol=1e-5)


def test_values_stay_within_those_of_the_image(images):
    out = apply_crops(images, draw(6))
    assert out.shape == images.shape and out.min() >= images.min() and out.max() <= images.max()
