"""The demo tasks: nine small classification problems in three families, known in advance, to check a grouping against.

A family shares what there is to learn: reading low-resolution handwriting, seeing through wobbly outlines, telling
warped textures apart.  Its template is worded unlike any pretraining caption and names things of other families in
passing, so a family also shares what to disregard.  One task of every family lies on the same colourful patches, class
names are spelt differently within a family, and no source image is used twice: style, label set or data source alone do
not give the families away.  The shared wording does: bench/demo_grouping.py runs a control with one neutral
template.  Digits are scikit-learn's real handwriting (8 x 8 scans); shapes and textures are drawn. Torch-free and
lazy: a picture is drawn when its item is read, from a seed of its task, class and number.

Two demo tasks of other kinds, which belong to no family, are in scene_tasks.py; `demo_listing` knows them too.
"""

import hashlib
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
from sklearn.datasets import load_digits

from workers.data.config import TaskKind
from workers.data.listing import Item, Listing
from workers.demo.rendering import (
    Look,
    encode_png,
    paint,
    scanned_digit_mask,
    shape_mask,
    texture_mask,
    two_colours,
)
from workers.demo.scene_tasks import SCENE_TASKS, scene_listing
from workers.demo.strokes import DIGITS, SHAPES
from workers.demo.textures import TEXTURES

TRAIN_PER_CLASS = 20
VAL_PER_CLASS = 8
TEST_PER_CLASS = 30
IMAGES_PER_CLASS = TRAIN_PER_CLASS + VAL_PER_CLASS + TEST_PER_CLASS
_DARK = ("black", "blue", "purple", "brown")
_LIGHT = ("white", "yellow", "pink", "cyan")


@dataclass(frozen=True)
class DemoTask:
    """One demo task.  Its true family is known here and is never shown to the service."""

    family: str
    class_names: tuple[str, ...]
    """Display names; the position is the label."""
    template: str
    description: str
    subjects: tuple[str, ...]
    """What the pictures of each class show, in the order of the class names: the pen's own words."""
    look: Look
    inks: tuple[str, ...] = ()
    papers: tuple[str, ...] = ()
    """Colours to draw from; both empty: any two that differ enough."""


_digit_look = Look(size=(0.75, 0.95), blur=(0, 0), speckle=10.0)
_wobbly = Look(size=(0.5, 0.85), rotation=30, shear=0.3, wobble=0.1, offset=0.15, blur=(0.3, 1.0), speckle=14.0)
_warped = Look(rotation=180, shear=0.3, wobble=0.09, blur=(0.3, 0.9), speckle=14.0, periods=(2.5, 5.0))


def _but(look: Look, **changes: object) -> Look:
    return Look(**{**vars(look), **changes})


def _shapes(*left_out: str) -> tuple[str, ...]:
    return tuple(shape for shape in SHAPES if shape not in left_out)


DEMO_TASKS: dict[str, DemoTask] = {
    "digits-ink": DemoTask(
        family="digits",
        class_names=tuple(f"digit {name}" for name in DIGITS),
        template="the {} in a square box of a form.",
        description="Handwritten digits in dark ink on light paper.",
        subjects=DIGITS,
        look=_but(_digit_look, background="gradient"),
        inks=_DARK,
        papers=_LIGHT,
    ),
    "digits-inverted": DemoTask(
        family="digits",
        class_names=tuple(f"number {name}" for name in DIGITS),
        template="the {} in a square box of a form.",
        description="Handwritten digits in light chalk on a dark board.",
        subjects=DIGITS,
        look=_but(_digit_look, background="plain"),
        inks=_LIGHT,
        papers=_DARK,
    ),
    "digits-noise": DemoTask(
        family="digits",
        class_names=tuple(f"digit {i}" for i in range(10)),
        template="the {} in a square box of a form.",
        description="Handwritten digits over colourful patches.",
        subjects=DIGITS,
        look=_but(_digit_look, background="patches"),
    ),
    "shapes-filled": DemoTask(
        family="shapes",
        class_names=_shapes("rectangle", "oval"),
        template="one wobbly {} drawn in two waves of ink.",
        description="Wobbly filled shapes on coloured paper.",
        subjects=_shapes("rectangle", "oval"),
        look=_but(_wobbly, background="gradient"),
    ),
    "shapes-outlined": DemoTask(
        family="shapes",
        class_names=tuple(f"{shape} outline" for shape in _shapes("cross", "arrow")),
        template="one wobbly {} drawn in two waves of ink.",
        description="Wobbly outlines drawn with a thin pen.",
        subjects=_shapes("cross", "arrow"),
        look=_but(_wobbly, filled=False, thickness=(0.06, 0.12)),
    ),
    "shapes-noise": DemoTask(
        family="shapes",
        class_names=tuple(f"{shape} shape" for shape in _shapes("star", "moon")),
        template="one wobbly {} drawn in two waves of ink.",
        description="Wobbly filled shapes over colourful patches.",
        subjects=_shapes("star", "moon"),
        look=_but(_wobbly, background="patches"),
    ),
    "textures-bold": DemoTask(
        family="textures",
        class_names=tuple(f"{texture} texture" for texture in TEXTURES),
        template="a heart pillow in {}.",
        description="Warped textures in two strong colours.",
        subjects=TEXTURES,
        look=_warped,
    ),
    "textures-faint": DemoTask(
        family="textures",
        class_names=tuple(f"{texture} pattern" for texture in TEXTURES),
        template="a heart pillow in {}.",
        description="Warped textures that hardly stand out from the paper.",
        subjects=TEXTURES,
        look=_but(_warped, opacity=(0.25, 0.5), speckle=8.0),
    ),
    "textures-noise": DemoTask(
        family="textures",
        class_names=tuple(f"{texture} fabric" for texture in TEXTURES),
        template="a heart pillow in {}.",
        description="Warped textures over colourful patches.",
        subjects=TEXTURES,
        look=_but(_warped, background="patches", opacity=(0.7, 0.95)),
    ),
}
_DIGIT_TASKS = tuple(name for name, task in DEMO_TASKS.items() if task.family == "digits")


def families() -> dict[str, str]:
    """The truth: task name -> family."""
    return {name: task.family for name, task in DEMO_TASKS.items()}


def demo_kind(task_name: str) -> TaskKind:
    """What kind of task a demo task is.  ValueError for an unknown one."""
    if task_name in SCENE_TASKS:
        return SCENE_TASKS[task_name].kind
    if task_name not in DEMO_TASKS:
        known = ", ".join((*DEMO_TASKS, *SCENE_TASKS))
        raise ValueError(f"demo task {task_name!r} is not known; expected one of {known}.")
    return "classification"


def demo_listing(task_name: str) -> Listing:
    """The listing of a demo task, none of its pictures drawn yet.  ValueError for an unknown one.

    One of the nine has 20 training, 8 validation and 30 test pictures per class; for the others see `scene_listing`.
    """
    if demo_kind(task_name) != "classification":
        return scene_listing(task_name)
    task = DEMO_TASKS[task_name]
    items = [
        Item(
            key=f"{subject}/{_split(number)}-{number:02d}.png",
            label=label,
            split=_split(number),
            read=partial(_read, task_name, label, number),
        )
        for label, subject in enumerate(task.subjects)
        for number in range(IMAGES_PER_CLASS)
    ]
    return Listing(class_names=task.class_names, items=tuple(sorted(items, key=lambda item: item.key)))


@cache
def digit_partition() -> dict[str, tuple[tuple[int, ...], ...]]:
    """Which of scikit-learn's digits each digit task uses: task -> for each digit, `IMAGES_PER_CLASS` row numbers."""
    _, targets = load_digits(return_X_y=True)
    rows = {name: [] for name in _DIGIT_TASKS}
    for digit in range(10):
        order = np.random.default_rng((2023, digit)).permutation(np.flatnonzero(np.asarray(targets) == digit))
        assert len(order) >= len(_DIGIT_TASKS) * IMAGES_PER_CLASS, "scikit-learn has at least 174 of every digit"
        for i, name in enumerate(_DIGIT_TASKS):
            rows[name].append(tuple(int(row) for row in order[i * IMAGES_PER_CLASS : (i + 1) * IMAGES_PER_CLASS]))
    return {name: tuple(parts) for name, parts in rows.items()}


def _split(number: int) -> str:
    if number < TRAIN_PER_CLASS:
        return "train"
    return "val" if number < TRAIN_PER_CLASS + VAL_PER_CLASS else "test"


@cache  # a few kilobytes a picture, and every stage of a job asks for all of them
def _read(task_name: str, label: int, number: int) -> bytes:
    task = DEMO_TASKS[task_name]
    seed = hashlib.sha256(f"{task_name}/{label}/{number}".encode()).digest()
    rng = np.random.default_rng(np.frombuffer(seed, dtype=np.uint32))
    subject = task.subjects[label]
    match task.family:
        case "digits":
            digit = DIGITS.index(subject)
            mask = scanned_digit_mask(rng, _scan(digit_partition()[task_name][digit][number]), task.look)
        case "shapes":
            mask = shape_mask(rng, subject, task.look)
        case _:
            mask = texture_mask(rng, subject, task.look)
    if task.inks:
        ink, paper = str(rng.choice(task.inks)), str(rng.choice(task.papers))
    else:
        ink, paper = two_colours(rng)
    return encode_png(paint(rng, mask, ink, paper, task.look))


@cache
def _scans() -> np.ndarray:
    pixels, _ = load_digits(return_X_y=True)
    return np.round(np.asarray(pixels).reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)


def _scan(row: int) -> np.ndarray:
    return _scans()[row]
