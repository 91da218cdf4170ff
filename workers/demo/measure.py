"""Measures a CLIP folder on the demo tasks, for its model card:  python -m workers.demo.measure [FOLDER]

Two figures a task: zero-shot accuracy, and what a logistic regression on the frozen image features reaches when it is
trained on the task's training images, so that the room for training is known.  Both on test images.
"""

import io
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.linear_model import LogisticRegression

from workers.clip.scratch import load_scratch_clip, new_tokenizer
from workers.demo.pretrain import CLIP_FOLDER
from workers.demo.tasks import DEMO_TASKS, demo_listing

# N images, K classes, E joint embedding


@dataclass(frozen=True)
class Score:
    """Test accuracies of one demo task, 0..1."""

    zero_shot: float
    linear_probe: float
    chance: float


def measure(model: Any, task_names: tuple[str, ...] = tuple(DEMO_TASKS)) -> dict[str, Score]:
    """Scores of every named demo task."""
    return {name: Score(zero_shot_accuracy(model, name), linear_probe_accuracy(model, name),
                        1 / len(DEMO_TASKS[name].class_names)) for name in task_names}  # fmt: skip


def zero_shot_accuracy(model: Any, task_name: str, part: str = "test") -> float:
    """Share of a task's images whose nearest class sentence is the right one."""
    task = DEMO_TASKS[task_name]
    image_NE, labels_N = image_features(model, task_name, part)
    tokens = new_tokenizer(model.context_length)([task.template.format(name) for name in task.class_names])
    with torch.inference_mode():
        text_KE = F.normalize(model.encode_text(tokens), dim=-1).numpy()
    return float(((image_NE @ text_KE.T).argmax(1) == labels_N).mean())


def linear_probe_accuracy(model: Any, task_name: str) -> float:
    """Test accuracy of a logistic regression on the training images' features."""
    train_NE, train_labels_N = image_features(model, task_name, "train")
    test_NE, test_labels_N = image_features(model, task_name, "test")
    probe = LogisticRegression(C=10.0, max_iter=2000).fit(train_NE * 10, train_labels_N)
    return float(probe.score(test_NE * 10, test_labels_N))


def image_features(model: Any, task_name: str, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Normalised features [N, E] and labels [N] of one part of a task."""
    items = [item for item in demo_listing(task_name).items if item.split == part]
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(item.read()))) for item in items])
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.inference_mode():
        features = F.normalize(model.encode_image(images), dim=-1).numpy()
    return features, np.array([item.label for item in items])


def table(scores: Mapping[str, Score]) -> str:
    """Scores as a Markdown table, in percent."""
    rows = [f"| {name} | {s.chance:.1%} | {s.zero_shot:.1%} | {s.linear_probe:.1%} |" for name, s in scores.items()]
    return "\n".join(["| task | chance | zero-shot | linear probe |", "|---|---|---|---|", *rows])


def main(arguments: Sequence[str]) -> None:
    folder = Path(arguments[0]) if arguments else CLIP_FOLDER
    sys.stdout.write(table(measure(load_scratch_clip(folder))) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
