"""Images as they come: twelve kinds of horrors, one in a thousand, one in a hundred, one in ten."""

import os
from collections.abc import Callable
from functools import cache
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.workers.data.test_decoding import png_header
from workers.data.config import TaskConfig
from workers.data.dataset import NUM_NAMED, Resize, TaskData, load_task
from workers.data.roots import DataRoots

pytestmark = pytest.mark.filterwarnings("ignore:::PIL")

IMAGES = 1000
CLASSES = ("one", "two")


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


@cache
def noise(mode: str = "RGB") -> Image.Image:
    """Some image of 24 x 16."""
    pixels = np.random.default_rng(7).integers(0, 256, size=(16, 24, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def _rotated() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(noise(), "JPEG", exif=exif)


def _animated() -> bytes:
    frames = [noise("P"), noise("P").rotate(90)]
    return encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])


def _palette_with_alpha() -> bytes:
    return encoded(noise("P"), "PNG", transparency=0)


def written(name: str, content: Callable[[], bytes]) -> Callable[[Path, int], object]:
    return lambda folder, number: (folder / name.format(number)).write_bytes(content())


def _loop(folder: Path, number: int) -> None:
    os.symlink(f"loop-{number}.png", folder / f"loop-{number}.png")


def _strange_name(folder: Path, number: int) -> None:
    Path(os.fsdecode(os.fsencode(folder) + b"/strange-\xff-%d.png" % number)).write_bytes(encoded(noise(), "PNG"))


UNREADABLE: dict[str, Callable[[Path, int], object]] = {
    "empty": lambda folder, number: (folder / f"empty-{number}.png").touch(),
    "truncated": written("truncated-{}.jpg", lambda: encoded(noise(), "JPEG")[:200]),
    "wrong magic": written("magic-{}.png", lambda: b"\x00\x01" + encoded(noise(), "PNG")[2:]),
    "bomb": written("bomb-{}.png", lambda: png_header(30_000, 30_000)),
    "loop of links": _loop,
}
READABLE: dict[str, Callable[[Path, int], object]] = {
    "sixteen bits": written("deep-{}.png", lambda: encoded(Image.fromarray(np.full((9, 9), 40_000, np.uint16)), "PNG")),
    "cmyk": written("cmyk-{}.jpg", lambda: encoded(noise("CMYK"), "JPEG")),
    "palette with alpha": written("palette-{}.png", _palette_with_alpha),
    "rotated by EXIF": written("rotated-{}.jpg", _rotated),
    "animated": written("animated-{}.gif", _animated),
    "one pixel": written("pixel-{}.png", lambda: encoded(Image.new("RGB", (1, 1), "red"), "PNG")),
    "name that is no UTF-8": _strange_name,
}


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A thousand good images, all different."""
    folder = tmp_path_factory.mktemp("horrors") / "good"
    rng = np.random.default_rng(0)
    for name in CLASSES:
        (folder / name).mkdir(parents=True)
        for number in range(IMAGES // 2):
            pixels = rng.integers(0, 256, size=(6, 6, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number:03d}.png", compress_level=0)
    return folder


def spoiled(good: Path, kind: str, horrors: int) -> Path:
    """A copy in which so many images, of both classes, are horrors of the kind."""
    folder = good.parent / f"{kind.replace(' ', '-')}-{horrors}"
    make = (UNREADABLE | READABLE)[kind]
    for index, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        bad = horrors // 2 + (index == 0) * (horrors % 2)
        for number in range(IMAGES // 2):
            if number < bad:
                make(folder / name, number)
            else:
                os.link(good / name / f"{number:03d}.png", folder / name / f"{number:03d}.png")
    return folder


def load(folder: Path) -> TaskData:
    source = {"kind": "folder", "uri": str(folder)}
    task = TaskConfig.model_validate({"name": "horrors", "source": source, "split": {"shots": 20, "val_shots": 10}})
    assert task.bad_image_budget == 0.01
    return load_task(task, Resize(8), roots=DataRoots((str(folder.parent),)), cache_dir=folder.parent / "cache")


@pytest.mark.parametrize("rate", [0.001, 0.01, 0.1])
@pytest.mark.parametrize("kind", UNREADABLE)
def test_what_cannot_be_read_is_skipped_and_counted_under_the_budget_and_named_above_it(good, kind, rate) -> None:
    horrors = round(IMAGES * rate)
    folder = spoiled(good, kind, horrors)
    if rate <= 0.01:
        data = load(folder)
        assert data.num_unreadable == len(data.unreadable) == horrors
        assert sum(len(part.keys) for part in (data.train, data.val, data.test)) == IMAGES - horrors
        assert (len(data.train.keys), len(data.val.keys)) == (40, 20)  # a bad image costs a class nothing
    else:
        with pytest.raises(ValueError, match=f"'horrors': .* of {IMAGES} images cannot be read") as found:
            load(folder)
        named = sum(f"{path.parent.name}/{path.name}'" in str(found.value) for path in folder.rglob("*-*"))
        assert named == NUM_NAMED


@pytest.mark.parametrize("rate", [0.001, 0.01, 0.1])
@pytest.mark.parametrize("kind", READABLE)
def test_what_is_only_odd_is_an_image_like_any_other(good, kind, rate) -> None:
    data = load(spoiled(good, kind, round(IMAGES * rate)))
    assert data.num_unreadable == 0
    assert sum(len(part.keys) for part in (data.train, data.val, data.test)) == IMAGES
