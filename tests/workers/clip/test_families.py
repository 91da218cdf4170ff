"""Every architecture that open_clip ships is either accepted, and then the towers' laws hold, or refused with the
reason.

The configs are shrunk (two layers, small widths) and deduplicated by their switches, so all of them run in seconds.
"""

import json
from copy import deepcopy
from typing import Any

import open_clip
import pytest
import torch
from open_clip.model import CLIP, CustomTextCLIP

from workers.clip.config import BackboneConfig
from workers.clip.frozen import freeze, refuse_misfit
from workers.clip.scratch import new_tokenizer
from workers.clip.seam import Edits
from workers.clip.tokens import ClassList

SIZES = {"layers": 2, "width": 32, "heads": 2, "head_width": 16, "vocab_size": 64, "image_size": 16, "patch_size": 8}


def _shrink(config: dict) -> dict | None:
    """The config with small sizes and all its switches; None if it names a tower from outside open_clip."""
    config = deepcopy(config)
    vision, text = config["vision_cfg"], config["text_cfg"]
    if "timm_model_name" in vision or "hf_model_name" in text or isinstance(vision.get("layers"), list):
        return None
    vision |= {key: SIZES[key] for key in ("layers", "width", "head_width", "image_size", "patch_size")}
    text |= {key: SIZES[key] for key in ("layers", "width", "heads", "vocab_size")} | {"context_length": 12}
    vision.pop("attn_pooler_heads", None)
    if "eos_id" in text:
        text["eos_id"] = 63
    for name in ("hf_tokenizer_name", "tokenizer_kwargs", "tokenizer_mode"):
        text.pop(name, None)
    config["embed_dim"] = 16
    for name in ("multimodal_cfg", "custom_text"):
        config.setdefault(name, None)
    return config


def _families() -> dict[str, dict]:
    """One model name for each distinct set of switches."""
    families: dict[str, dict] = {}
    seen = set()
    for name in open_clip.list_models():
        config = _shrink(open_clip.get_model_config(name) or {})
        if config is not None and config["multimodal_cfg"] is None and json.dumps(config, sort_keys=True) not in seen:
            seen.add(json.dumps(config, sort_keys=True))
            families[name] = config
    return families


FAMILIES = _families()


def _build(config: dict) -> Any:
    torch.manual_seed(0)
    kind = CustomTextCLIP if config["custom_text"] else CLIP
    keys = ("embed_dim", "vision_cfg", "text_cfg", "quick_gelu", "init_logit_scale", "init_logit_bias")
    return kind(**{key: config[key] for key in keys if key in config}).eval()


@pytest.mark.parametrize("name", FAMILIES)
def test_accepted_family_keeps_the_laws(name: str):
    model = _build(FAMILIES[name])
    refuse_misfit(model, name)
    pixels = torch.randn(3, 3, 16, 16)
    ids = torch.randint(1, 62, (4, 12))
    ids[:, 0] = 1
    ids[:, 2] = 7
    for row, end in enumerate((5, 7, 4, 5)):
        ids[row, end] = 63
        ids[row, end + 1 :] = 0
    clip = freeze(model, new_tokenizer(12), BackboneConfig(model=name, pretrained="none"))
    image_truth, text_truth = model.encode_image(pixels), model.encode_text(ids)
    texts = ClassList(ids_RL=ids, end_R=torch.tensor([5, 7, 4, 5]), num_shared=1)
    assert torch.equal(clip.image(pixels, plain=True), image_truth)
    assert torch.equal(clip.text([texts], plain=True)[0], text_truth)
    image = Edits(0.1 * torch.randn(1, 1, 3, 32))
    text = Edits(0.1 * torch.randn(1, 2, 3, 32))
    for fast, plain in (
        (clip.image(pixels, image), clip.image(pixels, image, plain=True)),
        (clip.text([texts], text)[0], clip.text([texts], text, plain=True)[0]),
    ):
        assert float((fast - plain).abs().max() / plain.abs().max()) < 1e-5


@pytest.mark.parametrize("name", FAMILIES)
def test_tensors_stand_in_for_every_parameter_of_both_towers(name: str):
    """What a tower calls its parameters is all it computes with, on both paths."""
    model = _build(FAMILIES[name])
    pixels, ids = torch.randn(3, 3, 16, 16), torch.randint(1, 62, (4, 12))
    ids[:, :3], ids[:, 6], ids[:, 7:] = 1, 63, 0
    clip = freeze(model, new_tokenizer(12), BackboneConfig(model=name, pretrained="none"))
    texts = ClassList(ids_RL=ids, end_R=torch.full((4,), 6), num_shared=3)
    found, edits = [], []
    for tower in (clip.image, clip.text):
        stirred = {name: value + 0.1 * torch.randn_like(value) for name, value in tower.parameters().items()}
        edits.append(Edits(overrides={name: tensor.requires_grad_() for name, tensor in stirred.items()}))
    for plain in (False, True):
        found.append((clip.image(pixels, edits[0], plain=plain), clip.text([texts], edits[1], plain=plain)[0]))
    for features, parts in zip(found[0], edits, strict=True):
        gradients = torch.autograd.grad(features.square().sum(), list(parts.overrides.values()), allow_unused=True)
        assert all(gradient is not None for gradient in gradients)
    with torch.no_grad():
        held = [dict(model.visual.named_parameters()), dict(getattr(model, "text", model).named_parameters())]
        for named, parts in zip(held, edits, strict=True):
            for name, tensor in parts.overrides.items():
                named[name].copy_(tensor)
        truth = (model.encode_image(pixels), model.encode_text(ids))
    for pair in found:
        for features, expected in zip(pair, truth, strict=True):
            assert float((features - expected).detach().abs().max() / expected.abs().max()) < 1e-5


def test_more_than_the_openai_family_is_accepted():
    assert len(FAMILIES) >= 5, sorted(FAMILIES)
    assert "ViT-B-16" in FAMILIES and "ViT-B-16-quickgelu" in FAMILIES


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("RN50", "its image tower is a ModifiedResNet"),
        ("coca_ViT-B-32", "pools by attention"),
    ],
)
def test_a_model_that_does_not_fit_is_refused_by_name(name: str, reason: str):
    with torch.device("meta"):
        model = open_clip.create_model(name, load_weights=False, device="meta")
    with pytest.raises(ValueError, match=f"{name}.* does not fit: .*{reason}"):
        refuse_misfit(model, name)
