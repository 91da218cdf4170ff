"""The loop's laws: who gets which gradient, what a resume gives, what several groups in one pass give."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from workers.clip.config import BackboneConfig
from workers.clip.frozen import FrozenCLIP, load_clip
from workers.data.dataset import TaskData
from workers.methods.config import MethodConfig, MmAPConfig, ZeroShotConfig
from workers.seals import Damaged
from workers.training.batches import draw_batch
from workers.training.config import AugmentConfig, PairwiseConfig, TrainConfig, can_split
from workers.training.features import FeatureCache
from workers.training.forward import ClassLists, joint_outputs
from workers.training.results import LEARNED, GroupResult, Progress
from workers.training.run import GroupRun, GroupWork
from workers.training.train import Stopped, train

MMAP = MmAPConfig(num_tokens=2, source_shape=(2, 4))
CONFIG = TrainConfig(max_steps=12, batch_size=4, lr=0.01, warmup_epochs=0, checkpoint_every=5, augment=AugmentConfig())


def _work(directory: Path, tasks: tuple[str, ...], method: MethodConfig = MMAP, name: str = "g1") -> GroupWork:
    return GroupWork(id=name, tasks=tasks, method=method, directory=directory / name)


def _learned(work: GroupWork) -> dict[str, torch.Tensor]:
    return load_file(work.directory / LEARNED)


def _largest_difference(a: Mapping[str, torch.Tensor], b: Mapping[str, torch.Tensor]) -> float:
    assert a.keys() == b.keys()
    return max(float((a[name] - b[name]).abs().max() / b[name].abs().max()) for name in a)


def test_training_lowers_the_loss_and_beats_zero_shot(
    tiny_clip: FrozenCLIP, tasks: dict[str, TaskData], tmp_path: Path
):
    config = CONFIG.model_copy(update={"max_steps": 100, "lr": 0.05, "optimizer": "adamw", "augment": None})
    names = tuple(tasks)
    trained = train(tiny_clip, [_work(tmp_path, names)], tasks, config)["g1"]
    zero_shot = train(tiny_clip, [_work(tmp_path, names, ZeroShotConfig(), "zero-shot")], tasks, config)["zero-shot"]
    assert zero_shot.steps == 0 and zero_shot.parameters["total"] == 0
    assert set(trained.results) == set(names)
    mean = sum(result.score for result in trained.results.values()) / len(names)
    assert mean > sum(result.score for result in zero_shot.results.values()) / len(names) + 0.1
    losses = [point["loss"] for point in trained.curves if point["task"] == "art" and "loss" in point]
    assert losses[-1] < 0.8 * losses[0]


def test_a_group_update_is_the_gradient_of_the_summed_loss(
    tiny_clip: FrozenCLIP, tasks: dict[str, TaskData], tmp_path: Path
):
    names = tuple(tasks)
    lists = ClassLists(tiny_clip)
    run = GroupRun(tiny_clip, _work(tmp_path, names), tasks, CONFIG, lists, FeatureCache(tiny_clip))
    accumulated: dict[str, torch.Tensor] = {}
    for task in names:  # the paper's wording: task by task, no step in between
        gradients = _gradients(tiny_clip, run, lists, [task])
        own = {name for name in gradients if name.startswith(f"task.{task}.") or name.startswith("shared.")}
        foreign = [gradients[name] for name in gradients if name not in own]
        assert all(gradient is None for gradient in foreign), "a task's part got a gradient from another task"
        for name in own:
            accumulated[name] = accumulated.get(name, torch.zeros(())) + gradients[name]
    together = _gradients(tiny_clip, run, lists, list(names))
    assert _largest_difference(dict(together.items()), accumulated) < 1e-5


def _gradients(clip: FrozenCLIP, run: GroupRun, lists: ClassLists, tasks: list[str]) -> dict[str, Any]:
    batches = [draw_batch(run.data[task], run.config, 0) for task in run.work.tasks]
    outputs = joint_outputs(clip, [run.method], lists, batches)
    losses = [
        torch.nn.functional.cross_entropy(output.logits_BK, torch.from_numpy(batch.labels))
        for output, batch in zip(outputs, batches, strict=True)
        if batch.task in tasks
    ]
    named = run.method.state()
    gradients = torch.autograd.grad(torch.stack(losses).sum(), list(named.values()), allow_unused=True)
    return {
        name: None if gradient is None or not gradient.any() else gradient
        for name, gradient in zip(named, gradients, strict=True)
    }


def test_mean_reduction_divides_the_group_gradient_only(
    tiny_clip: FrozenCLIP, tasks: dict[str, TaskData], tmp_path: Path
):
    learned = {}
    for reduce in ("sum", "mean"):
        method = MMAP.model_copy(update={"group_reduce": reduce})
        config = CONFIG.model_copy(update={"max_steps": 1, "weight_decay": 0.0})
        work = _work(tmp_path, tuple(tasks), method, reduce)
        start = GroupRun(tiny_clip, work, tasks, config, ClassLists(tiny_clip), FeatureCache(tiny_clip)).method.state()
        train(tiny_clip, [work], tasks, config)
        learned[reduce] = {name: tensor - start[name].detach() for name, tensor in _learned(work).items()}
    for name, moved in learned["sum"].items():
        factor = len(tasks) if name.startswith("shared.") else 1
        assert torch.allclose(moved, factor * learned["mean"][name], rtol=1e-3, atol=1e-8)


def test_killed_at_any_step_and_resumed_gives_the_same_bytes(
    tiny_clip: FrozenCLIP, tasks: dict[str, TaskData], tmp_path: Path
):
    whole = _work(tmp_path / "whole", tuple(tasks))
    train(tiny_clip, [whole], tasks, CONFIG)
    for killed_at in (1, 5, 7, 12):
        work = _work(tmp_path / f"killed-{killed_at}", tuple(tasks))
        with pytest.raises(KeyboardInterrupt):
            train(tiny_clip, [work], tasks, CONFIG, on_step=lambda run, at=killed_at: _kill(run, at))
        train(tiny_clip, [work], tasks, CONFIG)
        assert (work.directory / LEARNED).read_bytes() == (whole.directory / LEARNED).read_bytes()


def _kill(run: GroupRun, at: int) -> None:
    if run.step == at:
        raise KeyboardInterrupt  # like a kill: nothing is saved beyond the last periodic checkpoint


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_stopped_and_resumed_gives_the_same_bytes(
    tiny_clip: FrozenCLIP, tasks: dict[str, TaskData], tmp_path: Path, optimizer: str
):
    config = CONFIG.model_copy(update={"optimizer": optimizer})
    whole = _work(tmp_path / "whole", tuple(tasks))
    train(tiny_clip, [whole], tasks, config)
    stopped = _work(tmp_path / "stopped", tuple(tasks))
    steps = []
    with pytest.raises(Stopped):
        train(tiny_clip, [stopped], tasks, config, report=steps.append, should_stop=lambda: len(steps) > 4)
    assert not (stopped.directory / "result.json").exists()
    assert 0 < steps[-1].step < CONFIG.max_steps
    result = train(tiny_clip, [stopped], tasks, config)["g1"]
    assert (stopped.directory / LEARNED).read_bytes() == (whole.directory / LEARNED).read_bytes()
    assert GroupResult.read(stopped.directory) == result
    assert not list(stopped.directory.glob("step-*")), "checkpoints outlived the result"


def test_a_finished_group_is_not_trained_again(tiny_clip: FrozenCLIP, tasks: dict[str, TaskData], tmp_path: Path):
    work = _work(tmp_path, ("art",))
    first = train(tiny_clip, [work], tasks, CONFIG)
    seen = []
    again = train(tiny_clip, [work], tasks, CONFIG, report=seen.append)
    assert again == first and not seen


def test_a_damaged_checkpoint_is_passed_over_and_a_damaged_result_refused(
    tiny_clip: FrozenCLIP, tasks: dict[str, TaskData], tmp_path: Path
):
    whole, work = _work(tmp_path / "whole", ("art", "pets")), _work(tmp_path, ("art", "pets"))
    train(tiny_clip, [whole], tasks, CONFIG)
    with pytest.raises(KeyboardInterrupt):
        train(tiny_clip, [work], tasks, CONFIG, on_step=lambda run: _kill(run, 11))
    newest = sorted(work.directory.glob("step-*.safetensors"))[-1]
    newest.write_bytes(newest.read_bytes()[:-1] + b"x")
    told: list[Progress] = []
    train(tiny_clip, [work], tasks, CONFIG, report=told.append)
    (warning,) = [warning for progress in told for warning in progress.warnings]
    assert warning[0] == "checkpoint_corrupt" and "goes on from step 5, saved before it" in warning[1]
    assert (work.directory / LEARNED).read_bytes() == (whole.directory / LEARNED).read_bytes()
    (work.directory / LEARNED).write_bytes(b"broken")
    with pytest.raises(Damaged, match="is damaged"):
        GroupResult.read(work.directory)


def test_a_checkpoint_of_other_settings_is_refused(tiny_clip: FrozenCLIP, tasks: dict[str, TaskData], tmp_path: Path):
    work = _work(tmp_path, ("art",))
    with pytest.raises(KeyboardInterrupt):
        train(tiny_clip, [work], tasks, CONFIG, on_step=lambda run: _kill(run, 6))
    with pytest.raises(ValueError, match="written with other tasks, data or settings"):
        train(tiny_clip, [work], tasks, CONFIG.model_copy(update={"lr": 0.02}))


def test_several_groups_in_one_pass_equal_each_by_itself(
    tiny_clip: FrozenCLIP, tasks: dict[str, TaskData], tmp_path: Path
):
    shared = MMAP.model_copy(update={"sharing": "grouped"})

    def works(directory: Path) -> list[GroupWork]:
        return [
            _work(directory, ("art", "clipart"), name="g1"),
            _work(directory, ("pets",), name="g2"),
            _work(directory, ("art", "pets"), shared, name="g3"),
            _work(directory, tuple(tasks), ZeroShotConfig(), name="zero-shot"),
        ]

    together = train(tiny_clip, works(tmp_path / "together"), tasks, CONFIG)
    for work in works(tmp_path / "single"):
        alone = train(tiny_clip, [work], tasks, CONFIG)[work.id]
        assert together[work.id].tasks == alone.tasks and together[work.id].steps == alone.steps
        if work.id != "zero-shot":
            learned = load_file(tmp_path / "together" / work.id / LEARNED)
            assert _largest_difference(learned, _learned(work)) < 1e-4
        for task, result in alone.results.items():
            assert together[work.id].results[task].loss == pytest.approx(result.loss, rel=1e-4)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_low_precision_trains_without_nan_and_keeps_trainables_fp32(
    tiny_clip_dir: Path, tasks: dict[str, TaskData], tmp_path: Path, precision: str
):
    clip = load_clip(BackboneConfig.model_validate({"model": f"local-dir:{tiny_clip_dir}", "precision": precision}))
    work = _work(tmp_path, tuple(tasks))
    result = train(clip, [work], tasks, CONFIG)["g1"]
    assert all(tensor.dtype == torch.float32 and tensor.isfinite().all() for tensor in _learned(work).values())
    assert all(0 <= part.score <= 1 for part in result.results.values())


def test_a_loss_that_is_no_number_stops_with_task_step_and_learning_rate(
    tiny_clip: FrozenCLIP, tasks: dict[str, TaskData], tmp_path: Path
):
    config = CONFIG.model_copy(update={"lr": 1e12})
    with pytest.raises(
        ValueError, match=r"Task '\w+' in group 'g1': loss is (nan|inf) at step \d+ with learning rate 1e\+12"
    ):
        train(tiny_clip, [_work(tmp_path, tuple(tasks))], tasks, config)
    assert not (tmp_path / "g1" / "result.json").exists()


def test_prompts_that_leave_no_room_for_the_words_are_refused(
    tiny_clip: FrozenCLIP, tasks: dict[str, TaskData], tmp_path: Path
):
    crowded = MmAPConfig(num_tokens=10, source_shape=(1, 1))
    with pytest.raises(ValueError, match=r"prompts 20, but the text tower has 24 places"):
        train(tiny_clip, [_work(tmp_path, ("art",), crowded)], tasks, CONFIG)


def test_a_task_sees_every_image_once_per_pass_and_starts_over(tasks: dict[str, TaskData]):
    task = tasks["clipart"]
    seen = [image.tobytes() for step in range(9) for image in draw_batch(task, CONFIG, step).images]
    total = len(task.train.labels)
    for epoch in range(4):
        assert len(set(seen[epoch * total : (epoch + 1) * total])) == total
    assert len(draw_batch(tasks["pets"], TrainConfig(batch_size=64), 0).labels) == 5


def test_a_stop_in_the_middle_of_a_validation_loses_no_point(
    tiny_clip: FrozenCLIP, tasks: dict[str, TaskData], tmp_path: Path
):
    config = CONFIG.model_copy(update={"validations": 2})
    whole = train(tiny_clip, [_work(tmp_path / "whole", tuple(tasks))], tasks, config)["g1"]
    stopped = _work(tmp_path / "stopped", tuple(tasks))
    asked: list[int] = []

    def stop_inside_the_last_validation() -> bool:
        asked.append(1)
        return len(asked) == 2 * len(tasks) + 12  # 12 steps: every step and every validated task asks once

    with pytest.raises(Stopped):
        train(tiny_clip, [stopped], tasks, config, should_stop=stop_inside_the_last_validation)
    result = train(tiny_clip, [stopped], tasks, config)["g1"]
    assert result.curves == whole.curves
    assert [result.results[task].val_score for task in tasks] == [whole.results[task].val_score for task in tasks]


def test_a_run_that_diverges_at_its_last_step_is_refused(
    tiny_clip: FrozenCLIP, tasks: dict[str, TaskData], tmp_path: Path
):
    config = CONFIG.model_copy(update={"max_steps": 1, "lr": 1e30})
    with pytest.raises(ValueError, match=r"loss is (nan|inf) at step 1"):
        train(tiny_clip, [_work(tmp_path, tuple(tasks))], tasks, config)
    assert not (tmp_path / "g1" / "result.json").exists()


def test_ranks_split_a_batch_and_one_without_images_counts_for_nothing(tasks: dict[str, TaskData]):
    whole = draw_batch(tasks["pets"], CONFIG, 3)
    parts = [draw_batch(tasks["pets"], CONFIG, 3, rank=rank, world_size=6) for rank in range(6)]
    assert [part.weight for part in parts] == [1, 1, 1, 1, 0, 0]
    counted = [image.tobytes() for part in parts if part.weight for image in part.images]
    assert sorted(counted) == sorted(image.tobytes() for image in whole.images)
    assert all(len(part.labels) == 1 and part.global_count == 4 for part in parts)


@pytest.mark.parametrize("num_parts", [2, 3, 7])
def test_batches_in_parts_give_the_weights_of_whole_batches_up_to_rounding(
    tiny_clip: FrozenCLIP, tasks: dict[str, TaskData], tmp_path: Path, num_parts: int
):
    """Seven parts of four images: some parts of a task are empty, and count for nothing."""
    config = CONFIG.model_copy(update={"max_steps": 1, "lr": 10.0, "weight_decay": 0.0})
    groups = [("g1", tuple(tasks)[:2]), ("g2", tuple(tasks)[2:])]
    learned, curves, start = [], [], {}
    for parts in (1, num_parts):
        works = [_work(tmp_path / f"{parts}", names, name=name) for name, names in groups]
        for work in works:
            before = GroupRun(tiny_clip, work, tasks, config, ClassLists(tiny_clip), FeatureCache(tiny_clip)).method
            start |= {(work.id, name): tensor.detach().clone() for name, tensor in before.state().items()}
        results = train(tiny_clip, works, tasks, config, microbatches=parts)
        learned.append({(work.id, name): tensor for work in works for name, tensor in _learned(work).items()})
        curves.append([point["loss"] for work in works for point in results[work.id].curves if "loss" in point])
    whole, in_parts = learned
    for name, tensor in whole.items():
        taken = (tensor - start[name]).norm()
        assert (in_parts[name] - tensor).norm() <= 1e-4 * taken, name
    assert curves[1] == pytest.approx(curves[0], rel=1e-5)


def test_a_run_in_whole_batches_goes_on_in_parts_from_its_checkpoint(
    tiny_clip: FrozenCLIP, tasks: dict[str, TaskData], tmp_path: Path
):
    whole, work = (_work(tmp_path / name, tuple(tasks)) for name in ("whole", "parts"))
    train(tiny_clip, [whole], tasks, CONFIG)
    with pytest.raises(KeyboardInterrupt):
        train(tiny_clip, [work], tasks, CONFIG, on_step=lambda run: _kill(run, 7))
    steps = []
    train(tiny_clip, [work], tasks, CONFIG, on_step=lambda run: steps.append(run.step), microbatches=2)
    assert steps[0] == 5
    assert _largest_difference(_learned(work), _learned(whole)) < 1e-3


def test_a_loss_that_compares_the_images_of_a_batch_is_not_taken_in_parts(
    tiny_clip: FrozenCLIP, tasks: dict[str, TaskData], tmp_path: Path
):
    config = CONFIG.model_copy(update={"pairwise": PairwiseConfig()})
    assert not can_split(config, ["classification"]) and not can_split(CONFIG, ["classification", "retrieval"])
    with pytest.raises(ValueError, match="cannot be taken in parts"):
        train(tiny_clip, [_work(tmp_path, tuple(tasks))], tasks, config, microbatches=2)


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_a_number_that_is_none_stops_the_run_before_it_reaches_any_weight(
    tiny_clip: FrozenCLIP, tasks: dict[str, TaskData], tmp_path: Path, what: str
):
    sick, well = (_work(tmp_path, (task,), name=name) for name, task in zip(("g1", "g2"), tasks, strict=False))
    kept: dict[str, dict[str, torch.Tensor]] = {}

    def infect(run: GroupRun) -> None:
        if run.step == 7 and run.work.id == "g1":
            first = run.method.parameters()[0]
            if what == "loss":
                first.data.fill_(float("nan"))
            else:
                first.register_hook(lambda gradient: gradient * float("inf"))
        if run.step == 7:
            kept[run.work.id] = run.method.state()

    with pytest.raises(ValueError, match=f"'g1'.*{what}.* at step 7 with learning rate"):
        train(tiny_clip, [sick, well], tasks, CONFIG, on_step=infect)
    assert all(tensor.isfinite().all() for tensor in kept["g2"].values())
    for work in (sick, well):
        newest = load_file(max(work.directory.glob("step-*.safetensors")))
        assert newest and all(tensor.isfinite().all() for tensor in newest.values())
    train(tiny_clip, [well], tasks, CONFIG)
    assert GroupResult.read(well.directory) is not None
