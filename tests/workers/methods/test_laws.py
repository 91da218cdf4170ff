"""The laws of every method, tried on the cases of conftest.py: one per setting and sharing, from the union itself."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from workers.bundle import load_bundle
from workers.bundle_files import BundleGroup, BundleTask, write_bundle
from workers.clip.config import BackboneConfig, BackboneShape
from workers.clip.frozen import FrozenCLIP
from workers.clip.shape import backbone_shape
from workers.data.dataset import TaskData
from workers.methods.build import build_method
from workers.methods.config import ZeroShotConfig
from workers.methods.counts import count_parameters
from workers.methods.method import TaskInfo
from workers.methods.table import rows
from workers.training.batches import TaskBatch, draw_batch
from workers.training.config import TrainConfig
from workers.training.distributed import Ranks
from workers.training.features import cached_outputs
from workers.training.forward import Outputs, joint_outputs
from workers.training.kinds import image_losses
from workers.training.results import LEARNED
from workers.training.run import GroupRun, GroupWork
from workers.training.train import Stopped, train, train_step

Fresh = Callable[..., GroupRun]
ONE_STEP = TrainConfig(max_steps=1, batch_size=4, warmup_epochs=0, augment=None, validations=1)


def only(chosen: Callable[[Any], bool]) -> Callable[[Callable], Callable]:
    """Tries a law on the chosen cases alone."""

    def mark(law: Callable) -> Callable:
        law.only = chosen
        return law

    return mark


@pytest.fixture(scope="module")
def tiny_shape(tiny_clip: FrozenCLIP) -> BackboneShape:
    """The sizes of the tiny CLIP."""
    return backbone_shape(tiny_clip.config.model)


def test_every_method_of_the_union_is_tried_and_in_the_table_under_every_sharing(all_cases: dict[str, Any]):
    table = rows("ViT-B-16-quickgelu", classes=65, tasks=4, groups=2)
    names = [case.name for _, cases in all_cases.values() for case in cases]
    assert len(set(names)) == len(names)
    for kind, (config_class, cases) in all_cases.items():
        sharings = set(config_class.sharings or (None,))
        assert {getattr(case.config, "sharing", None) for case in cases} == sharings
        assert {row["sharing"] for row in table if row["method"] == kind} == sharings
    small = rows("demo", classes=3, tasks=2, groups=1)  # settings that do not fit are left out
    assert {row["method"] for row in small} == set(all_cases) and len(small) < len(table)


@only(lambda case: case.small.identity)
def test_an_identity_at_the_start_is_zero_shot(case: Any, fresh: Fresh, data: dict[str, TaskData]):
    run, zero_shot = fresh(case.config, data), fresh(ZeroShotConfig(), data)
    edits = run.method.edits(run.method.tasks[:1])
    changes_nothing = edits.image.is_empty and edits.text.is_empty
    for ours, theirs in zip(_outputs(run), _outputs(zero_shot), strict=True):
        if changes_nothing and len(run.method.passes) == 1:
            assert torch.equal(ours.logits_BK, theirs.logits_BK)
        torch.testing.assert_close(ours.logits_BK, theirs.logits_BK, rtol=1e-5, atol=1e-5)


def test_parameters_are_the_formula_the_table_and_what_the_optimiser_holds(
    case: Any, tiny_shape: BackboneShape, trained: Any, data: dict[str, TaskData]
):
    method, config = trained.run.method, case.config
    sizes = {task: config.sizes(tiny_shape, len(data[task].class_names)) for task in data}
    of_image = config.per_train_image(tiny_shape)
    of_images = {task: of_image * len(data[task].train.labels) for task in data}
    is_pooled = case.small.pooled and of_image > 0
    shared, own = sum(t.numel() for t in method.group_shared().values()), 0
    for task in data:
        held = sum(tensor.numel() for tensor in method.task_specific(task).values())
        expected_shared, expected_own = sizes[task]
        assert shared == expected_shared + (sum(of_images.values()) if is_pooled else 0)
        assert held == expected_own + (0 if is_pooled else of_images[task])
        own += held
    expected = {"group_shared": shared, "task_specific": own, "total": shared + own}
    assert trained.result.parameters == method.count_parameters() == expected
    if config.trains:
        assert trained.run._optimizer is not None
        optimised = [tensor for group in trained.run._optimizer.param_groups for tensor in group["params"]]
        assert [id(tensor) for tensor in optimised] == [id(tensor) for tensor in method.learned().values()]
        assert sum(tensor.numel() for tensor in optimised) == expected["total"]
        assert all(tensor.dtype == torch.float32 and tensor.is_leaf and tensor.requires_grad for tensor in optimised)
    same = count_parameters(config, tiny_shape, num_classes=3, num_tasks=2, num_groups=1, num_train=7)
    assert same["total"] == sizes["art"][0] + 2 * (sizes["art"][1] + 7 * of_image)


@only(lambda case: case.config.trains)
def test_every_learned_tensor_gets_a_gradient(case: Any, fresh: Fresh, data: dict[str, TaskData]):
    run = fresh(case.config, data)
    expected = {name for name in run.method.learned() if not case.expects_no_gradient(name)}
    reached = _reached(run)
    for _ in range(2):  # behind a factor that starts at zero: once that has moved
        if reached != expected:
            train_step(run._clip, [run], run._lists, Ranks())
            reached |= _reached(run)
    assert reached == expected


@only(lambda case: case.config.trains)
def test_a_task_gets_no_gradient_from_another(case: Any, fresh: Fresh, data: dict[str, TaskData]):
    run = fresh(case.config, data)
    learned = {name: tensor for name, tensor in run.method.learned().items() if name.startswith("task.")}
    if not learned:
        return
    train_step(run._clip, [run], run._lists, Ranks())
    losses = _losses(run)
    for index, task in enumerate(run.work.tasks):
        gradients = torch.autograd.grad(losses[index], list(learned.values()), retain_graph=True, allow_unused=True)
        for name, gradient in zip(learned, gradients, strict=True):
            if not name.startswith(f"task.{task}."):
                assert gradient is None or not gradient.any(), name


def test_only_learned_and_fitted_tensors_are_saved_and_load_strictly(case: Any, tiny_clip: FrozenCLIP, trained: Any):
    saved = load_file(trained.directory / LEARNED)
    method = trained.run.method
    assert set(saved) == set(method.learned()) | set(method.fitted())
    assert all(torch.equal(saved[name], trained.after[name]) for name in saved)
    fresh = build_method(case.config, tiny_clip, list(method.infos.values()), seed=9)
    fresh.load_state(saved)
    assert all(torch.equal(tensor, saved[name]) for name, tensor in fresh.state().items())
    for task in method.tasks:
        torch.testing.assert_close(_own_logits(fresh, task), _own_logits(method, task))
    with pytest.raises(ValueError, match=r"unknown \['something'\]"):
        fresh.load_state(saved | {"something": torch.zeros(1)})
    for name in list(saved)[-1:]:
        with pytest.raises(ValueError, match="missing"):
            fresh.load_state({other: tensor for other, tensor in saved.items() if other != name})
        with pytest.raises(ValueError, match="has shape"):
            fresh.load_state(saved | {name: torch.zeros(1, 2, 3, 4, 5)})


def test_same_seed_same_bytes(case: Any, tiny_clip: FrozenCLIP, data: dict[str, TaskData]):
    infos = _infos(data)
    first = build_method(case.config, tiny_clip, infos, seed=1).state()
    torch.randn(7)
    again = build_method(case.config, tiny_clip, infos, seed=1).state()
    other = build_method(case.config, tiny_clip, infos, seed=2).state()
    assert list(first) == list(again) and all(torch.equal(first[name], again[name]) for name in first)
    assert case.small.random == any(not torch.equal(first[name], other[name]) for name in first)
    alone = build_method(case.config, tiny_clip, infos[:1], seed=1).state()
    assert case.small.pooled or all(torch.equal(tensor, first[name]) for name, tensor in alone.items())


def test_a_run_that_was_stopped_ends_with_the_same_bits(
    case: Any, tiny_clip: FrozenCLIP, data: dict[str, TaskData], trained: Any, tmp_path: Path
):
    config, work = trained.run.config, GroupWork("g1", tuple(data), case.config, tmp_path / "g1")
    seen: list[GroupRun] = []
    if case.config.trains:
        with pytest.raises(Stopped):
            train(
                tiny_clip,
                [work],
                data,
                config,
                should_stop=lambda: bool(seen) and seen[-1].step == 2,
                on_step=seen.append,
                evaluate="none",
            )
    train(tiny_clip, [work], data, config, on_step=seen.append, evaluate="none")
    assert seen[-1].step == trained.run.step and (seen[-1] is not seen[0] or not case.config.trains)
    ended = seen[-1].method.state()
    assert ended.keys() == trained.after.keys()
    assert all(torch.equal(ended[name], tensor) for name, tensor in trained.after.items())


@only(lambda case: case.config.trains)
def test_it_trains_on_a_bf16_backbone(case: Any, fresh: Fresh, tiny_clip_bf16: FrozenCLIP, data: dict[str, TaskData]):
    run = fresh(case.config, data, tiny_clip_bf16)
    before = {name: tensor.detach().clone() for name, tensor in run.method.learned().items()}
    for _ in range(3):
        train_step(tiny_clip_bf16, [run], run._lists, Ranks())
    after = run.method.learned()
    assert all(tensor.dtype == torch.float32 and bool(tensor.isfinite().all()) for tensor in after.values())
    moved = {name for name in after if not torch.equal(before[name], after[name])}
    assert moved and all(name in moved or case.expects_no_gradient(name) for name in after)
    assert all(np.isfinite(loss) for loss in run.losses.values())


def test_one_task_and_two_uneven_tasks_train(case: Any, fresh: Fresh, data: dict[str, TaskData]):
    for names in (list(data)[:1], list(data)[:0:-1]):  # all cases' tasks are uneven, and two have the same class names
        run = fresh(case.config, {name: data[name] for name in names})
        if case.config.trains:
            train_step(run._clip, [run], run._lists, Ranks())
        assert all(bool(output.logits_BK.isfinite().all()) for output in _outputs(run))


@only(lambda case: not case.config.feature_side)
def test_groups_in_one_pass_compute_what_they_compute_alone(
    case: Any, fresh: Fresh, tiny_clip: FrozenCLIP, data: dict[str, TaskData]
):
    names = tuple(data)
    parts = [{name: data[name] for name in block} for block in (names[:1], names[1:])]
    groups = [fresh(case.config, part) for part in parts]
    if groups[0].method.batch_key is None:
        return
    assert groups[0].batch_key == groups[1].batch_key
    batches = [batch for run in groups for batch in _batches(run)]
    joint = joint_outputs(tiny_clip, [run.method for run in groups], groups[0]._lists, batches)
    together = _gradients(groups, joint, batches)
    alone = [output for run in groups for output in _outputs(run)]
    for ours, theirs in zip(joint, alone, strict=True):
        torch.testing.assert_close(ours.logits_BK, theirs.logits_BK, rtol=1e-5, atol=1e-5)
    _assert_close(together, _gradients(groups, alone, batches))


@only(lambda case: getattr(case.config, "sharing", "alone") == "alone")
def test_tasks_that_share_nothing_compute_what_they_compute_alone(case: Any, fresh: Fresh, data: dict[str, TaskData]):
    run = fresh(case.config, data)
    assert not run.method.group_shared()
    for task, together in zip(run.work.tasks, _outputs(run), strict=True):
        (alone,) = _outputs(fresh(case.config, {task: data[task]}))
        torch.testing.assert_close(together.logits_BK, alone.logits_BK, rtol=1e-5, atol=1e-5)


def test_the_backbone_neither_changes_nor_receives_a_gradient(
    case: Any, tiny_clip: FrozenCLIP, tiny_clip_dir: Path, trained: Any
):
    frozen = load_file(tiny_clip_dir / "open_clip_model.safetensors")
    held = [*tiny_clip.image._visual.named_parameters(prefix="visual"), *tiny_clip.text._owner.named_parameters()]
    assert held
    for name, parameter in held:
        assert parameter.grad is None and not parameter.requires_grad
        assert torch.equal(parameter, frozen[name]), f"{trained.run.work.method} changed {name}"


@only(lambda case: case.is_first)
def test_a_bundle_gives_the_logits_that_were_scored(
    case: Any, tiny_clip_dir: Path, data: dict[str, TaskData], trained: Any, tmp_path: Path
):
    write_bundle(
        tmp_path / "bundle",
        job="job-1",
        backbone=BackboneConfig(model=f"local-dir:{tiny_clip_dir}"),
        tasks=[
            BundleTask(t.name, t.class_names, t.template, "g1", t.fingerprint, num_train=len(t.train.labels))
            for t in data.values()
        ],
        groups=[BundleGroup("g1", tuple(data), case.config, trained.directory)],
        documents={},
        versions={},
    )
    bundle = load_bundle(tmp_path / "bundle")
    for name, task in data.items():
        images = [image.transpose(1, 2, 0) for image in task.test.images]
        logits = torch.from_numpy(bundle.classifier(name).logits(images))
        loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(task.test.labels))
        assert float(loss) == pytest.approx(trained.result.results[name].loss, abs=1e-5)
        correct = logits.argmax(dim=1).numpy() == task.test.labels
        assert correct.tolist() == trained.result.results[name].per_image


def test_tasks_of_other_kinds_train_and_score(
    case: Any, tiny_clip: FrozenCLIP, tasks: dict[str, TaskData], other_kinds: dict[str, TaskData], tmp_path: Path
):
    of_kind = {"classification": tasks["art"]} | other_kinds
    for kind in ("multi_label", "retrieval"):
        if kind not in case.config.kinds:
            with pytest.raises(ValueError, match=f"is of kind {kind}"):
                build_method(case.config, tiny_clip, _infos({kind: of_kind[kind]}), seed=0)
    one_class_list = len(case.small.tasks) == 2
    groups = [(kind,) for kind in case.kinds] if one_class_list else [case.kinds]
    for kinds in groups:
        data = {of_kind[kind].name: of_kind[kind] for kind in kinds}
        work = GroupWork("-".join(kinds), tuple(data), case.config, tmp_path / "-".join(kinds))
        result = train(tiny_clip, [work], data, ONE_STEP)[work.id]
        for found in result.results.values():
            assert np.isfinite(found.loss) and 0 <= found.score <= 1
        if case.config.trains and "multi_label" in kinds:
            assert "task.multi_label.logit_bias" in load_file(work.directory / LEARNED)


def _infos(data: Mapping[str, TaskData]) -> list[TaskInfo]:
    return [
        TaskInfo(task.name, task.class_names, task.template, task.kind, len(task.train.labels))
        for task in data.values()
    ]


def _batches(run: GroupRun) -> list[TaskBatch]:
    return [draw_batch(run.data[task], run.config, run.step) for task in run.work.tasks]


def _outputs(run: GroupRun) -> list[Outputs]:
    """What the loop's next step computes."""
    if run.method.config.feature_side:
        return cached_outputs(run.method, run.features, _batches(run))
    return joint_outputs(run._clip, [run.method], run._lists, _batches(run))


def _losses(run: GroupRun) -> list[torch.Tensor]:
    return [
        image_losses(run.data[batch.task].kind, output.logits_BK, torch.from_numpy(batch.labels)).mean()
        for output, batch in zip(_outputs(run), _batches(run), strict=True)
    ]


def _reached(run: GroupRun) -> set[str]:
    """Names of the learned tensors that the next step's loss gives a gradient that is more than rounding."""
    learned = run.method.learned()
    gradients = torch.autograd.grad(torch.stack(_losses(run)).sum(), list(learned.values()), allow_unused=True)
    return {
        name
        for name, gradient in zip(learned, gradients, strict=True)
        if gradient is not None and float(gradient.abs().max()) > 1e-9
    }


def _gradients(runs: list[GroupRun], outputs: list[Outputs], batches: list[TaskBatch]) -> dict[str, torch.Tensor]:
    learned = {f"{run.work.id} {name}": tensor for run in runs for name, tensor in run.method.learned().items()}
    losses = [
        image_losses("classification", output.logits_BK, torch.from_numpy(batch.labels)).mean()
        for output, batch in zip(outputs, batches, strict=True)
    ]
    gradients = torch.autograd.grad(torch.stack(losses).sum(), list(learned.values()), allow_unused=True)
    return {
        name: torch.zeros_like(tensor) if gradient is None else gradient
        for (name, tensor), gradient in zip(learned.items(), gradients, strict=True)
    }


def _assert_close(ours: Mapping[str, torch.Tensor], theirs: Mapping[str, torch.Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        scale = float(theirs[name].abs().max())
        assert float((tensor - theirs[name]).abs().max()) <= 1e-4 * scale + 1e-6, name


def _own_logits(method: Any, task: str) -> torch.Tensor:
    """Logits of features that have nothing to do with the towers: what the method itself adds to a task."""
    generator = torch.Generator().manual_seed(5)
    num_classes, width = max(len(method.infos[task].class_names), 2), method.clip.embed_dim
    images, texts = torch.randn(4, width, generator=generator), torch.randn(num_classes, width, generator=generator)
    return method.task_logits(task, images, texts)
