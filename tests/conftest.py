"""What every room's tests may use: a tiny CLIP with random weights, and small folders of real image files."""

import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from playwright.sync_api import Browser, sync_playwright

from workers.clip.config import BackboneConfig
from workers.clip.frozen import FrozenCLIP, load_clip
from workers.clip.scratch import new_clip, save_clip

torch.set_num_threads(1)

TINY = {
    "model_cfg": {
        "embed_dim": 16,
        "vision_cfg": {
            "image_size": 16,
            "patch_size": 4,
            "width": 32,
            "layers": 2,
            "head_width": 16,
        },
        "text_cfg": {
            "context_length": 24,
            "vocab_size": 49408,
            "width": 16,
            "heads": 2,
            "layers": 2,
        },
    },
    "preprocess_cfg": {
        "size": [16, 16],
        "mean": [0.5, 0.5, 0.5],
        "std": [0.25, 0.25, 0.25],
    },
}


@pytest.fixture(scope="session")
def tiny_clip_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP of two layers a tower with random weights, as open_clip's `local-dir:` folder."""
    folder = tmp_path_factory.mktemp("tiny-clip")
    torch.manual_seed(0)
    save_clip(new_clip(TINY), TINY, folder, dtype=torch.float32)
    return folder


@pytest.fixture(scope="session")
def tiny_clip(tiny_clip_dir: Path) -> FrozenCLIP:
    """The tiny CLIP, loaded and frozen in fp32."""
    return load_clip(BackboneConfig(model=f"local-dir:{tiny_clip_dir}"))


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    """A Ray of our own on this machine, for as long as a module's tests need it: a process has one at a time."""
    import ray  # only what is tested with it pays for it

    from workers.launching.ray_group import NAMESPACE

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("RAY_TRAIN_ENABLE_STATE_TRACKING", "1")
        patch.setenv("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "2")  # a minute, if nobody says otherwise
        ray.init(
            address="local",
            num_cpus=2,
            namespace=NAMESPACE,
            include_dashboard=True,
            dashboard_port=port,
            log_to_driver=False,
        )
        yield
        ray.shutdown()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A real Chromium.  It ends with the module: an event loop runs in this thread while Playwright is open, and
    `asyncio.run` of any other test would be refused.
    """
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    assert path is not None, "No Chromium found. Run `apt-get update && apt-get install -y chromium` as root."
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield chromium
        chromium.close()


def _write_task(folder: Path, classes: dict[str, int], *, seed: int) -> Path:
    rng = np.random.default_rng(seed)
    for index, (name, count) in enumerate(classes.items()):
        (folder / name).mkdir(parents=True)
        colour = rng.integers(0, 256, size=3)
        for number in range(count):
            noise = rng.integers(-40, 40, size=(16, 16, 3))
            pixels = np.clip(colour + noise + 10 * index, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number:03d}.png")
    return folder


@pytest.fixture(scope="session")
def task_folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`task_folders(name, {"class": images, ...})` writes one sub-folder per class and returns the task's folder."""
    made: dict[str, Path] = {}

    def make(name: str, classes: dict[str, int] | None = None) -> Path:
        if name not in made:
            classes = classes or {"red": 8, "green": 8, "blue": 8}
            made[name] = _write_task(tmp_path_factory.mktemp(name) / name, classes, seed=len(made))
        return made[name]

    return make
