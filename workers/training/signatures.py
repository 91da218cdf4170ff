"""Signatures: every task's gradient at the shared prompt, at several points of its training.

The prompts of those points are stored beside the gradients.  A signature depends on the prompt, the task and the seed
alone, so tasks can be measured at stored prompts again, with more microbatches, and tasks that come later can be
measured as if they had been there.

    # S snapshots, R microbatches, T tasks, P numbers in a prompt (text, then image), E joint embedding
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from workers.arrays import read_arrays, write_arrays
from workers.clip.frozen import FrozenCLIP
from workers.clip.seam import NO_EDITS
from workers.data.dataset import TaskData
from workers.methods.config import MmAPConfig
from workers.seals import Damaged
from workers.storage import has_file
from workers.training.batches import TaskBatch, content_digests, microbatches
from workers.training.checkpoint import remove_checkpoints
from workers.training.config import LARGEST_SIGNATURES, ProfileConfig, TrainConfig
from workers.training.evaluate import encode_images
from workers.training.features import FeatureCache, task_features
from workers.training.forward import ClassLists
from workers.training.gradients import StoredPrompt, flat_prompts, num_layers, task_gradients
from workers.training.results import Progress
from workers.training.run import GroupRun, GroupWork, task_infos
from workers.training.schedule import warmup_steps
from workers.training.train import Stopped, train

SIGNATURES = "signatures.npz"
IMAGES_PER_PASS = 256
"""Tasks are measured in blocks of about so many images, so that memory does not grow with their number."""
CENTROID_IMAGES = 128


def profile(
    clip: FrozenCLIP,
    data: Mapping[str, TaskData],
    profile_config: ProfileConfig,
    training: TrainConfig,
    method: MmAPConfig,
    *,
    directory: Path,
    should_stop: Callable[[], bool] = lambda: False,
    report: Callable[[Progress], None] = lambda progress: None,
    parts: int = 1,
) -> Path:
    """Trains the shared prompt over all tasks and takes snapshots of their gradients; returns the path of
    signatures.npz.  The shared prompt has both modalities, whichever the groups will prompt.

    The file holds gradients [S, R, T, P], losses and counts [S, R, T], steps [S], task_names [T], image_centroids and
    text_centroids [T, E], the shared prompt of every snapshot, prompts [S, P], and the parts of P: block_names [blocks]
    (`text.0`, ..., `image.0`, ...) with block_offsets [blocks + 1].  Snapshots already on disk are kept, and
    training goes on from its checkpoint.
    """
    if has_file(directory / SIGNATURES):
        return directory / SIGNATURES
    num = profile_config.snapshots
    missing = ""
    probe = _Probe(
        clip, data, profile_config, training, method, num_snapshots=num, should_stop=should_stop, parts=parts
    )
    config = training.model_copy(update={"epochs": profile_config.epochs, "max_steps": profile_config.max_steps})
    work = GroupWork(id="shared", tasks=tuple(data), method=probe.method, directory=directory)

    def on_step(run: GroupRun) -> None:
        nonlocal missing
        if missing:
            run.warn("snapshot_missing", f"The shared prompt is trained anew: {missing}")
            missing = ""
        for index, step in enumerate(_snapshot_steps(run, num)):
            if step == run.step:
                found = probe.measure(index, flat_prompts(run.method), step)
                write_arrays(_snapshot(directory, index), found, "snapshot")

    while True:
        train(
            clip,
            [work],
            data,
            config,
            should_stop=should_stop,
            report=report,
            on_step=on_step,
            evaluate="none",
            features=probe.features,
            microbatches=parts,
        )
        try:
            return _assemble(probe, directory)
        except (Damaged, FileNotFoundError) as error:  # a snapshot that was taken before a checkpoint is gone
            missing = str(error)
            remove_checkpoints(directory)


def measure_at(
    clip: FrozenCLIP,
    data: Mapping[str, TaskData],
    stored: Path,
    profile_config: ProfileConfig,
    training: TrainConfig,
    method: MmAPConfig,
    *,
    directory: Path,
    should_stop: Callable[[], bool] = lambda: False,
    log: Callable[[str], None] = lambda text: None,
    parts: int = 1,
) -> Path:
    """Measures tasks at the prompts in `stored`, a profile's signatures.npz; nothing is trained.

    Writes signatures.npz into `directory`, as if the profile had been of these tasks with these microbatches; returns
    its path.  With the profile's own tasks, settings and seed it is the profile's file again.  Snapshots already
    on disk are kept; once `should_stop` turns true, `Stopped` is raised.
    """
    if has_file(directory / SIGNATURES):
        return directory / SIGNATURES
    arrays = read_arrays(stored)
    prompts_SP, steps_S = arrays["prompts"], arrays["steps"]
    num = len(prompts_SP)
    probe = _Probe(
        clip, data, profile_config, training, method, num_snapshots=num, should_stop=should_stop, parts=parts
    )
    for index, (prompts_P, step) in enumerate(zip(prompts_SP, steps_S, strict=True)):
        if not _is_whole(_snapshot(directory, index)):
            write_arrays(_snapshot(directory, index), probe.measure(index, prompts_P, int(step)), "snapshot")
        log(f"snapshot {index + 1}/{num}: {profile_config.microbatches} microbatches of {len(data)} task(s) measured")
    return _assemble(probe, directory)


class _Probe:
    """Reads the gradients of the same tasks at one prompt after another."""

    def __init__(
        self,
        clip: FrozenCLIP,
        data: Mapping[str, TaskData],
        config: ProfileConfig,
        training: TrainConfig,
        method: MmAPConfig,
        *,
        num_snapshots: int,
        parts: int,
        should_stop: Callable[[], bool],
    ):
        """As many tasks are measured together as fit into the images of a pass, which `parts` divides.  ValueError
        where the file would be too large, or a task has too few images for the microbatches."""
        self.method = method.model_copy(update={"sharing": "all", "modality": "both"})
        self.num_snapshots = num_snapshots
        self._clip, self._data, self._config, self._seed = clip, data, config, training.seed
        self._should_stop, self._images_per_pass = should_stop, IMAGES_PER_PASS // parts
        self._lists = ClassLists(clip)
        _refuse_too_large(clip, len(data), num_snapshots, config, self.method)
        self._digests = {task: content_digests(part.train) for task, part in data.items()}
        self._draw(0)
        self.features = FeatureCache(clip)
        self._prompt = StoredPrompt(clip, task_infos(data), self.method)
        if self._prompt.needs_fit:
            found = task_features(self.features, self._lists, self._prompt, data, training, self._check)
            self._prompt.fit(found.__getitem__)

    def measure(self, snapshot: int, prompts_P: np.ndarray, step: int) -> dict[str, np.ndarray]:
        """Arrays of one snapshot: gradients [R, T, P], losses and counts [R, T], and where they were taken."""
        self._prompt.place(prompts_P)
        parts = self._draw(snapshot)
        gradients, losses, counts = [], [], []
        for microbatch in range(self._config.microbatches):
            measured = []
            for block in _blocks(parts, self._images_per_pass):
                self._check()
                batches = {task: _batch(self._data[task], parts[task][microbatch]) for task in block}
                measured.append(task_gradients(self._clip, self._prompt, self._lists, batches))
            gradients.append(torch.cat([part.gradients for part in measured]).cpu().numpy())
            losses.append(torch.cat([part.losses for part in measured]).cpu().numpy())
            counts.append([len(parts[task][microbatch]) for task in self._data])
        return {
            "gradients": np.stack(gradients),
            "losses": np.stack(losses),
            "counts": np.array(counts),
            "steps": np.array(step),
            "prompts": prompts_P,
        }

    def describe(self) -> dict[str, np.ndarray]:
        """Arrays about the tasks that no prompt changes: what signature-free affinities need, and the parts of P."""
        names, offsets = _prompt_blocks(self._clip, self.method)
        texts, images = [], []
        for part in self._data.values():
            self._check()
            texts.append(_centroid(self._texts(part)))
            images.append(_centroid(encode_images(self._clip, part.train.images[:CENTROID_IMAGES], NO_EDITS)))
        return {
            "task_names": np.array(list(self._data)),
            "text_centroids": np.stack(texts),
            "image_centroids": np.stack(images),
            "block_names": names,
            "block_offsets": offsets,
        }

    def _draw(self, snapshot: int) -> dict[str, list[np.ndarray]]:
        num, size = self._config.microbatches, self._config.microbatch_size
        return {
            task: microbatches(of_task, task, seed=self._seed, snapshot=snapshot, num=num, size=size)
            for task, of_task in self._digests.items()
        }

    def _texts(self, data: TaskData) -> torch.Tensor:
        """Zero-shot features of a task's classes, or of the first captions of a retrieval task.  [K, E]"""
        if data.class_names:
            return self._lists.frozen(data.class_names, data.template)
        with torch.no_grad():
            texts = [texts[0] for texts in data.train.captions[:CENTROID_IMAGES]]
            return self._clip.text([self._clip.caption_list(texts)])[0]

    def _check(self) -> None:
        if self._should_stop():
            raise Stopped


def _assemble(probe: _Probe, directory: Path) -> Path:
    """One file from the snapshots, which are then gone."""
    parts = [read_arrays(_snapshot(directory, index)) for index in range(probe.num_snapshots)]
    arrays = probe.describe()
    for name in ("gradients", "losses", "counts", "steps", "prompts"):
        arrays[name] = np.stack([part[name] for part in parts])
    write_arrays(directory / SIGNATURES, arrays, "signatures")
    for index in range(probe.num_snapshots):
        _snapshot(directory, index).unlink()
    return directory / SIGNATURES


def _is_whole(path: Path) -> bool:
    try:
        read_arrays(path)
    except (Damaged, FileNotFoundError):
        return False
    return True


def _snapshot(directory: Path, index: int) -> Path:
    return directory / f"snapshot-{index:03d}.npz"


def _snapshot_steps(run: GroupRun, num: int) -> list[int]:
    """Steps after which a snapshot is taken: equally spaced from the end of the warm-up to the end of training."""
    first = warmup_steps(run.config, num_steps=run.num_steps, steps_per_epoch=run.epoch_steps)
    return [first + round((run.num_steps - first) * (index + 1) / num) for index in range(num)]


def _batch(data: TaskData, rows: np.ndarray) -> TaskBatch:
    return TaskBatch(data.name, data.train, rows, np.zeros_like(rows), None, len(rows))


def _blocks(parts: Mapping[str, list[np.ndarray]], images_per_pass: int) -> list[list[str]]:
    blocks: list[list[str]] = [[]]
    size = 0
    for task, sets in parts.items():
        count = len(sets[0])
        if blocks[-1] and size + count > images_per_pass:
            blocks.append([])
            size = 0
        blocks[-1].append(task)
        size += count
    return blocks


def _prompt_blocks(clip: FrozenCLIP, method: MmAPConfig) -> tuple[np.ndarray, np.ndarray]:
    """Names and offsets of the parts of P: one per tower and layer, [blocks] and [blocks + 1]."""
    depth = num_layers(clip, method)
    towers = (("text", clip.text.width), ("image", clip.image.width))
    names = [f"{tower}.{layer}" for tower, _ in towers for layer in range(depth)]
    sizes = [method.num_tokens * width for _, width in towers for _ in range(depth)]
    return np.array(names), np.concatenate([[0], np.cumsum(sizes)])


def _centroid(features: torch.Tensor) -> np.ndarray:
    """Mean of normalised features, [rows, E] -> [E]."""
    return F.normalize(features, dim=-1).mean(dim=0).cpu().numpy()


def _refuse_too_large(
    clip: FrozenCLIP, num_tasks: int, num_snapshots: int, config: ProfileConfig, method: MmAPConfig
) -> None:
    numbers = int(_prompt_blocks(clip, method)[1][-1])
    size = 4 * num_snapshots * config.microbatches * num_tasks * numbers
    if size > LARGEST_SIGNATURES:
        raise ValueError(
            f"profile: signatures of {num_tasks} tasks x {num_snapshots} snapshots x {config.microbatches} "
            f"microbatches x "
            f"{numbers} numbers take {size / 1024**3:.1f} GiB; at most {LARGEST_SIGNATURES // 1024**3} GiB are kept. "
            "Use fewer snapshots or microbatches, or a smaller method.depth or method.num_tokens."
        )
