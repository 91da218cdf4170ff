"""CoOp, MaPLe and VPT against forward passes written out from the papers' formulas, on the weights of open_clip's own
module; nothing of ours computes the expected values."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from torch.nn import functional as F

from workers.clip.frozen import FrozenCLIP
from workers.clip.seam import Rows
from workers.methods.build import build_method
from workers.methods.config import (
    CoOpConfig,
    MaPLeConfig,
    MethodConfig,
    Sharing,
    VisionLanguagePromptsConfig,
    VPTConfig,
)
from workers.methods.method import Method, TaskInfo

NAMES = ("alarm clock", "dog", "flipflops")
TASKS = [TaskInfo("art", NAMES, "a photo of a {}."), TaskInfo("pets", ("cat", "dog"), "a {}.")]
TOLERANCE = 1e-5


class Reference:
    """A CLIP's two transformers as the papers write them: pre-norm blocks of attention and a GELU perceptron."""

    def __init__(self, folder: Path):
        model = open_clip.create_model(f"local-dir:{folder}")
        self.w = {name: value.detach() for name, value in model.state_dict().items()}
        self.heads = {"transformer": 2, "visual.transformer": 2}
        self.tokenize = open_clip.get_tokenizer(f"local-dir:{folder}")
        self.scale = float(self.w["logit_scale"].exp())

    def norm(self, name: str, x: torch.Tensor) -> torch.Tensor:
        centred = x - x.mean(-1, keepdim=True)
        spread = (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        return centred / spread * self.w[f"{name}.weight"] + self.w[f"{name}.bias"]

    def linear(self, name: str, x: torch.Tensor) -> torch.Tensor:
        return x @ self.w[f"{name}.weight"].T + self.w[f"{name}.bias"]

    def block(self, tower: str, layer: int, x: torch.Tensor, *, causal: bool) -> torch.Tensor:
        name, (length, width) = f"{tower}.resblocks.{layer}", x.shape
        heads = self.heads[tower]
        packed = self.norm(f"{name}.ln_1", x) @ self.w[f"{name}.attn.in_proj_weight"].T
        q, k, v = (packed + self.w[f"{name}.attn.in_proj_bias"]).split(width, dim=-1)
        mixed = torch.zeros(length, width)
        for head in range(heads):
            columns = slice(head * width // heads, (head + 1) * width // heads)
            scores = q[:, columns] @ k[:, columns].T / (width // heads) ** 0.5
            if causal:
                scores = scores.masked_fill(torch.ones(length, length).triu(1).bool(), float("-inf"))
            mixed[:, columns] = scores.softmax(-1) @ v[:, columns]
        x = x + self.linear(f"{name}.attn.out_proj", mixed)
        hidden = F.gelu(self.linear(f"{name}.mlp.c_fc", self.norm(f"{name}.ln_2", x)))
        return x + self.linear(f"{name}.mlp.c_proj", hidden)

    def words(self, text: str) -> torch.Tensor:
        """Embeddings of a text's own tokens, without start and end."""
        ids = self.tokenize([text])[0]
        return self.w["token_embedding.weight"][ids[1 : int(ids.argmax())]]

    def text(self, *middle: torch.Tensor, deeper: Sequence[torch.Tensor] = ()) -> torch.Tensor:
        """The feature of start, the given vectors and end; from layer 2 on `deeper` replaces what follows the start."""
        ids = self.tokenize(["x"])[0]
        start, end = self.w["token_embedding.weight"][ids[:1]], self.w["token_embedding.weight"][ids[2:3]]
        x = torch.cat([start, *middle, end])
        x = x + self.w["positional_embedding"][: len(x)]
        for layer in range(2):
            if layer and layer <= len(deeper):
                x = torch.cat([x[:1], deeper[layer - 1], x[1 + len(deeper[layer - 1]) :]])
            x = self.block("transformer", layer, x, causal=True)
        return self.norm("ln_final", x[-1]) @ self.w["text_projection"]

    def image(self, pixels: torch.Tensor, prompts: Sequence[torch.Tensor] = (), *, early: bool = False) -> torch.Tensor:
        """The feature of one image [3, H, W], with `prompts[k]` beside the patches in layer k; `early` puts the first
        before the first LayerNorm."""
        kernel = self.w["visual.conv1.weight"]
        patches = F.unfold(pixels[None], kernel.shape[-1], stride=kernel.shape[-1])[0].T @ kernel.flatten(1).T
        x = torch.cat([self.w["visual.class_embedding"][None], patches]) + self.w["visual.positional_embedding"]
        length = len(x)
        if early:
            x = torch.cat([x, prompts[0]])
        x = self.norm("visual.ln_pre", x)
        for layer in range(2):
            if layer < len(prompts) and not (early and layer == 0):
                x = torch.cat([x[:length], prompts[layer]])
            x = self.block("visual.transformer", layer, x, causal=False)
        return self.norm("visual.ln_post", x[0]) @ self.w["visual.proj"]

    def logits(self, images: list[torch.Tensor], texts: list[torch.Tensor]) -> torch.Tensor:
        unit = [torch.stack([each / each.norm() for each in part]) for part in (images, texts)]
        return self.scale * unit[0] @ unit[1].T


@pytest.fixture(scope="module")
def reference(tiny_clip_dir: Path) -> Reference:
    return Reference(tiny_clip_dir)


@pytest.fixture(scope="module")
def pixels() -> torch.Tensor:
    return torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(4))


def _method(clip: FrozenCLIP, config: MethodConfig, tasks: list[TaskInfo] = TASKS) -> Method:
    """Built, and moved a little from its start, so that nothing hides behind a zero or a copy."""
    method = build_method(config, clip, tasks, seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for tensor in method.learned().values():
            tensor += 0.3 * torch.randn(tensor.shape, generator=generator)
    return method


def _logits(clip: FrozenCLIP, method: Method, task: str, pixels: torch.Tensor) -> torch.Tensor:
    edits = method.edits([task])
    (template,) = method.templates(task)
    texts = clip.class_list(method.infos[task].class_names, template)
    with torch.no_grad():
        (text_KE,) = clip.text([texts], edits.text, edits.copies)
        image_BE = clip.image(pixels, edits.image, Rows.of([(edits.copies[0], len(pixels))], clip.device))
        return method.task_logits(task, image_BE, text_KE)


def _both(method: Method, task: str, name: str) -> list[torch.Tensor]:
    """A tensor of the group's set, then of the task's."""
    parts = (method.group_shared(), method.task_specific(task))
    return [part[name].detach() for part in parts if part]


@pytest.mark.parametrize("sharing", ["alone", "grouped+task"])
@pytest.mark.parametrize("position", ["end", "middle", "front"])
@pytest.mark.parametrize("class_specific", [False, True])
def test_coop(
    tiny_clip: FrozenCLIP,
    reference: Reference,
    pixels: torch.Tensor,
    sharing: Sharing,
    position: Any,
    class_specific: bool,
):
    config = CoOpConfig(num_context_tokens=3, class_position=position, class_specific=class_specific, sharing=sharing)
    tasks = TASKS[:1] if class_specific and sharing != "alone" else TASKS
    method = _method(tiny_clip, config, tasks)
    for task in method.tasks:
        texts = []
        for index, name in enumerate(method.infos[task].class_names):
            contexts = [each[index] if class_specific else each for each in _both(method, task, "context")]
            v = torch.cat(contexts)
            before = {"end": len(v), "middle": len(v) // 2, "front": 0}[position]
            texts.append(reference.text(v[:before], reference.words(name), v[before:], reference.words(".")))
        expected = reference.logits([reference.image(each) for each in pixels], texts)
        torch.testing.assert_close(_logits(tiny_clip, method, task, pixels), expected, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("sharing", ["all", "grouped+task"])
@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize("keep_template", [False, True])
def test_maple(
    tiny_clip: FrozenCLIP,
    reference: Reference,
    pixels: torch.Tensor,
    sharing: Sharing,
    depth: int,
    early: bool,
    keep_template: bool,
):
    config = MaPLeConfig(depth=depth, sharing=sharing, before_ln_pre=early, keep_template=keep_template)
    method = _method(tiny_clip, config)
    for task in TASKS:
        text, weight, bias = (_both(method, task.name, name) for name in ("text", "coupler_weight", "coupler_bias"))
        p = [torch.cat([one[k] for one in text]) for k in range(depth)]
        q = [
            torch.cat([one[k] @ f[k].T + b[k] for one, f, b in zip(text, weight, bias, strict=True)])
            for k in range(depth)
        ]
        template = task.template if keep_template else "of a {}."
        texts = [
            reference.text(p[0], reference.words(template.replace("{}", name)), deeper=p[1:])
            for name in task.class_names
        ]
        expected = reference.logits([reference.image(each, q, early=early) for each in pixels], texts)
        torch.testing.assert_close(
            _logits(tiny_clip, method, task.name, pixels), expected, rtol=TOLERANCE, atol=TOLERANCE
        )


@pytest.mark.parametrize("deep", [False, True])
def test_vpt_and_independent_prompts(tiny_clip: FrozenCLIP, reference: Reference, pixels: torch.Tensor, deep: bool):
    art = TASKS[0]
    sentences = [reference.words(art.template.replace("{}", name)) for name in art.class_names]
    vpt = _method(tiny_clip, VPTConfig(num_tokens=3, deep=deep))
    prompts = list(vpt.task_specific("art")["prompts"].detach())
    expected = reference.logits(
        [reference.image(each, prompts) for each in pixels], [reference.text(each) for each in sentences]
    )
    torch.testing.assert_close(_logits(tiny_clip, vpt, "art", pixels), expected, rtol=TOLERANCE, atol=TOLERANCE)
    both = _method(tiny_clip, VisionLanguagePromptsConfig(num_image_tokens=3, depth=2 if deep else 1))
    own = {name: list(tensor.detach()) for name, tensor in both.task_specific("art").items()}
    texts = [reference.text(own["text"][0], each, deeper=own["text"][1:]) for each in sentences]
    expected = reference.logits([reference.image(each, own["image"]) for each in pixels], texts)
    torch.testing.assert_close(_logits(tiny_clip, both, "art", pixels), expected, rtol=TOLERANCE, atol=TOLERANCE)
