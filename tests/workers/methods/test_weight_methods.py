"""BitFit, LayerNorm tuning, full fine-tuning and LoRA: which tensors they train, and how those reach the towers."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from open_clip.model import CLIP, CustomTextCLIP

from workers.clip.config import BackboneConfig
from workers.clip.frozen import FrozenCLIP, freeze
from workers.clip.scratch import new_tokenizer
from workers.clip.shape import backbone_shape
from workers.data.dataset import TaskData
from workers.methods.build import build_method
from workers.methods.config import (
    BitFitConfig,
    FullFineTuningConfig,
    LayerNormConfig,
    LoRAConfig,
    MethodConfig,
    Sharing,
)
from workers.methods.method import TaskInfo
from workers.training.batches import draw_batch
from workers.training.config import TrainConfig, decide
from workers.training.distributed import Ranks
from workers.training.features import FeatureCache
from workers.training.forward import ClassLists, joint_outputs
from workers.training.run import GroupRun, GroupWork
from workers.training.train import train_step

TASKS = [TaskInfo(name, ("red", "green"), "a photo of a {}.") for name in ("art", "clipart")]
VISION: Any = {"image_size": 16, "patch_size": 4, "width": 32, "layers": 2, "head_width": 16}
TEXT: Any = {"context_length": 24, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2}


def _trained(clip: FrozenCLIP, config: MethodConfig) -> set[str]:
    return set(build_method(config, clip, TASKS, seed=0).group_shared())


@pytest.mark.parametrize(
    ("config", "count"),
    [
        (BitFitConfig(), 171_008),
        (BitFitConfig(layer_norms=False), 138_240),
        (LayerNormConfig(), 65_536),
        (FullFineTuningConfig(), 149_620_736),
        (LoRAConfig(), 245_760),
        (LoRAConfig(rank=8), 491_520),
        (LoRAConfig(rank=128), 7_864_320),
        (LoRAConfig(rank=8, targets=("query", "key", "value")), 737_280),
        (LoRAConfig(rank=8, biases=True), 491_520 + 171_008),
    ],
)
def test_parameter_counts_on_vit_b_16_are_those_of_the_papers(config: MethodConfig, count: int):
    assert config.one_set(backbone_shape("ViT-B-16-quickgelu"), 65) == count


@pytest.mark.parametrize("kind", [CLIP, CustomTextCLIP])
def test_full_fine_tuning_trains_every_tensor_but_the_temperature(kind: type):
    """Whether the text tower lies flat on the model, beside the image tower, or under `.text`."""
    torch.manual_seed(0)
    model = kind(16, VISION, TEXT, init_logit_bias=-10.0)
    held = {name.removeprefix("text.") for name, _ in model.named_parameters() if not name.startswith("visual.")}
    expected = {f"image.{name}" for name, _ in model.visual.named_parameters()}
    expected |= {f"text.{name}" for name in held - {"logit_scale", "logit_bias"}}
    clip = freeze(model, new_tokenizer(24), BackboneConfig(model="x", pretrained="none"))
    method = build_method(FullFineTuningConfig(), clip, TASKS, seed=0)
    assert set(method.group_shared()) == expected
    assert method.count_parameters()["total"] == clip.num_parameters - 2
    weights = {
        "image.class_embedding",
        "image.conv1.weight",
        "image.positional_embedding",
        "image.proj",
        "text.positional_embedding",
        "text.text_projection",
        "text.token_embedding.weight",
        "text.ln_final.bias",
        "text.transformer.resblocks.1.attn.in_proj_weight",
    }
    assert weights <= expected


def test_bitfit_trains_the_biases_and_layer_norm_tuning_the_layer_norms(tiny_clip: FrozenCLIP):
    every = _trained(tiny_clip, FullFineTuningConfig())
    biases, norms = _trained(tiny_clip, BitFitConfig()), _trained(tiny_clip, LayerNormConfig())
    assert biases == {name for name in every if name.endswith("bias")}
    assert norms == {name for name in every if name.split(".")[-2].startswith("ln_")}
    for tower, ends in (("image", ("ln_pre", "ln_post")), ("text", ("ln_final",))):
        for norm in ends:
            assert f"{tower}.{norm}.bias" in biases and f"{tower}.{norm}.weight" in norms
        for name in ("attn.in_proj_bias", "attn.out_proj.bias", "mlp.c_fc.bias", "mlp.c_proj.bias", "ln_2.bias"):
            assert f"{tower}.transformer.resblocks.1.{name}" in biases
    assert _trained(tiny_clip, BitFitConfig(layer_norms=False)) == biases - norms


@pytest.mark.parametrize("config", [BitFitConfig(), LayerNormConfig(), FullFineTuningConfig()])
@pytest.mark.parametrize("plain", [False, True])
def test_trained_copies_are_what_the_towers_compute_with(tiny_clip: FrozenCLIP, config: MethodConfig, plain: bool):
    """A copy of the model that holds the trained tensors itself gives the same features."""
    method = build_method(config, tiny_clip, TASKS, seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in method.parameters():
            tensor += 0.1 * torch.randn(tensor.shape, generator=generator)
    model = CLIP(16, VISION, TEXT).eval()
    model.load_state_dict(tiny_clip.text._owner.state_dict())
    named = dict(model.named_parameters())
    with torch.no_grad():
        for name, tensor in method.group_shared().items():
            named[name.removeprefix("text.").replace("image.", "visual.", 1)].copy_(tensor)
        edits = method.edits(("art",))
        pixels = torch.randn(3, 3, 16, 16, generator=generator)
        texts = tiny_clip.class_list(("red", "green", "cornflower blue"), "a photo of a {}.")
        images, (features,) = (
            tiny_clip.image(pixels, edits.image, plain=plain),
            tiny_clip.text([texts], edits.text, plain=plain),
        )
        torch.testing.assert_close(images, model.encode_image(pixels), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(features, model.encode_text(texts.ids_RL), rtol=1e-5, atol=1e-5)
        assert float((images - tiny_clip.image(pixels)).abs().max()) > 1e-2


def test_copies_share_no_memory_with_the_frozen_weights(tiny_clip: FrozenCLIP):
    method = build_method(FullFineTuningConfig(sharing="alone"), tiny_clip, TASKS, seed=0)
    held = [tensor.data_ptr() for tower in (tiny_clip.image, tiny_clip.text) for tensor in tower.parameters().values()]
    held += [tensor.data_ptr() for tensor in method.parameters()]
    assert len(held) == len(set(held)) == 3 * len(method.task_specific("art"))


@pytest.mark.parametrize(
    ("config", "passes"),
    [
        (BitFitConfig(), 1),
        (LoRAConfig(sharing="grouped"), 1),
        (LoRAConfig(sharing="alone"), 2),
        (LoRAConfig(sharing="grouped+task"), 2),
        (FullFineTuningConfig(sharing="alone"), 2),
    ],
)
def test_tasks_with_weights_of_their_own_pass_one_by_one(tiny_clip: FrozenCLIP, config: MethodConfig, passes: int):
    method = build_method(config, tiny_clip, TASKS, seed=0)
    assert method.batch_key is None and len(method.passes) == passes
    assert [task for tasks in method.passes for task in tasks] == ["art", "clipart"]


@pytest.mark.parametrize("config", [BitFitConfig(), LayerNormConfig(), FullFineTuningConfig()])
@pytest.mark.parametrize("sharing", ["grouped+task", "half"])
def test_a_sharing_that_no_paper_defines_is_refused_with_the_reason(config: MethodConfig, sharing: Sharing):
    with pytest.raises(
        ValueError, match=rf"{re.escape(sharing)} is not defined for {config.kind}: .* Use alone or all"
    ):
        type(config).model_validate({"sharing": sharing})


@pytest.mark.parametrize("targets", [(), ("query", "query")])
def test_lora_needs_each_target_once(targets: tuple[str, ...]):
    with pytest.raises(ValueError, match="must name at least one of query, key and value, each once"):
        LoRAConfig.model_validate({"targets": targets})


def test_weight_decay_is_the_methods_own_unless_a_job_gives_one():
    for config in (BitFitConfig(), LayerNormConfig()):
        assert decide(TrainConfig(), config).weight_decay == 0
        assert decide(TrainConfig(weight_decay=0.3), config).weight_decay == 0.3
    settings = decide(TrainConfig(), FullFineTuningConfig())
    assert (settings.optimizer, settings.lr, settings.weight_decay) == ("adamw", 1e-5, 0.1)


def _run(clip: FrozenCLIP, config: MethodConfig, tasks: dict[str, TaskData], **training: float) -> GroupRun:
    train_config = TrainConfig(max_steps=4, batch_size=4, warmup_epochs=0, augment=None, **training)  # type: ignore[arg-type]
    work = GroupWork("g1", tuple(tasks), config, Path("unused"))
    return GroupRun(clip, work, tasks, train_config, ClassLists(clip), FeatureCache(clip))


def test_biases_of_keys_have_no_gradient(tiny_clip: FrozenCLIP, tasks: dict[str, TaskData]):
    run = _run(tiny_clip, BitFitConfig(), tasks)
    packed = {name: tensor for name, tensor in run.method.group_shared().items() if name.endswith("in_proj_bias")}
    batches = [draw_batch(task, run.config, 0) for task in tasks.values()]
    outputs = joint_outputs(tiny_clip, [run.method], run._lists, batches)
    loss = torch.stack([output.logits_BK[:, 0].sum() for output in outputs]).sum()
    for gradient in torch.autograd.grad(loss, list(packed.values())):
        query, key, value = gradient.abs().chunk(3)
        assert float(key.max()) < 1e-4 * float(query.max()) < float(value.max())


def test_steps_too_small_for_bf16_add_up_in_the_fp32_copies(tiny_clip_bf16: FrozenCLIP, tasks: dict[str, TaskData]):
    run = _run(tiny_clip_bf16, FullFineTuningConfig(), tasks)
    weight = run.method.group_shared()["image.conv1.weight"]
    before = weight.detach().clone()
    for _ in range(3):
        train_step(tiny_clip_bf16, [run], run._lists, Ranks())
    moved = weight.detach() != before
    unseen = weight.detach().bfloat16() == before.bfloat16()
    assert weight.dtype == torch.float32 and moved.float().mean() > 0.9
    assert (moved & unseen).float().mean() > 0.5
