"""Signatures: every task's gradient at the shared prompt, at several points of its training, from one backward each.

A signature is the gradient with respect to the *generated* prompts.  Gradients of the factors depend on an arbitrary
scale: (c W) (x) (P / c) is the same prompt.  Every task reads the shared prompt through a copy of its own, so one
backward of the summed losses leaves every task's gradient on its own copy.  Where tasks have the same class
sentences their text features are computed once, and the text tower's backward is run once per task of the most
crowded list.

    # S snapshots, R microbatches, T tasks, P numbers in a prompt (text, then image), U distinct class lists
    # K layers, M prompt tokens, D width, E joint embedding
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from workers.clip.frozen import FrozenCLIP
from workers.clip.seam import NO_EDITS, Edits, Rows
from workers.data.dataset import TaskData
from workers.methods.config import MmAPConfig
from workers.methods.method import Method
from workers.methods.prompts import prompted_layers
from workers.training.batches import TaskBatch, content_digests, microbatches, scale_pixels
from workers.training.config import ProfileConfig, TrainConfig
from workers.training.evaluate import encode_images
from workers.training.forward import ClassLists
from workers.training.kinds import image_losses
from workers.training.results import Progress, write_atomically
from workers.training.run import GroupRun, GroupWork
from workers.training.schedule import warmup_steps
from workers.training.train import train

SIGNATURES = "signatures.npz"
IMAGES_PER_PASS = 256
"""Tasks are measured in blocks of about so many images, so that memory does not grow with their number."""
LARGEST_FILE = 2 * 1024**3
CENTROID_IMAGES = 128


@dataclass(frozen=True)
class TaskGradients:
    """One microbatch of every task."""

    gradients: torch.Tensor
    """[T, P] fp32: text prompts [K, M, D_text] flattened, then image prompts [K, M, D_image]."""
    losses: torch.Tensor
    """[T] mean loss of each task's kind."""


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
) -> Path:
    """Trains the shared prompt over all tasks and takes snapshots of their gradients; returns the path of
    signatures.npz.  The shared prompt has both modalities, whichever the groups will prompt.

    The file holds gradients [S, R, T, P], losses and counts [S, R, T], steps [S], task_names [T], image_centroids and
    text_centroids [T, E], the shared prompt of every snapshot, prompts [S, P], and the parts of P: block_names [blocks]
    (`text.0`, ..., `image.0`, ...) with block_offsets [blocks + 1].  Snapshots already on disk are kept, and
    training goes on from its checkpoint.
    """
    shared = method.model_copy(update={"sharing": "all", "modality": "both"})
    config = training.model_copy(update={"epochs": profile_config.epochs, "max_steps": profile_config.max_steps})
    work = GroupWork(id="shared", tasks=tuple(data), method=shared, directory=directory)
    lists = ClassLists(clip)
    digests = {task: content_digests(part.train) for task, part in data.items()}

    def on_step(run: GroupRun) -> None:
        for index, step in enumerate(_snapshot_steps(run, profile_config.snapshots)):
            if step == run.step:
                _take_snapshot(clip, run, lists, digests, profile_config, index, directory)

    if (directory / SIGNATURES).is_file():
        return directory / SIGNATURES
    _refuse_too_large(clip, len(data), profile_config, shared)
    _draw_microbatches(digests, training.seed, 0, profile_config)  # too few images are refused before training
    train(
        clip,
        [work],
        data,
        config,
        should_stop=should_stop,
        report=report,
        on_step=on_step,
        evaluate="none",
    )
    return _assemble(clip, data, lists, profile_config, shared, directory)


def task_gradients(
    clip: FrozenCLIP, method: Method, lists: ClassLists, batches: Mapping[str, TaskBatch]
) -> TaskGradients:
    """Every task's gradient at one shared prompt, from one pass over all tasks' images.

    `method` is the shared prompt's, with a single copy of it for all tasks; `batches` holds a batch per task.
    """
    tasks = list(batches)
    edits = method.edits(tasks)
    shared_text, shared_image = edits.text.prompts_CKMD, edits.image.prompts_CKMD
    assert shared_text is not None and shared_image is not None and len(shared_text) == 1
    sentences = {
        task: (batch.captions or method.infos[task].class_names, method.infos[task].template)
        for task, batch in batches.items()
    }
    distinct = list(dict.fromkeys(sentences.values()))
    owners = [[place for place, task in enumerate(tasks) if sentences[task] == key] for key in distinct]

    # Text: one copy of the prompt per distinct class list; a task's features are a leaf of its own.
    text_copies = _copies(shared_text, len(distinct))
    text_U = clip.text(
        [
            clip.caption_list(key[0], num_prompt_tokens=edits.text.num_tokens)
            if batches[tasks[places[0]]].captions
            else lists[key]
            for key, places in zip(distinct, owners, strict=True)
        ],
        Edits(text_copies),
        range(len(distinct)),
    )
    texts = {
        place: text.detach().requires_grad_() for text, places in zip(text_U, owners, strict=True) for place in places
    }

    # Images: one copy of the prompt per task, gathered per image.
    image_copies = _copies(shared_image, len(tasks))
    pixels = clip.normalise(scale_pixels(clip, np.concatenate([batch.images for batch in batches.values()])))
    counts = [len(batch.rows) for batch in batches.values()]
    rows = Rows.of(list(enumerate(counts)), clip.device)
    features = clip.image(pixels, Edits(image_copies), rows).split(counts)
    losses = torch.stack(
        [
            image_losses(
                method.infos[task].kind,
                method.task_logits(task, features[place], texts[place]),
                torch.from_numpy(batches[task].labels).to(clip.device),
            ).mean()
            for place, task in enumerate(tasks)
        ]
    )
    leaves = [texts[place] for place in range(len(tasks))]
    image_gradients, *text_leaf_gradients = torch.autograd.grad(losses.sum(), [image_copies, *leaves])

    # Text again: the k-th task of every list goes back through the text tower together.
    rounds = max(len(places) for places in owners)
    text_gradients = torch.zeros(len(tasks), *shared_text.shape[1:], device=clip.device)
    for turn in range(rounds):
        active = [(index, places[turn]) for index, places in enumerate(owners) if turn < len(places)]
        (gradients,) = torch.autograd.grad(
            [text_U[index] for index, _ in active],
            text_copies,
            [text_leaf_gradients[place] for _, place in active],
            retain_graph=turn < rounds - 1,
        )
        for index, place in active:
            text_gradients[place] = gradients[index]
    flat = torch.cat([text_gradients.flatten(1), image_gradients.flatten(1)], dim=1)
    return TaskGradients(gradients=flat, losses=losses.detach())


def _flat_prompts(method: Method) -> np.ndarray:
    """The shared prompt itself, in the order of a signature.  [P]"""
    edits = method.edits(method.tasks)
    prompts = [edits.text.prompts_CKMD, edits.image.prompts_CKMD]
    return torch.cat([part[0].detach().flatten() for part in prompts if part is not None]).cpu().numpy()


def _copies(shared: torch.Tensor, num: int) -> torch.Tensor:
    return shared.detach().expand(num, *shared.shape[1:]).clone().requires_grad_()


def _snapshot_steps(run: GroupRun, num: int) -> list[int]:
    """Steps after which a snapshot is taken: equally spaced from the end of the warm-up to the end of training."""
    first = warmup_steps(run.config, num_steps=run.num_steps, steps_per_epoch=run.epoch_steps)
    return [first + round((run.num_steps - first) * (index + 1) / num) for index in range(num)]


def _take_snapshot(
    clip: FrozenCLIP,
    run: GroupRun,
    lists: ClassLists,
    digests: Mapping[str, Sequence[bytes]],
    config: ProfileConfig,
    index: int,
    directory: Path,
) -> None:
    parts = _draw_microbatches(digests, run.config.seed, index, config)
    gradients, losses, counts = [], [], []
    for microbatch in range(config.microbatches):
        measured = [
            task_gradients(
                clip, run.method, lists, {task: _batch(run.data[task], parts[task][microbatch]) for task in block}
            )
            for block in _blocks(run.work.tasks, parts)
        ]
        gradients.append(torch.cat([part.gradients for part in measured]).cpu().numpy())
        losses.append(torch.cat([part.losses for part in measured]).cpu().numpy())
        counts.append([len(parts[task][microbatch]) for task in run.work.tasks])
    _write_npz(
        directory / f"snapshot-{index:03d}.npz",
        {
            "gradients": np.stack(gradients),
            "losses": np.stack(losses),
            "counts": np.array(counts),
            "steps": np.array(run.step),
            "prompts": _flat_prompts(run.method),
        },
    )


def _batch(data: TaskData, rows: np.ndarray) -> TaskBatch:
    return TaskBatch(data.name, data.train, rows, np.zeros_like(rows), None, len(rows))


def _draw_microbatches(
    digests: Mapping[str, Sequence[bytes]], seed: int, snapshot: int, config: ProfileConfig
) -> dict[str, list[np.ndarray]]:
    return {
        task: microbatches(
            of_task, task, seed=seed, snapshot=snapshot, num=config.microbatches, size=config.microbatch_size
        )
        for task, of_task in digests.items()
    }


def _blocks(tasks: Sequence[str], parts: Mapping[str, list[np.ndarray]]) -> list[list[str]]:
    blocks: list[list[str]] = [[]]
    size = 0
    for task in tasks:
        count = len(parts[task][0])
        if blocks[-1] and size + count > IMAGES_PER_PASS:
            blocks.append([])
            size = 0
        blocks[-1].append(task)
        size += count
    return blocks


def _assemble(
    clip: FrozenCLIP,
    data: Mapping[str, TaskData],
    lists: ClassLists,
    config: ProfileConfig,
    method: MmAPConfig,
    directory: Path,
) -> Path:
    """One file from the snapshots, with what signature-free affinities need beside them."""
    snapshots = [dict(np.load(directory / f"snapshot-{index:03d}.npz")) for index in range(config.snapshots)]
    names, offsets = _prompt_blocks(clip, method)
    images = {task: encode_images(clip, part.train.images[:CENTROID_IMAGES], NO_EDITS) for task, part in data.items()}
    arrays = {
        "task_names": np.array(list(data)),
        "text_centroids": np.stack([_centroid(_texts(clip, lists, part)) for part in data.values()]),
        "image_centroids": np.stack([_centroid(images[task]) for task in data]),
        "block_names": names,
        "block_offsets": offsets,
    }
    for name in ("gradients", "losses", "counts", "steps", "prompts"):
        arrays[name] = np.stack([snapshot[name] for snapshot in snapshots])
    _write_npz(directory / SIGNATURES, arrays)
    for index in range(config.snapshots):
        (directory / f"snapshot-{index:03d}.npz").unlink()
    return directory / SIGNATURES


def _texts(clip: FrozenCLIP, lists: ClassLists, data: TaskData) -> torch.Tensor:
    """Zero-shot features of a task's classes, or of the first captions of a retrieval task.  [K, E]"""
    if data.class_names:
        return lists.frozen(data.class_names, data.template)
    with torch.no_grad():
        return clip.text([clip.caption_list([texts[0] for texts in data.train.captions[:CENTROID_IMAGES]])])[0]


def _prompt_blocks(clip: FrozenCLIP, method: MmAPConfig) -> tuple[np.ndarray, np.ndarray]:
    """Names and offsets of the parts of P: one per tower and layer, [blocks] and [blocks + 1]."""
    depth = prompted_layers("mmap", method.depth, min(clip.text.layers, clip.image.layers), towers="both towers have")
    towers = (("text", clip.text.width), ("image", clip.image.width))
    names = [f"{tower}.{layer}" for tower, _ in towers for layer in range(depth)]
    sizes = [method.num_tokens * width for _, width in towers for _ in range(depth)]
    return np.array(names), np.concatenate([[0], np.cumsum(sizes)])


def _centroid(features: torch.Tensor) -> np.ndarray:
    """Mean of normalised features, [rows, E] -> [E]."""
    return F.normalize(features, dim=-1).mean(dim=0).cpu().numpy()


def _refuse_too_large(clip: FrozenCLIP, num_tasks: int, config: ProfileConfig, method: MmAPConfig) -> None:
    numbers = int(_prompt_blocks(clip, method)[1][-1])
    size = 4 * config.snapshots * config.microbatches * num_tasks * numbers
    if size > LARGEST_FILE:
        raise ValueError(
            f"profile: signatures of {num_tasks} tasks x {config.snapshots} snapshots x {config.microbatches} "
            f"microbatches x "
            f"{numbers} numbers take {size / 1024**3:.1f} GiB; at most {LARGEST_FILE // 1024**3} GiB are kept. "
            "Use fewer snapshots or microbatches, or a smaller method.depth or method.num_tokens."
        )


def _write_npz(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    buffer = BytesIO()
    np.savez(buffer, allow_pickle=False, **dict(arrays))
    write_atomically(path, buffer.getvalue())
