"""Display names of a task's classes, from the labels in the data and from what the task says."""

from collections.abc import Collection, Sequence

from workers.data.config import TaskConfig


def sort_labels(labels: Collection[str]) -> list[str]:
    """Source labels in class order: by number if all are whole numbers, else by code point."""
    if all(label.isdecimal() for label in labels):
        return sorted(labels, key=lambda label: (int(label), label))
    return sorted(labels)


def name_classes(task: TaskConfig, labels: Sequence[str]) -> tuple[str, ...]:
    """One display name per source label, in the labels' order.

    A list in the task names all classes; a map those it lists.  ValueError for fewer than two classes, a list of
    another length, a map with an unknown label, names that are empty or equal (case ignored).
    """
    given = f"Task {task.name!r}"
    if len(labels) < 2:
        found = f"the only class is {labels[0]!r}" if labels else "no class was found"
        raise ValueError(f"{given}: {found}, but a classifier needs two. Add a folder or a label per class.")
    names = {label: label.replace("_", " ") for label in labels}
    match task.class_names:
        case list(listed):
            if len(listed) != len(labels):
                raise ValueError(
                    f"{given}: class_names lists {len(listed)} names, the data has {len(labels)} classes "
                    f"({_some(labels)}). List one name per class in that order, or give a map."
                )
            names = dict(zip(labels, listed, strict=True))
        case dict(mapped):
            if unknown := [label for label in mapped if label not in names]:
                raise ValueError(
                    f"{given}: class_names renames {_some(unknown)}, which the data does not have ({_some(labels)}). "
                    "Use the labels as the data spells them."
                )
            names |= mapped
    return _checked(names, given)


def _checked(names: dict[str, str], given: str) -> tuple[str, ...]:
    taken: dict[str, str] = {}
    result = []
    for label, name in names.items():
        name = " ".join(name.split())
        if not name or any("\ud800" <= character <= "\udfff" for character in name):
            raise ValueError(f"{given}: the class {label!r} has no readable name ({name!r}). Name it in class_names.")
        if (other := taken.setdefault(name.casefold(), label)) != label:
            raise ValueError(
                f"{given}: the classes {other!r} and {label!r} are both called {name!r} (case ignored). "
                "Give them different names in class_names, or merge them in the data."
            )
        result.append(name)
    return tuple(result)


def _some(values: Sequence[str], limit: int = 5) -> str:
    shown = ", ".join(map(repr, values[:limit]))
    return shown if len(values) <= limit else f"{shown} and {len(values) - limit} more"
