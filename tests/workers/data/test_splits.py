import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.data.config import TaskConfig
from workers.data.listing import PARTS, Item, Listing
from workers.data.splits import split_items


def listing_of(counts, *, part=None):
    items = [
        Item(f"{label}/{number}.png", label, part, bytes)
        for label, count in enumerate(counts)
        for number in range(count)
    ]
    return Listing(tuple(f"class {label}" for label in range(len(counts))), tuple(sorted(items, key=lambda i: i.key)))


def listing_of_parts(**counts):
    """Parts with so many images in each of two classes."""
    items = [
        Item(f"{part}/{label}/{number}.png", label, part, bytes)
        for part, count in counts.items()
        for label in range(2)
        for number in range(count)
    ]
    return Listing(("a", "b"), tuple(sorted(items, key=lambda item: item.key)))


def task_with(**split):
    return TaskConfig.model_validate({"name": "t", "source": {"kind": "folder", "uri": "x"}, "split": split})


def keys(parts):
    return {part: [item.key for item in items] for part, items in parts.items()}


def counts(parts, label=0):
    return [sum(item.label == label for item in parts[part]) for part in PARTS]


def test_a_split_is_the_same_for_ever():
    assert keys(split_items(task_with(shots=2, val_shots=1, seed=1), listing_of([5, 4]))) == {
        "train": ["0/1.png", "0/2.png", "1/0.png", "1/1.png"],
        "val": ["0/3.png", "1/2.png"],
        "test": ["0/0.png", "0/4.png", "1/3.png"],
    }


def test_seeds_differ():
    splits = [keys(split_items(task_with(shots=4, seed=seed), listing_of([40, 40])))["train"] for seed in (1, 2)]
    assert splits[0] != splits[1]


def test_the_order_of_the_source_does_not_matter():
    listing = listing_of([9, 7, 5])
    shuffled = list(listing.items)
    random.Random(0).shuffle(shuffled)
    task = task_with(shots=3)
    assert keys(split_items(task, listing)) == keys(split_items(task, Listing(listing.class_names, tuple(shuffled))))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(2, 12), min_size=2, max_size=4),
    st.one_of(
        st.builds(
            lambda shots, val, cap: {"shots": shots, "val_shots": val, "test_per_class": cap},
            st.integers(1, 9),
            st.one_of(st.none(), st.integers(0, 5)),
            st.one_of(st.none(), st.integers(1, 5)),
        ),
        st.builds(lambda f, v: {"fraction": f, "val_fraction": v}, st.floats(0.05, 0.5), st.floats(0, 0.45)),
    ),
)
def test_every_class_trains_and_is_tested_and_no_image_is_used_twice(sizes, split):
    parts = split_items(task_with(**split), listing_of(sizes))
    used = [item.key for part in PARTS for item in parts[part]]
    assert len(used) == len(set(used))
    for label, size in enumerate(sizes):
        train, val, test = counts(parts, label)
        assert train >= 1 and test >= 1
        if "shots" in split:
            assert train == min(split["shots"], size - 1)
            wanted = min(split["shots"], 4) if split["val_shots"] is None else split["val_shots"]
            assert val == min(wanted, size - 1 - train)
            assert test == min(split["test_per_class"] or size, size - train - val)
        else:
            assert train + val + test == size


def test_unreadable_images_are_replaced_by_their_class():
    task, listing = task_with(shots=2, val_shots=0), listing_of([5, 5])
    before = keys(split_items(task, listing))
    after = keys(split_items(task, listing, unreadable={before["train"][0]}))
    assert len(after["train"]) == len(before["train"])
    assert set(before["train"][1:]) < set(after["train"])
    assert len(after["test"]) == len(before["test"]) - 1


def test_one_image_cannot_train_and_test():
    with pytest.raises(ValueError, match=r"^Task 't': the class 'class 1' has a single readable image"):
        split_items(task_with(shots=1), listing_of([3, 1]))


def test_a_class_without_readable_images_is_named():
    with pytest.raises(ValueError, match=r"1 of 2 classes have no readable image .*\('class 1'\)"):
        split_items(task_with(shots=1), listing_of([3, 1]), unreadable={"1/0.png"})


def test_fractions_that_leave_no_test_are_refused():
    with pytest.raises(ValueError, match=r"fraction=0.6 and val_fraction=0.4 leave nothing"):
        split_items(task_with(fraction=0.6, val_fraction=0.4), listing_of([9, 9]))


def test_given_parts_are_limited_not_mixed():
    parts = split_items(task_with(shots=3, val_shots=2, test_per_class=4), listing_of_parts(train=9, val=9, test=9))
    assert counts(parts) == [3, 2, 4]
    assert all(item.split == part for part in PARTS for item in parts[part])
    assert counts(split_items(task_with(shots=99), listing_of_parts(train=9, val=9, test=9))) == [9, 4, 9]
    assert counts(split_items(task_with(fraction=0.5), listing_of_parts(train=9, val=8, test=7))) == [5, 8, 7]


def test_without_a_val_part_validation_comes_from_the_rest_of_train():
    parts = split_items(task_with(shots=3, val_shots=2), listing_of_parts(train=9, test=2))
    assert counts(parts) == [3, 2, 2]
    assert {item.split for item in parts["val"]} == {"train"}
    assert counts(split_items(task_with(shots=9), listing_of_parts(train=9, test=2))) == [9, 0, 2]
    assert counts(split_items(task_with(fraction=0.5, val_fraction=0.25), listing_of_parts(train=8, test=2))) == [
        4,
        2,
        2,
    ]


def test_explicit_parts_are_used_whole():
    task = task_with(train="a", test="b")
    assert counts(split_items(task, listing_of_parts(train=9, val=1, test=2))) == [9, 1, 2]


def test_an_empty_part_is_refused():
    with pytest.raises(ValueError, match="the test split is empty"):
        split_items(task_with(shots=1), listing_of_parts(train=3, val=3))
    with pytest.raises(ValueError, match="2 of 2 classes have no readable image to train"):
        split_items(task_with(shots=1), listing_of_parts(test=3))
