"""The pretraining world: random scenes, their pictures, and sentences that are true of them.

The looks here and the looks of the demo tasks differ on purpose (tasks.py): what training on a task has to bridge is
that difference.  Scikit-learn's digits never appear here.  Torch-free, so that drawing can run in processes of its own.
"""

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context

import numpy as np

from workers.demo.rendering import (
    COLOURS,
    SIZE,
    Background,
    Look,
    paint,
    printed_digit_mask,
    shape_mask,
    texture_mask,
    two_colours,
    written_digit_mask,
)
from workers.demo.strokes import DIGITS, SHAPES
from workers.demo.textures import TEXTURES

SUBJECTS = (*DIGITS, *SHAPES, *TEXTURES)
STYLES = ("filled", "outlined", "handwritten", "printed", "pattern")
_BACKGROUNDS: tuple[Background, ...] = ("plain", "gradient", "grain", "noise")
_NOISE = len(COLOURS)  # the paper of a scene whose background has no colour
_CHATTER = (
    "well look here we can see this one now please note that there might be just the very same thing again "
    "as before and so on in my own words let me say what it shows today for you all"
)
_FILLERS = tuple(_CHATTER.split())
_FRAMES = ("a photo of", "a drawing of", "an image of", "a picture of", "a sketch of", "this is", "here is", "")
CAPTIONS_PER_PICTURE = 3
_CHUNK = 1000


@dataclass(frozen=True)
class Pool:
    """P pictures with C captions each, and the four attributes of both: subject, ink, paper, style."""

    pictures: np.ndarray
    """uint8 [P, 3, SIZE, SIZE]"""
    attributes: np.ndarray
    """int16 [P, 4]: what is true of the picture."""
    captions: list[str]
    """P * C captions, picture by picture."""
    mentioned: np.ndarray
    """int16 [P * C, 4]: what the caption says, -1 where it is silent."""


def draw_pool(num_pictures: int, seed: int, num_processes: int = 1) -> Pool:
    """Draws the pool in chunks with a seed each, so that any number of processes gives the same pool."""
    if num_pictures < 1:
        raise ValueError(f"num_pictures={num_pictures}: a pool needs at least one picture.")
    sizes = [min(_CHUNK, num_pictures - start) for start in range(0, num_pictures, _CHUNK)]
    jobs = [(size, seed, chunk) for chunk, size in enumerate(sizes)]
    if num_processes == 1:
        parts = [_draw_chunk(job) for job in jobs]
    else:
        with ProcessPoolExecutor(num_processes, mp_context=get_context("spawn")) as processes:
            parts = list(processes.map(_draw_chunk, jobs))
    return Pool(
        pictures=np.concatenate([part.pictures for part in parts]),
        attributes=np.concatenate([part.attributes for part in parts]),
        captions=[caption for part in parts for caption in part.captions],
        mentioned=np.concatenate([part.mentioned for part in parts]),
    )


def caption_matches(attributes: np.ndarray, mentioned: np.ndarray) -> np.ndarray:
    """Which captions are true of which pictures.  [P, 4], [C, 4] -> bool [P, C]"""
    silent = mentioned[None] < 0
    return (silent | (attributes[:, None] == mentioned[None])).all(axis=2)


def _draw_chunk(job: tuple[int, int, int]) -> Pool:
    size, seed, chunk = job
    rng = np.random.default_rng((seed, chunk))
    pictures = np.empty((size, 3, SIZE, SIZE), dtype=np.uint8)
    attributes = np.empty((size, 4), dtype=np.int16)
    captions: list[str] = []
    mentioned: list[tuple[int, ...]] = []
    for i in range(size):
        picture, attributes[i] = draw_scene(rng)
        pictures[i] = picture.transpose(2, 0, 1)
        for _ in range(CAPTIONS_PER_PICTURE):
            caption, says = describe(rng, attributes[i])
            captions.append(caption)
            mentioned.append(says)
    return Pool(pictures, attributes, captions, np.array(mentioned, dtype=np.int16))


def draw_scene(rng: np.random.Generator) -> tuple[np.ndarray, tuple[int, int, int, int]]:
    """A random picture, uint8 [SIZE, SIZE, 3], and its subject, ink, paper and style as indices."""
    family = rng.choice(3, p=(0.45, 0.3, 0.25))
    background = _BACKGROUNDS[rng.choice(4, p=(0.45, 0.25, 0.2, 0.1))]
    ink, paper = two_colours(rng)
    speckle = rng.uniform(0, 14)
    if family == 0:
        subject = int(rng.integers(10))
        written = rng.random() < 0.7
        look = Look(
            background,
            thickness=(0.12, 0.34),
            rotation=18,
            shear=0.25,
            wobble=0.07,
            blur=(0, 1.0),
            opacity=(0.75, 1.0),
            speckle=speckle,
        )
        mask = written_digit_mask(rng, subject, look) if written else printed_digit_mask(rng, subject, look)
        style = "handwritten" if written else "printed"
    elif family == 1:
        subject = len(DIGITS) + int(rng.integers(len(SHAPES)))
        filled = rng.random() < 0.6
        look = Look(
            background, filled=filled, thickness=(0.08, 0.2), rotation=20, wobble=0.05, blur=(0, 0.8), speckle=speckle
        )
        mask = shape_mask(rng, SUBJECTS[subject], look)
        style = "filled" if filled else "outlined"
    else:
        subject = len(DIGITS) + len(SHAPES) + int(rng.integers(len(TEXTURES)))
        look = Look(background, rotation=180, wobble=0.04, blur=(0, 0.8), opacity=(0.7, 1.0), speckle=speckle)
        mask = texture_mask(rng, SUBJECTS[subject], look)
        style = "pattern"
    paper_index = _NOISE if background == "noise" else COLOURS.index(paper)
    picture = paint(rng, mask, ink, paper, look)
    return picture, (subject, COLOURS.index(ink), paper_index, STYLES.index(style))


def describe(rng: np.random.Generator, attributes: Sequence[int] | np.ndarray) -> tuple[str, tuple[int, int, int, int]]:
    """A sentence that is true of a scene, and the attributes it mentions (-1 where silent)."""
    subject, ink, paper, style = (int(value) for value in attributes)
    says_ink, says_paper, says_style = rng.random(3) < (0.2, 0.1, 0.15)
    words = _noun(rng, subject, COLOURS[ink] if says_ink else "", STYLES[style] if says_style and style < 4 else "")
    if says_paper:
        words += " on noise" if paper == _NOISE else f" on {COLOURS[paper]}"
    frame = _FRAMES[rng.integers(len(_FRAMES))]
    num_fillers = int(rng.integers(1, 14)) if rng.random() < 0.4 else 0
    fillers = " ".join(_FILLERS[i] for i in rng.integers(len(_FILLERS), size=num_fillers))
    stop = "." if rng.random() < 0.5 else ""
    sentence = " ".join(part for part in (fillers, frame, words) if part) + stop
    return sentence, (
        subject,
        ink if says_ink else -1,
        paper if says_paper else -1,
        style if says_style and style < 4 else -1,
    )


def _noun(rng: np.random.Generator, subject: int, colour: str, style: str) -> str:
    name = SUBJECTS[subject]
    adjectives = " ".join(word for word in (style, colour) if word)
    if subject < len(DIGITS):
        name = str(subject) if rng.random() < 0.5 else name
        nouns = ("{a} {n}", "{a} digit {n}", "the {a} digit {n}", "the {a} number {n}", "{a} number {n}", "a {a} {n}")
    elif subject < len(DIGITS) + len(SHAPES):
        nouns = ("{a} {n}", "a {a} {n}", "a {a} {n}", "the {a} {n}", "a {a} {n} shape")
    else:
        nouns = ("{a} {n}", "{a} {n}", "a {a} {n} pattern", "a pattern of {a} {n}", "{a} {n} texture")
    return " ".join(nouns[rng.integers(len(nouns))].format(a=adjectives, n=name).split())
