"""Laws of the task kinds: what a multi-label and a retrieval task may say, how it is read, divided and loaded."""

import json

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.data.config import FractionSplit, ShotsSplit, TaskConfig
from workers.data.dataset import load_task
from workers.data.listing import PARTS, Item, Listing
from workers.data.resizing import Resize
from workers.data.roots import DataRoots
from workers.data.sources import list_task
from workers.data.splits import split_items

SUFFIXES = (".csv", ".jsonl", ".parquet")
OTHER_KINDS = ("multi_label", "retrieval")


def task_of(kind, uri="t.csv", *, source=None, **settings):
    given = {"name": "t", "kind": kind, "source": {"kind": "manifest", "uri": str(uri)} | (source or {})}
    return TaskConfig.model_validate(given | settings)


def write_table(path, rows):
    """Rows as a table; in a CSV a list becomes a text with `|` between."""
    if path.suffix == ".csv":
        cells = [["|".join(value) if isinstance(value, list) else str(value) for value in row.values()] for row in rows]
        path.write_text("".join(",".join(line) + "\n" for line in [list(rows[0]), *cells]))
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


def write_images(folder, count):
    """Images without compression, so that their bytes are the same for ever."""
    for number in range(count):
        (folder / f"{number:02d}.ppm").write_bytes(b"P6 2 2 255\n" + bytes([number, 7, 200] * 4))


def rows_of(kind, count, **more):
    """Every image has the label `all`, every second `even`; or a caption of its own."""
    labels = [["all", "even"] if number % 2 == 0 else ["all"] for number in range(count)]
    answers = {"multi_label": ("label", labels), "retrieval": ("caption", [f"picture {n}" for n in range(count)])}
    column, values = answers[kind]
    return [{"path": f"{n:02d}.ppm", column: values[n]} | {k: v[n] for k, v in more.items()} for n in range(count)]


@pytest.fixture
def roots(tmp_path):
    return DataRoots((str(tmp_path),))


@pytest.fixture
def load(tmp_path, roots):
    def load_kind(kind, table, **settings):
        return load_task(task_of(kind, table, **settings), Resize(2), roots=roots, cache_dir=tmp_path / "cache")

    return load_kind


# What a task may say


def test_a_task_is_a_classification_unless_it_says_otherwise():
    task = TaskConfig.model_validate({"name": "t", "source": {"kind": "folder", "uri": "x"}})
    assert (task.kind, task.split, task.template) == ("classification", ShotsSplit(shots=16), "a photo of a {}.")


@pytest.mark.parametrize("kind", OTHER_KINDS)
def test_a_task_without_a_split_uses_the_parts_of_its_source_or_half_of_the_images(kind):
    assert task_of(kind).split == FractionSplit(fraction=0.5, val_fraction=0.1)
    assert task_of(kind, source={"split_column": "part"}).split == FractionSplit(fraction=1)
    demo = TaskConfig.model_validate({"name": "t", "kind": kind, "source": {"kind": "demo", "task": "x"}})
    assert demo.split == FractionSplit(fraction=1)
    for task in (task_of(kind), demo):
        assert task.template == ("{}" if kind == "retrieval" else "a photo of a {}.")
        assert TaskConfig.model_validate_json(task.model_dump_json()) == task
        assert TaskConfig.model_validate(task.model_dump()) == task


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "multi_label", "source": {"kind": "folder", "uri": "x"}}, "'multi_label' with a folder source"),
        ({"kind": "retrieval", "source": {"kind": "folder", "uri": "x"}}, "'retrieval' with a folder source"),
        ({"kind": "multi_label", "split": {"shots": 4}}, "by shots.*several classes. Use fraction"),
        ({"kind": "retrieval", "split": {"shots": 4}}, "by shots.*no class. Use fraction"),
        ({"kind": "retrieval", "template": "a photo of a {}."}, "template='a photo of a {}.'.*Leave it out"),
        ({"kind": "retrieval", "class_names": ["a", "b"]}, "class_names"),
        ({"kind": "retrieval", "source_label_column": "x"}, "label_column='x', which is for classification and multi"),
        ({"kind": "multi_label", "source_caption_column": "x"}, "caption_column='x', which is for retrieval"),
        ({"kind": "classification", "source_label_separator": ";"}, "label_separator=';', which is for multi_label"),
        ({"kind": "classification", "source_caption_column": "x"}, "caption_column='x', which is for retrieval"),
        ({"kind": "multi_label", "source_label_separator": ""}, "at least 1 character"),
        ({"kind": "multi_label", "split": {"fraction": 1}}, "fraction=1.0 leaves nothing to test"),
        ({"kind": "classification", "split": {"fraction": 1.0}}, "fraction=1.0 leaves nothing to test"),
        ({"kind": "multi_label", "split": {"fraction": 1, "val_fraction": 0.1}}, "leave nothing to test"),
        ({"kind": "vqa"}, "'classification', 'multi_label' or 'retrieval'"),
    ],
)
def test_settings_that_do_not_fit_the_kind_are_refused(settings, message):
    columns = {key.removeprefix("source_"): settings[key] for key in settings if key.startswith("source_")}
    kept = {key: value for key, value in settings.items() if not key.startswith("source_")}
    given = {"name": "t", "source": {"kind": "manifest", "uri": "t.csv"} | columns} | kept
    with pytest.raises(ValueError, match=message):
        TaskConfig.model_validate(given)


@pytest.mark.parametrize(
    ("demo", "kind", "its"),
    [
        ("scenes-labels", "classification", "multi_label"),
        ("scenes-captions", "multi_label", "retrieval"),
        ("digits-ink", "retrieval", "classification"),
    ],
)
def test_a_demo_task_of_another_kind_is_refused_with_its_kind(roots, demo, kind, its):
    task = TaskConfig.model_validate({"name": "t", "kind": kind, "source": {"kind": "demo", "task": demo}})
    with pytest.raises(
        ValueError, match=f"^Task 't': kind='{kind}', but the demo task '{demo}' is of kind '{its}'. Set"
    ):
        list_task(task, roots)


# Tables of labels


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_table_of_label_lists_gives_the_same_listing(tmp_path, roots, suffix):
    rows = [
        {"path": "b.png", "label": ["red", "big_one", "red"], "part": "train"},
        {"path": "./a.png", "label": [], "part": "test"},
        {"path": "c.png", "label": ["big_one"], "part": "val"},
    ]
    table = write_table(tmp_path / f"t{suffix}", rows)
    listing = list_task(task_of("multi_label", table, source={"split_column": "part"}), roots)
    assert listing.class_names == ("big one", "red")
    assert [(item.key, item.labels, item.split) for item in listing.items] == [
        ("a.png", (), "test"),
        ("b.png", (0, 1), "train"),
        ("c.png", (0,), "val"),
    ]
    assert not any(item.captions or item.label for item in listing.items)
    named = task_of("multi_label", table, source={"split_column": "part"}, class_names=["large", "scarlet"])
    assert list_task(named, roots).class_names == ("large", "scarlet")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_labels_may_be_a_text_with_a_separator_and_numbers_sort_as_numbers(tmp_path, roots, suffix):
    rows = [{"path": "a.png", "label": "10; 9"}, {"path": "b.png", "label": ""}, {"path": "c.png", "label": "10"}]
    table = write_table(tmp_path / f"t{suffix}", rows)
    listing = list_task(task_of("multi_label", table, source={"label_separator": ";"}), roots)
    assert listing.class_names == ("9", "10")
    assert [item.labels for item in listing.items] == [(0, 1), (), (1,)]


def test_null_is_no_label_and_numbers_are_labels(tmp_path, roots):
    rows = [{"path": "a.png", "label": None}, {"path": "b.png", "label": [2, 10]}, {"path": "c.png", "label": [2]}]
    for table in (write_table(tmp_path / "t.jsonl", rows), write_table(tmp_path / "t.parquet", rows)):
        listing = list_task(task_of("multi_label", table), roots)
        assert (listing.class_names, [item.labels for item in listing.items]) == (("2", "10"), [(), (0, 1), (0,)])
    (tmp_path / "t.jsonl").write_text('{"path": "a.png", "label": 2}\n{"path": "b.png", "label": "x|y"}\n')
    listing = list_task(task_of("multi_label", tmp_path / "t.jsonl"), roots)
    assert listing.class_names == ("2", "x", "y")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"path": "b.png", "label": ["x", None]}, r"row 2: 'label' is \['x', None\]. Give texts or whole numbers"),
        ({"path": "b.png", "label": ["x", 1.5]}, "row 2: 'label' is"),
        ({"path": "b.png", "label": ["x", ["y"]]}, "row 2: 'label' is"),
        ({"path": "b.png", "label": ["x", True]}, "row 2: 'label' is"),
        ({"path": "b.png", "label": ["x", " "]}, "row 2: 'label' is"),
        ({"path": "b.png", "label": float("nan")}, "row 2: 'label' is nan"),
        ({"path": "b.png", "label": [float("nan")]}, r"row 2: 'label' is \[nan\]"),
        ({"path": "b.png", "label": {"x": 1}}, "row 2: 'label' is"),
        ({"path": "b.png", "label": "x||y"}, r"row 2: 'label' is 'x\|\|y'. .*'\|' between them \(label_separator\)"),
        ({"path": "b.png", "lable": ["x"]}, "row 2 has no 'label'"),
        ({"path": "", "label": ["x"]}, "row 2: 'path' is ''"),
        ({"path": "./a.png", "label": ["x"]}, "row 2 lists 'a.png' again .*row 1"),
        ({"path": "b.png", "label": ["\ud800"]}, "no readable name"),
        ({"path": "b.png", "label": ["X"]}, "'X' and 'x' are both called"),
    ],
)
def test_bad_rows_of_labels_are_refused(tmp_path, roots, row, message):
    table = write_table(tmp_path / "t.jsonl", [{"path": "a.png", "label": ["x", "y"]}, row])
    with pytest.raises(ValueError, match=f"^Task 't': .*{message}"):
        list_task(task_of("multi_label", table), roots)


def test_a_parquet_column_of_nan_is_refused(tmp_path, roots):
    table = write_table(tmp_path / "t.parquet", [{"path": "a.png", "label": float("nan")}])
    with pytest.raises(ValueError, match="row 1: 'label' is nan"):
        list_task(task_of("multi_label", table), roots)


def test_a_table_without_two_labels_is_refused(tmp_path, roots):
    for label, message in (([], "no class was found"), (["x"], "the only class is 'x'")):
        table = write_table(tmp_path / "t.jsonl", [{"path": "a.png", "label": label}])
        with pytest.raises(ValueError, match=f"^Task 't': {message}"):
            list_task(task_of("multi_label", table), roots)


# Tables of captions


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_rows_of_one_image_add_captions_in_their_order(tmp_path, roots, suffix):
    rows = [
        {"image": "b.png", "text": "  a  red\tone. ", "part": "test"},
        {"image": "a.png", "text": "white", "part": "train"},
        {"image": "./b.png", "text": "another view", "part": "test"},
        {"image": "b.png", "text": "a red one.", "part": "test"},
    ]
    columns = {"path_column": "image", "caption_column": "text", "split_column": "part"}
    listing = list_task(task_of("retrieval", write_table(tmp_path / f"t{suffix}", rows), source=columns), roots)
    assert listing.class_names == ()
    assert [(item.key, item.captions, item.split, item.label, item.labels) for item in listing.items] == [
        ("a.png", ("white",), "train", 0, ()),
        ("b.png", ("a red one.", "another view", "a red one."), "test", 0, ()),
    ]


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_a_list_of_captions_is_as_good_as_several_rows(tmp_path, roots, suffix):
    rows = [{"path": "a.png", "caption": ["one", "two"]}, {"path": "a.png", "caption": ["three"]}]
    listing = list_task(task_of("retrieval", write_table(tmp_path / f"t{suffix}", rows)), roots)
    assert [item.captions for item in listing.items] == [("one", "two", "three")]


@pytest.mark.parametrize(
    "caption", ["", " \t", None, [], ["x", ""], ["x", None], 7, float("nan"), ["x", 7], {"x": "y"}]
)
def test_a_caption_that_is_no_text_is_refused_by_row(tmp_path, roots, caption):
    table = write_table(
        tmp_path / "t.jsonl", [{"path": "a.png", "caption": "x"}, {"path": "b.png", "caption": caption}]
    )
    with pytest.raises(ValueError, match=r"^Task 't': .*row 2: 'caption' is .* Give a text, or a list of texts"):
        list_task(task_of("retrieval", table), roots)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_missing_caption_column_is_named_with_those_that_exist(tmp_path, roots, suffix):
    table = write_table(tmp_path / f"t{suffix}", [{"path": "a.png", "label": "x"}])
    with pytest.raises(
        ValueError, match=r"no column 'caption'; it has 'path', 'label'.*path_column, caption_column or"
    ):
        list_task(task_of("retrieval", table), roots)


def test_a_caption_that_is_not_utf8_is_refused(tmp_path, roots):
    (tmp_path / "t.csv").write_bytes(b"path,caption\na.png,caf\xe9\n")
    with pytest.raises(ValueError, match=r"row 1: 'caption' is .*no valid text. Write the table in UTF-8"):
        list_task(task_of("retrieval", tmp_path / "t.csv"), roots)


def test_an_image_in_two_parts_is_refused(tmp_path, roots):
    rows = [{"path": "a.png", "caption": "x", "split": "train"}, {"path": "a.png", "caption": "y", "split": "test"}]
    table = write_table(tmp_path / "t.csv", rows)
    with pytest.raises(ValueError, match=r"row 2 puts 'a.png' into test, row 1 into train. Give every image one part"):
        list_task(task_of("retrieval", table, source={"split_column": "split"}), roots)


# Splits


def listing_of(kind, labels):
    """Images with these labels (multi_label) or a caption each."""
    names = tuple(f"class {label}" for label in range(max((max(own, default=0) for own in labels), default=0) + 1))
    items = [Item(f"{n:03d}.png", 0, None, bytes, own, (f"{n}",)) for n, own in enumerate(labels)]
    if kind == "multi_label":
        return Listing(names, tuple(items))
    return Listing((), tuple(items))


def keys(parts):
    return {part: [item.key[:3] for item in items] for part, items in parts.items()}


@pytest.mark.parametrize("kind", OTHER_KINDS)
def test_a_split_of_the_whole_task_is_the_same_for_ever(kind):
    listing = listing_of(kind, [(0, 1)] * 10)
    assert keys(split_items(task_of(kind, split={"fraction": 0.5, "val_fraction": 0.2}), listing)) == {
        "train": ["000", "001", "004", "006", "009"],
        "val": ["002", "003"],
        "test": ["005", "007", "008"],
    }


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(OTHER_KINDS), st.integers(2, 40), st.floats(0.01, 0.6), st.floats(0, 0.35), st.integers(0, 3))
def test_the_whole_task_is_divided_and_no_image_is_used_twice(kind, count, fraction, val_fraction, seed):
    task = task_of(kind, split={"fraction": fraction, "val_fraction": val_fraction, "seed": seed})
    parts = split_items(task, listing_of(kind, [(0, 1)] * count))
    used = [item.key for part in PARTS for item in parts[part]]
    assert len(used) == len(set(used)) == count
    assert len(parts["train"]) == min(max(int(fraction * count + 0.5), 1), count - 1)
    assert parts["test"]


def test_a_class_in_no_training_image_is_named():
    listing = listing_of("multi_label", [(0, 1)] * 9 + [(2,)])
    outcomes = set()
    for seed in range(8):
        try:
            split_items(task_of("multi_label", split={"fraction": 0.5, "seed": seed}), listing)
            outcomes.add("whole")
        except ValueError as error:
            outcomes.add(str(error).partition(". ")[0])
    assert outcomes == {"whole", "Task 't': 1 of 3 classes are in no training image ('class 2')"}


def test_an_image_without_labels_is_divided_like_any_other():
    parts = split_items(task_of("multi_label", split={"fraction": 0.9}), listing_of("multi_label", [(0, 1), ()] * 10))
    assert {item.labels for item in parts["train"]} == {(0, 1), ()}


@pytest.mark.parametrize("kind", OTHER_KINDS)
def test_one_image_cannot_train_and_test(kind):
    for unreadable, found in (((), "a single"), (("000.png",), "no")):
        with pytest.raises(ValueError, match=f"^Task 't': it has {found} readable image, but one to train and one to"):
            split_items(task_of(kind), listing_of(kind, [(0, 1)]), unreadable=unreadable)


# Loading


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_labels_are_a_row_of_zeros_and_ones_per_image(tmp_path, load, suffix):
    write_images(tmp_path, 6)
    rows = rows_of("multi_label", 6)
    rows[3]["label"] = []
    data = load("multi_label", write_table(tmp_path / f"t{suffix}", rows), template="{} it is")
    assert (data.kind, data.class_names, data.template) == ("multi_label", ("all", "even"), "{} it is")
    assert [len(part.keys) for part in (data.train, data.val, data.test)] == [3, 1, 2]
    for part in (data.train, data.val, data.test):
        assert part.labels.dtype == np.uint8 and part.labels.shape == (len(part.keys), 2) and part.captions == ()
        for key, labels, image in zip(part.keys, part.labels, part.images, strict=True):
            number = int(key[:2])
            assert labels.tolist() == ([0, 0] if number == 3 else [1, int(number % 2 == 0)])
            assert image[0, 0, 0] == number


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_captions_follow_their_images(tmp_path, load, suffix):
    write_images(tmp_path, 6)
    rows = rows_of("retrieval", 6)
    data = load("retrieval", write_table(tmp_path / f"t{suffix}", [*rows, {"path": "00.ppm", "caption": "again"}]))
    assert (data.kind, data.class_names, data.template) == ("retrieval", (), "{}")
    assert [len(part.keys) for part in (data.train, data.val, data.test)] == [3, 1, 2]
    for part in (data.train, data.val, data.test):
        assert part.labels.dtype == np.int64 and part.labels.tolist() == [0] * len(part.keys)
        for key, captions, image in zip(part.keys, part.captions, part.images, strict=True):
            number = int(key[:2])
            assert captions == ((f"picture {number}", "again") if number == 0 else (f"picture {number}",))
            assert image[0, 0, 0] == number


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("kind", OTHER_KINDS)
def test_parts_of_a_split_column_and_separate_tables_are_used_whole(tmp_path, load, kind, suffix):
    write_images(tmp_path, 10)
    parts = ["train"] * 5 + ["val"] * 2 + ["test"] * 3
    rows = rows_of(kind, 10)
    column = write_table(tmp_path / f"t{suffix}", rows_of(kind, 10, split=parts))
    tables = {part: [row for row, own in zip(rows, parts, strict=True) if own == part] for part in PARTS}
    sources = {part: str(write_table(tmp_path / f"{part}{suffix}", own)) for part, own in tables.items()}
    by_column = load(kind, column, source={"split_column": "split"})
    by_table = load(kind, "unused", split=sources)
    for data in (by_column, by_table):
        sizes = [len(part.keys) for part in (data.train, data.val, data.test)]
        assert sizes == [5, 2, 3]
    assert by_column.fingerprint == by_table.fingerprint
    assert by_column.test.keys == ("07.ppm", "08.ppm", "09.ppm")
    half = load(kind, column, source={"split_column": "split"}, split={"fraction": 0.4})
    assert [len(part.keys) for part in (half.train, half.val, half.test)] == [2, 2, 3]


def test_a_label_that_only_the_test_table_has_is_refused(tmp_path, load):
    train = write_table(tmp_path / "train.jsonl", [{"path": "a.png", "label": ["x", "y"]}])
    test = write_table(tmp_path / "test.jsonl", [{"path": "b.png", "label": ["z"]}, {"path": "c.png", "label": []}])
    with pytest.raises(ValueError, match=r"test holds classes that train does not \('z'\)"):
        load("multi_label", "unused", split={"train": str(train), "test": str(test)})


@pytest.mark.parametrize("kind", OTHER_KINDS)
def test_unreadable_images_are_replaced_within_the_budget(tmp_path, load, kind):
    write_images(tmp_path, 12)
    table = write_table(tmp_path / "t.jsonl", rows_of(kind, 12))
    (tmp_path / "01.ppm").write_bytes(b"no image")
    (tmp_path / "02.ppm").unlink()
    with pytest.raises(ValueError, match=r"2 of .* images cannot be read, more than bad_image_budget=0.01"):
        load(kind, table)
    data = load(kind, table, bad_image_budget=0.2)
    assert (data.num_unreadable, data.unreadable) == (2, ("01.ppm", "02.ppm"))
    assert sum(len(part.keys) for part in (data.train, data.val, data.test)) == 10


@pytest.mark.parametrize("kind", OTHER_KINDS)
def test_the_fingerprint_follows_the_answers_and_every_kind_shares_the_decoded_images(tmp_path, load, kind):
    write_images(tmp_path, 8)
    rows = rows_of(kind, 8)
    first = load(kind, write_table(tmp_path / "t.jsonl", rows))
    assert load(kind, write_table(tmp_path / "t.parquet", rows)).fingerprint == first.fingerprint
    changed = {"multi_label": {"label": ["all", "even"]}, "retrieval": {"caption": "another picture"}}
    rows[7] |= changed[kind]
    other = load(kind, write_table(tmp_path / "t.jsonl", rows))
    assert other.fingerprint != first.fingerprint
    assert other.test.keys == first.test.keys
    assert len(list((tmp_path / "cache").rglob("*.pack"))) == 1


@pytest.mark.parametrize(
    ("kind", "fingerprint"),
    [
        ("classification", "612251bfd970f2f3c7c926684e31ad7e0eb6233fc1601dc0a2ec462b16800490"),
        ("multi_label", "5a2aeab45f631018e43ad5fad7e77a7fbdebe367fcd3a47a376546e096e997f8"),
        ("retrieval", "08e7aeb1572e27a0c0083c73f7a982bf8f0d724f869d9b87effa0863d9608b08"),
    ],
)
def test_a_fingerprint_is_the_same_for_ever(tmp_path, load, kind, fingerprint):
    write_images(tmp_path, 8)
    if kind == "classification":
        rows, split = [{"path": f"{n:02d}.ppm", "label": "ab"[n % 2]} for n in range(8)], {"shots": 2, "val_shots": 1}
    else:
        rows, split = rows_of(kind, 8), {"fraction": 0.5}
    assert load(kind, write_table(tmp_path / "t.csv", rows), split=split).fingerprint == fingerprint
