"""LoRA computed by hand: the formula put into a copied open_clip module, whose own forward is then the truth."""

from copy import deepcopy

import pytest
import torch

from workers.clip.frozen import FrozenCLIP
from workers.methods.build import build_method
from workers.methods.config import LoRAConfig, Sharing
from workers.methods.method import Method, TaskInfo

NAMES = ("art", "clipart")
TASKS = [TaskInfo(name, ("red", "green", "cornflower blue"), "a photo of a {}.") for name in NAMES]


def _stirred(clip: FrozenCLIP, config: LoRAConfig) -> Method:
    """The method at some point of its training: nothing in it is zero."""
    method = build_method(config, clip, TASKS, seed=0)
    generator = torch.Generator().manual_seed(1)
    method.load_state(
        {
            name: tensor.detach() + 0.1 * torch.randn(tensor.shape, generator=generator)
            for name, tensor in method.state().items()
        }
    )
    return method


@torch.no_grad()
def _add_updates(owner: torch.nn.Module, tower: str, method: Method, task: str, config: LoRAConfig) -> None:
    """W <- W + (alpha / r) B A on the packed rows of every block, and b <- b + offset."""
    named = dict(owner.named_parameters())
    for part in (method.group_shared(), method.task_specific(task)):
        for name, tensor in part.items():
            if not name.startswith(f"{tower}."):
                continue
            name = name.removeprefix(f"{tower}.")
            if name in named:
                named[name].add_(tensor)
            elif name.endswith(".up"):
                target = name.removesuffix(".up")
                down = part[f"{tower}.{target}.down"]
                first = {"query": 0, "key": 1, "value": 2}[target]
                for layer in range(len(tensor)):
                    weight = named[f"transformer.resblocks.{layer}.attn.in_proj_weight"]
                    width = weight.shape[1]
                    rows = weight[first * width : (first + 1) * width]
                    rows += config.alpha / config.rank * (tensor[layer] @ down[layer])


@pytest.mark.parametrize(
    ("settings", "sharing"),
    [
        ({"rank": 2, "alpha": 8}, "all"),
        ({"rank": 3}, "alone"),
        ({"rank": 2, "alpha": 5}, "grouped+task"),
        ({"rank": 1, "targets": ("value", "key", "query"), "biases": True}, "grouped+task"),
    ],
)
@pytest.mark.parametrize("plain", [False, True])
def test_features_are_those_of_open_clip_with_the_updates_in_its_weights(
    tiny_clip: FrozenCLIP, settings: dict, sharing: Sharing, plain: bool
):
    config = LoRAConfig(**settings, sharing=sharing)
    method = _stirred(tiny_clip, config)
    pixels = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    texts = tiny_clip.class_list(TASKS[0].class_names, TASKS[0].template)
    for task in NAMES:
        visual, owner = deepcopy(tiny_clip.image._visual), deepcopy(tiny_clip.text._owner)
        _add_updates(visual, "image", method, task, config)
        _add_updates(owner, "text", method, task, config)
        edits = method.edits([task])
        with torch.no_grad():
            images, (features,) = (
                tiny_clip.image(pixels, edits.image, plain=plain),
                tiny_clip.text([texts], edits.text, plain=plain),
            )
            torch.testing.assert_close(images, visual(pixels), rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(features, owner.encode_text(texts.ids_RL), rtol=1e-5, atol=1e-5)
            assert float((images - tiny_clip.image(pixels)).abs().max()) > 1e-2
            assert float((features - tiny_clip.text([texts])[0]).abs().max()) > 1e-2


def test_it_starts_with_b_zero_and_a_within_the_bound_of_a_linear_layer(tiny_clip: FrozenCLIP):
    method = build_method(LoRAConfig(rank=8), tiny_clip, TASKS, seed=0)
    for name, tensor in method.state().items():
        if name.endswith(".up"):
            assert not tensor.any()
        else:
            bound = tensor.shape[-1] ** -0.5
            assert 0.9 * bound < float(tensor.detach().abs().max()) <= bound
            assert float(tensor.detach().square().mean().sqrt()) == pytest.approx(bound / 3**0.5, rel=0.2)
