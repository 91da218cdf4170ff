"""Two more demo tasks, of the other kinds: what is in a picture (multi_label) and which words belong to it (retrieval).

They stand beside the nine tasks of tasks.py and have no part in the truth about its families.  Pictures are composed of
the pretraining world's shapes and textures, drawn loosely as the other demo tasks are; captions use its words, so the
demo CLIP knows some of it beforehand.  Every picture has a seed of its own, made from task, part and number, which no
pretraining picture has.  Torch-free and lazy, as tasks.py.
"""

import hashlib
from dataclasses import dataclass
from functools import cache, partial
from itertools import product

import numpy as np

from workers.data.config import TaskKind
from workers.data.listing import Item, Listing
from workers.demo.rendering import (
    COLOURS,
    Look,
    encode_png,
    far_apart,
    paint,
    paint_layers,
    shape_mask,
    texture_mask,
)
from workers.demo.strokes import SHAPES
from workers.demo.textures import TEXTURES

NUM_PICTURES = {"train": 160, "val": 80, "test": 200}
LABELS = ("circle", "cross", "heart", "star", "bricks", "dots", "grid", "waves")
"""What the pictures of `scenes-labels` hold: four shapes, four textures."""
_NUM_SHAPES = 4

_small = Look(size=(0.34, 0.46), rotation=25, offset=0.05, wobble=0.04, blur=(0.0, 0.5))
_large = Look(size=(0.6, 0.85), rotation=25, offset=0.12, wobble=0.06, blur=(0.0, 0.6))
_ground = Look(rotation=180, wobble=0.06, blur=(0.2, 0.7), opacity=(0.6, 0.9), speckle=10.0)
_pen = Look(
    background="gradient",
    rotation=25,
    shear=0.25,
    wobble=0.08,
    thickness=(0.07, 0.16),
    blur=(0.2, 0.8),
    speckle=12.0,
    periods=(2.5, 4.5),
)


@dataclass(frozen=True)
class SceneTask:
    """One demo task of scenes."""

    kind: TaskKind
    class_names: tuple[str, ...]
    template: str
    description: str


SCENE_TASKS: dict[str, SceneTask] = {
    "scenes-labels": SceneTask(
        kind="multi_label",
        class_names=LABELS,
        template="a picture of a {}.",
        description="One to three of four shapes and four textures in one picture.",
    ),
    "scenes-captions": SceneTask(
        kind="retrieval",
        class_names=(),
        template="{}",
        description="Shapes and textures in all colours, with one or two sentences about each.",
    ),
}


def scene_listing(task_name: str) -> Listing:
    """The listing of a task of scenes: 160 training, 80 validation and 200 test pictures, none of them drawn yet."""
    items = []
    for part, count in NUM_PICTURES.items():
        for number in range(count):
            read = partial(_read, task_name, part, number)
            labels = _contents(part, number) if task_name == "scenes-labels" else ()
            captions = _captions(part, number) if task_name == "scenes-captions" else ()
            items.append(Item(f"{part}/{number:03d}.png", 0, part, read, labels, captions))
    return Listing(SCENE_TASKS[task_name].class_names, tuple(sorted(items, key=lambda item: item.key)))


@cache
def _read(task_name: str, part: str, number: int) -> bytes:
    draw = _draw_labels if task_name == "scenes-labels" else _draw_caption
    return encode_png(draw(_generator(task_name, part, number), part, number))


def _generator(*what: object) -> np.random.Generator:
    seed = hashlib.sha256("/".join(map(str, what)).encode()).digest()
    return np.random.default_rng(np.frombuffer(seed, dtype=np.uint32))


def _contents(part: str, number: int) -> tuple[int, ...]:
    """Which of `LABELS` are in a picture: one to three, at most one of them a texture.  Ascending."""
    rng = _generator("scenes-labels", "contents", part, number)
    num_things = int(rng.integers(1, 4))
    textures = int(rng.random() < 0.6)
    shapes = rng.choice(_NUM_SHAPES, num_things - textures, replace=False)
    patterns = rng.choice(len(LABELS) - _NUM_SHAPES, textures, replace=False) + _NUM_SHAPES
    return tuple(sorted(int(thing) for thing in (*shapes, *patterns)))


def _draw_labels(rng: np.random.Generator, part: str, number: int) -> np.ndarray:
    """A texture fills the picture; a shape alone is large, several are small and lie in corners of their own."""
    names = [LABELS[thing] for thing in _contents(part, number)]
    shapes, textures = [n for n in names if n in SHAPES], [n for n in names if n in TEXTURES]
    paper = str(rng.choice(COLOURS))
    colours = [str(ink) for ink in rng.choice(_far_from(paper), len(names), replace=False)]
    layers = [(texture_mask(rng, name, _ground), colours.pop()) for name in textures]
    corners = rng.permutation([(y, x) for y in (-8, 8) for x in (-8, 8)])
    for name, corner in zip(shapes, corners, strict=False):
        mask = shape_mask(rng, name, _large if len(shapes) == 1 else _small)
        shift = (0, 0) if len(shapes) == 1 else tuple(int(step) for step in corner)
        layers.append((np.roll(mask, shift, axis=(0, 1)), colours.pop()))
    return paint_layers(rng, layers, paper, _ground)


@cache
def _subjects(part: str) -> tuple[tuple[str, str], ...]:
    """Subject and ink of every picture of a part; no two pictures of a part share both."""
    pairs = list(product((*SHAPES, *TEXTURES), COLOURS))
    order = _generator("scenes-captions", "subjects", part).permutation(len(pairs))
    return tuple(pairs[i] for i in order[: NUM_PICTURES[part]])


def _scene(part: str, number: int) -> tuple[str, str, str, bool]:
    """Subject, ink, paper, and whether a shape is filled."""
    subject, ink = _subjects(part)[number]
    rng = _generator("scenes-captions", "scene", part, number)
    return subject, ink, str(rng.choice(_far_from(ink))), bool(rng.random() < 0.6)


def _draw_caption(rng: np.random.Generator, part: str, number: int) -> np.ndarray:
    subject, ink, paper, filled = _scene(part, number)
    look = Look(**{**vars(_pen), "filled": filled})
    mask = shape_mask(rng, subject, look) if subject in SHAPES else texture_mask(rng, subject, look)
    return paint(rng, mask, ink, paper, look)


def _captions(part: str, number: int) -> tuple[str, ...]:
    """One sentence about subject, ink and paper; every second picture has another one, about its style."""
    subject, ink, paper, filled = _scene(part, number)
    if subject in SHAPES:
        first, style = f"a {ink} {subject} on {paper}", "filled" if filled else "outlined"
        second = f"a {style} {ink} {subject}"
    else:
        first, second = f"{ink} {subject} on {paper}", f"a pattern of {ink} {subject}"
    captions = (f"a picture of {first}.", f"this is {second}.")
    return captions[: 1 + number % 2]


def _far_from(colour: str) -> list[str]:
    """The colours that show on this one."""
    return [other for other in COLOURS if far_apart(colour, other)]
