"""Laws of the losses, of the pretraining world and of the pretraining loop."""

import math
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from workers.clip.scratch import load_scratch_clip, new_clip, save_clip
from workers.demo.losses import clip_loss, pairwise_loss, pairwise_loss_literal
from workers.demo.pretrain import CONFIG, PretrainConfig, PretrainResult, pretrain
from workers.demo.scenes import SUBJECTS, caption_matches, draw_pool

TINY = {
    "model_cfg": {
        "embed_dim": 32,
        "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 32, "layers": 1, "head_width": 32},
        "text_cfg": {"context_length": 32, "vocab_size": 49408, "width": 32, "heads": 1, "layers": 1},
    },
    "preprocess_cfg": CONFIG["preprocess_cfg"],
}
SHORT = PretrainConfig(
    num_pictures=600, num_steps=24, processes=1, batch_size=64, lr=1e-3, threads=1, precision="fp32", model=TINY
)
IDENTITY = torch.eye(2, dtype=torch.bool)


@lru_cache
def short_run() -> PretrainResult:
    return pretrain(SHORT)


def test_pairwise_loss_by_hand_on_two_pairs() -> None:
    similarity = torch.tensor([[0.7, 0.0], [0.14, 0.35]])
    by_hand = -math.log((math.exp(10) + math.exp(5)) / (math.exp(0) + math.exp(2)))
    assert pairwise_loss(similarity, IDENTITY).item() == pytest.approx(by_hand, rel=1e-5)
    literal = -math.log((0.7 + 0.35) / 0.14)
    assert pairwise_loss_literal(similarity, IDENTITY).item() == pytest.approx(literal, rel=1e-5)


def test_literal_pairwise_loss_is_finite_where_the_sums_are_not_positive() -> None:
    assert pairwise_loss_literal(-torch.eye(2), IDENTITY).item() == 0.0


def test_clip_loss_with_one_match_each_is_clips_own() -> None:
    similarity = torch.randn(5, 5, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(5)
    own = (F.cross_entropy(similarity * 7, labels) + F.cross_entropy(similarity.T * 7, labels)) / 2
    torch.testing.assert_close(clip_loss(similarity, torch.eye(5, dtype=torch.bool), torch.tensor(7.0)), own)


def test_equal_captions_are_each_others_positives() -> None:
    similarity = torch.tensor([[0.5, 0.5, 0.0], [0.5, 0.5, 0.0], [0.0, 0.0, 0.5]])
    matches = similarity > 0
    best = clip_loss(similarity * 100, matches, torch.tensor(1.0))
    assert best.item() == pytest.approx(math.log(2) * 2 / 3, abs=1e-4)  # the entropy of a target shared by two


def test_a_pool_is_the_same_for_any_number_of_processes_and_its_captions_are_true() -> None:
    one, two = draw_pool(1100, seed=3), draw_pool(1100, seed=3, num_processes=2)
    assert np.array_equal(one.pictures, two.pictures) and one.captions == two.captions
    own = np.repeat(np.arange(len(one.pictures)), 3)
    matches = caption_matches(one.attributes[:200], one.mentioned[:600])
    assert matches[own[:600], np.arange(600)].all()
    for caption, (subject, *_) in zip(one.captions, one.mentioned, strict=True):
        assert SUBJECTS[subject] in caption or str(subject) in caption


def test_other_seed_other_pictures() -> None:
    assert not np.array_equal(draw_pool(4, seed=0).pictures, draw_pool(4, seed=1).pictures)


@pytest.mark.parametrize("loss", ["clip", "pwcl"])
def test_a_few_steps_lower_either_loss(loss: Literal["clip", "pwcl"]) -> None:
    result = short_run() if loss == "clip" else pretrain(replace(SHORT, loss=loss, num_steps=150))
    part = len(result.losses) // 5  # one logarithm a batch makes the pair-wise loss noisy: it needs more steps to show
    assert np.mean(result.losses[-part:]) < np.mean(result.losses[:part]) - 0.1
    assert all(torch.isfinite(value).all() for value in result.model.state_dict().values())


def test_the_literal_pairwise_loss_says_so_where_it_cannot_learn() -> None:
    with pytest.raises(ValueError, match="has no gradient at step 0: use form 'exp'"):
        pretrain(replace(SHORT, loss="pwcl", loss_form="literal"))


def test_too_small_a_pool_is_refused() -> None:
    with pytest.raises(ValueError, match=r"20 pictures have no bare caption for .*: use more"):
        pretrain(replace(SHORT, num_pictures=20))


def test_the_same_seed_gives_the_same_weights_and_bf16_stays_near() -> None:
    first, second = short_run(), pretrain(SHORT)
    assert first.losses == second.losses
    for name, value in first.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[name]), name
    rough = pretrain(replace(SHORT, precision="bf16"))
    assert np.allclose(rough.losses, first.losses, atol=0.15)


def test_words_that_no_caption_uses_keep_their_initial_embedding() -> None:
    torch.manual_seed(SHORT.seed)
    untouched = new_clip(TINY).state_dict()["token_embedding.weight"]
    changed = (short_run().model.state_dict()["token_embedding.weight"] != untouched).any(dim=1)
    assert 50 < int(changed.sum()) < 200


def test_a_saved_clip_loads_again_with_the_same_features(tmp_path: Path) -> None:
    model: Any = new_clip(TINY).eval()
    save_clip(model, TINY, tmp_path / "clip", dtype=torch.float32)
    loaded: Any = load_scratch_clip(tmp_path / "clip")
    images = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(loaded.encode_image(images), model.encode_image(images))


def test_a_form_of_the_wrong_loss_is_refused() -> None:
    with pytest.raises(ValueError, match="loss_form='literal' belongs to loss 'pwcl'"):
        pretrain(replace(SHORT, loss_form="literal"))
