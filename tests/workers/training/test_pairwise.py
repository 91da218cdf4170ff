"""The pair-wise contrastive loss: what it says of a batch, and that the loop adds it to any method's loss."""

import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from workers.clip.frozen import FrozenCLIP
from workers.data.dataset import TaskData
from workers.methods.config import BitFitConfig, MethodConfig, MmAPConfig, TaskResConfig
from workers.training.batches import draw_batch
from workers.training.config import PairwiseConfig, TrainConfig
from workers.training.distributed import Ranks
from workers.training.features import FeatureCache, cached_outputs
from workers.training.forward import ClassLists, joint_outputs
from workers.training.pairwise import SMALLEST, batch_pairwise_loss, pairwise_loss
from workers.training.run import GroupRun, GroupWork
from workers.training.train import train_step

EXP, LITERAL = PairwiseConfig(), PairwiseConfig(form="literal")


def _features(rows: int, seed: int = 0, *, positive: bool = False) -> torch.Tensor:
    features = torch.randn(rows, 8, generator=torch.Generator().manual_seed(seed))
    return (features.abs() if positive else features).requires_grad_()


def test_literal_is_the_printed_formula_where_both_sums_are_positive():
    images, texts = _features(4, positive=True), _features(4, 1, positive=True)
    together = apart = 0.0
    for i in range(4):
        for j in range(4):
            s = F.cosine_similarity(images[i], texts[j], dim=0).item()
            together, apart = (together + s, apart) if i == j else (together, apart + s)
    loss = pairwise_loss(images, texts, torch.eye(4).bool(), LITERAL)
    assert loss.item() == pytest.approx(-math.log(together / apart), abs=1e-5)


def test_exp_is_the_formula_with_exponentials_in_the_place_of_similarities():
    images, texts = _features(4), _features(4, 1)
    exponentials = (F.cosine_similarity(images[:, None], texts[None], dim=2) / 0.07).double().exp()
    ratio = exponentials.diagonal().sum() / (exponentials.sum() - exponentials.diagonal().sum())
    loss = pairwise_loss(images, texts, torch.eye(4).bool(), EXP)
    assert loss.item() == pytest.approx(-math.log(ratio.item()), abs=1e-4)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_literal_clamps_sums_that_are_not_positive_and_stays_a_number(sign: float):
    """Every image on its own text's side and against all others, or the other way round."""
    images = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], requires_grad=True)
    loss = pairwise_loss(images, sign * images.detach(), torch.eye(2).bool(), LITERAL)
    assert loss.item() == pytest.approx(sign * math.log(SMALLEST / 2), rel=1e-5)
    (gradient,) = torch.autograd.grad(loss, images)
    assert bool(gradient.isfinite().all())


@pytest.mark.parametrize("config", [EXP, LITERAL])
def test_it_is_finite_whatever_the_features(config: PairwiseConfig):
    for images in (_features(4), (1e4 * _features(4)).detach(), torch.zeros(4, 8), torch.ones(4, 8)):
        images = images.detach().requires_grad_()
        loss = pairwise_loss(images, _features(4, 1), torch.eye(4).bool(), config)
        (gradient,) = torch.autograd.grad(loss, images)
        assert bool(loss.isfinite()) and bool(gradient.isfinite().all())


@pytest.mark.parametrize("config", [EXP, LITERAL])
def test_it_falls_as_pairs_separate(config: PairwiseConfig):
    """From every image between all texts to every image on its own."""
    texts = torch.eye(8)[:4]
    losses = [
        pairwise_loss(share * texts + (1 - share) * texts.mean(dim=0), texts, torch.eye(4).bool(), config).item()
        for share in (0.0, 0.25, 0.5, 0.75, 0.95)
    ]
    assert all(later < earlier for earlier, later in pairwise(losses))


def test_neither_the_length_nor_the_dtype_of_features_matters():
    images, texts, matches = _features(4), _features(4, 1), torch.eye(4).bool()
    loss = pairwise_loss(images, texts, matches, EXP)
    torch.testing.assert_close(pairwise_loss(3 * images, 0.2 * texts, matches, EXP), loss)
    half = pairwise_loss(images.bfloat16(), texts.bfloat16(), matches, EXP)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, loss, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("config", [EXP, LITERAL])
def test_a_batch_with_nothing_to_tell_apart_has_no_loss_and_no_gradient(config: PairwiseConfig):
    for matches in (torch.ones(4, 4).bool(), torch.zeros(4, 4).bool()):
        images = _features(4)
        loss = pairwise_loss(images, _features(4, 1), matches, config)
        assert loss.item() == 0 and not torch.autograd.grad(loss, images)[0].any()


def test_images_of_one_class_are_pairs_with_each_others_sentence():
    images, texts, labels = _features(4), _features(3, 1), torch.tensor([2, 0, 2, 1])
    exponentials = (F.cosine_similarity(images[:, None], texts[labels][None], dim=2) / 0.07).exp()
    belongs = torch.eye(4).bool()
    belongs[0, 2] = belongs[2, 0] = True
    expected = -torch.log(exponentials[belongs].sum() / exponentials[~belongs].sum())
    torch.testing.assert_close(batch_pairwise_loss("classification", images, texts, labels, EXP), expected)


def test_images_belong_to_all_their_labels_and_captions_that_read_alike_to_all_their_images():
    images, texts = _features(3), _features(2, 1)
    labels = torch.tensor([[1, 0], [1, 1], [0, 0]], dtype=torch.uint8)
    loss = batch_pairwise_loss("multi_label", images, texts, labels, EXP)
    torch.testing.assert_close(loss, pairwise_loss(images, texts, labels.bool(), EXP))
    captions, numbers = _features(3, 2), torch.tensor([0, 1, 0])
    matches = torch.tensor([[1, 0, 1], [0, 1, 0], [1, 0, 1]]).bool()
    loss = batch_pairwise_loss("retrieval", images, captions, numbers, EXP)
    torch.testing.assert_close(loss, pairwise_loss(images, captions, matches, EXP))


@pytest.mark.parametrize(
    "method", [MmAPConfig(num_tokens=2, source_shape=(2, 4)), BitFitConfig(), TaskResConfig()], ids=lambda m: m.kind
)
@pytest.mark.parametrize("form", ["exp", "literal"])
def test_a_step_goes_down_the_loss_plus_weight_times_it(
    tiny_clip: FrozenCLIP, tasks: dict[str, TaskData], method: MethodConfig, form: str
):
    """One SGD step without momentum's past: the parameters move by lr times the gradient that autograd gives."""
    added_loss = PairwiseConfig.model_validate({"form": form, "weight": 0.7})
    moved = {}
    for added in (added_loss, None):
        config = TrainConfig(
            max_steps=1, batch_size=4, warmup_epochs=0, augment=None, optimizer="sgd", lr=0.1, weight_decay=0,
            pairwise=added,
        )  # fmt: skip
        lists = ClassLists(tiny_clip)
        work = GroupWork("g1", tuple(tasks), method, Path("unused"))
        run = GroupRun(tiny_clip, work, tasks, config, lists, FeatureCache(tiny_clip))
        learned = run.method.learned()
        batches = [draw_batch(task, run.config, 0) for task in tasks.values()]
        losses = []
        if method.feature_side:
            outputs = cached_outputs(run.method, run.features, batches)
        else:
            outputs = joint_outputs(tiny_clip, [run.method], lists, batches)
        for batch, output in zip(batches, outputs, strict=True):
            labels = torch.from_numpy(batch.labels)
            loss = F.cross_entropy(output.logits_BK, labels)
            if added is not None:
                features = run.method.adapt(batch.task, output.image_BE, output.text_KE)
                loss = loss + 0.7 * batch_pairwise_loss("classification", *features, labels, added)
            losses.append(loss)
        gradients = torch.autograd.grad(torch.stack(losses).sum(), list(learned.values()))
        before = {name: tensor.detach().clone() for name, tensor in learned.items()}
        train_step(tiny_clip, [run], lists, Ranks())
        for (name, tensor), gradient in zip(learned.items(), gradients, strict=True):
            torch.testing.assert_close(tensor.detach() - before[name], -0.1 * gradient, rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(
            torch.tensor(list(run.losses.values())), torch.stack(losses).detach(), rtol=1e-5, atol=1e-5
        )
        moved[added is None] = torch.cat([tensor.detach().flatten() for tensor in learned.values()])
    assert (moved[True] - moved[False]).abs().max().item() > 1e-4


def test_retrieval_may_train_on_it_alone(tiny_clip: FrozenCLIP, mixed_tasks: dict[str, TaskData]):
    added = PairwiseConfig(replaces_contrastive=True, weight=0.5)
    config = TrainConfig(max_steps=1, batch_size=4, warmup_epochs=0, augment=None, lr=0.1, pairwise=added)
    lists = ClassLists(tiny_clip)
    method = MmAPConfig(num_tokens=2, source_shape=(2, 4), sharing="all")
    run = GroupRun(
        tiny_clip, GroupWork("g1", tuple(mixed_tasks), method, Path("unused")), mixed_tasks, config, lists,
        FeatureCache(tiny_clip),
    )  # fmt: skip
    batches = [draw_batch(task, run.config, 0) for task in mixed_tasks.values()]
    outputs = dict(zip(mixed_tasks, joint_outputs(tiny_clip, [run.method], lists, batches), strict=True))
    train_step(tiny_clip, [run], lists, Ranks())
    labels = {batch.task: torch.from_numpy(batch.labels) for batch in batches}
    expected = {
        name: batch_pairwise_loss(task.kind, outputs[name].image_BE, outputs[name].text_KE, labels[name], added)
        for name, task in mixed_tasks.items()
    }
    assert run.losses["captions"] == pytest.approx(float(expected["captions"].detach()), rel=1e-4)
    classes = F.cross_entropy(outputs["art"].logits_BK, labels["art"]) + 0.5 * expected["art"]
    assert run.losses["art"] == pytest.approx(float(classes.detach()), rel=1e-4)
