"""MmAP's laws: its Kronecker products, its exact parameter counts, what is shared and what is not."""

from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch

from workers.clip.frozen import FrozenCLIP
from workers.clip.shape import backbone_shape
from workers.data.dataset import TaskData
from workers.methods.build import build_method
from workers.methods.config import MmAPConfig, Sharing, paper_budget
from workers.methods.counts import count_parameters
from workers.methods.kronecker import kronecker
from workers.methods.method import TaskInfo
from workers.methods.mmap import BALANCED_STD
from workers.methods.table import rows
from workers.training.config import ProfileConfig, TrainConfig
from workers.training.signatures import profile

NAMES = ("art", "clipart")
TASKS = [TaskInfo(name, ("red", "green"), "a photo of a {}.") for name in NAMES]
SMALL = {"num_tokens": 4, "source_shape": (2, 4), "depth": 2}


@pytest.mark.parametrize("sizes", [(3, 2, 8, 2, 2), (1, 1, 4, 4, 1), (2, 4, 2, 1, 3), (5, 1, 1, 2, 2)])
def test_batched_kronecker_equals_torch_kron(sizes: tuple[int, ...]):
    num, i, j, m, n = sizes
    scale, source = torch.randn(num, i, j), torch.randn(m, n)
    expected = torch.stack([torch.kron(scale[k], source) for k in range(num)])
    product = kronecker(scale, source)
    assert torch.equal(product, expected)
    assert torch.equal(product[0, :m, n * (j - 1) : n * j], scale[0, 0, j - 1] * source)


@pytest.mark.parametrize(
    ("tokens", "source", "depth", "one", "totals"),
    [
        (4, (2, 2), 12, 15_364, (76_820, 92_184, 107_548)),
        (4, (2, 1), 9, 23_042, (115_210, 138_252, 161_294)),
        (3, (1, 2), 12, 23_042, (115_210, 138_252, 161_294)),
        (4, (2, 1), 12, 30_722, (153_610, 184_332, 215_054)),
        (16, (4, 4), 12, 15_376, (76_880, 92_256, 107_632)),
        (16, (4, 2), 9, 23_048, (115_240, 138_288, 161_336)),
        (4, (4, 4), 12, 3_856, (19_280, 23_136, 26_992)),
    ],
)
def test_parameter_counts_on_vit_b_16_are_the_formulas(tokens, source, depth, one, totals):
    config = MmAPConfig(num_tokens=tokens, source_shape=source, depth=depth)
    shape = backbone_shape("ViT-B-16-quickgelu")
    assert config.one_set(shape, 65) == one
    for num_groups, total in zip((1, 2, 3), totals, strict=True):
        counts = count_parameters(config, shape, num_classes=65, num_tasks=4, num_groups=num_groups)
        assert counts["total"] == total


def test_the_table_knows_vit_b_16_without_weights():
    shape = backbone_shape("ViT-B-16-quickgelu")
    assert (shape.num_parameters, shape.text_width, shape.image_width) == (149_620_737, 512, 768)
    told = [row for row in rows("ViT-B-16-quickgelu", classes=65, tasks=4, groups=2) if row["method"] == "mmap"]
    table = {(row["setting"], row["sharing"]): row for row in told}
    paper = table["paper_budget", "grouped+task"]
    assert (paper["group_shared"], paper["task_specific"], paper["total"]) == (46_084, 92_168, 138_252)
    assert round(paper["percent"], 4) == 0.0924 and paper["per_task"] == 34_563
    assert table["default", "alone"]["total"] == 4 * 15_364 and table["default", "all"]["total"] == 15_364


@pytest.mark.parametrize("sharing", ["alone", "all", "grouped", "grouped+task"])
def test_group_prompts_stand_before_task_prompts(tiny_clip: FrozenCLIP, sharing: Sharing):
    method = build_method(MmAPConfig(**SMALL, sharing=sharing), tiny_clip, TASKS, seed=0)
    edits = method.edits(NAMES)
    expected = []
    for task in NAMES if sharing in ("alone", "grouped+task") else NAMES[:1]:
        sets = [method.group_shared(), method.task_specific(task)]
        prompts = [
            torch.stack([torch.kron(scale, part["source"]) for scale in part["scale_image"]]) for part in sets if part
        ]
        expected.append(torch.cat(prompts, dim=1))
    assert edits.image.prompts_CKMD is not None
    assert torch.equal(edits.image.prompts_CKMD, torch.stack(expected))
    assert edits.copies == ((0, 1) if len(expected) == 2 else (0, 0))


@pytest.mark.parametrize("modality", ["text", "vision"])
def test_one_modality_leaves_the_other_tower_alone(tiny_clip: FrozenCLIP, modality: Literal["text", "vision"]):
    one = build_method(MmAPConfig(**SMALL, modality=modality), tiny_clip, TASKS, seed=0).edits(NAMES)
    both = build_method(MmAPConfig(**SMALL), tiny_clip, TASKS, seed=0).edits(NAMES)
    assert one.image.is_empty == (modality == "text") and one.text.is_empty == (modality == "vision")
    if one.text.prompts_CKMD is not None and both.text.prompts_CKMD is not None:
        assert torch.equal(one.text.prompts_CKMD, both.text.prompts_CKMD)


def test_signatures_have_both_modalities_whichever_the_groups_prompt(
    tiny_clip: FrozenCLIP, tasks: dict[str, TaskData], tmp_path: Path
):
    training = TrainConfig(batch_size=4, lr=0.01, warmup_epochs=0, augment=None)
    few = ProfileConfig(max_steps=2, snapshots=1, microbatches=2, microbatch_size=2)
    written = []
    for modality in ("both", "text", "vision"):
        config = MmAPConfig.model_validate(SMALL | {"modality": modality})
        path = profile(tiny_clip, tasks, few, training, config, directory=tmp_path / modality)
        with np.load(path, allow_pickle=False) as stored:
            written.append({name: stored[name] for name in stored.files})
    assert list(written[0]["block_names"]) == ["text.0", "text.1", "image.0", "image.1"]
    for other in written[1:]:
        assert all(np.array_equal(written[0][name], other[name]) for name in written[0])


def test_initial_factors_are_balanced_exactly(tiny_clip: FrozenCLIP):
    method = build_method(MmAPConfig(**SMALL), tiny_clip, TASKS, seed=3)
    for tensor in method.state().values():
        assert float(tensor.detach().square().mean().sqrt()) == pytest.approx(BALANCED_STD, rel=1e-5)


def test_same_seed_same_bytes_whatever_else_is_built(tiny_clip: FrozenCLIP):
    first = build_method(MmAPConfig(**SMALL), tiny_clip, TASKS, seed=1).state()
    torch.randn(7)
    again = build_method(MmAPConfig(**SMALL), tiny_clip, TASKS, seed=1).state()
    other = build_method(MmAPConfig(**SMALL), tiny_clip, TASKS, seed=2).state()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first)


def test_a_source_prompt_that_does_not_tile_is_refused_with_the_reason(tiny_clip: FrozenCLIP):
    with pytest.raises(ValueError, match=r"must divide num_tokens=4"):
        MmAPConfig(num_tokens=4, source_shape=(3, 2))
    with pytest.raises(ValueError, match=r"second side 3 must divide the text tower's width 16"):
        build_method(MmAPConfig(source_shape=(2, 3)), tiny_clip, TASKS, seed=0)
    with pytest.raises(ValueError, match=r"depth=9 exceeds the 2 layers"):
        build_method(paper_budget(), tiny_clip, TASKS, seed=0)


def test_learned_tensors_load_strictly(tiny_clip: FrozenCLIP):
    method = build_method(MmAPConfig(**SMALL), tiny_clip, TASKS, seed=0)
    state = {name: tensor.detach().clone() + 1 for name, tensor in method.state().items()}
    method.load_state(state)
    assert all(torch.equal(tensor, state[name]) for name, tensor in method.state().items())
    with pytest.raises(ValueError, match=r"missing \['shared.source'\]"):
        method.load_state({name: tensor for name, tensor in state.items() if name != "shared.source"})
    with pytest.raises(ValueError, match="has shape"):
        method.load_state(state | {"shared.source": torch.zeros(3, 3)})
