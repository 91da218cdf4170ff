"""CAVL's Adapter I: what stands beside the towers, by hand, and what learns when."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from open_clip.transformer import ResidualAttentionBlock
from torch.nn import functional as F

from workers.clip.frozen import FrozenCLIP
from workers.clip.seam import Edits, Rows
from workers.clip.shape import backbone_shape
from workers.data.dataset import TaskData
from workers.methods.build import build_method
from workers.methods.config import ShortcutConfig
from workers.methods.method import Method, TaskInfo
from workers.training.batches import draw_batch
from workers.training.config import TrainConfig
from workers.training.distributed import Ranks
from workers.training.features import FeatureCache
from workers.training.forward import ClassLists, joint_outputs
from workers.training.run import GroupRun, GroupWork
from workers.training.train import train_step

NAMES = ("dog", "a very long class name indeed")
TASKS = [TaskInfo(name, NAMES, "a photo of a {}.") for name in ("art", "clipart")]


def _stirred(clip: FrozenCLIP, config: ShortcutConfig) -> Method:
    method = build_method(config, clip, TASKS, seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in method.parameters():
            tensor += 0.1 * torch.randn(tensor.shape, generator=generator)
    return method


@pytest.mark.parametrize(
    ("lite", "count"),
    [
        (False, 7_087_872 + 3_152_384 + 2 * (2 * 512**2 + 512)),
        (True, 2 * (768 * 96 + 512 * 64) + 2 * (2 * 512**2 + 512)),
    ],
)
def test_parameter_counts_on_vit_b_16(lite: bool, count: int):
    assert ShortcutConfig(lite=lite).one_set(backbone_shape("ViT-B-16-quickgelu"), 65) == count


@torch.no_grad()
def test_features_by_hand_from_open_clips_own_block(tiny_clip: FrozenCLIP):
    method = _stirred(tiny_clip, ShortcutConfig())
    edits, part = method.edits(("art",)), method.group_shared()
    visual, owner = tiny_clip.image._visual, tiny_clip.text._owner
    blocks = {}
    for tower, module in (("image", visual), ("text", owner)):
        width, heads = module.transformer.width, module.transformer.resblocks[0].attn.num_heads
        blocks[tower] = ResidualAttentionBlock(width, heads).eval()
        named = {name.removeprefix(f"{tower}."): tensor for name, tensor in part.items() if name.startswith(tower)}
        named = {name.replace("in_proj.", "in_proj_"): tensor for name, tensor in named.items() if "output" not in name}
        blocks[tower].load_state_dict(named)

    def fused(tower: str, features: torch.Tensor, beside: torch.Tensor) -> torch.Tensor:
        both = torch.cat([features, beside], dim=1)
        return F.linear(both, part[f"{tower}.output.weight"], part[f"{tower}.output.bias"])

    pixels = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    beside = visual._pool(blocks["image"](visual._embeds(pixels)))[0] @ visual.proj
    expected = fused("image", visual(pixels), beside)
    torch.testing.assert_close(tiny_clip.image(pixels, edits.image), expected, rtol=1e-5, atol=1e-5)

    texts = tiny_clip.class_list(NAMES, "a photo of a {}.")
    x = owner.token_embedding(texts.ids_RL) + owner.positional_embedding
    x = owner.ln_final(blocks["text"](x, attn_mask=owner.attn_mask))
    beside = x[torch.arange(len(x)), texts.ids_RL.argmax(dim=-1)] @ owner.text_projection
    expected = fused("text", owner.encode_text(texts.ids_RL), beside)
    torch.testing.assert_close(tiny_clip.text([texts], edits.text)[0], expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("lite", [False, True])
def test_a_sentence_does_not_see_what_stands_after_its_end(tiny_clip: FrozenCLIP, lite: bool):
    text = _stirred(tiny_clip, ShortcutConfig(lite=lite)).edits(("art",)).text
    (alone,) = tiny_clip.text([tiny_clip.class_list(NAMES[:1], "a photo of a {}.")], text)
    beside = tiny_clip.text([tiny_clip.class_list(NAMES, "a photo of a {}.")], text)[0]
    torch.testing.assert_close(beside[:1], alone, rtol=1e-5, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("lite", [False, True])
def test_the_block_tells_images_and_sentences_apart(tiny_clip: FrozenCLIP, lite: bool):
    """CLS at the input is the same for every image, and the end token for every sentence of one length."""
    edits = build_method(ShortcutConfig(lite=lite), tiny_clip, TASKS, seed=0).edits(("art",))
    assert edits.image.side is not None and edits.text.side is not None
    rows = Rows.of([(0, 2)], tiny_clip.device)
    x = tiny_clip.image._embed(torch.randn(2, 3, 16, 16), edits.image)
    assert torch.equal(x[0, 0], x[1, 0])
    beside = edits.image.side.block(x, None, rows)[:, 0]
    assert float((beside[0] - beside[1]).abs().max()) > 1e-4
    texts = tiny_clip.class_list(("dog", "cat"), "a photo of a {}.")
    x, mask, end_R = tiny_clip.text._sentences([texts], edits.text, [0], whole=False)
    beside = edits.text.side.block(x, mask, rows)[[0, 1], end_R]
    assert float((beside[0] - beside[1]).abs().max()) > 1e-4


@pytest.mark.parametrize("lite", [False, True])
def test_output_blocks_learn_at_once_and_all_the_rest_after_one_step(
    tiny_clip: FrozenCLIP, tasks: dict[str, TaskData], lite: bool
):
    config = TrainConfig(max_steps=4, batch_size=4, warmup_epochs=0, augment=None)
    work = GroupWork("g1", tuple(tasks), ShortcutConfig(lite=lite), Path("unused"))
    run = GroupRun(tiny_clip, work, tasks, config, ClassLists(tiny_clip), FeatureCache(tiny_clip))
    learned = run.method.group_shared()
    assert _with_gradient(tiny_clip, run) == {name for name in learned if ".output." in name}
    train_step(tiny_clip, [run], run._lists, Ranks())
    assert _with_gradient(tiny_clip, run) == set(learned)


def _with_gradient(clip: FrozenCLIP, run: GroupRun) -> set[str]:
    batches = [draw_batch(task, run.config, run.step) for task in run.data.values()]
    outputs = joint_outputs(clip, [run.method], run._lists, batches)
    losses = [
        F.cross_entropy(out.logits_BK, torch.from_numpy(batch.labels))
        for out, batch in zip(outputs, batches, strict=True)
    ]
    learned = run.method.group_shared()
    gradients = torch.autograd.grad(torch.stack(losses).sum(), list(learned.values()))
    return {name for name, gradient in zip(learned, gradients, strict=True) if float(gradient.abs().max()) > 1e-7}


def test_no_gradient_passes_through_the_towers(tiny_clip: FrozenCLIP):
    edits = build_method(ShortcutConfig(), tiny_clip, TASKS, seed=0).edits(("art",))
    seen: list[tuple[bool, bool]] = []

    def watched(tower: Edits) -> Edits:
        assert tower.side is not None
        own = tower.side.fuse

        def fuse(features: torch.Tensor, beside: torch.Tensor, rows: Rows) -> torch.Tensor:
            seen.append((features.requires_grad, beside.requires_grad))
            return own(features, beside, rows)

        return replace(tower, side=replace(tower.side, fuse=fuse))

    tiny_clip.image(torch.randn(2, 3, 16, 16), watched(edits.image))
    tiny_clip.text([tiny_clip.class_list(NAMES, "a photo of a {}.")], watched(edits.text))
    assert seen == [(False, True), (False, True)]
