"""Signatures: one backward gives what one backward per task gives (grouping reference, T16), and the file replays."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from grouping.similarity import cross_fit
from workers.clip.frozen import FrozenCLIP
from workers.clip.seam import Edits
from workers.data.dataset import TaskData
from workers.methods.build import build_method
from workers.methods.config import MmAPConfig
from workers.methods.method import Method, TaskInfo
from workers.training.batches import TaskBatch, microbatches, scale_pixels
from workers.training.config import ProfileConfig, TrainConfig
from workers.training.forward import ClassLists
from workers.training.gradients import task_gradients
from workers.training.signatures import IMAGES_PER_PASS, SIGNATURES, measure_at, profile
from workers.training.train import Stopped

MMAP = MmAPConfig(num_tokens=2, source_shape=(2, 4))
TRAINING = TrainConfig(batch_size=4, lr=0.01, warmup_epochs=0)
PROFILE = ProfileConfig(max_steps=6, snapshots=2, microbatches=2, microbatch_size=2)


def _shared(clip: FrozenCLIP, tasks: dict[str, TaskData]) -> Method:
    infos = [TaskInfo(task.name, task.class_names, task.template, task.kind) for task in tasks.values()]
    method = build_method(MMAP.model_copy(update={"sharing": "all"}), clip, infos, seed=0)
    method.load_state({name: 3 * tensor.detach() for name, tensor in method.state().items()})
    return method


def _leaves(method: Method) -> list[torch.Tensor]:
    edits = method.edits(method.tasks)
    prompts = [edits.text.prompts_CKMD, edits.image.prompts_CKMD]
    return [part.detach().clone().requires_grad_() for part in prompts if part is not None]


def _batches(tasks: dict[str, TaskData]) -> dict[str, TaskBatch]:
    rows = {name: np.arange(len(task.train.labels)) for name, task in tasks.items()}
    return {
        name: TaskBatch(name, task.train, rows[name], 0 * rows[name], None, len(rows[name]))
        for name, task in tasks.items()
    }


def _loss(clip: FrozenCLIP, task: TaskData, text: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    (texts,) = clip.text([clip.class_list(task.class_names, task.template)], Edits(text))
    features = clip.image(clip.normalise(scale_pixels(clip, task.train.images)), Edits(image))
    logits = clip.logit_scale * F.normalize(features, dim=-1) @ F.normalize(texts, dim=-1).T
    return F.cross_entropy(logits, torch.from_numpy(task.train.labels))


@pytest.mark.parametrize("own_words", [False, True])
def test_one_backward_equals_one_per_task(
    tiny_clip: FrozenCLIP, tasks: dict[str, TaskData], renamed: Callable[..., TaskData], own_words: bool
):
    if own_words:  # no two tasks share a class list
        tasks = tasks | {"clipart": renamed(tasks["clipart"], template="a drawing of {}.")}
    method = _shared(tiny_clip, tasks)
    measured = task_gradients(tiny_clip, method, ClassLists(tiny_clip), _batches(tasks))
    for place, task in enumerate(tasks.values()):  # the slow way: one task, one pass, one backward of its own
        leaves = _leaves(method)
        loss = _loss(tiny_clip, task, *leaves)
        gradient = torch.cat([part.flatten() for part in torch.autograd.grad(loss, leaves)])
        error = (measured.gradients[place] - gradient).norm() / gradient.norm()
        assert float(error) < 1e-5, float(error)
        assert float(measured.losses[place]) == pytest.approx(float(loss.detach()), rel=1e-5)


def test_task_gradients_sum_to_the_gradient_of_the_shared_prompt(tiny_clip: FrozenCLIP, tasks: dict[str, TaskData]):
    method = _shared(tiny_clip, tasks)
    measured = task_gradients(tiny_clip, method, ClassLists(tiny_clip), _batches(tasks))
    leaves = _leaves(method)
    total = torch.stack([_loss(tiny_clip, task, *leaves) for task in tasks.values()]).sum()
    shared = torch.cat([gradient.flatten() for gradient in torch.autograd.grad(total, leaves)])
    assert float((measured.gradients.sum(dim=0) - shared).norm() / shared.norm()) < 1e-5


def test_profile_writes_disjoint_microbatches_and_named_blocks(
    tiny_clip: FrozenCLIP, tasks: dict[str, TaskData], tmp_path: Path
):
    path = profile(tiny_clip, tasks, PROFILE, TRAINING, MMAP, directory=tmp_path)
    arrays = np.load(path)
    numbers = 2 * 2 * (16 + 32)
    assert arrays["gradients"].shape == (2, 2, 3, numbers) and arrays["gradients"].dtype == np.float32
    assert arrays["losses"].shape == arrays["counts"].shape == (2, 2, 3)
    assert arrays["prompts"].shape == (2, numbers)
    assert arrays["steps"].tolist() == [3, 6]
    assert arrays["task_names"].tolist() == list(tasks)
    assert arrays["block_names"].tolist() == ["text.0", "text.1", "image.0", "image.1"]
    assert arrays["block_offsets"].tolist() == [0, 32, 64, 128, 192]
    assert arrays["image_centroids"].shape == arrays["text_centroids"].shape == (3, 16)
    assert np.isfinite(arrays["gradients"]).all() and (arrays["gradients"] ** 2).sum(axis=-1).min() > 0
    assert not np.allclose(arrays["gradients"][:, 0], arrays["gradients"][:, 1])


def test_a_stopped_profile_goes_on_to_the_same_bytes(tiny_clip: FrozenCLIP, tasks: dict[str, TaskData], tmp_path: Path):
    whole = profile(tiny_clip, tasks, PROFILE, TRAINING, MMAP, directory=tmp_path / "whole")
    seen = []
    with pytest.raises(Stopped):
        profile(
            tiny_clip,
            tasks,
            PROFILE,
            TRAINING,
            MMAP,
            directory=tmp_path / "stopped",
            report=seen.append,
            should_stop=lambda: len(seen) > 4,
        )
    assert not (tmp_path / "stopped" / SIGNATURES).exists()
    resumed = profile(tiny_clip, tasks, PROFILE, TRAINING, MMAP, directory=tmp_path / "stopped")
    a, b = np.load(whole), np.load(resumed)
    assert all(np.array_equal(a[name], b[name]) for name in a.files)


def test_too_few_images_for_disjoint_microbatches_is_refused(
    tiny_clip: FrozenCLIP, tasks: dict[str, TaskData], tmp_path: Path
):
    many = PROFILE.model_copy(update={"microbatches": 6})
    with pytest.raises(ValueError, match=r"Task 'pets': 5 training images cannot fill profile.microbatches=6"):
        profile(tiny_clip, tasks, many, TRAINING, MMAP, directory=tmp_path)


def test_tasks_that_share_pictures_never_meet_one_on_both_sides(tasks: dict[str, TaskData]):
    """Raw pipeline, unrelated gradients: only noise of shared pictures is common, and the similarity must not see
    it."""
    rng = np.random.default_rng(0)
    pictures = [rng.bytes(32) for _ in range(32)]
    noise = {picture: rng.normal(size=300) for picture in pictures}
    signals = rng.normal(size=(2, 300)) / 8
    shuffled = [pictures[row] for row in rng.permutation(32)]
    gradients = np.zeros((6, 4, 2, 300))
    for snapshot in range(6):
        for place, owned in enumerate((pictures, shuffled)):
            sets = microbatches(owned, f"task{place}", seed=0, snapshot=snapshot, num=4, size=8)
            for part, rows in enumerate(sets):
                gradients[snapshot, part, place] = signals[place] + np.mean([noise[owned[row]] for row in rows], axis=0)
    numerator = cross_fit(gradients).numerator_TT[0, 1]
    assert abs(numerator) < 0.1, numerator


def test_no_microbatch_is_empty():
    for snapshot in range(20):
        sets = microbatches([bytes([row]) for row in range(5)], "t", seed=0, snapshot=snapshot, num=4, size=8)
        assert sorted(row for part in sets for row in part) == [0, 1, 2, 3, 4] and all(len(part) for part in sets)


def test_the_tasks_of_a_profile_measured_again_are_its_file_again(
    tiny_clip: FrozenCLIP, tasks: dict[str, TaskData], tmp_path: Path
):
    path = profile(tiny_clip, tasks, PROFILE, TRAINING, MMAP, directory=tmp_path)
    again = measure_at(tiny_clip, tasks, path, PROFILE, TRAINING, MMAP, directory=tmp_path / "again")
    a, b = np.load(path), np.load(again)
    assert a.files == b.files
    assert all(np.array_equal(a[name], b[name]) for name in a.files)


def test_fewer_tasks_at_a_time_are_measured_to_the_same_up_to_rounding(
    tiny_clip: FrozenCLIP, tasks: dict[str, TaskData], tmp_path: Path
):
    path = profile(tiny_clip, tasks, PROFILE, TRAINING, MMAP, directory=tmp_path)
    one_by_one = measure_at(
        tiny_clip, tasks, path, PROFILE, TRAINING, MMAP, directory=tmp_path / "again", parts=IMAGES_PER_PASS
    )
    together, apart = (np.load(each)["gradients"] for each in (path, one_by_one))
    assert np.abs(apart - together).max() < 1e-5 * np.abs(together).max()


def test_a_task_measured_late_is_measured_as_if_it_had_been_there(
    tiny_clip: FrozenCLIP, mixed_tasks: dict[str, TaskData], tmp_path: Path
):
    """Of every kind: whoever else is measured, and whatever the shared prompt's training learned for the task."""
    path = profile(tiny_clip, mixed_tasks, PROFILE, TRAINING, MMAP, directory=tmp_path)
    known = np.load(path)
    for place, (name, task) in enumerate(mixed_tasks.items()):
        late = np.load(
            measure_at(tiny_clip, {name: task}, path, PROFILE, TRAINING, MMAP, directory=tmp_path / f"late-{name}")
        )
        there = known["gradients"][:, :, place]
        assert np.abs(late["gradients"][:, :, 0] - there).max() <= 1e-5 * np.abs(there).max(), name
        np.testing.assert_allclose(late["losses"][:, :, 0], known["losses"][:, :, place], rtol=1e-5)
        np.testing.assert_allclose(late["text_centroids"][0], known["text_centroids"][place], atol=1e-6)
        np.testing.assert_allclose(late["image_centroids"][0], known["image_centroids"][place], atol=1e-6)
        assert np.array_equal(late["counts"][:, :, 0], known["counts"][:, :, place])
        assert np.array_equal(late["prompts"], known["prompts"]) and np.array_equal(late["steps"], known["steps"])


def test_more_microbatches_are_taken_at_the_same_prompts(
    tiny_clip: FrozenCLIP, tasks: dict[str, TaskData], tmp_path: Path
):
    path = profile(tiny_clip, tasks, PROFILE, TRAINING, MMAP, directory=tmp_path)
    more = PROFILE.model_copy(update={"microbatches": 4})
    a = np.load(path)
    b = np.load(measure_at(tiny_clip, tasks, path, more, TRAINING, MMAP, directory=tmp_path / "more"))
    assert b["gradients"].shape == (2, 4, *a["gradients"].shape[2:])
    assert np.array_equal(a["prompts"], b["prompts"]) and np.array_equal(a["steps"], b["steps"])
    assert (b["counts"].sum(axis=1) >= a["counts"].sum(axis=1)).all()
    assert (b["counts"].sum(axis=1) > a["counts"].sum(axis=1)).any()


def test_a_stopped_measuring_goes_on_to_the_same_bytes(
    tiny_clip: FrozenCLIP, tasks: dict[str, TaskData], tmp_path: Path
):
    path = profile(tiny_clip, tasks, PROFILE, TRAINING, MMAP, directory=tmp_path)
    told: list[str] = []
    with pytest.raises(Stopped):
        measure_at(
            tiny_clip,
            tasks,
            path,
            PROFILE,
            TRAINING,
            MMAP,
            directory=tmp_path / "again",
            should_stop=lambda: bool(told),
            log=told.append,
        )
    assert [file.name for file in (tmp_path / "again").iterdir()] == ["snapshot-000.npz"]
    again = measure_at(tiny_clip, tasks, path, PROFILE, TRAINING, MMAP, directory=tmp_path / "again")
    a, b = np.load(path), np.load(again)
    assert all(np.array_equal(a[name], b[name]) for name in a.files)


def test_prompts_of_another_shape_are_refused(tiny_clip: FrozenCLIP, tasks: dict[str, TaskData], tmp_path: Path):
    path = profile(tiny_clip, tasks, PROFILE, TRAINING, MMAP, directory=tmp_path)
    other = MMAP.model_copy(update={"depth": 1})
    with pytest.raises(ValueError, match=r"stored prompts have shape \[192\]; this backbone and method have 96"):
        measure_at(tiny_clip, tasks, path, PROFILE, TRAINING, other, directory=tmp_path / "other")
