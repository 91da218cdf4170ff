"""The laws of cached features: they are what the towers give, under the same views whoever asks, and a step reads the
rows and the view that are its own."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from workers.clip.frozen import FrozenCLIP
from workers.clip.seam import NO_EDITS
from workers.data.dataset import TaskData
from workers.methods.config import CLIPAdapterConfig, MethodConfig, TaskResConfig, ZeroShotConfig
from workers.training import features as module
from workers.training.augment import apply_crops, draw_crops
from workers.training.batches import draw_batch, scale_pixels
from workers.training.config import AugmentConfig, PairwiseConfig, TrainConfig
from workers.training.distributed import Ranks
from workers.training.evaluate import encode_images
from workers.training.features import FeatureCache, cached_outputs
from workers.training.forward import ClassLists, joint_outputs
from workers.training.run import GroupRun, GroupWork
from workers.training.train import Stopped, train, train_step

PLAIN = TrainConfig(max_steps=4, batch_size=4, warmup_epochs=0, augment=None)
AUGMENTED = PLAIN.model_copy(update={"augment": AugmentConfig()})


def _go_on() -> None:
    """Nobody asks to stop."""


def _run(
    clip: FrozenCLIP, method: MethodConfig, data: dict[str, TaskData], config: TrainConfig, cache: FeatureCache
) -> GroupRun:
    return GroupRun(clip, GroupWork("g1", tuple(data), method, Path("unused")), data, config, ClassLists(clip), cache)


@pytest.mark.parametrize("part", ["train", "val", "test"])
def test_features_are_what_the_tower_gives(tiny_clip: FrozenCLIP, tasks: dict[str, TaskData], part: str):
    cached = FeatureCache(tiny_clip).images(tasks["art"], part, _go_on)
    images = getattr(tasks["art"], part).images
    assert torch.equal(cached, encode_images(tiny_clip, images, NO_EDITS))
    assert cached.dtype == torch.float32 and not cached.requires_grad


def test_a_view_is_what_the_tower_gives_of_its_crops(tiny_clip: FrozenCLIP, tasks: dict[str, TaskData]):
    data = tasks["art"]
    views = FeatureCache(tiny_clip).views(data, AUGMENTED, 3, _go_on)
    assert views.shape == (3, 12, tiny_clip.embed_dim)
    for view, cached in enumerate(views):
        crops = draw_crops(AugmentConfig(), seed=0, task=data.fingerprint, step=view, num=12)
        pixels = tiny_clip.normalise(apply_crops(scale_pixels(tiny_clip, data.train.images), crops))
        torch.testing.assert_close(cached, tiny_clip.image(pixels, NO_EDITS), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(views[0], views[1])


def test_without_augmentation_there_is_one_plain_view(tiny_clip: FrozenCLIP, tasks: dict[str, TaskData]):
    cache = FeatureCache(tiny_clip)
    plain = cache.images(tasks["art"], "train", _go_on)
    assert torch.equal(cache.views(tasks["art"], PLAIN, 10, _go_on), plain[None])
    assert torch.equal(cache.views(tasks["art"], AUGMENTED, 0, _go_on), plain[None])


def test_views_do_not_depend_on_who_asked_before(tiny_clip: FrozenCLIP, tasks: dict[str, TaskData]):
    data = tasks["art"]
    at_once = FeatureCache(tiny_clip).views(data, AUGMENTED, 4, _go_on)
    cache = FeatureCache(tiny_clip)
    first = cache.views(data, AUGMENTED, 2, _go_on)
    assert torch.equal(first, at_once[:2])
    assert torch.equal(cache.views(data, AUGMENTED, 4, _go_on), at_once)
    assert torch.equal(cache.views(data, AUGMENTED, 1, _go_on), at_once[:1])
    other_seed = AUGMENTED.model_copy(update={"seed": 1})
    assert not torch.equal(cache.views(data, other_seed, 4, _go_on), at_once)


def test_equal_content_is_encoded_once_whatever_its_name(tiny_clip: FrozenCLIP, tasks: dict[str, TaskData]):
    cache = FeatureCache(tiny_clip)
    for data in (tasks["art"], replace(tasks["art"], name="the same pictures")):
        cache.images(data, "train", _go_on)
        cache.views(data, AUGMENTED, 2, _go_on)

    def refuse() -> None:
        raise AssertionError("encoded again")

    again = replace(tasks["art"], name="once more")
    cache.images(again, "train", refuse)
    cache.views(again, AUGMENTED, 2, refuse)


def test_views_that_do_not_fit_are_refused_with_what_fits(
    tiny_clip: FrozenCLIP, tasks: dict[str, TaskData], monkeypatch: pytest.MonkeyPatch
):
    bytes_of_view = 4 * 12 * tiny_clip.embed_dim
    monkeypatch.setattr(module, "LARGEST_VIEWS", 3 * bytes_of_view)
    cache = FeatureCache(tiny_clip)
    assert len(cache.views(tasks["art"], AUGMENTED, 3, _go_on)) == 3
    with pytest.raises(ValueError, match=r"views=4 .* Use at most 3 views"):
        cache.views(tasks["art"], AUGMENTED, 4, _go_on)


def test_a_step_reads_its_rows_under_the_view_of_their_epoch(tiny_clip: FrozenCLIP, tasks: dict[str, TaskData]):
    data = {"pets": tasks["pets"]}  # five images: a batch of four spans two passes
    run = _run(tiny_clip, TaskResConfig(views=3), data, AUGMENTED, FeatureCache(tiny_clip))
    views, _ = run.features["pets"].train()
    assert len(views) == 3
    seen: set[int] = set()
    for step in range(6):
        batch = draw_batch(tasks["pets"], run.config, step)
        (output,) = cached_outputs(run.method, run.features, [batch])
        for place, (row, epoch) in enumerate(zip(batch.rows, batch.epochs, strict=True)):
            assert torch.equal(output.image_BE[place], views[epoch % 3, row])
        seen |= set(batch.epochs.tolist())
    assert seen == {0, 1, 2, 3, 4}


@pytest.mark.parametrize("method", [ZeroShotConfig(), CLIPAdapterConfig(modality="both", reduction=1)])
def test_cached_outputs_are_those_of_a_pass_over_the_towers(
    tiny_clip: FrozenCLIP, tasks: dict[str, TaskData], method: MethodConfig
):
    captions = tuple((f"picture {row}", f"image number {row}")[: 1 + row % 2] for row in range(9))
    texts = replace(
        tasks["clipart"],
        name="texts",
        kind="retrieval",
        class_names=(),
        template="{}",
        train=replace(tasks["clipart"].train, captions=captions, labels=np.zeros(9, dtype=np.int64)),
    )
    data = {"art": tasks["art"], "pets": tasks["pets"], "texts": texts}
    run = _run(tiny_clip, method, data, PLAIN, FeatureCache(tiny_clip))
    for step in range(4):
        batches = [draw_batch(task, run.config, step) for task in data.values()]
        cached = cached_outputs(run.method, run.features, batches)
        passed = joint_outputs(tiny_clip, [run.method], run._lists, batches)
        for ours, theirs in zip(cached, passed, strict=True):
            torch.testing.assert_close(ours.image_BE, theirs.image_BE, rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(ours.text_KE, theirs.text_KE, rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(ours.logits_BK, theirs.logits_BK, rtol=1e-5, atol=1e-4)


def test_encoding_can_be_interrupted_and_leaves_nothing_half_done(
    tiny_clip: FrozenCLIP, tasks: dict[str, TaskData], tmp_path: Path
):
    cache = FeatureCache(tiny_clip)
    asked: list[int] = []
    groups = [GroupWork("g1", ("art",), TaskResConfig(views=3), tmp_path)]

    def stop_at_third() -> bool:
        asked.append(1)
        return len(asked) == 3

    with pytest.raises(Stopped):
        train(tiny_clip, groups, tasks, AUGMENTED, features=cache, should_stop=stop_at_third)
    expected = FeatureCache(tiny_clip).views(tasks["art"], AUGMENTED, 3, _go_on)
    assert torch.equal(cache.views(tasks["art"], AUGMENTED, 3, _go_on), expected)


@pytest.mark.parametrize("method", [TaskResConfig(), CLIPAdapterConfig(reduction=1)])
def test_the_pairwise_loss_reaches_what_the_method_learns(
    tiny_clip: FrozenCLIP, tasks: dict[str, TaskData], method: Any
):
    data, cache = {"art": tasks["art"]}, FeatureCache(tiny_clip)

    def learned(run: GroupRun) -> torch.Tensor:
        return next(iter(run.method.learned().values())).detach()

    config = PLAIN.model_copy(update={"pairwise": PairwiseConfig(weight=5.0), "optimizer": "sgd", "lr": 0.01})
    paired = _run(tiny_clip, method, data, config, cache)
    without = _run(tiny_clip, method, data, config.model_copy(update={"pairwise": None}), cache)
    assert torch.equal(learned(paired), learned(without))
    for run in (paired, without):
        train_step(tiny_clip, [run], run._lists, Ranks())
    assert not torch.allclose(learned(paired), learned(without))
