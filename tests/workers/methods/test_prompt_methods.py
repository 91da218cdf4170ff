"""What is particular to CoOp, VPT, independent prompts, MaPLe and zero-shot: counts, first values, refusals, and which
tower a step leaves alone."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch.nn import functional as F

from workers.clip.frozen import FrozenCLIP
from workers.clip.seam import Contexts, Edits
from workers.clip.shape import backbone_shape
from workers.data.dataset import TaskData
from workers.methods.build import build_method
from workers.methods.config import (
    CoOpConfig,
    MaPLeConfig,
    MethodConfig,
    MmAPConfig,
    VisionLanguagePromptsConfig,
    VPTConfig,
    ZeroShotConfig,
)
from workers.methods.method import TaskInfo
from workers.training.config import TrainConfig
from workers.training.distributed import Ranks
from workers.training.features import FeatureCache
from workers.training.forward import ClassLists
from workers.training.run import GroupRun, GroupWork
from workers.training.train import train, train_step

ART = TaskInfo("art", ("red", "green", "blue"), "a photo of a {}.")
PETS = TaskInfo("pets", ("cat", "dog"), "a photo of a {}.")
FOUND = TaskInfo("found", (), "{}", "retrieval")
CONFIG = TrainConfig(max_steps=3, batch_size=4, warmup_epochs=0, augment=None)


@pytest.mark.parametrize(
    ("config", "count"),
    [
        (CoOpConfig(), 8_192),
        (CoOpConfig(num_context_tokens=4), 2_048),
        (CoOpConfig(init_words="a photo of a"), 2_048),
        (CoOpConfig(class_specific=True), 532_480),
        (VPTConfig(), 73_728),
        (VPTConfig(deep=False), 6_144),
        (VPTConfig(num_tokens=4), 36_864),
        (VPTConfig(num_tokens=16), 147_456),
        (VisionLanguagePromptsConfig(), 30_720),
        (MaPLeConfig(), 3_555_072),
        (MmAPConfig(modality="text"), 4 + 12 * 512),
        (MmAPConfig(modality="vision"), 4 + 12 * 768),
        (ZeroShotConfig(), 0),
    ],
)
def test_parameter_counts_on_vit_b_16_are_the_published_ones(config: MethodConfig, count: int):
    assert config.one_set(backbone_shape("ViT-B-16-quickgelu"), 65) == count


@pytest.mark.parametrize(
    ("config", "lr"), [(CoOpConfig(), 0.002), (VPTConfig(), 0.0025), (MaPLeConfig(), 0.0035), (MmAPConfig(), 0.0035)]
)
def test_the_published_optimiser_is_the_default(config: MethodConfig, lr: float):
    assert tuple(config.defaults) == ("sgd", lr, 5e-4)


def test_context_starts_small_or_from_words(tiny_clip: FrozenCLIP):
    wide = build_method(CoOpConfig(num_context_tokens=64), tiny_clip, [ART], seed=0).task_specific("art")["context"]
    assert wide.shape == (64, 16) and 0.018 < float(wide.detach().std()) < 0.022
    from_words = CoOpConfig(init_words="a photo of a")
    context = build_method(from_words, tiny_clip, [ART], seed=0).task_specific("art")["context"]
    ids = tiny_clip.tokenize(["a photo of a"])[0, 1:5]
    assert torch.equal(context, tiny_clip.text._owner.token_embedding.weight[ids])
    each = from_words.model_copy(update={"class_specific": True})
    contexts = build_method(each, tiny_clip, [ART], seed=0).task_specific("art")["context"]
    assert torch.equal(contexts, context.expand(3, 4, 16))


def test_context_from_the_template_s_words_reads_like_the_template(tiny_clip: FrozenCLIP):
    method = build_method(CoOpConfig(init_words="a photo of a"), tiny_clip, [ART], seed=0)
    (with_context,) = tiny_clip.text([tiny_clip.class_list(ART.class_names, "{}.")], method.edits(["art"]).text)
    (plain,) = tiny_clip.text([tiny_clip.class_list(ART.class_names, ART.template)])
    torch.testing.assert_close(with_context, plain, rtol=1e-5, atol=1e-5)


def test_visual_prompts_start_in_the_published_range(tiny_clip: FrozenCLIP):
    prompts = build_method(VPTConfig(num_tokens=64), tiny_clip, [ART], seed=0).task_specific("art")["prompts"].detach()
    bound = (6 / (3 * 4**2 + 32)) ** 0.5
    assert prompts.shape == (2, 64, 32)
    assert 0.98 * bound < float(prompts.abs().max()) <= bound and abs(float(prompts.mean())) < 0.05 * bound
    small = build_method(VPTConfig(num_tokens=64, init="normal"), tiny_clip, [ART], seed=0).task_specific("art")
    assert 0.019 < float(small["prompts"].detach().std()) < 0.021


def test_maple_starts_from_words_and_with_like_couplers(tiny_clip: FrozenCLIP):
    deep = replace(tiny_clip, text=_Deeper(tiny_clip.text), image=_Deeper(tiny_clip.image))
    part = build_method(MaPLeConfig(), deep, [ART], seed=0).task_specific("art")
    words = tiny_clip.text.word_vectors(tiny_clip.tokenize(["a photo"])[0, 1:3])
    assert part["text"].shape == (9, 2, 16) and torch.equal(part["text"][0], words)
    for name in ("coupler_weight", "coupler_bias"):
        first, second, *others = part[name].detach()
        assert all(torch.equal(second, other) for other in others) and not torch.equal(first, second)
        assert float(part[name].detach().abs().max()) <= 16**-0.5
    without = build_method(MaPLeConfig(num_tokens=5), tiny_clip, [ART], seed=0).task_specific("art")["text"]
    assert float(without.detach().abs().max()) < 0.1


def test_the_published_sentence_of_maple_keeps_the_words_that_are_not_replaced(tiny_clip: FrozenCLIP):
    def templates(**settings: Any) -> list[str]:
        method = build_method(MaPLeConfig(**settings), tiny_clip, [ART, FOUND], seed=0)
        return [template for task in method.tasks for template in method.templates(task)]

    assert templates() == ["a photo of a {}.", "{}"]
    assert templates(keep_template=False) == ["of a {}.", "{}"]
    assert templates(keep_template=False, num_tokens=6) == ["{}.", "{}"]


@pytest.mark.parametrize("position", ["end", "middle", "front"])
def test_context_inside_a_sentence_is_the_same_over_the_cut_and_the_whole_length(tiny_clip: FrozenCLIP, position: Any):
    generator = torch.Generator().manual_seed(3)
    lists = [tiny_clip.class_list(("dog", "alarm clock"), "{}."), tiny_clip.class_list(("a red cat",), "{}.")]
    vectors = tuple(torch.randn(rows, 3, 16, generator=generator).requires_grad_() for rows in (1, 2))
    edits = Edits(contexts=Contexts(vectors, position))
    found = []
    for plain in (False, True):
        features = torch.cat(tiny_clip.text(lists, edits, [1, 0], plain=plain))
        found.append((features, *torch.autograd.grad(features.square().sum(), vectors)))
    for cut, whole in zip(*found, strict=True):
        torch.testing.assert_close(cut, whole, rtol=1e-5, atol=1e-5)


def test_like_contexts_of_all_classes_are_one_context(tiny_clip: FrozenCLIP):
    one = build_method(CoOpConfig(num_context_tokens=3), tiny_clip, [ART], seed=0)
    each = build_method(CoOpConfig(num_context_tokens=3, class_specific=True), tiny_clip, [ART], seed=0)
    context = one.task_specific("art")["context"].detach()
    each.load_state({"task.art.context": context.expand(3, 3, 16)})
    texts = [tiny_clip.class_list(ART.class_names, "{}.")]
    torch.testing.assert_close(
        tiny_clip.text(texts, one.edits(["art"]).text)[0],
        tiny_clip.text(texts, each.edits(["art"]).text)[0],
        rtol=1e-5,
        atol=1e-5,
    )


def test_a_step_of_vpt_runs_no_text_and_one_of_coop_no_image_backward(
    tiny_clip: FrozenCLIP, tasks: dict[str, TaskData]
):
    texts, images = _Counted(tiny_clip.text), _Counted(tiny_clip.image)
    clip = replace(tiny_clip, text=texts, image=images)
    _steps(clip, VPTConfig(num_tokens=2, sharing="grouped+task"), tasks)
    assert len(texts.outputs) == 2  # the two class lists, once
    assert not any(feature.requires_grad for features in texts.outputs for feature in features)
    assert images.outputs and all(features.requires_grad for features in images.outputs)
    texts.outputs.clear()
    images.outputs.clear()
    _steps(clip, CoOpConfig(num_context_tokens=2, sharing="grouped"), tasks)
    assert len(texts.outputs) == len(images.outputs) == 3
    assert [len(features) for features in texts.outputs] == [2, 2, 2]  # tasks with the same classes share theirs
    assert not any(features.requires_grad for features in images.outputs)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"kind": "coop", "num_context_tokens": 3, "init_words": "a photo of a"}, "has 4 words"),
        ({"kind": "coop", "init_words": "  "}, "holds no word"),
        ({"kind": "coop", "sharing": "half"}, "sharing=half is not defined for coop"),
        ({"kind": "vpt", "deep": False, "depth": 3}, "depth=3 is for deep prompts"),
        ({"kind": "maple", "num_tokens": 0}, "greater than or equal to 1"),
        ({"kind": "zero_shot", "templates": ("a photo",)}, "exactly once"),
    ],
)
def test_settings_that_contradict_themselves_are_refused(settings: dict[str, Any], reason: str):
    with pytest.raises(ValidationError, match=reason):
        TypeAdapter(MethodConfig).validate_python(settings)


@pytest.mark.parametrize(
    ("config", "infos", "reason"),
    [
        (VPTConfig(depth=3), [ART], "vpt: depth=3 exceeds the 2 layers that the image tower has"),
        (MaPLeConfig(depth=9), [ART], "maple: depth=9 exceeds the 2 layers that both towers have"),
        (VisionLanguagePromptsConfig(depth=4), [ART], "vl_prompts: depth=4 exceeds"),
        (CoOpConfig(init_words="a flipflops"), [ART], "'flipflops' is not one token"),
        (
            CoOpConfig(class_specific=True, sharing="all"),
            [ART, PETS],
            r"'art' has 3 classes \(red, green, blue\) and 'pets' has 2 classes \(cat, dog\)",
        ),
        (
            CoOpConfig(class_specific=True),
            [FOUND],
            "'found' is of kind retrieval, but it learns classification and multi_label only",
        ),
        (
            CoOpConfig(class_position="front"),
            [FOUND],
            "'found' is of kind retrieval, but it learns classification and multi_label only",
        ),
    ],
)
def test_what_does_not_fit_the_model_or_the_tasks_is_refused(
    tiny_clip: FrozenCLIP, config: MethodConfig, infos: list[TaskInfo], reason: str
):
    with pytest.raises(ValueError, match=reason):
        build_method(config, tiny_clip, infos, seed=0)


def test_context_that_leaves_no_room_for_a_class_name_is_refused(
    tiny_clip: FrozenCLIP, tasks: dict[str, TaskData], tmp_path: Path
):
    for position in ("end", "middle"):
        work = GroupWork("g1", ("art",), CoOpConfig(num_context_tokens=21, class_position=position), tmp_path)
        with pytest.raises(ValueError, match=r"takes 4 tokens and the prompts 21, but the text tower has 24 places"):
            train(tiny_clip, [work], tasks, CONFIG)


def test_every_setting_comes_back_from_its_json():
    for config in (CoOpConfig(init_words="a photo of a"), MaPLeConfig(depth=3), VPTConfig(deep=False)):
        assert TypeAdapter(MethodConfig).validate_json(config.model_dump_json()) == config


def test_several_templates_are_averaged_by_direction(tiny_clip: FrozenCLIP, tasks: dict[str, TaskData]):
    templates = ("a photo of a {}.", "a drawing of the {}.", "{}")
    run = _run(tiny_clip, ZeroShotConfig(templates=templates), tasks)
    for task, info in run.method.infos.items():
        features = [
            F.normalize(tiny_clip.text([tiny_clip.class_list(info.class_names, template)])[0], dim=-1)
            for template in templates
        ]
        mean = (features[0] + features[1] + features[2]) / 3
        torch.testing.assert_close(run.features[task].texts(), mean, rtol=1e-6, atol=1e-6)
        images = torch.randn(4, 16, generator=torch.Generator().manual_seed(0))
        expected = tiny_clip.logit_scale * F.normalize(images, dim=-1) @ F.normalize(mean, dim=-1).T
        torch.testing.assert_close(run.method.task_logits(task, images, mean), expected, rtol=1e-5, atol=1e-5)


def test_several_templates_leave_captions_alone(tiny_clip: FrozenCLIP):
    method = build_method(ZeroShotConfig(templates=("a {}.", "the {}.")), tiny_clip, [ART, FOUND], seed=0)
    assert method.templates("art") == ("a {}.", "the {}.") and method.templates("found") == ("{}",)


class _Deeper:
    """A tower that says it has twelve layers; only its sizes are asked for."""

    layers = 12

    def __init__(self, tower: Any):
        self._tower = tower

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tower, name)


class _Counted:
    """A tower that keeps what it returned."""

    def __init__(self, tower: Any):
        self._tower = tower
        self.outputs: list[Any] = []

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.outputs.append(self._tower(*args, **kwargs))
        return self.outputs[-1]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tower, name)


def _run(clip: FrozenCLIP, config: MethodConfig, data: dict[str, TaskData]) -> GroupRun:
    work = GroupWork("g1", tuple(data), config, Path("unused"))
    return GroupRun(clip, work, data, CONFIG, ClassLists(clip), FeatureCache(clip))


def _steps(clip: FrozenCLIP, config: MethodConfig, data: dict[str, TaskData]) -> None:
    run = _run(clip, config, data)
    for _ in range(3):
        train_step(clip, [run], run._lists, Ranks())
