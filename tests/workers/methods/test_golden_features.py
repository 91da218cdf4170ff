"""Golden values: the forward passes of TaskRes, CLIP-Adapter and Tip-Adapter on the 2-layer CLIP, computed from the
papers' formulas in fp64 NumPy, from features and learned tensors alone."""

from pathlib import Path

import numpy as np
import pytest
import torch

from workers.clip.frozen import FrozenCLIP
from workers.data.dataset import TaskData
from workers.methods.config import (
    CLIPAdapterConfig,
    MethodConfig,
    TaskResConfig,
    TipAdapterConfig,
    TipAdapterFConfig,
)
from workers.training.config import AugmentConfig, TrainConfig
from workers.training.distributed import Ranks
from workers.training.features import FeatureCache
from workers.training.forward import ClassLists
from workers.training.run import GroupRun, GroupWork
from workers.training.train import train_step

TEMPLATES = ("a {}.", "a photo of the {}.", "{}, painted.")
CONFIG = TrainConfig(max_steps=9, batch_size=6, warmup_epochs=0, lr=0.05, optimizer="sgd", augment=AugmentConfig())
CLOSE = 1e-5


def _trained(clip: FrozenCLIP, method: MethodConfig, task: TaskData) -> GroupRun:
    """A few steps from its start, so that no tensor is at its initial value."""
    work = GroupWork("g1", (task.name,), method, Path("unused"))
    run = GroupRun(clip, work, {task.name: task}, CONFIG, ClassLists(clip), FeatureCache(clip))
    run.fit()
    for _ in range(5 if method.trains else 0):
        train_step(clip, [run], run._lists, Ranks())
    return run


def _state(run: GroupRun) -> dict[str, np.ndarray]:
    return {name.rsplit(".", 1)[1]: value.detach().numpy() for name, value in run.method.state().items()}


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.sqrt((x * x).sum(axis=-1, keepdims=True))


def _towers(clip: FrozenCLIP, task: TaskData) -> tuple[np.ndarray, np.ndarray]:
    """z of the test images [N, E] and t of every template [templates, K, E], as the towers give them."""
    pixels = clip.normalise(torch.from_numpy(task.test.images.copy()).float() / 255)
    texts = [clip.text([clip.class_list(task.class_names, template)])[0] for template in TEMPLATES]
    return clip.image(pixels).double().numpy(), torch.stack(texts).double().numpy()


def _logits(run: GroupRun) -> np.ndarray:
    """What evaluation computes."""
    features = run.features["art"]
    with torch.no_grad():
        return run.method.task_logits("art", features.images("test"), features.texts()).double().numpy()


def test_taskres_is_the_cosine_with_the_base_plus_alpha_times_the_residual(
    tiny_clip: FrozenCLIP, tasks: dict[str, TaskData]
):
    run = _trained(tiny_clip, TaskResConfig(alpha=0.7, templates=TEMPLATES), tasks["art"])
    z, t = _towers(tiny_clip, tasks["art"])
    x = _state(run)["residual"].astype(np.float64)
    assert np.abs(x).min() > 0
    base = (t[0] + t[1] + t[2]) / 3
    expected = tiny_clip.logit_scale * _unit(z) @ _unit(base + 0.7 * x).T
    np.testing.assert_allclose(_logits(run), expected, rtol=CLOSE, atol=CLOSE)


@pytest.mark.parametrize("modality", ["vision", "text", "both"])
def test_clip_adapter_is_the_cosine_of_the_mixtures(tiny_clip: FrozenCLIP, tasks: dict[str, TaskData], modality: str):
    method = CLIPAdapterConfig(modality=modality, alpha=0.3, reduction=2, templates=TEMPLATES)  # type: ignore[arg-type]
    run = _trained(tiny_clip, method, tasks["art"])
    z, t = _towers(tiny_clip, tasks["art"])
    state = {name: value.astype(np.float64) for name, value in _state(run).items()}
    text = _unit(t).mean(axis=0)  # several templates: the mean of their directions

    def mixed(f: np.ndarray, tower: str) -> np.ndarray:
        hidden = np.maximum(f @ state[f"{tower}_down"].T, 0)
        assert state[f"{tower}_down"].shape == (8, 16) and state[f"{tower}_up"].shape == (16, 8)
        return 0.3 * np.maximum(hidden @ state[f"{tower}_up"].T, 0) + (1 - 0.3) * f

    if modality != "text":
        z = mixed(z, "image")
    if modality != "vision":
        text = mixed(text, "text")
    expected = tiny_clip.logit_scale * _unit(z) @ _unit(text).T
    np.testing.assert_allclose(_logits(run), expected, rtol=CLOSE, atol=CLOSE)
    assert len(state) == (4 if modality == "both" else 2)


def test_tip_adapter_adds_the_votes_of_a_cache_of_mean_directions(tiny_clip: FrozenCLIP, tasks: dict[str, TaskData]):
    method = TipAdapterConfig(alpha=2.5, beta=1.8, search=False, views=4, templates=TEMPLATES)
    run = _trained(tiny_clip, method, tasks["art"])
    z, t = _towers(tiny_clip, tasks["art"])
    views, labels = run.features["art"].train()
    assert views.shape == (4, 12, 16)
    keys = _unit(_unit(views.double().numpy()).mean(axis=0))
    one_hot = np.eye(3)[labels.numpy()]
    text = _unit(_unit(t).mean(axis=0))
    expected = tiny_clip.logit_scale * _unit(z) @ text.T + 2.5 * np.exp(-1.8 * (1 - _unit(z) @ keys.T)) @ one_hot
    np.testing.assert_allclose(_logits(run), expected, rtol=CLOSE, atol=CLOSE)


def test_tip_adapter_f_is_the_same_formula_with_its_trained_keys(tiny_clip: FrozenCLIP, tasks: dict[str, TaskData]):
    method = TipAdapterFConfig(alpha=2.5, beta=1.8, search=False, views=4, templates=TEMPLATES)
    run = _trained(tiny_clip, method, tasks["art"])
    start = _trained(tiny_clip, TipAdapterConfig(views=4, search=False), tasks["art"])
    z, t = _towers(tiny_clip, tasks["art"])
    keys = _state(run)["keys"].astype(np.float64)
    assert np.abs(keys - _state(start)["keys"]).max() > 1e-3
    votes = np.zeros((len(z), 3))
    for row, key in enumerate(keys):  # one image's vote after another
        votes[:, row % 3] += np.exp(-1.8 * (1 - _unit(z) @ key))
    expected = tiny_clip.logit_scale * _unit(z) @ _unit(_unit(t).mean(axis=0)).T + 2.5 * votes
    np.testing.assert_allclose(_logits(run), expected, rtol=CLOSE, atol=CLOSE)
