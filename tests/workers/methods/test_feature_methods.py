"""What is particular to the methods on cached features: sizes, caches, searches that see validation images alone."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from sklearn.linear_model import LogisticRegression

from workers.clip.frozen import FrozenCLIP
from workers.clip.shape import backbone_shape
from workers.data.dataset import ImageSet, TaskData
from workers.methods.config import (
    CLIPAdapterConfig,
    LinearProbeConfig,
    MethodConfig,
    TaskResConfig,
    TipAdapterConfig,
    TipAdapterFConfig,
    ZeroShotConfig,
)
from workers.methods.counts import count_parameters
from workers.methods.table import rows
from workers.training.config import AugmentConfig, TrainConfig
from workers.training.distributed import Ranks
from workers.training.features import FeatureCache
from workers.training.forward import ClassLists
from workers.training.run import GroupRun, GroupWork
from workers.training.train import train, train_step

CONFIG = TrainConfig(max_steps=4, batch_size=4, warmup_epochs=0, augment=None, validations=1)
PAIR = ("art", "clipart")  # the tasks with the same class names


def _fitted(
    clip: FrozenCLIP, method: MethodConfig, tasks: dict[str, TaskData], *names: str, config: TrainConfig = CONFIG
) -> GroupRun:
    data = {name: tasks[name] for name in names}
    work = GroupWork("g1", names, method, Path("unused"))
    run = GroupRun(clip, work, data, config, ClassLists(clip), FeatureCache(clip))
    run.fit()
    return run


def _logits(run: GroupRun, task: str, part: str = "test") -> torch.Tensor:
    features = run.features[task]
    with torch.no_grad():
        return run.method.task_logits(task, features.images(part), features.texts())


def _with_other_test_images(task: TaskData) -> TaskData:
    test = replace(task.test, images=255 - task.test.images, labels=task.test.labels[::-1].copy())
    return replace(task, test=test, fingerprint=task.fingerprint + " other test images")


def _without_validation(task: TaskData) -> TaskData:
    none = ImageSet(task.val.images[:0], task.val.labels[:0], ())
    return replace(task, val=none, fingerprint=task.fingerprint + " no validation images")


def _count(method: MethodConfig, *, classes: int, tasks: int = 1, shots: int = 0) -> int:
    shape = backbone_shape("ViT-B-16-quickgelu")
    return count_parameters(
        method, shape, num_classes=classes, num_tasks=tasks, num_groups=1, num_train=classes * shots
    )["total"]


def test_sizes_on_vit_b_16_are_the_formulas():
    assert [_count(LinearProbeConfig(), classes=classes) for classes in (65, 126)] == [33_345, 64_638]
    assert [_count(TaskResConfig(), classes=classes) for classes in (65, 126)] == [33_280, 64_512]
    assert _count(TaskResConfig(), classes=65, tasks=4) == 133_120
    assert _count(CLIPAdapterConfig(), classes=65) == 131_072
    assert _count(CLIPAdapterConfig(modality="both"), classes=65) == 262_144
    assert _count(CLIPAdapterConfig(), classes=65, tasks=4) == 524_288
    assert _count(CLIPAdapterConfig(sharing="all"), classes=65, tasks=4) == 131_072
    assert [_count(TipAdapterFConfig(), classes=65, shots=shots) for shots in (6, 12)] == [199_680, 399_360]
    assert [_count(TipAdapterFConfig(), classes=126, shots=shots) for shots in (3, 6)] == [193_536, 387_072]
    assert _count(TipAdapterConfig(), classes=65, shots=6) == 0
    for sharing in ("alone", "all", "grouped"):  # a pooled cache holds every task's images
        assert _count(TipAdapterFConfig(sharing=sharing), classes=65, tasks=4, shots=6) == 4 * 199_680


def test_the_table_counts_the_cache_by_shots():
    found = rows("ViT-B-16-quickgelu", classes=65, tasks=4, groups=2, shots=12)
    table = {(row["method"], row["setting"], row["sharing"]): row for row in found}
    assert table["tip_adapter_f", "12_shots", "alone"]["per_task"] == 399_360
    assert table["tip_adapter_f", "12_shots", "grouped"]["group_shared"] == 4 * 399_360
    with pytest.raises(ValueError, match="shots=0"):
        rows("ViT-B-16-quickgelu", classes=65, tasks=4, groups=2, shots=0)


@pytest.mark.parametrize(
    ("config", "sharing", "reason"),
    [
        (LinearProbeConfig, "all", "belong to the classes of one task"),
        (TaskResConfig, "grouped", "belong to the classes of one task"),
        (CLIPAdapterConfig, "grouped+task", "no second set"),
        (TipAdapterConfig, "half", "bottleneck adapter"),
        (TipAdapterFConfig, "grouped+task", "no second set"),
    ],
)
def test_sharing_that_no_paper_defines_is_refused_with_the_reason(config: type, sharing: str, reason: str):
    with pytest.raises(ValidationError, match=reason):
        config(sharing=sharing)


@pytest.mark.parametrize(
    "method",
    [
        CLIPAdapterConfig(modality="both", alpha=0.0),
        TaskResConfig(alpha=0.0),
        TipAdapterConfig(alpha=0.0, search=False),
        TipAdapterFConfig(alpha=0.0, search=False),
    ],
)
def test_with_alpha_zero_it_is_zero_shot_whatever_was_learned(
    tiny_clip: FrozenCLIP, tasks: dict[str, TaskData], method: MethodConfig
):
    run = _fitted(tiny_clip, method, tasks, "art")
    with torch.no_grad():
        for tensor in run.method.learned().values():
            tensor.add_(1.0)
    zero_shot = _fitted(tiny_clip, ZeroShotConfig(), tasks, "art")
    assert torch.equal(_logits(run, "art"), _logits(zero_shot, "art"))


def test_keys_are_the_normalised_means_of_the_views_with_their_labels(
    tiny_clip: FrozenCLIP, tasks: dict[str, TaskData]
):
    config = CONFIG.model_copy(update={"augment": AugmentConfig()})
    run = _fitted(tiny_clip, TipAdapterConfig(views=5), tasks, "art", config=config)
    views, labels = run.features["art"].train()
    state = run.method.state()
    directions = views / views.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(state["task.art.keys"].norm(dim=1), torch.ones(12))
    torch.testing.assert_close(
        torch.nn.functional.cosine_similarity(state["task.art.keys"], directions.mean(dim=0)), torch.ones(12)
    )
    assert torch.equal(state["task.art.classes"], labels)


@pytest.mark.parametrize("sharing", ["all", "grouped"])
def test_a_pooled_cache_holds_the_images_of_all_its_tasks(
    tiny_clip: FrozenCLIP, tasks: dict[str, TaskData], sharing: str
):
    pooled = _fitted(tiny_clip, TipAdapterFConfig(sharing=sharing, search=False), tasks, *PAIR)  # type: ignore[arg-type]
    alone = _fitted(tiny_clip, TipAdapterFConfig(search=False), tasks, *PAIR).method.state()
    state = pooled.method.state()
    for name in ("keys", "classes"):
        expected = torch.cat([alone[f"task.{task}.{name}"] for task in PAIR])
        assert torch.equal(state[f"shared.{name}"], expected)
    assert set(pooled.method.learned()) == {"shared.keys"} and not pooled.method.task_specific("art")


def test_caches_of_tasks_with_other_classes_are_not_pooled(tiny_clip: FrozenCLIP, tasks: dict[str, TaskData]):
    with pytest.raises(ValueError, match=r"'pets' has other classes than 'art'. Use sharing: alone"):
        _fitted(tiny_clip, TipAdapterConfig(sharing="all"), tasks, *tasks)


@pytest.mark.parametrize("method", [TipAdapterConfig(), TipAdapterFConfig(), LinearProbeConfig()])
def test_what_is_searched_does_not_depend_on_test_images(
    tiny_clip: FrozenCLIP, tasks: dict[str, TaskData], method: MethodConfig
):
    other = {name: _with_other_test_images(task) for name, task in tasks.items()}
    for name in tasks:
        first, second = (_fitted(tiny_clip, method, data, name) for data in (tasks, other))
        assert first.method.details(name) == second.method.details(name)
        state = second.method.state()
        assert all(torch.equal(tensor, state[key]) for key, tensor in first.method.state().items())


def test_searched_alpha_and_beta_are_no_worse_on_validation_images(tiny_clip: FrozenCLIP, tasks: dict[str, TaskData]):
    improved = 0
    for name, task in tasks.items():
        labels = torch.from_numpy(task.val.labels)
        given, searched = (
            _fitted(tiny_clip, TipAdapterConfig(alpha=0.1, search=search), tasks, name) for search in (False, True)
        )
        before, after = (int((_logits(run, name, "val").argmax(dim=1) == labels).sum()) for run in (given, searched))
        details = searched.method.details(name)
        assert details["searched"] == len(labels) and given.method.details(name)["searched"] == 0
        assert 0 < details["alpha"] <= 3 + 1e-6 and 0.1 < details["beta"] <= 7 + 1e-6
        assert after >= before
        assert after > before or (details["alpha"] == pytest.approx(0.1) and details["beta"] == 1.0)
        improved += after > before
    assert improved


def test_without_validation_images_settings_stay_as_given(tiny_clip: FrozenCLIP, tasks: dict[str, TaskData]):
    bare = {"art": _without_validation(tasks["art"])}
    details = _fitted(tiny_clip, TipAdapterConfig(), bare, "art").method.details("art")
    assert details == {"alpha": pytest.approx(1.17), "beta": 1.0, "searched": 0.0}
    assert _fitted(tiny_clip, LinearProbeConfig(), bare, "art").method.details("art") == {"c": 1.0}


@pytest.mark.parametrize("name", ["art", "pets"])  # three classes, and two
def test_the_probe_is_sklearns_regression_on_plain_features(
    tiny_clip: FrozenCLIP, tasks: dict[str, TaskData], name: str
):
    config = CONFIG.model_copy(update={"augment": AugmentConfig()})
    run = _fitted(tiny_clip, LinearProbeConfig(c=3.0), tasks, name, config=config)
    images = FeatureCache(tiny_clip).images(tasks[name], "train", lambda: None).double().numpy()
    reference = LogisticRegression(C=3.0, max_iter=10_000, tol=1e-8).fit(images, tasks[name].train.labels)
    test = run.features[name].images("test")
    found = _logits(run, name).softmax(dim=1).numpy()
    np.testing.assert_allclose(found, reference.predict_proba(test.double().numpy()), atol=2e-3)
    assert run.method.details(name) == {"c": 3.0}


def test_the_probe_tells_several_labels_apart_one_by_one(tiny_clip: FrozenCLIP, other_kinds: dict[str, TaskData]):
    task = other_kinds["multi_label"]
    run = _fitted(tiny_clip, LinearProbeConfig(c=3.0), other_kinds, "multi_label")
    images, labels = run.features["multi_label"].train()
    found = _logits(run, "multi_label").sigmoid().numpy()
    for index in range(len(task.class_names)):
        reference = LogisticRegression(C=3.0, max_iter=10_000, tol=1e-8).fit(images[0].numpy(), labels[:, index])
        test = run.features["multi_label"].images("test").numpy()
        np.testing.assert_allclose(found[:, index], reference.predict_proba(test)[:, 1], atol=2e-3)


def test_the_searched_probe_is_no_worse_on_validation_images_than_any_of_the_grid(
    tiny_clip: FrozenCLIP, tasks: dict[str, TaskData]
):
    labels = torch.from_numpy(tasks["art"].val.labels)

    def right(method: MethodConfig) -> int:
        return int((_logits(_fitted(tiny_clip, method, tasks, "art"), "art", "val").argmax(dim=1) == labels).sum())

    searched = right(LinearProbeConfig())
    assert all(searched >= right(LinearProbeConfig(c=10.0**exponent)) for exponent in range(-6, 7, 2))


def test_templates_are_averaged_without_normalising(tiny_clip: FrozenCLIP, tasks: dict[str, TaskData]):
    templates = ("a {}.", "a photo of the {}.")
    run = _fitted(tiny_clip, TaskResConfig(templates=templates), tasks, "art")
    first, second = (tiny_clip.text([tiny_clip.class_list(tasks["art"].class_names, each)])[0] for each in templates)
    torch.testing.assert_close(run.features["art"].texts(), (first + second) / 2)
    assert float(run.features["art"].texts().norm(dim=1).max()) > 1.5


def test_the_enhanced_base_lowers_the_loss_and_is_what_a_tuned_projection_gives(
    tiny_clip: FrozenCLIP, tasks: dict[str, TaskData]
):
    plain = _fitted(tiny_clip, TaskResConfig(), tasks, "art")
    enhanced = _fitted(tiny_clip, TaskResConfig(enhanced=True), tasks, "art")
    labels = torch.from_numpy(tasks["art"].val.labels)
    losses = [float(torch.nn.functional.cross_entropy(_logits(run, "art", "val"), labels)) for run in (plain, enhanced)]
    assert losses[1] < losses[0]
    # K classes of a text tower of width 16: what was added is a linear function of the pooled outputs
    pooled = tiny_clip.text.pooled(
        [tiny_clip.class_list(tasks["art"].class_names, tasks["art"].template)],
        enhanced.method.edits(["art"]).text,
        [0],
    )
    added = enhanced.method.fitted()["task.art.enhancement"]
    assert float(added.abs().max()) > 0
    change = torch.linalg.lstsq(pooled, added).solution
    torch.testing.assert_close(pooled @ change, added, rtol=1e-3, atol=1e-6)


def test_the_residuals_length_is_told(tiny_clip: FrozenCLIP, tasks: dict[str, TaskData], tmp_path: Path):
    work = GroupWork("g1", ("art", "pets"), TaskResConfig(), tmp_path / "g1")
    runs: list[GroupRun] = []
    result = train(tiny_clip, [work], tasks, CONFIG, on_step=runs.append)["g1"]
    for task in work.tasks:
        residual = runs[-1].method.task_specific(task)["residual"].detach()
        assert result.details[task]["residual_norm"] == pytest.approx(float(residual.square().sum().sqrt()))
        assert result.details[task]["residual_norm"] > 0


@pytest.mark.parametrize(
    "method",
    [
        TaskResConfig(),
        CLIPAdapterConfig(reduction=1),
        CLIPAdapterConfig(modality="text", reduction=1),
        TipAdapterFConfig(),
    ],
)
def test_training_lowers_the_loss(tiny_clip: FrozenCLIP, tasks: dict[str, TaskData], method: MethodConfig):
    config = CONFIG.model_copy(update={"max_steps": 200, "batch_size": 12, "lr": 0.01})
    run = _fitted(tiny_clip, method, tasks, "art", config=config)
    losses = []
    for _ in range(40):
        train_step(tiny_clip, [run], run._lists, Ranks())
        losses.append(run.losses["art"])
    assert losses[-1] < 0.95 * losses[0]
