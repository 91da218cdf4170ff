"""The cases that every method's laws are tried on, and what the laws need: trained runs, other kinds of tasks, bf16.

A new method needs one entry in SMALL.  A law that asks for `case` is tried on every case, or on those that its
attribute `only` lets through.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from functools import lru_cache
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch

from workers.clip.config import BackboneConfig
from workers.clip.frozen import FrozenCLIP, load_clip
from workers.data.dataset import ImageSet, TaskData
from workers.methods.config import MethodConfig, Sharing
from workers.training.config import TrainConfig
from workers.training.features import FeatureCache
from workers.training.forward import ClassLists
from workers.training.results import GroupResult
from workers.training.run import GroupRun, GroupWork
from workers.training.train import train


@dataclass(frozen=True)
class Small:
    """A setting of a method that fits the tiny CLIP; it is tried under every sharing that the method has."""

    settings: dict[str, Any] = field(default_factory=dict)
    sharings: tuple[Sharing, ...] | None = None
    """Only these."""
    kinds: tuple[str, ...] | None = None
    """Only these task kinds."""
    tasks: tuple[str, ...] = ("art", "clipart", "pets")
    """Of three uneven tasks; the first two have the same class names."""
    identity: bool = False
    """Before the first step it is zero-shot CLIP."""
    random: bool = True
    """Something in it is drawn."""
    pooled: bool = False
    """What the group shares holds something of each of its tasks."""
    no_gradient: Mapping[str, str] = field(default_factory=dict)
    """Name patterns of learned tensors that never receive a gradient, and why."""


SHARED: tuple[Sharing, ...] = ("all", "grouped+task")
WITH_CLASSES = ("classification", "multi_label")
SMALL: dict[str, list[Small]] = {
    "zero_shot": [
        Small(identity=True, random=False),
        Small({"templates": ("a {}.", "a photo of the {}.")}, random=False),
    ],
    "linear_probe": [Small(random=False), Small({"c": 10.0}, random=False)],
    "taskres": [
        Small(identity=True, random=False),
        Small({"enhanced": True, "templates": ("a {}.", "a photo of the {}."), "alpha": 1.0}, random=False),
    ],
    "clip_adapter": [  # not zero-shot at the start: its last ReLU adds what is drawn
        Small(),
        Small({"modality": "text", "reduction": 1}, ("alone", "all")),  # as narrow as four, its first ReLU may be dead
        Small({"modality": "both"}, ("grouped",)),
    ],
    "tip_adapter": [
        Small(sharings=("alone",), random=False),
        Small(sharings=("all", "grouped"), tasks=("art", "clipart"), random=False, pooled=True),
        Small({"alpha": 0.0, "search": False}, ("alone",), identity=True, random=False),
    ],
    "tip_adapter_f": [
        Small(sharings=("alone",), random=False),
        Small(sharings=("all", "grouped"), tasks=("art", "clipart"), random=False, pooled=True),
    ],
    "coop": [
        Small({"num_context_tokens": 3}),
        Small({"init_words": "a photo of a"}, ("all",), random=False),
        Small({"num_context_tokens": 3, "class_position": "middle"}, ("alone", "grouped"), WITH_CLASSES),
        Small({"num_context_tokens": 3, "class_position": "front"}, ("grouped+task",), WITH_CLASSES),
        Small({"num_context_tokens": 2, "class_specific": True}, SHARED, WITH_CLASSES, ("art", "clipart")),
        Small({"num_context_tokens": 2, "class_specific": True}, ("alone",), kinds=WITH_CLASSES),
    ],
    "vpt": [
        Small({"num_tokens": 3}),
        Small({"num_tokens": 3, "deep": False, "init": "normal"}, ("all",)),
        Small({"num_tokens": 2, "before_ln_pre": True}, ("alone",)),
    ],
    "vl_prompts": [Small({"num_image_tokens": 3}), Small({"depth": 1, "before_ln_pre": True}, ("grouped",))],
    "maple": [
        Small(),
        Small({"num_tokens": 5, "depth": 1, "keep_template": False, "before_ln_pre": True}, ("alone", "grouped+task")),
    ],
    "mmap": [
        Small({"num_tokens": 2, "source_shape": (2, 4)}),
        Small({"num_tokens": 2, "source_shape": (1, 4), "depth": 1, "group_reduce": "mean"}, ("grouped+task",)),
        Small({"num_tokens": 2, "modality": "text"}, ("alone", "grouped+task")),
        Small({"num_tokens": 2, "modality": "vision"}, ("alone", "grouped+task")),
    ],
    "bitfit": [
        Small(identity=True, random=False),
        Small({"layer_norms": False}, ("all",), identity=True, random=False),
    ],
    "layer_norm": [Small(identity=True, random=False)],
    "full_fine_tuning": [Small(identity=True, random=False)],
    "lora": [
        Small({"rank": 2}, identity=True),
        Small({"rank": 1, "targets": ("key",), "biases": True}, ("alone", "grouped+task"), identity=True),
    ],
    "adapter": [
        Small(identity=True),
        Small({"shared_half": "up"}, ("half",), identity=True),
        Small({"reduction": 4, "towers": "text", "places": "mlp"}, ("all", "alone"), identity=True),
        Small({"towers": "vision", "places": "attn"}, ("grouped+task",), identity=True),
        Small({"tune_layer_norms": True}, identity=True),
        Small({"task_prefix": True}, ("all", "half"), kinds=WITH_CLASSES),
    ],
    "hyperformer": [  # near zero-shot at the start, as its adapters are drawn
        Small({"embedding_dim": 6, "hidden_dim": 16, "code_dim": 4}),
        Small({"embedding_dim": 6, "tune_layer_norms": True, "places": "attn"}),
        Small({"towers": "vision"}, ("grouped",)),
    ],
    "compacter": [  # near zero-shot at the start, as its rules are tiny but not zero
        Small({"reduction": 4}),
        Small({"reduction": 4, "num_terms": 2, "rank": None, "share_rule": False, "rule_std": 0.01}),
        Small({"reduction": 4, "rank": 2, "towers": "text"}, ("all",)),
    ],
    "cavl_adapter": [Small(identity=True)],
    "shortcut": [Small(identity=True), Small({"lite": True}, identity=True)],
}

CONFIG = TrainConfig(max_steps=3, batch_size=4, warmup_epochs=0, augment=None, validations=1)


@dataclass(frozen=True)
class Case:
    """One setting under one sharing."""

    config: Any
    small: Small
    is_first: bool
    """Of its method."""

    @property
    def name(self) -> str:
        """What pytest calls it."""
        told = [self.config.kind, getattr(self.config, "sharing", "")]
        told += [f"{key}={value}" for key, value in self.small.settings.items()]
        told += self.small.tasks if self.small.tasks != Small.tasks else ()
        return "-".join(part for part in told if part)

    @property
    def kinds(self) -> tuple[str, ...]:
        """Task kinds that it trains."""
        return tuple(kind for kind in self.config.kinds if self.small.kinds is None or kind in self.small.kinds)

    def expects_no_gradient(self, name: str) -> bool:
        """Whether a learned tensor is one of the exceptions."""
        return any(fnmatch(name, pattern) for pattern in self.small.no_gradient)


CLASSES = {cls.model_fields["kind"].default: cls for cls in get_args(get_args(MethodConfig)[0])}


def _cases() -> list[Case]:
    found: list[Case] = []
    for kind, cls in CLASSES.items():
        for small in SMALL.get(kind, []):
            for sharing in small.sharings or cls.sharings or (None,):
                config = cls(**small.settings, **({"sharing": sharing} if sharing else {}))
                found.append(Case(config, small, is_first=not any(case.config.kind == kind for case in found)))
    return found


CASES = _cases()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Tries a law on its cases."""
    if "case" in metafunc.fixturenames:
        only = getattr(metafunc.function, "only", lambda case: True)
        cases = [case for case in CASES if only(case)]
        metafunc.parametrize("case", cases, ids=[case.name for case in cases])


@pytest.fixture(scope="session")
def all_cases() -> dict[str, tuple[Any, list[Case]]]:
    """Every method of the union: its config class and its cases."""
    return {kind: (cls, [case for case in CASES if case.config.kind == kind]) for kind, cls in CLASSES.items()}


@dataclass
class Trained:
    """A case after CONFIG's steps."""

    directory: Path
    run: GroupRun
    after: dict[str, torch.Tensor]
    result: GroupResult


@pytest.fixture
def data(case: Case, tasks: dict[str, TaskData]) -> dict[str, TaskData]:
    """The tasks of the case."""
    return {name: tasks[name] for name in case.small.tasks}


@pytest.fixture(scope="module")
def trained_once(
    tiny_clip: FrozenCLIP, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[Case, dict[str, TaskData]], Trained]:
    """Trains a case on first call, and remembers it."""
    made: dict[str, Trained] = {}

    def make(case: Case, data: dict[str, TaskData]) -> Trained:
        if case.name not in made:
            seen: list[GroupRun] = []
            work = GroupWork("g1", tuple(data), case.config, tmp_path_factory.mktemp("trained") / "g1")
            result = train(
                tiny_clip,
                [work],
                data,
                CONFIG,
                on_step=seen.append,
                features=_kept(tiny_clip)[1],
            )["g1"]
            after = {name: tensor.detach().clone() for name, tensor in seen[-1].method.state().items()}
            made[case.name] = Trained(work.directory, seen[-1], after, result)
        return made[case.name]

    return make


@pytest.fixture
def trained(case: Case, data: dict[str, TaskData], trained_once: Callable[..., Trained]) -> Trained:
    """The case, trained."""
    return trained_once(case, data)


@pytest.fixture
def fresh(tiny_clip: FrozenCLIP) -> Callable[..., GroupRun]:
    """`fresh(config, data)`: a run before its first step, fitted."""

    def make(config: MethodConfig, data: Mapping[str, TaskData], clip: FrozenCLIP = tiny_clip) -> GroupRun:
        work = GroupWork("-".join(data), tuple(data), config, Path("unused"))
        run = GroupRun(clip, work, data, CONFIG, *_kept(clip))
        run.fit()
        return run

    return make


@lru_cache
def _kept(clip: FrozenCLIP) -> tuple[ClassLists, FeatureCache]:
    return ClassLists(clip), FeatureCache(clip)


@pytest.fixture(scope="session")
def tiny_clip_bf16(tiny_clip_dir: Path) -> FrozenCLIP:
    """The tiny CLIP, stored and computed in bf16."""
    return load_clip(BackboneConfig(model=f"local-dir:{tiny_clip_dir}", precision="bf16"))


@pytest.fixture
def other_kinds(tasks: dict[str, TaskData]) -> dict[str, TaskData]:
    """A multi-label task and a retrieval task."""

    def with_labels(images: ImageSet) -> ImageSet:
        labels = np.eye(3, dtype=np.uint8)[images.labels]
        labels[:, 0] |= np.arange(len(labels)) % 2 == 0
        return replace(images, labels=labels)

    def with_captions(images: ImageSet) -> ImageSet:
        colours = ("red", "green", "blue")
        captions = tuple(
            (f"a {colours[label]} picture", f"number {row} in {colours[label]}")[: 1 + row % 2]
            for row, label in enumerate(images.labels.tolist())
        )
        return replace(images, labels=np.zeros_like(images.labels), captions=captions)

    made = []
    for kind, change in (("multi_label", with_labels), ("retrieval", with_captions)):
        base = tasks["art"]
        parts = {part: change(_first(getattr(base, part), 6)) for part in ("train", "val", "test")}
        made.append(replace(base, name=kind, kind=kind, fingerprint=base.fingerprint + kind, **parts))
    made[1] = replace(made[1], class_names=(), template="{}")
    return {task.name: task for task in made}


def _first(images: ImageSet, count: int) -> ImageSet:
    return replace(images, images=images.images[:count], labels=images.labels[:count], keys=images.keys[:count])
