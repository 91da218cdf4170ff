"""Laws of the demo tasks: the same bytes for ever, and no picture in two places."""

import hashlib
import io
from collections import Counter, defaultdict
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from sklearn.metrics import average_precision_score

from workers.clip.config import BackboneConfig
from workers.clip.frozen import FrozenCLIP, load_clip
from workers.data.config import TaskConfig
from workers.data.dataset import load_task
from workers.data.listing import Item
from workers.data.resizing import Resize
from workers.data.roots import DataRoots
from workers.demo.scene_tasks import LABELS, NUM_PICTURES, SCENE_TASKS
from workers.demo.scenes import draw_pool
from workers.demo.tasks import (
    DEMO_TASKS,
    TEST_PER_CLASS,
    TRAIN_PER_CLASS,
    VAL_PER_CLASS,
    demo_kind,
    demo_listing,
    digit_partition,
    families,
)
from workers.demo.textures import TEXTURES

EVERY_TASK = (*DEMO_TASKS, *SCENE_TASKS)


@cache
def digests(task: str) -> dict[str, str]:
    return {item.key: hashlib.sha256(item.read()).hexdigest() for item in demo_listing(task).items}


@pytest.mark.parametrize("task", EVERY_TASK)
def test_same_seed_same_bytes(task: str) -> None:
    again = {item.key: hashlib.sha256(item.read()).hexdigest() for item in demo_listing(task).items[::37]}
    assert again == {key: digests(task)[key] for key in again}


def test_no_picture_is_in_two_tasks_or_in_two_splits() -> None:
    seen = Counter(digest for task in EVERY_TASK for digest in digests(task).values())
    assert max(seen.values()) == 1
    of_classes = sum(len(task.class_names) for task in DEMO_TASKS.values()) * 58
    assert len(seen) == of_classes + len(SCENE_TASKS) * sum(NUM_PICTURES.values())


@pytest.mark.parametrize("task", DEMO_TASKS)
def test_every_class_has_its_shots_in_every_split(task: str) -> None:
    listing = demo_listing(task)
    counts = Counter((item.label, item.split) for item in listing.items)
    wanted = {"train": TRAIN_PER_CLASS, "val": VAL_PER_CLASS, "test": TEST_PER_CLASS}
    assert counts == {(k, part): n for k in range(len(listing.class_names)) for part, n in wanted.items()}
    assert [item.key for item in listing.items] == sorted({item.key for item in listing.items})


def test_scikit_learns_digits_are_partitioned_among_the_digit_tasks() -> None:
    rows = [row for parts in digit_partition().values() for part in parts for row in part]
    assert len(rows) == len(set(rows)) == 3 * 10 * 58
    assert set(digit_partition()) == {name for name, family in families().items() if family == "digits"}


def test_there_are_three_families_of_three_that_share_no_label_set_and_each_lie_once_on_patches() -> None:
    members = defaultdict(list)
    for name, family in families().items():
        members[family].append(DEMO_TASKS[name])
    assert [len(tasks) for tasks in members.values()] == [3, 3, 3]
    for tasks in members.values():
        assert len({task.class_names for task in tasks}) == 3
        assert sum(task.look.background == "patches" for task in tasks) == 1


def test_class_sentences_fit_the_context_and_differ() -> None:
    for task in DEMO_TASKS.values():
        sentences = [task.template.format(name) for name in task.class_names]
        assert len(set(sentences)) == len(task.subjects) == len(sentences)


def test_pictures_are_32_pixel_colour_images() -> None:
    for task in EVERY_TASK:
        with Image.open(io.BytesIO(demo_listing(task).items[0].read())) as image:
            assert (image.size, image.mode, image.format) == ((32, 32), "RGB", "PNG")


def test_pretraining_never_uses_a_background_of_the_noise_tasks_nor_their_pictures() -> None:
    pool = draw_pool(500, seed=0)
    drawn = {picture.transpose(1, 2, 0).tobytes() for picture in pool.pictures}
    items = [item for task in EVERY_TASK for item in demo_listing(task).items[::29]]
    assert not drawn & {np.asarray(Image.open(io.BytesIO(item.read()))).tobytes() for item in items}


def test_an_unknown_task_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(
        ValueError, match=r"'digits' is not known; expected one of digits-ink, .*textures-noise, scenes-labels"
    ):
        demo_listing("digits")


def test_the_scenes_are_of_their_own_kinds_and_of_no_family() -> None:
    assert {name: demo_kind(name) for name in SCENE_TASKS} == {
        "scenes-labels": "multi_label",
        "scenes-captions": "retrieval",
    }
    assert {demo_kind(name) for name in families()} == {"classification"}
    assert not families().keys() & SCENE_TASKS.keys()


@pytest.mark.parametrize("task", SCENE_TASKS)
def test_scenes_have_parts_of_their_own_that_hold_every_class(task: str) -> None:
    items = demo_listing(task).items
    assert Counter(item.split for item in items) == NUM_PICTURES
    assert [item.key for item in items] == sorted({item.key for item in items})
    if task == "scenes-labels":
        for part in NUM_PICTURES:
            seen = Counter(label for item in items if item.split == part for label in item.labels)
            assert set(seen) == set(range(len(LABELS))) and max(seen.values()) < NUM_PICTURES[part]


def test_a_scene_holds_one_to_three_things_and_one_texture_at_most() -> None:
    for item in demo_listing("scenes-labels").items:
        assert 1 <= len(item.labels) <= 3 and list(item.labels) == sorted(set(item.labels))
        assert sum(LABELS[label] in TEXTURES for label in item.labels) <= 1


def test_no_caption_is_true_of_two_pictures_of_a_part() -> None:
    for part in NUM_PICTURES:
        captions = [item.captions for item in demo_listing("scenes-captions").items if item.split == part]
        assert {len(own) for own in captions} == {1, 2}
        assert max(Counter(caption for own in captions for caption in own).values()) == 1


def test_scenes_load_whole_and_by_fraction(tmp_path: Path) -> None:
    for name, split in (("scenes-labels", None), ("scenes-captions", {"fraction": 0.25})):
        task = TaskConfig.model_validate(
            {"name": name, "kind": demo_kind(name), "source": {"kind": "demo", "task": name}}
            | ({"split": split} if split else {})
        )
        data = load_task(task, Resize(32), roots=DataRoots(()), cache_dir=tmp_path)
        assert [len(part.keys) for part in (data.train, data.val, data.test)] == [40 if split else 160, 80, 200]


def test_the_demo_clip_knows_something_of_the_scenes_and_not_all() -> None:
    clip = load_clip(BackboneConfig(model="demo"))
    with torch.inference_mode():
        labels_NK, classes_KE = labelled(), sentences(clip, [f"a picture of a {name}." for name in LABELS])
        scores_NK = pictures(clip, "scenes-labels") @ classes_KE.T
        precision = average_precision_score(labels_NK, scores_NK.numpy())
        captions = [item.captions[0] for item in of_test_part("scenes-captions")]
        similarity_NN = pictures(clip, "scenes-captions") @ sentences(clip, captions).T
    own = torch.arange(len(captions))
    recalls = [float((similarity_NN.argmax(dim) == own).float().mean()) for dim in (0, 1)]
    assert labels_NK.mean() < 0.3 and 0.5 < precision < 0.8
    assert all(0.4 < recall < 0.8 for recall in recalls)


def of_test_part(task: str) -> list[Item]:
    return [item for item in demo_listing(task).items if item.split == "test"]


def labelled() -> np.ndarray:
    return np.array([[label in item.labels for label in range(len(LABELS))] for item in of_test_part("scenes-labels")])


def pictures(clip: FrozenCLIP, task: str) -> torch.Tensor:
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(item.read()))) for item in of_test_part(task)])
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    return torch.nn.functional.normalize(clip.image(clip.normalise(images)), dim=-1)


def sentences(clip: FrozenCLIP, texts: list[str]) -> torch.Tensor:
    return torch.nn.functional.normalize(clip.text([clip.class_list(texts, "{}")])[0], dim=-1)


def test_the_example_job_words_its_templates_as_the_demo_world_does() -> None:
    job = yaml.safe_load((Path(__file__).parents[3] / "examples" / "demo.yaml").read_text())
    assert {task["name"]: task["template"] for task in job["tasks"]} == {n: t.template for n, t in DEMO_TASKS.items()}
