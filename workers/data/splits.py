"""Which images train, validate and test.

Within a class images are ordered by sha256(seed, key): the same for ever, whatever the file system, NumPy or Python
version, and adding an image moves no other image past its neighbours.  Multi-label and retrieval tasks have no class
that an image is in alone; their images are ordered and divided as a whole.
"""

import hashlib
from collections import Counter
from collections.abc import Collection, Sequence

from workers.data.config import ExplicitSplit, FractionSplit, ShotsSplit, TaskConfig
from workers.data.listing import PARTS, Item, Listing

Parts = dict[str, list[Item]]


def split_items(task: TaskConfig, listing: Listing, *, unreadable: Collection[str] = ()) -> Parts:
    """The items of train, val and test, each sorted by key; those whose key is in `unreadable` are left out.

    Where items carry a split, the task's split only limits the parts (train by shots or fraction, val by val_shots,
    test by test_per_class), and validation images are taken from train's remainder only if the data has no val part.
    ValueError for a class that cannot fill train and test (multi_label: that is in no training image), and for an empty
    part.
    """
    usable = [item for item in listing.items if item.key not in unreadable]
    has_parts, has_val = any(item.split for item in usable), any(item.split == "val" for item in usable)
    if task.kind == "classification":
        _check_classes(task, listing, [item for item in usable if item.split in ("train", None)])
        groups: list[tuple[str, list[Item]]] = [(f"the class {name!r} has", []) for name in listing.class_names]
        for item in usable:
            groups[item.label][1].append(item)
    else:
        groups = [("it has", usable)]
    parts: Parts = {part: [] for part in PARTS}
    for whose, own in groups:
        if isinstance(task.split, ExplicitSplit):
            chosen = {part: [item for item in own if item.split == part] for part in PARTS}
        elif has_parts:
            chosen = _limit(task.split, {part: [item for item in own if item.split == part] for part in PARTS}, has_val)
        else:
            chosen = _divide(task, task.split, own, whose)
        for part in PARTS:
            parts[part] += chosen[part]
    for part in ("train", "test"):
        if not parts[part]:
            raise ValueError(f"Task {task.name!r}: the {part} split is empty. Every task needs images to {part} on.")
    if task.kind == "multi_label":
        _check_positives(task, listing, parts["train"])
    return {part: sorted(items, key=lambda item: item.key) for part, items in parts.items()}


def order_by_hash(items: Sequence[Item], seed: int) -> list[Item]:
    """The items in the seed's order."""
    return sorted(items, key=lambda item: hashlib.sha256(f"{seed}\0{item.key}".encode()).digest())


def sample_items(items: Sequence[Item], num: int) -> list[Item]:
    """`num` of the items, or all if there are fewer, sorted by key: one of every label before a second of any."""
    seen: Counter[int] = Counter()
    ranked = []
    for place, item in enumerate(order_by_hash(items, 0)):
        ranked.append((seen[item.label], place, item))
        seen[item.label] += 1
    return sorted((item for _, _, item in sorted(ranked, key=lambda rank: rank[:2])[:num]), key=lambda item: item.key)


def _check_classes(task: TaskConfig, listing: Listing, items: Sequence[Item]) -> None:
    present = {item.label for item in items}
    if empty := [name for label, name in enumerate(listing.class_names) if label not in present]:
        raise ValueError(
            f"Task {task.name!r}: {len(empty)} of {len(listing.class_names)} classes have no readable image to train "
            f"on ({', '.join(map(repr, empty[:20]))}). Add images or drop the classes."
        )


def _check_positives(task: TaskConfig, listing: Listing, train: Sequence[Item]) -> None:
    present = {label for item in train for label in item.labels}
    if empty := [name for label, name in enumerate(listing.class_names) if label not in present]:
        raise ValueError(
            f"Task {task.name!r}: {len(empty)} of {len(listing.class_names)} classes are in no training image "
            f"({', '.join(map(repr, empty[:20]))}). Add images, take a larger fraction or another seed, or drop them."
        )


def _divide(task: TaskConfig, split: ShotsSplit | FractionSplit, items: list[Item], whose: str) -> Parts:
    """One class's images (or a task's) cut in three; train gets one at least, and so does test."""
    ordered = order_by_hash(items, split.seed)
    count = len(ordered)
    if count < 2:
        raise ValueError(
            f"Task {task.name!r}: {whose} {'a single' if count else 'no'} readable image, but one to train and one to "
            f"test are needed. Add an image{' or drop the class' if task.kind == 'classification' else ''}."
        )
    if isinstance(split, ShotsSplit):
        wanted, wanted_val, cap = split.shots, _val_shots(split), split.test_per_class
    else:
        wanted, wanted_val, cap = _share(split.fraction, count), _share(split.val_fraction, count), None
    train = min(max(wanted, 1), count - 1)
    val = min(wanted_val, count - 1 - train)
    rest = ordered[train + val :]
    return {"train": ordered[:train], "val": ordered[train : train + val], "test": rest[:cap]}


def _limit(split: ShotsSplit | FractionSplit, own: Parts, has_val: bool) -> Parts:
    """One class's images whose parts are given, limited by the split."""
    train, val, test = (order_by_hash(own[part], split.seed) for part in PARTS)
    if isinstance(split, ShotsSplit):
        wanted, wanted_val, cap = split.shots, _val_shots(split), split.test_per_class
    else:
        wanted = max(1, _share(split.fraction, len(train)))
        wanted_val, cap = None if has_val else _share(split.val_fraction, len(train)), None
    spare = val if has_val else train[wanted:]
    return {"train": train[:wanted], "val": spare[:wanted_val], "test": test[:cap]}


def _val_shots(split: ShotsSplit) -> int:
    return min(split.shots, 4) if split.val_shots is None else split.val_shots


def _share(fraction: float, count: int) -> int:
    """The nearest whole number of images, half rounded up."""
    return int(fraction * count + 0.5)
