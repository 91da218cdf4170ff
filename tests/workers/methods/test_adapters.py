"""What holds for the adapters in the blocks, beyond the laws of every method."""

import pytest
import torch

from workers.clip.frozen import FrozenCLIP
from workers.clip.seam import Rows
from workers.clip.shape import backbone_shape
from workers.methods.base_config import MethodSpec
from workers.methods.build import build_method
from workers.methods.config import (
    AdapterConfig,
    CAVLAdapterConfig,
    CompacterConfig,
    HyperformerConfig,
    MethodConfig,
    vl_adapter_compacter,
)
from workers.methods.counts import count_parameters
from workers.methods.kronecker import kronecker_sum
from workers.methods.method import Method, TaskInfo

NAMES = ("art", "clip_art")
TASKS = [
    TaskInfo("art", ("red", "green"), "a photo of a {}."),
    TaskInfo("clip_art", ("cat", "dog", "fish"), "a photo of a {}."),
]
SMALL_COMPACTER = CompacterConfig(reduction=4, num_terms=2)
EVERY = [
    *(AdapterConfig(sharing=sharing) for sharing in AdapterConfig.sharings),
    AdapterConfig(sharing="half", shared_half="up"),
    AdapterConfig(places="mlp"),
    AdapterConfig(places="attn", tune_layer_norms=True),
    HyperformerConfig(embedding_dim=8, hidden_dim=8),
    SMALL_COMPACTER,
    CAVLAdapterConfig(),
]


def _name(value: object) -> str:
    """What pytest calls a config: what differs from its defaults."""
    if not isinstance(value, MethodSpec):
        return str(value)
    told = value.model_dump(exclude_defaults=True)
    return "-".join([getattr(value, "kind", ""), *(f"{key}={given}" for key, given in told.items() if key != "kind")])


@pytest.mark.parametrize(
    ("config", "shared", "own"),
    [
        (AdapterConfig(), 5_146_368, 0),
        (AdapterConfig(sharing="grouped"), 5_146_368, 0),
        (AdapterConfig(sharing="alone"), 0, 5_146_368),
        (AdapterConfig(sharing="grouped+task"), 5_146_368, 5_146_368),
        (AdapterConfig(reduction=4), 10_262_016, 0),
        (AdapterConfig(reduction=16), 2_588_544, 0),
        (AdapterConfig(reduction=32), 1_309_632, 0),
        (AdapterConfig(places="mlp"), 2_573_184, 0),
        (AdapterConfig(towers="vision"), 3_559_680, 0),
        (AdapterConfig(towers="text"), 1_586_688, 0),
        (AdapterConfig(tune_layer_norms=True), 5_146_368 + 65_536, 0),
        (AdapterConfig(tune_layer_norms=True, sharing="alone"), 0, 5_146_368 + 65_536),
        (AdapterConfig(tune_layer_norms=True, sharing="grouped+task"), 5_146_368 + 65_536, 5_146_368),
        (CAVLAdapterConfig(), 5_146_368, 0),
        (HyperformerConfig(), 4_136_560, 1_024),
        (HyperformerConfig(sharing="alone"), 0, 4_137_584),
        (CompacterConfig(), 95_104, 0),
        (CompacterConfig(reduction=8), 103_744, 0),
        (vl_adapter_compacter(), 2_591_232, 0),
    ],
    ids=_name,
)
def test_parameter_counts_on_vit_b_16_are_the_formulas(config: MethodConfig, shared: int, own: int):
    assert config.sizes(backbone_shape("ViT-B-16-quickgelu"), 65) == (shared, own)


def test_four_tasks_of_vl_adapters_comparison_on_vit_b_16():
    shape = backbone_shape("ViT-B-16-quickgelu")

    def total(config: MethodConfig) -> int:
        return count_parameters(config, shape, num_classes=65, num_tasks=4, num_groups=1)["total"]

    assert total(AdapterConfig(sharing="all")) == 5_146_368
    assert total(AdapterConfig(sharing="half", shared_half="up")) == 12_825_600  # the released code's half
    assert total(AdapterConfig(sharing="half", shared_half="down")) == 12_906_240  # the paper's
    assert total(AdapterConfig(sharing="alone")) == 20_585_472
    assert total(HyperformerConfig()) == 4_140_656


@pytest.mark.parametrize("sizes", [(3, 4, 4, 4, 6, 1), (1, 2, 2, 2, 3, 5), (2, 1, 3, 2, 1, 4)])
def test_the_batched_kronecker_sum_equals_torch_kron(sizes: tuple[int, ...]):
    num, terms, i, j, m, k = sizes
    scales, sources = torch.randn(num, terms, i, j), torch.randn(num, terms, m, k)
    products = [[torch.kron(*pair) for pair in zip(*part, strict=True)] for part in zip(scales, sources, strict=True)]
    expected = torch.stack([torch.stack(part).sum(dim=0) for part in products])
    torch.testing.assert_close(kronecker_sum(scales, sources), expected)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("config", EVERY, ids=_name)
def test_the_fast_path_is_the_plain_path_and_so_are_its_gradients(
    config: MethodConfig, precision: str, tiny_clip: FrozenCLIP, tiny_clip_bf16: FrozenCLIP
):
    clip = tiny_clip if precision == "fp32" else tiny_clip_bf16
    method = _filled(config, clip)
    found = [_features_and_gradients(clip, method, plain=plain) for plain in (False, True)]
    tolerance = 1e-4 if precision == "fp32" else 0.1
    for ours, theirs in zip(*found, strict=True):
        scale = float(theirs.abs().max())
        assert scale > 0
        assert float((ours - theirs).abs().max()) <= tolerance * scale


def test_several_copies_in_one_pass_are_the_copies_one_by_one(tiny_clip: FrozenCLIP):
    method = _filled(AdapterConfig(sharing="alone"), tiny_clip)
    pixels = torch.randn(5, 3, 16, 16)
    edits = method.edits(NAMES)
    assert edits.copies == (0, 1)
    joint = tiny_clip.image(pixels, edits.image, Rows.of([(0, 2), (1, 3)], pixels.device))
    first, second = (tiny_clip.image(pixels, method.edits([task]).image) for task in NAMES)
    torch.testing.assert_close(joint, torch.cat([first[:2], second[2:]]))


@pytest.mark.parametrize(("half", "others"), [("down", "up"), ("up", "down")])
def test_half_shared_adapters_share_one_projection_and_its_bias(tiny_clip: FrozenCLIP, half, others):
    method = build_method(AdapterConfig(sharing="half", shared_half=half), tiny_clip, TASKS, seed=0)
    assert {name.split("_")[0] for name in method.group_shared()} == {half}
    assert {name.split("_")[0] for name in method.task_specific("art")} == {others}
    assert len(method.group_shared()) == len(method.task_specific("art")) == 4


def test_only_the_towers_and_places_asked_for_are_touched(tiny_clip: FrozenCLIP):
    method = _filled(AdapterConfig(towers="vision", places="mlp"), tiny_clip)
    edits = method.edits(NAMES)
    assert edits.text.is_empty and edits.image.branch is not None
    x, rows = torch.randn(2, 3, 32), Rows.of([(0, 2)], torch.device("cpu"))
    assert edits.image.branch(1, "attn", x, rows) is x
    assert not torch.equal(edits.image.branch(1, "mlp", x, rows), x)


@torch.no_grad()
@pytest.mark.parametrize("config", [HyperformerConfig(), SMALL_COMPACTER], ids=_name)
def test_drawn_adapters_start_near_zero_shot(config: MethodConfig, tiny_clip: FrozenCLIP):
    pixels = torch.randn(4, 3, 16, 16)
    zero_shot = tiny_clip.image(pixels)
    features = tiny_clip.image(pixels, build_method(config, tiny_clip, TASKS, seed=0).edits(["art"]).image)
    assert not torch.equal(features, zero_shot)
    assert float(torch.cosine_similarity(features, zero_shot).min()) > 0.99


def test_hyperformer_writes_other_adapters_for_another_task(tiny_clip: FrozenCLIP):
    method = build_method(HyperformerConfig(), tiny_clip, TASKS, seed=0)
    pixels = torch.randn(2, 3, 16, 16)
    first, second = (tiny_clip.image(pixels, method.edits([task]).image) for task in NAMES)
    assert not torch.equal(first, second)
    assert set(method.task_specific("art")) == {"task_image", "task_text"}


def test_compacters_rules_are_shared_by_all_weights_or_by_none(tiny_clip: FrozenCLIP):
    shared = build_method(SMALL_COMPACTER, tiny_clip, TASKS, seed=0).group_shared()
    assert [name for name in shared if "rule" in name] == ["rule"] and shared["rule"].shape == (2, 2, 2)
    config = SMALL_COMPACTER.model_copy(update={"share_rule": False})
    own = build_method(config, tiny_clip, TASKS, seed=0).group_shared()
    assert own["down_rule_image"].shape == own["up_rule_text"].shape == (4, 2, 2, 2)


def test_a_task_prefix_stands_before_the_template(tiny_clip: FrozenCLIP):
    method = build_method(AdapterConfig(task_prefix=True), tiny_clip, TASKS, seed=0)
    assert method.templates("clip_art") == ("clip art: a photo of a {}.",)
    with pytest.raises(ValueError, match=r"task_prefix=true with sharing=alone"):
        AdapterConfig(task_prefix=True, sharing="alone")
    captions = TaskInfo("captions", (), "{}", "retrieval")
    with pytest.raises(ValueError, match=r"task 'captions' is of kind retrieval"):
        build_method(AdapterConfig(task_prefix=True), tiny_clip, [captions], seed=0)


def test_trained_layer_norms_belong_to_the_group_or_take_turns(tiny_clip: FrozenCLIP):
    alone = build_method(AdapterConfig(tune_layer_norms=True, sharing="alone"), tiny_clip, TASKS, seed=0)
    assert alone.passes == (("art",), ("clip_art",)) and alone.batch_key is None
    half = build_method(AdapterConfig(tune_layer_norms=True, sharing="half"), tiny_clip, TASKS, seed=0)
    assert half.passes == (NAMES,) and half.batch_key is None
    assert {"norms_image", "norms_text"} <= set(half.group_shared())
    assert not any("norms" in name for name in half.task_specific("art"))
    overrides = half.edits(NAMES).image.overrides
    assert overrides.keys() == tiny_clip.image.layer_norms()
    frozen = tiny_clip.image.parameters()
    assert all(torch.equal(overrides[name], frozen[name]) for name in overrides)


def test_what_does_not_fit_is_refused_with_the_reason(tiny_clip: FrozenCLIP):
    with pytest.raises(ValueError, match=r"reduction=3 does not divide the image tower's width 32"):
        build_method(AdapterConfig(reduction=3), tiny_clip, TASKS, seed=0)
    with pytest.raises(ValueError, match=r"reduction=7 does not divide the image tower's width 768"):
        AdapterConfig(reduction=7).sizes(backbone_shape("ViT-B-16"), 65)
    with pytest.raises(ValueError, match=r"num_terms=4 must divide the image tower's width 32 and its bottleneck 1"):
        build_method(CompacterConfig(), tiny_clip, TASKS, seed=0)
    with pytest.raises(ValueError, match=r"sharing=half is not defined for compacter: only the bottleneck adapter"):
        CompacterConfig(sharing="half")
    with pytest.raises(ValueError, match=r"sharing=grouped\+task is not defined for hyperformer: what its tasks have"):
        HyperformerConfig(sharing="grouped+task")


def _filled(config: MethodConfig, clip: FrozenCLIP) -> Method:
    """A method some way into its training: nothing is zero."""
    method = build_method(config, clip, TASKS, seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in method.parameters():
            tensor.add_(0.1 * torch.randn(tensor.shape, generator=generator))
    return method


def _features_and_gradients(clip: FrozenCLIP, method: Method, *, plain: bool) -> list[torch.Tensor]:
    """Features of both towers over all passes of two tasks, and the gradients of a loss on them."""
    pixels = torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    features = []
    for tasks in method.passes:
        edits = method.edits(tasks)
        rows = Rows.of([(copy, len(pixels) // len(tasks)) for copy in edits.copies], pixels.device)
        lists = [clip.class_list(method.infos[task].class_names, method.infos[task].template) for task in tasks]
        features.append(clip.image(pixels, edits.image, rows, plain=plain))
        features += clip.text(lists, edits.text, edits.copies, plain=plain)
    weighted = [(found * torch.linspace(-1, 1, found.numel()).view_as(found)).sum() for found in features]
    gradients = torch.autograd.grad(torch.stack(weighted).sum(), method.parameters())
    return [found.detach() for found in (*features, *gradients)]
