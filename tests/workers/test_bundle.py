"""A bundle predicts what evaluation measured, refuses what is damaged, and needs only itself and the backbone."""

import json
from pathlib import Path

import numpy as np
import pytest

from workers.bundle import Bundle, load_bundle
from workers.bundle_files import MANIFEST, BundleGroup, BundleTask, write_bundle
from workers.clip.config import BackboneConfig
from workers.clip.frozen import FrozenCLIP
from workers.data.dataset import TaskData
from workers.methods.config import MmAPConfig
from workers.training.config import TrainConfig
from workers.training.results import GroupResult
from workers.training.run import GroupWork
from workers.training.train import train

MMAP = MmAPConfig(num_tokens=2, source_shape=(2, 4))


@pytest.fixture
def trained(tiny_clip: FrozenCLIP, tiny_clip_dir: Path, tasks: dict[str, TaskData], tmp_path: Path):
    work = GroupWork("g1", tuple(tasks), MMAP, tmp_path / "g1")
    config = TrainConfig(max_steps=10, batch_size=4, lr=0.05, warmup_epochs=0, augment=None)
    result = train(tiny_clip, [work], tasks, config)["g1"]
    folder = tmp_path / "bundle"
    write_bundle(
        folder,
        job="job-1",
        backbone=BackboneConfig(model=f"local-dir:{tiny_clip_dir}"),
        tasks=[BundleTask(t.name, t.class_names, t.template, "g1", t.fingerprint) for t in tasks.values()],
        groups=[BundleGroup("g1", work.tasks, MMAP, work.directory)],
        documents={"plan.json": "{}"},
        versions={"torch": "2"},
    )
    return folder, result


def _images(task: TaskData) -> list[np.ndarray]:
    return [image.transpose(1, 2, 0) for image in task.test.images]


def test_the_bundle_predicts_the_labels_that_evaluation_counted(
    trained: tuple[Path, GroupResult], tasks: dict[str, TaskData]
):
    folder, result = trained
    bundle = load_bundle(folder)
    bundle.verify()
    assert bundle.tasks == tuple(tasks)
    for name, task in tasks.items():
        predicted = bundle.classifier(name).predict(_images(task))
        expected = [task.class_names[label] for label in task.test.labels]
        correct = [a == b for a, b in zip(predicted, expected, strict=True)]
        assert correct == result.results[name].per_image
        logits = bundle.classifier(name).logits(_images(task))
        chosen = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        loss = -chosen[np.arange(len(logits)), task.test.labels].mean()
        assert loss == pytest.approx(result.results[name].loss, abs=1e-4)


def test_every_kind_of_image_gives_the_same_prediction(
    trained: tuple[Path, GroupResult], tasks: dict[str, TaskData], tmp_path: Path
):
    from_pillow = pytest.importorskip("PIL.Image")
    pixels = _images(tasks["art"])[0]
    image = from_pillow.fromarray(pixels)
    image.save(tmp_path / "image.png")
    classifier = load_bundle(trained[0]).classifier("art")
    kinds = [pixels, image, tmp_path / "image.png", str(tmp_path / "image.png"), (tmp_path / "image.png").read_bytes()]
    logits = classifier.logits(kinds)
    assert np.allclose(logits, logits[0], atol=1e-5)


def test_an_unfinished_damaged_or_newer_bundle_is_refused(trained: tuple[Path, GroupResult]):
    folder, _ = trained
    tensors = folder / "groups" / "g1" / "learned.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-1] + b"x")
    with pytest.raises(ValueError, match="is damaged"):
        load_bundle(folder).classifier("art")
    tensors.unlink()
    with pytest.raises(ValueError, match=r"lacks groups/g1/learned.safetensors"):
        load_bundle(folder).verify()
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps(manifest | {"format": 99}))
    with pytest.raises(ValueError, match="bundle format 99"):
        load_bundle(folder)
    (folder / MANIFEST).write_text("[]")
    with pytest.raises(ValueError, match="is no JSON object"):
        load_bundle(folder)
    (folder / MANIFEST).unlink()
    with pytest.raises(ValueError, match=r"has no manifest\.json"):
        load_bundle(folder)


def test_wrong_questions_are_answered_with_what_is_right(trained: tuple[Path, GroupResult]):
    bundle: Bundle = load_bundle(trained[0])
    with pytest.raises(ValueError, match=r"'cars' is not in this bundle. It holds: art, clipart, pets"):
        bundle.classifier("cars")
    classifier = bundle.classifier("art")
    with pytest.raises(ValueError, match="takes a list of at least one image"):
        classifier.predict([])
    with pytest.raises(ValueError, match=r"expected uint8 \[H, W, 3\]"):
        classifier.predict([np.zeros((4, 4), np.uint8)])
