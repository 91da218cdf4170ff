"""Task kinds: their losses and metrics are the definitions, and one job may mix them."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from workers.bundle import load_bundle
from workers.bundle_files import BundleGroup, BundleTask, write_bundle
from workers.clip.frozen import FrozenCLIP
from workers.clip.seam import Edits
from workers.clip.shape import backbone_shape
from workers.data.dataset import TaskData
from workers.methods.build import build_method
from workers.methods.config import MethodConfig, MmAPConfig, ZeroShotConfig
from workers.methods.counts import count_parameters
from workers.methods.method import TaskInfo
from workers.training.batches import TaskBatch, draw_batch, number_texts, scale_pixels
from workers.training.config import ProfileConfig, TrainConfig
from workers.training.features import FeatureCache
from workers.training.forward import ClassLists
from workers.training.gradients import task_gradients
from workers.training.kinds import image_losses, measure
from workers.training.results import VALIDATION, GroupResult, ValidationResult
from workers.training.run import GroupRun, GroupWork
from workers.training.signatures import profile
from workers.training.train import train

MMAP = MmAPConfig(num_tokens=2, source_shape=(2, 4))
CONFIG = TrainConfig(
    max_steps=60, batch_size=6, optimizer="adamw", lr=0.05, warmup_epochs=0, augment=None, validations=2
)


def _run(
    clip: FrozenCLIP, tasks: dict[str, TaskData], folder: Path, method: MethodConfig = MMAP, **update: object
) -> GroupResult:
    work = GroupWork("g1", tuple(tasks), method, folder)
    return train(clip, [work], tasks, CONFIG.model_copy(update=update))["g1"]


def _owned(image_M: Sequence[int] | np.ndarray) -> np.ndarray:
    return np.asarray(image_M)[None, :] == np.arange(max(image_M) + 1)[:, None]


def test_several_labels_cost_the_mean_binary_cross_entropy_of_the_classes():
    logits, labels = torch.tensor([[2.0, -1.0], [0.5, 0.0]]), torch.tensor([[1, 0], [0, 1]], dtype=torch.uint8)
    probability = 1 / (1 + np.exp(-logits.numpy()))
    by_hand = -(labels.numpy() * np.log(probability) + (1 - labels.numpy()) * np.log(1 - probability)).mean(axis=1)
    assert np.allclose(image_losses("multi_label", logits, labels).numpy(), by_hand)


def test_retrieval_contrasts_pairs_both_ways_and_spares_equal_captions():
    logits = torch.randn(4, 4, generator=torch.Generator().manual_seed(0))
    pairs = torch.arange(4)
    both = (F.cross_entropy(logits, pairs) + F.cross_entropy(logits.T, pairs)) / 2
    assert torch.allclose(image_losses("retrieval", logits, pairs).mean(), both)
    logits.requires_grad_()
    image_losses("retrieval", logits, torch.tensor([0, 1, 0, 2])).sum().backward()
    assert logits.grad is not None
    assert logits.grad[0, 2] == logits.grad[2, 0] == 0 and bool((logits.grad[1] != 0).all())


def test_metrics_are_their_definitions():
    accuracy = measure("classification", np.array([[1.0, 0.0], [0.2, 0.1], [0.0, 3.0]]), np.array([0, 1, 1]))
    assert accuracy.metrics == {"accuracy": pytest.approx(2 / 3)} and accuracy.per_image.tolist() == [1, 0, 1]
    # class 0 ranks its two positives 1st and 3rd; class 1 has none and is left out
    logits = np.array([[3.0, 0.0], [2.0, 0.0], [1.0, 0.0]])
    found = measure("multi_label", logits, np.array([[1, 0], [0, 0], [1, 0]]))
    assert found.metrics["mean_average_precision"] == pytest.approx((1 / 1 + 2 / 3) / 2)
    # image 0 owns captions 0 and 1, image 1 owns caption 2
    logits = np.array([[0.1, 0.9, 0.5], [0.2, 0.3, 0.4]])
    found = measure("retrieval", logits, _owned([0, 0, 1]))
    assert found.metrics["image_to_text_recall@1"] == 1.0
    assert found.metrics["text_to_image_recall@1"] == pytest.approx(1 / 3)
    assert found.metrics["recall@1"] == pytest.approx(2 / 3)
    assert found.metrics["text_to_image_recall@5"] == 1.0
    assert found.per_image.tolist() == [pytest.approx((1 + 1 / 2) / 2), 0.5]


def test_the_share_of_every_image_averages_to_the_score_where_each_has_as_many_captions():
    rng = np.random.default_rng(0)
    found = measure("retrieval", rng.normal(size=(12, 24)), _owned(np.repeat(np.arange(12), 2)))
    assert found.per_image.mean() == pytest.approx(found.metrics["recall@1"])


def test_a_tie_is_no_hit():
    found = measure("retrieval", np.zeros((3, 3)), _owned(np.arange(3)))
    assert found.metrics["recall@1"] == 0.0 and found.metrics["image_to_text_recall@5"] == 1.0


def test_a_group_of_all_kinds_trains_and_beats_zero_shot(
    tiny_clip: FrozenCLIP, mixed_tasks: dict[str, TaskData], tmp_path: Path
):
    trained = _run(tiny_clip, mixed_tasks, tmp_path / "trained")
    zero_shot = _run(tiny_clip, mixed_tasks, tmp_path / "zero-shot", ZeroShotConfig())
    metrics = {task: found.metric for task, found in trained.results.items()}
    assert metrics == {"art": "accuracy", "labels": "mean_average_precision", "captions": "recall@1"}
    for task in ("art", "labels"):
        assert trained.results[task].score > zero_shot.results[task].score
    assert trained.results["captions"].loss < zero_shot.results["captions"].loss
    assert trained.results["labels"].val_score is not None


def test_a_multi_label_bias_starts_at_the_frequency_of_the_labels_and_learns(
    tiny_clip: FrozenCLIP, mixed_tasks: dict[str, TaskData], tmp_path: Path
):
    names = {"labels": mixed_tasks["labels"]}
    start = _run(tiny_clip, names, tmp_path / "zero-shot", ZeroShotConfig())
    labels = mixed_tasks["labels"].train.labels
    uninformed = -(labels.mean() * np.log(labels.mean()) + (1 - labels.mean()) * np.log(1 - labels.mean()))
    assert start.parameters["total"] == 0 and start.results["labels"].loss < 2 * uninformed
    method = MMAP.model_copy(update={"sharing": "alone"})
    trained = _run(tiny_clip, names, tmp_path / "trained", method)
    assert trained.parameters["total"] == 8 + 2 * (16 + 32) * 2 // 8 + 1
    shape = backbone_shape(tiny_clip.config.model)
    expected = count_parameters(method, shape, num_classes=3, num_tasks=1, num_groups=1, num_multi_label=1)
    assert trained.parameters == expected


def test_one_backward_equals_one_per_task_for_every_kind(tiny_clip: FrozenCLIP, mixed_tasks: dict[str, TaskData]):
    infos = [TaskInfo(task.name, task.class_names, task.template, task.kind) for task in mixed_tasks.values()]
    method = build_method(MMAP.model_copy(update={"sharing": "all"}), tiny_clip, infos, seed=0)
    rows = np.arange(6)
    batches = {name: TaskBatch(name, task.train, rows, 0 * rows, None, 6) for name, task in mixed_tasks.items()}
    measured = task_gradients(tiny_clip, method, ClassLists(tiny_clip), batches)
    edits = method.edits(method.tasks)
    for place, (name, batch) in enumerate(batches.items()):
        prompts = (edits.text.prompts_CKMD, edits.image.prompts_CKMD)
        parts = [part.detach().clone().requires_grad_() for part in prompts if part is not None]
        if batch.captions:
            texts = tiny_clip.caption_list(batch.captions)
        else:
            texts = tiny_clip.class_list(mixed_tasks[name].class_names, mixed_tasks[name].template)
        features = tiny_clip.image(tiny_clip.normalise(scale_pixels(tiny_clip, batch.images)), Edits(parts[1]))
        logits = method.task_logits(name, features, tiny_clip.text([texts], Edits(parts[0]))[0])
        loss = image_losses(mixed_tasks[name].kind, logits, torch.from_numpy(batch.labels)).mean()
        gradient = torch.cat([part.flatten() for part in torch.autograd.grad(loss, parts)])
        assert float((measured.gradients[place] - gradient).norm() / gradient.norm()) < 1e-5, name


def test_a_profile_over_all_kinds_is_whole(tiny_clip: FrozenCLIP, mixed_tasks: dict[str, TaskData], tmp_path: Path):
    config = ProfileConfig(max_steps=4, snapshots=2, microbatches=2, microbatch_size=4)
    arrays = np.load(profile(tiny_clip, mixed_tasks, config, CONFIG, MMAP, directory=tmp_path))
    assert arrays["gradients"].shape[2] == 3 and np.isfinite(arrays["gradients"]).all()
    assert (arrays["gradients"] ** 2).sum(axis=-1).min() > 0
    assert arrays["text_centroids"].shape == (3, 16)


def test_a_pass_over_the_images_after_another_shows_every_caption(mixed_tasks: dict[str, TaskData]):
    task = mixed_tasks["captions"]
    shown = [caption for step in range(4) for caption in draw_batch(task, CONFIG, step).captions]
    assert set(shown) == {caption for texts in task.train.captions for caption in texts}
    batch = draw_batch(task, CONFIG, 3)
    flat = [caption for texts in task.train.captions for caption in texts]
    assert [flat[row] for row in batch.caption_rows] == list(batch.captions)


@pytest.mark.parametrize("method", [MMAP, ZeroShotConfig()])
def test_a_bundle_of_all_kinds_predicts(
    tiny_clip: FrozenCLIP, tiny_clip_dir: Path, mixed_tasks: dict[str, TaskData], tmp_path: Path, method: MethodConfig
):
    result = _run(tiny_clip, mixed_tasks, tmp_path / "g1", method)
    write_bundle(
        tmp_path / "bundle",
        job="job",
        backbone=tiny_clip.config.model_copy(update={"model": f"local-dir:{tiny_clip_dir}"}),
        tasks=[
            BundleTask(task.name, task.class_names, task.template, "g1", task.fingerprint, task.kind)
            for task in mixed_tasks.values()
        ],
        groups=[BundleGroup("g1", tuple(mixed_tasks), method, tmp_path / "g1")],
        documents={},
        versions={},
    )
    bundle = load_bundle(tmp_path / "bundle")
    images = {name: list(task.test.images.transpose(0, 2, 3, 1)) for name, task in mixed_tasks.items()}
    labels = bundle.classifier("labels")
    logits = torch.from_numpy(labels.logits(images["labels"]))
    loss = image_losses("multi_label", logits, torch.from_numpy(mixed_tasks["labels"].test.labels)).mean()
    assert float(loss) == pytest.approx(result.results["labels"].loss, rel=1e-4)
    assert labels.predict(images["labels"][:1]) == [
        [name for name, logit in zip(labels.class_names, logits[0], strict=True) if logit > 0]
    ]
    captions = bundle.classifier("captions")
    test = mixed_tasks["captions"].test
    flat = [text for texts in test.captions for text in texts]
    owner = np.repeat(np.arange(len(test.captions)), [len(texts) for texts in test.captions])
    ranked = captions.rank(images["captions"], flat)
    assert measure("retrieval", ranked, _owned(owner)).metrics == pytest.approx(result.results["captions"].metrics)
    with pytest.raises(ValueError, match="rank"):
        captions.predict(images["captions"][:1])
    with pytest.raises(ValueError, match="texts are fixed"):
        labels.rank(images["labels"][:1], ["a"])


def test_validation_alone_never_looks_at_a_test_image(
    tiny_clip: FrozenCLIP, mixed_tasks: dict[str, TaskData], tmp_path: Path
):
    class Forbidden:
        def __getattr__(self, name: str) -> object:
            raise AssertionError(f"test.{name} was read")

    blind = {name: replace(task, test=Forbidden()) for name, task in mixed_tasks.items()}  # pyright: ignore
    told = []
    work = GroupWork("g1", tuple(blind), MMAP, tmp_path)
    assert train(tiny_clip, [work], blind, CONFIG, evaluate="validation", report=told.append) == {}
    assert set(told[-1].scores) == set(told[-1].val_losses) == set(mixed_tasks)
    assert [path.name for path in tmp_path.iterdir()] == [VALIDATION]
    left = ValidationResult.read(tmp_path)
    assert left is not None and left.scores == told[-1].scores and left.tasks == tuple(mixed_tasks)
    for name, task in mixed_tasks.items():  # a figure per image: of one label, of several, and of captions
        assert len(left.per_image[name]) == len(task.val.keys)
        if task.kind == "classification":
            assert np.mean(left.per_image[name]) == pytest.approx(left.scores[name])


def test_captions_that_read_alike_are_right_for_all_their_images(
    tiny_clip: FrozenCLIP, mixed_tasks: dict[str, TaskData], tmp_path: Path
):
    task = mixed_tasks["captions"]
    twins = tuple(("a dog", f"an animal {row}") if row % 2 else ("a dog",) for row in range(len(task.test.captions)))
    assert number_texts(twins).tolist() == [0] * len(twins)
    same = replace(task, test=replace(task.test, captions=twins))
    result = _run(tiny_clip, {"captions": same}, tmp_path, max_steps=1).results["captions"]
    assert result.loss == pytest.approx(0.0, abs=1e-5)  # the first captions leave nothing to be told apart
    assert result.metrics["text_to_image_recall@1"] >= 2 / 3  # "a dog" is right for every image


def test_an_image_that_a_batch_holds_twice_is_not_pushed_from_its_own_captions(mixed_tasks: dict[str, TaskData]):
    config = CONFIG.model_copy(update={"batch_size": 8})
    batch = draw_batch(mixed_tasks["captions"], config, 1)
    rows = batch.rows.tolist()
    assert len(set(rows)) < len(rows)
    for place, row in enumerate(rows):
        for other in range(len(rows)):
            assert (batch.labels[place] == batch.labels[other]) == (row == rows[other])


def test_prompts_that_leave_no_room_for_a_caption_are_refused(
    tiny_clip: FrozenCLIP, mixed_tasks: dict[str, TaskData], tmp_path: Path
):
    method = MMAP.model_copy(update={"num_tokens": 10, "sharing": "grouped+task"})
    with pytest.raises(ValueError, match="'captions': the prompts take 20 of the text tower's 24 places and leave 4"):
        _run(tiny_clip, {"captions": mixed_tasks["captions"]}, tmp_path, method)


def test_a_multi_label_bias_starts_where_the_mean_probability_is_the_frequency(
    tiny_clip: FrozenCLIP, mixed_tasks: dict[str, TaskData]
):
    lists, cache = ClassLists(tiny_clip), FeatureCache(tiny_clip)
    task = {"labels": mixed_tasks["labels"]}
    run = GroupRun(tiny_clip, GroupWork("g", ("labels",), ZeroShotConfig(), Path("unused")), task, CONFIG, lists, cache)
    run.fit()
    images_VNE, labels = run.features["labels"].train()
    logits = run.method.task_logits("labels", images_VNE[0], run.features["labels"].texts())
    assert float(torch.sigmoid(logits).mean()) == pytest.approx(float(labels.float().mean()), abs=1e-4)
