"""How a bundle predicts.

    classifier = load_bundle("bundle").classifier("art")
    classifier.predict(["cat.jpg"])

It needs the backbone, which is not in the bundle, and neither Ray nor the service.  What a bundle is made of and how
it is written: bundle_files.py.

    # B images, K classes, E joint embedding
"""

import json
from collections.abc import Sequence
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from pydantic import TypeAdapter
from safetensors.torch import load

from workers.bundle_files import FORMAT, MANIFEST
from workers.clip.config import BackboneConfig, Precision
from workers.clip.frozen import FrozenCLIP, load_clip
from workers.data.decoding import decode_rgb
from workers.data.resizing import resize_image
from workers.methods.build import build_method
from workers.methods.config import MethodConfig
from workers.methods.method import Method, TaskInfo
from workers.training.evaluate import EVALUATION_BATCH, caption_features, encode_images
from workers.training.results import LEARNED, TEXT_FEATURES

ImageLike = str | Path | bytes | Image.Image | np.ndarray
"""A path, an encoded image, a Pillow image, or uint8 pixels [H, W, 3]."""


def load_bundle(
    folder: str | Path, *, device: str = "cpu", backbone: str | None = None, precision: Precision | None = None
) -> "Bundle":
    """Opens a bundle; the backbone is loaded when the first classifier is asked for.

    `backbone` names another place for the same weights (a `local-dir:` of this machine); `precision` another compute
    dtype. ValueError if the bundle is incomplete, damaged, or of a newer format.
    """
    folder = Path(folder)
    if not (folder / MANIFEST).is_file():
        raise ValueError(
            f"{folder} has no {MANIFEST}: it is no bundle, or an unfinished one. Give the folder `cohort pull` wrote."
        )
    manifest = json.loads((folder / MANIFEST).read_text())
    if not isinstance(manifest, dict):
        raise ValueError(f"{folder / MANIFEST} is no JSON object. Pull the bundle again.")
    if manifest.get("format") != FORMAT:
        raise ValueError(
            f"{folder}: bundle format {manifest.get('format')}, this Cohort reads {FORMAT}. Use the version that "
            f"wrote it."
        )
    config = BackboneConfig(**manifest["backbone"])
    if backbone is not None:
        config = config.model_copy(update={"model": backbone, "pretrained": None})
    if precision is not None:
        config = config.model_copy(update={"precision": precision})
    return Bundle(folder, manifest, config, device)


class Bundle:
    """An opened bundle."""

    def __init__(self, folder: Path, manifest: dict[str, Any], backbone: BackboneConfig, device: str):
        self.folder = folder
        self.manifest = manifest
        self._backbone = backbone
        self._device = device
        self._clip: FrozenCLIP | None = None

    @property
    def tasks(self) -> tuple[str, ...]:
        """The names of its tasks."""
        return tuple(task["name"] for task in self.manifest["tasks"])

    def classifier(self, task: str) -> "Classifier":
        """The trained classifier of one task.  ValueError for a task that is not in the bundle, or a damaged file."""
        if task not in self.tasks:
            raise ValueError(f"task {task!r} is not in this bundle. It holds: {', '.join(self.tasks)}.")
        described = self.manifest["tasks"][self.tasks.index(task)]
        group = next(group for group in self.manifest["groups"] if group["id"] == described["group"])
        if self._clip is None:
            self._clip = load_clip(self._backbone, device=self._device)
        config = TypeAdapter(MethodConfig).validate_python(group["method"])
        method = build_method(config, self._clip, [self._info(name) for name in group["tasks"]], seed=0)
        method.load_state(load(self._read(f"groups/{group['id']}/{LEARNED}")))
        texts = load(self._read(f"groups/{group['id']}/{TEXT_FEATURES}")).get(task)
        return Classifier(self._clip, method, task, None if texts is None else texts.to(self._clip.device))

    def _info(self, task: str) -> TaskInfo:
        described = self.manifest["tasks"][self.tasks.index(task)]
        kind = described.get("kind", "classification")  # bundles of the first version hold no other
        names = tuple(described["class_names"])
        return TaskInfo(task, names, described["template"], kind, described.get("num_train", 0))

    def verify(self) -> None:
        """Checks the sha256 of every file; ValueError names the first that is missing or damaged."""
        for name in self.manifest["files"]:
            self._read(name)

    def _read(self, name: str) -> bytes:
        try:
            content = (self.folder / name).read_bytes()
        except FileNotFoundError as error:
            raise ValueError(f"{self.folder} lacks {name}, which its manifest lists. Pull the bundle again.") from error
        if sha256(content).hexdigest() != self.manifest["files"][name]["sha256"]:
            raise ValueError(
                f"{self.folder / name} is damaged: its sha256 differs from the manifest. Pull the bundle again."
            )
        return content


class Classifier:
    """One task's classifier: image tower with the method's edits, text features computed at training time."""

    def __init__(self, clip: FrozenCLIP, method: Method, task: str, texts: torch.Tensor | None):
        info = method.infos[task]
        self.task = task
        self.kind = info.kind
        self.class_names = info.class_names
        self._clip = clip
        self._method = method
        self._texts = texts
        self._edits = method.edits([task]).image

    def predict(self, images: Sequence[ImageLike]) -> list[str] | list[list[str]]:
        """The most likely class name of every image; for several labels, the names whose probability exceeds a half.

        ValueError for a retrieval task, which has no classes: see `rank`.
        """
        logits = self.logits(images)
        if self.kind == "multi_label":
            return [[self.class_names[index] for index in np.flatnonzero(row > 0)] for row in logits]
        return [self.class_names[index] for index in logits.argmax(axis=1)]

    def rank(self, images: Sequence[ImageLike], texts: Sequence[str]) -> np.ndarray:
        """How well every text describes every image, [B, texts] fp32: cosines times the logit scale.

        ValueError for a task with classes: its texts are fixed.
        """
        if self.kind != "retrieval":
            raise ValueError(f"task {self.task!r} has classes, so its texts are fixed. Use predict or logits.")
        if isinstance(texts, str) or not texts:
            raise ValueError("rank takes a list of at least one text.")
        return self._logits(images, caption_features(self._clip, self._method, self.task, tuple(texts)))

    def logits(self, images: Sequence[ImageLike]) -> np.ndarray:
        """[B, K] fp32, in the order of `class_names`.  Computed in batches of the evaluation's size."""
        if self._texts is None:
            raise ValueError(f"task {self.task!r} is a retrieval task: it has no classes. Use rank(images, texts).")
        return self._logits(images, self._texts)

    def _logits(self, images: Sequence[ImageLike], texts: torch.Tensor) -> np.ndarray:
        if isinstance(images, (str, bytes, Path, Image.Image)) or len(images) == 0:
            raise ValueError(
                "predict takes a list of at least one image: a path, bytes, a Pillow image, or [H, W, 3] uint8."
            )
        blocks = [images[first : first + EVALUATION_BATCH] for first in range(0, len(images), EVALUATION_BATCH)]
        return np.concatenate([self._block([self._open(image) for image in block], texts) for block in blocks])

    @torch.no_grad()
    def _block(self, images: list[np.ndarray], texts: torch.Tensor) -> np.ndarray:
        features = encode_images(self._clip, np.stack(images), self._edits)
        return self._method.task_logits(self.task, features, texts).cpu().numpy()

    def _open(self, image: ImageLike) -> np.ndarray:
        if isinstance(image, np.ndarray):
            if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
                raise ValueError(
                    f"image array has shape {image.shape} and dtype {image.dtype}; expected uint8 [H, W, 3]."
                )
            image = Image.fromarray(image)
        if isinstance(image, Image.Image):
            buffer = BytesIO()
            image.save(buffer, "TIFF")
            image = buffer.getvalue()
        encoded = image if isinstance(image, bytes) else Path(image).read_bytes()
        return resize_image(decode_rgb(encoded), self._clip.resize)
