"""The adapter's and Compacter's forward passes, written out from their formulas on the bare open_clip model."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch

from workers.clip.frozen import FrozenCLIP
from workers.methods.build import build_method
from workers.methods.config import AdapterConfig, CAVLAdapterConfig, CompacterConfig, MethodConfig
from workers.methods.method import Method, TaskInfo

NAMES = ("red", "blue", "green")
TASK = TaskInfo("art", NAMES, "a photo of a {}.")
PLACES = ("attn", "mlp")

Adapter = Callable[[str, int, int, torch.Tensor], torch.Tensor]
"""tower, layer, place (0 or 1), output of the branch -> what is added to the residual stream"""


@pytest.fixture(scope="module")
def model(tiny_clip_dir: Path) -> Any:
    """open_clip's own model, with nothing of ours around it."""
    return open_clip.create_model(f"local-dir:{tiny_clip_dir}").eval().requires_grad_(False)


def test_the_adapter_is_its_formula(model: Any, tiny_clip: FrozenCLIP):
    method = _filled(AdapterConfig(reduction=4), tiny_clip)
    _assert_features(model, tiny_clip, method, _plain(method.group_shared()))


def test_cavls_adapter_is_the_same_formula(model: Any, tiny_clip: FrozenCLIP):
    method = _filled(CAVLAdapterConfig(reduction=4), tiny_clip)
    _assert_features(model, tiny_clip, method, _plain(method.group_shared()))


def test_half_shared_adapters_are_the_formula_of_the_two_halves(model: Any, tiny_clip: FrozenCLIP):
    method = _filled(AdapterConfig(reduction=4, sharing="half"), tiny_clip)
    _assert_features(model, tiny_clip, method, _plain(method.group_shared() | method.task_specific("art")))


def test_the_groups_and_the_tasks_adapter_add_their_updates(model: Any, tiny_clip: FrozenCLIP):
    method = _filled(AdapterConfig(reduction=4, sharing="grouped+task"), tiny_clip)
    group, own = _plain(method.group_shared()), _plain(method.task_specific("art"))

    def adapter(tower: str, layer: int, place: int, h: torch.Tensor) -> torch.Tensor:
        return group(tower, layer, place, h) + own(tower, layer, place, h) - h

    _assert_features(model, tiny_clip, method, adapter)


def test_compacter_is_its_formula_with_shared_rules_and_rank_one(model: Any, tiny_clip: FrozenCLIP):
    method = _filled(CompacterConfig(reduction=4, num_terms=4), tiny_clip)
    learned = method.group_shared()

    def weight(name: str, tower: str, at: int) -> torch.Tensor:
        left, right = learned[f"{name}_left_{tower}"][at], learned[f"{name}_right_{tower}"][at]
        products = [torch.kron(learned["rule"][i], torch.outer(left[i, :, 0], right[i, 0])) for i in range(4)]
        return torch.stack(products).sum(dim=0)

    _assert_features(model, tiny_clip, method, _kronecker_adapter(learned, weight))


def test_compacter_is_its_formula_with_rules_of_its_own_and_full_factors(model: Any, tiny_clip: FrozenCLIP):
    config = CompacterConfig(reduction=4, num_terms=2, rank=None, share_rule=False)
    method = _filled(config, tiny_clip)
    learned = method.group_shared()

    def weight(name: str, tower: str, at: int) -> torch.Tensor:
        rules, factors = learned[f"{name}_rule_{tower}"][at], learned[f"{name}_full_{tower}"][at]
        return torch.kron(rules[0], factors[0]) + torch.kron(rules[1], factors[1])

    _assert_features(model, tiny_clip, method, _kronecker_adapter(learned, weight))


def _plain(learned: Mapping[str, torch.Tensor]) -> Adapter:
    def adapter(tower: str, layer: int, place: int, h: torch.Tensor) -> torch.Tensor:
        at = 2 * layer + place
        hidden = _gelu_new(h @ learned[f"down_{tower}"][at].T + learned[f"down_bias_{tower}"][at])
        return h + hidden @ learned[f"up_{tower}"][at].T + learned[f"up_bias_{tower}"][at]

    return adapter


def _kronecker_adapter(learned: Mapping[str, torch.Tensor], weight: Callable[[str, str, int], torch.Tensor]) -> Adapter:
    def adapter(tower: str, layer: int, place: int, h: torch.Tensor) -> torch.Tensor:
        at = 2 * layer + place
        hidden = _gelu_new(h @ weight("down", tower, at) + learned[f"down_bias_{tower}"][at])
        return h + hidden @ weight("up", tower, at) + learned[f"up_bias_{tower}"][at]

    return adapter


def _gelu_new(x: torch.Tensor) -> torch.Tensor:
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def _filled(config: MethodConfig, clip: FrozenCLIP) -> Method:
    """A method whose every learned number is drawn: no zero hides a mistake."""
    method = build_method(config, clip, [TASK], seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in method.parameters():
            tensor.copy_(0.3 * torch.randn(tensor.shape, generator=generator))
    return method


@torch.no_grad()
def _assert_features(model: Any, clip: FrozenCLIP, method: Method, adapter: Adapter) -> None:
    pixels = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    edits = method.edits(("art",))
    images = clip.image(pixels, edits.image)
    (texts,) = clip.text([clip.class_list(NAMES, TASK.template)], edits.text)
    expected_images, expected_texts = _image_features(model, pixels, adapter), _text_features(model, adapter)
    torch.testing.assert_close(images, expected_images, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(texts, expected_texts, rtol=1e-5, atol=1e-5)
    assert float((expected_images - model.encode_image(pixels)).abs().max()) > 0.01


def _image_features(model: Any, pixels: torch.Tensor, adapter: Adapter) -> torch.Tensor:
    visual = model.visual
    patches = visual.conv1(pixels).flatten(2).transpose(1, 2)
    x = torch.cat([visual.class_embedding.expand(len(pixels), 1, -1), patches], dim=1) + visual.positional_embedding
    x = _blocks(visual.transformer, visual.ln_pre(x), None, "image", adapter)
    return visual.ln_post(x[:, 0]) @ visual.proj


def _text_features(model: Any, adapter: Adapter) -> torch.Tensor:
    ids = open_clip.tokenize([TASK.template.format(name) for name in NAMES], context_length=24)
    x = model.token_embedding(ids) + model.positional_embedding
    x = model.ln_final(_blocks(model.transformer, x, model.attn_mask, "text", adapter))
    return x[torch.arange(len(ids)), ids.argmax(dim=1)] @ model.text_projection


def _blocks(transformer: Any, x: torch.Tensor, mask: torch.Tensor | None, tower: str, adapter: Adapter) -> torch.Tensor:
    for layer, block in enumerate(transformer.resblocks):
        normed = block.ln_1(x)
        attended = block.attn(normed, normed, normed, need_weights=False, attn_mask=mask)[0]
        x = x + adapter(tower, layer, 0, attended)
        x = x + adapter(tower, layer, 1, block.mlp(block.ln_2(x)))
    return x
