"""Random resized crops and flips of a whole batch on the device.

What happens to an image is a function of seed, task, step and its place in the batch: nothing is carried along, so a
run that resumes, or that trains beside other tasks, sees the same crops.  The distribution is torchvision's
`RandomResizedCrop`; the resampling is plain bilinear, which is enough because a crop is only ever enlarged.

    # B images; a crop is (top, left, height, width) as shares of the square image, and 1 for a flip
"""

import numpy as np
import torch
from torch.nn import functional

from workers.methods.seeding import derive_seed
from workers.training.config import AugmentConfig

NUM_TRIES = 10
"""Draws of area and shape before the whole image is taken, as in torchvision."""
MAX_LOG_ASPECT = float(np.log(4 / 3))
"""Width over height lies between 3/4 and 4/3, uniform in its logarithm."""


def draw_crops(config: AugmentConfig, *, seed: int, task: str, step: int, num: int) -> np.ndarray:
    """The crops of a task's batch at a step.  -> float64 [num, 5]: top, left, height, width, flip.

    More images do not change the crops of the first ones.
    """
    rng = np.random.default_rng(derive_seed(seed, "augment", task, step))
    # One row of draws per image, whatever is used of it.
    draws = rng.random((num, 2 * NUM_TRIES + 3))
    smallest, largest = config.crop_scale
    area = smallest + (largest - smallest) * draws[:, :NUM_TRIES]
    aspect = np.exp(MAX_LOG_ASPECT * (2 * draws[:, NUM_TRIES : 2 * NUM_TRIES] - 1))
    heights, widths = np.sqrt(area / aspect), np.sqrt(area * aspect)
    fits = (heights <= 1) & (widths <= 1)
    first = fits.argmax(axis=1)
    rows = np.arange(num)
    height = np.where(fits.any(axis=1), heights[rows, first], 1.0)
    width = np.where(fits.any(axis=1), widths[rows, first], 1.0)
    top, left = (1 - height) * draws[:, -3], (1 - width) * draws[:, -2]
    flip = (draws[:, -1] < 0.5) & config.flip
    return np.stack([top, left, height, width, flip], axis=1)


def apply_crops(images_BCHW: torch.Tensor, crops_B5: np.ndarray) -> torch.Tensor:
    """Every image's crop, enlarged to the image's own size.  [B, channels, H, W] floats -> the same."""
    assert crops_B5.shape == (len(images_BCHW), 5), f"{len(images_BCHW)} images, crops {crops_B5.shape}"
    top, left, height, width, flip = crops_B5.T
    # Coordinates run from -1 to 1: scale by the crop's share, move to its centre; a flip turns the x axis.
    theta_B23 = np.zeros((len(crops_B5), 2, 3))
    theta_B23[:, 0, 0] = np.where(flip > 0, -width, width)
    theta_B23[:, 0, 2] = 2 * left + width - 1
    theta_B23[:, 1, 1] = height
    theta_B23[:, 1, 2] = 2 * top + height - 1
    theta = torch.from_numpy(theta_B23).to(images_BCHW.device, images_BCHW.dtype)
    grid = functional.affine_grid(theta, list(images_BCHW.shape), align_corners=False)
    return functional.grid_sample(images_BCHW, grid, mode="bilinear", padding_mode="border", align_corners=False)
