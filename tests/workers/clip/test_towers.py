"""The towers' laws: open_clip's features to the bit where nothing is plugged in, and the fast path equal to the
plain one."""

import pytest
import torch

from workers.clip.frozen import FrozenCLIP
from workers.clip.seam import Edits, Rows

NAMES_A = ["alarm clock", "flipflops", "a very long class name indeed", "dog"]
NAMES_B = ["cat", "dog"]
TEMPLATE = "a photo of a {}."


def _model(clip: FrozenCLIP) -> tuple:
    return clip.image._visual, clip.text._owner


def _pixels(clip: FrozenCLIP, num: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(num, 3, clip.resize.size, clip.resize.size, generator=generator)


def _prompts(width: int, *, copies: int, depth: int, tokens: int = 3, seed: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (0.2 * torch.randn(copies, depth, tokens, width, generator=generator)).requires_grad_()


def _relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).detach().abs().max() / b.detach().abs().max())


def test_nothing_plugged_in_is_open_clip_to_the_bit(tiny_clip: FrozenCLIP):
    visual, owner = _model(tiny_clip)
    pixels, texts = _pixels(tiny_clip), tiny_clip.class_list(NAMES_A, TEMPLATE)
    assert torch.equal(tiny_clip.image(pixels, plain=True), visual(pixels))
    assert torch.equal(tiny_clip.text([texts], plain=True)[0], owner.encode_text(texts.ids_RL))


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_fast_image_path_equals_plain_values_and_gradients(tiny_clip: FrozenCLIP, depth: int):
    pixels, rows = _pixels(tiny_clip), Rows.of([(1, 1), (0, 1), (1, 1)], tiny_clip.device)
    results = []
    for plain in (True, False):
        prompts = _prompts(tiny_clip.image.width, copies=2, depth=depth) if depth else None
        features = tiny_clip.image(pixels, Edits(prompts), rows, plain=plain)
        gradient = torch.autograd.grad(features.square().sum(), prompts)[0] if prompts is not None else torch.ones(1)
        results.append((features, gradient))
    assert _relative(results[1][0], results[0][0]) < 1e-5
    assert _relative(results[1][1], results[0][1]) < 1e-5


@pytest.mark.parametrize("depth", [0, 1, 2])
@pytest.mark.parametrize("templates", [(TEMPLATE, TEMPLATE), (TEMPLATE, "{}")])
def test_fast_text_path_equals_plain_values_and_gradients(
    tiny_clip: FrozenCLIP, depth: int, templates: tuple[str, str]
):
    lists = [
        tiny_clip.class_list(NAMES_A, templates[0]),
        tiny_clip.class_list(NAMES_B, templates[1]),
    ]
    results = []
    for plain in (True, False):
        prompts = _prompts(tiny_clip.text.width, copies=2, depth=depth) if depth else None
        features = torch.cat(tiny_clip.text(lists, Edits(prompts), [1, 0], plain=plain))
        weights = torch.linspace(-1, 1, features.numel()).view_as(features)
        gradient = torch.autograd.grad((features * weights).sum(), prompts)[0] if prompts is not None else torch.ones(1)
        results.append((features, gradient))
    assert _relative(results[1][0], results[0][0]) < 1e-5
    assert _relative(results[1][1], results[0][1]) < 1e-5


def test_branch_functions_and_overrides_are_the_same_on_both_paths(
    tiny_clip: FrozenCLIP,
):
    scale_C = torch.tensor([0.5, 2.0])

    def branch(layer: int, name: str, output: torch.Tensor, rows: Rows) -> torch.Tensor:
        return output * scale_C[rows.index_B].view(-1, 1, 1) + (0.1 * layer if name == "mlp" else 0.0)

    width = tiny_clip.image.width
    image = Edits(
        _prompts(width, copies=2, depth=2),
        branch,
        {
            "transformer.resblocks.1.ln_1.weight": torch.full((width,), 1.5),
            "transformer.resblocks.0.attn.in_proj_bias": torch.linspace(-1, 1, 3 * width),
            "ln_pre.bias": torch.full((width,), 0.3),
            "ln_post.bias": torch.full((width,), 0.2),
        },
    )
    pixels, rows = _pixels(tiny_clip), Rows.of([(0, 1), (1, 2)], tiny_clip.device)
    fast, plain = (
        tiny_clip.image(pixels, image, rows),
        tiny_clip.image(pixels, image, rows, plain=True),
    )
    assert _relative(fast, plain) < 1e-5
    assert _relative(fast, tiny_clip.image(pixels)) > 1e-2
    width = tiny_clip.text.width
    text = Edits(
        _prompts(width, copies=2, depth=1),
        branch,
        {
            "transformer.resblocks.1.mlp.c_fc.bias": torch.ones(4 * width),
            "ln_final.weight": torch.full((width,), 0.7),
        },
    )
    lists = [
        tiny_clip.class_list(NAMES_A, TEMPLATE),
        tiny_clip.class_list(NAMES_B, TEMPLATE),
    ]
    fast = torch.cat(tiny_clip.text(lists, text, [0, 1]))
    plain = torch.cat(tiny_clip.text(lists, text, [0, 1], plain=True))
    assert _relative(fast, plain) < 1e-5


def test_prompt_place_in_the_image_tower_does_not_matter(tiny_clip: FrozenCLIP):
    visual, _ = _model(tiny_clip)
    pixels, prompts = (
        _pixels(tiny_clip),
        _prompts(tiny_clip.image.width, copies=1, depth=2),
    )
    length = (tiny_clip.resize.size // 4) ** 2 + 1
    x = visual._embeds(pixels)
    for layer, block in enumerate(visual.transformer.resblocks):  # prompts at the end instead of after CLS
        x = block(torch.cat([x[:, :length], prompts[0, layer].expand(len(x), -1, -1)], dim=1))
    at_the_end = visual._pool(x[:, :length])[0] @ visual.proj
    after_cls = tiny_clip.image(pixels, Edits(prompts), plain=True)
    assert _relative(after_cls, at_the_end) < 1e-5


def test_backbone_parameters_never_receive_a_gradient(tiny_clip: FrozenCLIP):
    prompts = _prompts(tiny_clip.image.width, copies=1, depth=2)
    texts = [tiny_clip.class_list(NAMES_B, TEMPLATE)]
    text_prompts = _prompts(tiny_clip.text.width, copies=1, depth=2)
    loss = (
        tiny_clip.image(_pixels(tiny_clip), Edits(prompts)).sum() + tiny_clip.text(texts, Edits(text_prompts))[0].sum()
    )
    loss.backward()
    for module in _model(tiny_clip):
        assert all(parameter.grad is None and not parameter.requires_grad for parameter in module.parameters())
    assert prompts.grad is not None and text_prompts.grad is not None


def test_a_class_sentence_that_does_not_fit_is_refused(tiny_clip: FrozenCLIP):
    with pytest.raises(ValueError, match="20 fit beside the prompts"):
        tiny_clip.class_list(["word " * 30, "dog"], TEMPLATE, num_prompt_tokens=4)


def test_classes_that_read_the_same_to_the_model_are_refused(tiny_clip: FrozenCLIP):
    long = "word " * 25
    with pytest.raises(ValueError, match="24 fit beside the prompts"):
        tiny_clip.class_list([long + "cat", long + "dog"], "{}")
    with pytest.raises(ValueError, match="are the same to the tokenizer"):
        tiny_clip.class_list(["salt & pepper", "salt &amp; pepper"], TEMPLATE)
