"""What is kept of the gradients for planning: a few matrices a snapshot, instead of the gradients themselves.

Reading the gradients takes as long as they are large; a plan from a `Measurement` takes well under a second for 200
tasks, whatever the settings.  So a measurement is made once, kept as plain arrays (`arrays`, `of_arrays`), and every
what-if starts from it.
"""

# S snapshots, R microbatches, T usable tasks, P parameters, B blocks of P, L left-out replicates, E joint embedding

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np

from grouping.grams import (
    block_grams,
    cosine,
    halves,
    noise_alignment,
    scales,
    sorted_mean,
    split_norms,
    unusable_tasks,
)

MAX_SPLIT = 300
"""Most tasks for which every pair is split by layer and modality; above, the split would outgrow the rest."""


@dataclass(frozen=True)
class TaskFacts:
    """What a profile knows of the tasks beside their gradients; in the order of the task names, each optional."""

    losses: np.ndarray | None = None
    """[snapshots, microbatches, tasks]; first-order TAG divides by them."""
    text_centroids: np.ndarray | None = None
    """[tasks, E] mean zero-shot text feature of the class names."""
    image_centroids: np.ndarray | None = None
    """[tasks, E] mean zero-shot image feature."""
    block_names: Sequence[str] | np.ndarray | None = None
    """Parts of P, as `text.0` or `image.3`: modality and layer."""
    block_offsets: np.ndarray | None = None
    """[blocks + 1]; where the parts begin and end in P."""

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray]) -> "TaskFacts":
        """The facts that stand in a profile's `signatures.npz`."""
        return cls(**{field.name: arrays[field.name] for field in fields(cls) if field.name in arrays})


@dataclass(frozen=True)
class Measurement:
    """The matrices; all [.., tasks, tasks] over the usable tasks, which are sorted by name."""

    task_names: tuple[str, ...]
    """All tasks, as given."""
    usable: tuple[str, ...]
    excluded: dict[str, str]
    """Tasks without a usable gradient, with the reason."""
    num_snapshots: int
    num_microbatches: int
    effective_dimension: float
    """Of the gradient noise, (tr C)^2 / tr C^2; the number of parameters where there is no noise to read it from."""
    cosines_STT: np.ndarray
    numerators_STT: np.ndarray | None
    """Cross-fitted, reliabilities on the diagonal; None with a single microbatch."""
    fewer_cosines_SRTT: np.ndarray | None = None
    """The same without one microbatch; kept where there are too few snapshots to leave one of them out."""
    fewer_numerators_SRTT: np.ndarray | None = None
    products_STT: np.ndarray | None = None
    """First-order TAG: inner product of the mean gradients over the target's loss; row affects column."""
    text_TT: np.ndarray | None = None
    image_TT: np.ndarray | None = None
    block_names: tuple[str, ...] = ()
    blocks_BTT: np.ndarray | None = None
    """Each block's part of the mean numerator."""

    def arrays(self) -> dict[str, np.ndarray]:
        """Plain arrays, for an npz without pickling."""
        values = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "excluded"}
        values["excluded_names"], values["excluded_reasons"] = list(self.excluded), list(self.excluded.values())
        texts = ("task_names", "usable", "block_names", "excluded_names", "excluded_reasons")
        return {
            name: np.array(value, dtype=str) if name in texts else np.asarray(value)
            for name, value in values.items()
            if value is not None
        }

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, np.ndarray]) -> "Measurement":
        """The measurement that `arrays` wrote."""
        values: dict = {field.name: arrays[field.name] for field in fields(cls) if field.name in arrays}
        for name in ("task_names", "usable", "block_names"):
            values[name] = tuple(str(text) for text in arrays[name])
        for name in ("num_snapshots", "num_microbatches", "effective_dimension"):
            values[name] = arrays[name].item()
        texts = zip(arrays["excluded_names"], arrays["excluded_reasons"], strict=True)
        values["excluded"] = {str(name): str(reason) for name, reason in texts}
        return cls(**values)


def measure(gradients: np.ndarray, task_names: Sequence[str], facts: TaskFacts | None = None) -> Measurement:
    """Reads the gradients once.  [snapshots, microbatches, tasks, params]; refuses what does not fit together."""
    names, facts, gradients = list(task_names), facts or TaskFacts(), np.asarray(gradients)
    check_gradients(gradients, names)
    bad = {names[task]: reason for task, reason in unusable_tasks(gradients).items()}
    usable = sorted(name for name in names if name not in bad)
    at = {name: index for index, name in enumerate(names)}
    positions = [at[name] for name in usable]
    gradients = gradients[:, :, positions]
    num_snapshots, num_microbatches, num_tasks, num_params = gradients.shape
    if num_tasks == 0:
        none = np.empty((num_snapshots, 0, 0))
        return Measurement(tuple(names), (), bad, num_snapshots, num_microbatches, float(num_params), none, none)
    known = facts.block_offsets is not None and facts.block_names is not None
    split = known and num_tasks <= MAX_SPLIT and num_microbatches > 1
    offsets = np.asarray(facts.block_offsets) if split else None
    if offsets is not None and (offsets[0] != 0 or offsets[-1] != num_params):
        raise ValueError(f"block_offsets run from {offsets[0]} to {offsets[-1]}; expected 0 to {num_params} (params).")
    scale_T = scales(gradients)
    cosines, numerators, products, alignments = [], [], [], []
    fewer_cosines, fewer_numerators, blocks = [], [], []
    for s, parts in enumerate(block_grams(gradients, scale_T, offsets)):
        gram = parts[0] if len(parts) == 1 else np.sum(parts, axis=0)
        cosines.append(cosine(gram))
        alignments.append(noise_alignment(gram))
        if num_microbatches > 1:
            norms = split_norms(gram)
            numerators.append(halves(gram, norms))
            if offsets is not None:
                blocks.append(np.stack([halves(part, norms) for part in parts]))
        if facts.losses is not None:
            loss_T = np.asarray(facts.losses, dtype=float)[s].mean(axis=0)[positions]
            inner_TT = gram.mean(axis=(0, 2)) / np.outer(scale_T, scale_T)
            products.append(inner_TT / np.maximum(loss_T, 1e-12)[None, :])
        if num_snapshots < 3 and num_microbatches > 1:
            kept = [[q for q in range(gram.shape[0]) if q != r] for r in range(gram.shape[0])]
            fewer_cosines.append(np.stack([cosine(gram[some][:, :, some]) for some in kept]))
            if gram.shape[0] > 2:
                fewer_numerators.append(np.stack([halves(gram[some][:, :, some]) for some in kept]))
    return Measurement(
        task_names=tuple(names),
        usable=tuple(usable),
        excluded={name: bad[name] for name in names if name in bad},
        num_snapshots=num_snapshots,
        num_microbatches=num_microbatches,
        effective_dimension=_effective_dimension(np.concatenate(alignments), num_params),
        cosines_STT=np.stack(cosines),
        numerators_STT=np.stack(numerators) if numerators else None,
        fewer_cosines_SRTT=np.stack(fewer_cosines) if fewer_cosines else None,
        fewer_numerators_SRTT=np.stack(fewer_numerators) if fewer_numerators else None,
        products_STT=np.stack(products) if products else None,
        text_TT=_centroid_cosine(facts.text_centroids, positions),
        image_TT=_centroid_cosine(facts.image_centroids, positions),
        block_names=tuple(str(name) for name in np.asarray(facts.block_names)) if blocks else (),
        blocks_BTT=sorted_mean(blocks) if blocks else None,
    )


def check_gradients(gradients: np.ndarray, names: Sequence[str]) -> None:
    """Refuses gradients that do not fit the names."""
    check_names(names)
    if gradients.ndim != 4 or min(gradients.shape) < 1:
        raise ValueError(
            f"Gradients have shape {gradients.shape}; "
            "expected [snapshots, microbatches, tasks, params], none of them 0."
        )
    if not np.issubdtype(gradients.dtype, np.floating):
        raise ValueError(f"Gradients are {gradients.dtype}; expected floating point numbers.")
    if gradients.shape[2] != len(names):
        raise ValueError(
            f"Gradients hold {gradients.shape[2]} tasks (shape {gradients.shape}), but {len(names)} names were given. "
            "Their third axis must follow the names."
        )


def check_names(names: Sequence[str]) -> None:
    """Refuses no tasks, and two of one name."""
    if not names:
        raise ValueError("A plan needs at least one task, and no task name was given.")
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    if twice:
        raise ValueError(f"Task names must differ, and {', '.join(map(repr, twice))} appears more than once.")


def _effective_dimension(squares: np.ndarray, num_params: int) -> float:
    mean = float(np.sort(squares).mean()) if len(squares) else 0.0
    return float(np.clip(1.0 / mean, 1.0, num_params)) if mean > 0 else float(num_params)


def _centroid_cosine(centroids: np.ndarray | None, positions: Sequence[int]) -> np.ndarray | None:
    """Cosine of the tasks' centroids after their mean is taken out: all features of a CLIP share a direction."""
    if centroids is None:
        return None
    rows = np.asarray(centroids, dtype=np.float64)[list(positions)]
    rows = rows - rows.mean(axis=0)
    rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return np.clip(rows @ rows.T, -1.0, 1.0)
