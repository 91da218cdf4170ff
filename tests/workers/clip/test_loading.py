"""Loading: the real open_clip paths, the refusals with what is right, and the towers' precision."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from workers.clip.config import BackboneConfig
from workers.clip.frozen import FrozenCLIP, load_clip
from workers.data.roots import DataRoots


def test_a_folder_is_loaded_as_open_clip_loads_it(tiny_clip: FrozenCLIP, tiny_clip_dir: Path):
    assert (tiny_clip.embed_dim, tiny_clip.image.width, tiny_clip.text.width) == (16, 32, 16)
    assert tiny_clip.resize.size == 16 and tiny_clip.mean == (0.5, 0.5, 0.5)
    assert tiny_clip.logit_scale == pytest.approx(1 / 0.07, rel=1e-4)


def test_frozen_weights_are_stored_in_the_compute_dtype(tiny_clip_dir: Path):
    clip = load_clip(BackboneConfig(model=f"local-dir:{tiny_clip_dir}", precision="bf16"))
    for owner in (clip.image._visual, clip.text._owner):
        assert {parameter.dtype for parameter in owner.parameters()} == {torch.bfloat16}
        assert not any(parameter.requires_grad for parameter in owner.parameters())


def test_bf16_features_are_close_to_fp32(tiny_clip: FrozenCLIP, tiny_clip_dir: Path):
    """Stated tolerance: cosine of at least 0.999 between the features of the two precisions."""
    low = load_clip(BackboneConfig(model=f"local-dir:{tiny_clip_dir}", precision="bf16"))
    pixels = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    names = ["cat", "alarm clock", "flipflops"]
    pairs = [
        (low.image(pixels), tiny_clip.image(pixels)),
        (low.text([low.class_list(names, "{}")])[0], tiny_clip.text([tiny_clip.class_list(names, "{}")])[0]),
    ]
    for features, truth in pairs:
        assert features.dtype == torch.float32
        assert float(torch.cosine_similarity(features, truth).min()) > 0.999


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model": "ViT-B-16", "pretrained": "openai"}, "trained with QuickGELU.*Use 'ViT-B-16-quickgelu'"),
        ({"model": "ViT-B-99", "pretrained": "openai"}, "'ViT-B-99' is not known to open_clip"),
        ({"model": "ViT-B-16-quickgelu"}, "needs `pretrained`"),
        ({"model": "ViT-B-16-quickgelu", "pretrained": "nope"}, "has no weights 'nope'. It has: openai"),
        ({"model": "demo", "pretrained": "openai"}, "brings its own weights"),
        ({"model": "local-dir:/nowhere"}, "has no open_clip_config.json"),
    ],
)
def test_a_backbone_that_cannot_be_right_is_refused(config: dict, message: str):
    with pytest.raises(ValueError, match=message):
        load_clip(BackboneConfig(**config))


def test_a_backbone_folder_outside_the_roots_is_refused(tiny_clip_dir: Path, tmp_path: Path):
    with pytest.raises(ValueError, match="outside the data roots"):
        load_clip(BackboneConfig(model=f"local-dir:{tiny_clip_dir}"), roots=DataRoots((str(tmp_path),)))


NATIVE_MISSING = """
import torch
from workers.clip import torchvision_ops
real = torch.ops.load_library
def refuse(path):
    raise OSError("built for another torch")
torch.ops.load_library = refuse
assert torchvision_ops.ensure_torchvision_ops() is False
assert torchvision_ops.ensure_torchvision_ops() is False
import torchvision, open_clip
print(open_clip.__version__)
"""

NATIVE_THERE = """
import torch
from workers.clip import torchvision_ops
loaded = []
torch.ops.load_library = loaded.append
assert torchvision_ops.ensure_torchvision_ops() is True
assert len(loaded) == 1 and loaded[0].endswith(".so")
assert not hasattr(torch.ops.torchvision, "nms"), "declared although the native library loads"
print("declared nothing")
"""


@pytest.mark.parametrize("program", [NATIVE_MISSING, NATIVE_THERE])
def test_torchvision_imports_with_and_without_its_native_library(program: str):
    """Each branch in a process of its own: operators are declared once per process."""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
