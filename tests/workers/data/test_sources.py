import importlib
import json
import os

import fsspec
import pyarrow
import pyarrow.parquet
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from PIL import Image

from workers.data.config import TaskConfig
from workers.data.files import find_files
from workers.data.roots import DataRoots
from workers.data.sources import list_task


class Bucket(MemoryFileSystem):
    """An s3 bucket in memory."""

    protocol = "s3"
    store = {}  # noqa: RUF012 - as in the base class
    pseudo_dirs = [""]  # noqa: RUF012

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.removeprefix("s3://"))

    def unstrip_protocol(self, name):
        return f"s3:/{self._strip_protocol(name)}"


@pytest.fixture
def roots(tmp_path):
    return DataRoots((str(tmp_path),))


def make_folder(folder, classes):
    for name, count in classes.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", (4, 4), (number, 0, 0)).save(folder / name / f"{number}.png")
    return folder


def folder_task(folder, **settings):
    return TaskConfig.model_validate({"name": "pets", "source": {"kind": "folder", "uri": str(folder)}, **settings})


def manifest_task(table, **source):
    return TaskConfig.model_validate({"name": "pets", "source": {"kind": "manifest", "uri": str(table), **source}})


def test_sub_folders_are_classes_and_underscores_become_spaces(tmp_path, roots):
    make_folder(tmp_path / "pets", {"guinea_pig": 2, "cat": 1})
    (tmp_path / "pets" / "cat" / "deep").mkdir()
    Image.new("L", (4, 4)).save(tmp_path / "pets" / "cat" / "deep" / "x.JPEG", "JPEG")
    for ignored in ("pets/readme.md", "pets/cat/notes.txt", "pets/cat/.hidden.png"):
        (tmp_path / ignored).write_text("not an image")
    (tmp_path / "pets" / ".git").mkdir()
    listing = list_task(folder_task("pets"), roots)
    assert listing.class_names == ("cat", "guinea pig")
    found = [(item.key, item.label, item.split) for item in listing.items]
    assert found == [
        ("cat/0.png", 0, None),
        ("cat/deep/x.JPEG", 0, None),
        ("guinea_pig/0.png", 1, None),
        ("guinea_pig/1.png", 1, None),
    ]
    assert listing.items[0].read() == (tmp_path / "pets" / "cat" / "0.png").read_bytes()


def test_numbers_sort_as_numbers_and_names_as_names(tmp_path, roots):
    make_folder(tmp_path / "digits", {"10": 1, "2": 1, "1": 1})
    assert list_task(folder_task("digits"), roots).class_names == ("1", "2", "10")
    make_folder(tmp_path / "mixed", {"10": 1, "2": 1, "b": 1})
    assert list_task(folder_task("mixed"), roots).class_names == ("10", "2", "b")


def test_the_task_may_name_classes_by_list_or_map(tmp_path, roots):
    make_folder(tmp_path / "pets", {"n01": 1, "n02": 1, "n_03": 1})
    named = folder_task("pets", class_names=["tench", "great_white", "ray"])
    assert list_task(named, roots).class_names == ("tench", "great_white", "ray")
    assert list_task(folder_task("pets", class_names={"n02": "shark"}), roots).class_names == ("n01", "shark", "n 03")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a"], r"lists 1 names, the data has 2 classes \('cat', 'dog'\)"),
        ({"wolf": "x"}, "'wolf', which the data does not have"),
        (["Cat", " cAt "], "'cat' and 'dog' are both called"),
        ({"dog": "CAT"}, "'cat' and 'dog' are both called"),
        (["cat", " "], "'dog' has no readable name"),
    ],
)
def test_wrong_class_names_are_refused(tmp_path, roots, names, message):
    make_folder(tmp_path / "pets", {"cat": 1, "dog": 1})
    with pytest.raises(ValueError, match=f"^Task 'pets': .*{message}"):
        list_task(folder_task("pets", class_names=names), roots)


def test_labels_that_differ_only_in_an_underscore_are_refused(tmp_path, roots):
    make_folder(tmp_path / "pets", {"big_cat": 1, "Big cat": 1})
    with pytest.raises(ValueError, match="are both called"):
        list_task(folder_task("pets"), roots)


@pytest.mark.parametrize(
    ("classes", "message"),
    [({}, "is no folder"), ({"cat": 1}, "the only class is 'cat'"), ({"cat": 1, "dog": 0}, r"1 of 2 .* \('dog'\)")],
)
def test_folders_without_two_filled_classes_are_refused(tmp_path, roots, classes, message):
    make_folder(tmp_path / "pets", classes)
    with pytest.raises(ValueError, match=f"^Task 'pets': .*{message}"):
        list_task(folder_task("pets"), roots)


def test_a_folder_of_loose_images_has_no_class(tmp_path, roots):
    Image.new("RGB", (4, 4)).save(tmp_path / "x.png")
    with pytest.raises(ValueError, match="no sub-folder"):
        list_task(folder_task(tmp_path), roots)


def test_links_out_of_the_root_are_refused(tmp_path):
    inside, outside = make_folder(tmp_path / "in", {"cat": 1, "dog": 1}), make_folder(tmp_path / "out", {"cow": 1})
    roots = DataRoots((str(inside),))
    for link, target in ((inside / "cow", outside / "cow"), (inside / "cat" / "x.png", outside / "cow" / "0.png")):
        link.symlink_to(target)
        with pytest.raises(ValueError, match="outside the data roots"):
            list_task(folder_task(inside), roots)
        link.unlink()
    assert len(list_task(folder_task(inside), roots).items) == 2


def test_a_link_that_turns_outward_after_listing_is_not_read(tmp_path):
    inside, outside = make_folder(tmp_path / "in", {"cat": 1, "dog": 1}), make_folder(tmp_path / "out", {"cow": 1})
    first = list_task(folder_task(inside), DataRoots((str(inside),))).items[0]
    (inside / "cat" / "0.png").unlink()
    (inside / "cat" / "0.png").symlink_to(outside / "cow" / "0.png")
    with pytest.raises(ValueError, match="outside the data roots"):
        first.read()


def test_links_within_the_root_are_followed_once(tmp_path, roots):
    make_folder(tmp_path / "store", {"cat": 2})
    make_folder(tmp_path / "pets", {"dog": 1})
    (tmp_path / "pets" / "cat").symlink_to(tmp_path / "store" / "cat")
    (tmp_path / "store" / "cat" / "again").symlink_to(tmp_path / "store")
    assert [item.key for item in list_task(folder_task("pets"), roots).items] == ["cat/0.png", "cat/1.png", "dog/0.png"]


def write_table(path, rows):
    if path.suffix == ".csv":
        columns = list(rows[0])
        lines = [columns, *([str(row[column]) for column in columns] for row in rows)]
        path.write_text("\ufeff" + "\n".join(map(",".join, lines)) + "\n")
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n\n" for row in rows))
    else:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_every_kind_of_manifest_gives_the_same_listing(tmp_path, roots, suffix):
    make_folder(tmp_path / "images", {"a": 2, "b": 1})
    rows = [
        {"image": "images/b/0.png", "class": 10, "part": "test", "more": 1},
        {"image": f"{tmp_path}/images/a/0.png", "class": 9, "part": "train", "more": 2},
        {"image": f"file://{tmp_path}/images/a/1.png", "class": 9, "part": "val", "more": 3},
    ]
    table = write_table(tmp_path / f"table{suffix}", rows)
    task = manifest_task(table, path_column="image", label_column="class", split_column="part")
    listing = list_task(task, roots)
    assert listing.class_names == ("9", "10")
    assert {item.key: (item.label, item.split) for item in listing.items} == {
        "images/b/0.png": (1, "test"),
        f"{tmp_path}/images/a/0.png": (0, "train"),
        f"file://{tmp_path}/images/a/1.png": (0, "val"),
    }
    assert all(item.read().startswith(b"\x89PNG") for item in listing.items)
    assert [item.key for item in listing.items] == sorted(item.key for item in listing.items)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_a_missing_column_is_named_with_those_that_exist(tmp_path, roots, suffix):
    table = write_table(tmp_path / f"table{suffix}", [{"file": "a.png", "label": "x"}])
    with pytest.raises(ValueError, match=r"^Task 'pets': .*no column 'path'; it has 'file', 'label'"):
        list_task(manifest_task(table), roots)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"path": "a.png", "label": "x"}, {"path": "./a.png", "label": "y"}], "row 2 lists 'a.png' again .*row 1"),
        ([{"path": "a.png", "label": None}], "row 1: 'label' is None"),
        ([{"path": "", "label": "x"}], "row 1: 'path' is ''"),
        ([{"path": "a.png", "label": 1.5}], "row 1: 'label' is 1.5"),
        ([{"path": "a.png", "label": True}], "row 1: 'label' is True"),
        ([{"path": "/etc/passwd", "label": "x"}], "row 1: .*outside the data roots"),
        ([{"path": "../../x.png", "label": "x"}], "row 1: .*outside the data roots"),
        ([{"path": "https://host/a.png", "label": "x"}], "row 1: .*scheme 'https'"),
        ([{"path": "simplecache::file:///etc/passwd", "label": "x"}], "row 1: .*outside|one plain path"),
        ([{"path": "a.png", "label": "x"}], "only class is 'x'"),
        ([], "has no row"),
        ([[]], "row 1 is no JSON object"),
    ],
)
def test_bad_rows_are_refused_by_number(tmp_path, rows, message):
    (tmp_path / "data").mkdir()
    table = write_table(tmp_path / "data" / "table.jsonl", rows)
    with pytest.raises(ValueError, match=f"^Task 'pets': .*({message})"):
        list_task(manifest_task(table), DataRoots((str(tmp_path / "data"),)))


@pytest.mark.parametrize("name", ["t.jsonl", "t.parquet", "t.txt"])
def test_a_table_that_is_none_is_refused(tmp_path, roots, name):
    (tmp_path / name).write_bytes(b"\x00{]")
    with pytest.raises(ValueError, match=r"^Task 'pets': manifest .* cannot be read"):
        list_task(manifest_task(tmp_path / name), roots)


def test_a_table_nested_too_deep_is_refused(tmp_path, roots):
    (tmp_path / "t.jsonl").write_text("[" * 100_000)
    with pytest.raises(ValueError, match="cannot be read"):
        list_task(manifest_task(tmp_path / "t.jsonl"), roots)


@pytest.mark.parametrize("name", ["absent.csv", "folder.csv"])
def test_a_missing_manifest_is_refused(tmp_path, roots, name):
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(ValueError, match="does not exist or cannot be read"):
        list_task(manifest_task(tmp_path / name), roots)


def test_a_split_column_knows_three_words(tmp_path, roots):
    table = write_table(tmp_path / "t.csv", [{"path": "a.png", "label": "x", "split": "dev"}])
    with pytest.raises(ValueError, match=r"'split' is 'dev'. It must be train, val or test"):
        list_task(manifest_task(table, split_column="split"), roots)


def test_explicit_splits_are_read_like_the_source(tmp_path, roots):
    for part, classes in {"train": {"a": 2, "b": 1}, "val": {"a": 1}, "test": {"a": 1, "b": 1}}.items():
        make_folder(tmp_path / part, classes)
    task = folder_task("unused", split={"train": "train", "val": "val", "test": "test"})
    found = [(item.key, item.label, item.split) for item in list_task(task, roots).items]
    assert found == [
        ("test/a/0.png", 0, "test"),
        ("test/b/0.png", 1, "test"),
        ("train/a/0.png", 0, "train"),
        ("train/a/1.png", 0, "train"),
        ("train/b/0.png", 1, "train"),
        ("val/a/0.png", 0, "val"),
    ]
    make_folder(tmp_path / "more", {"c": 1})
    with pytest.raises(ValueError, match="test holds classes that train does not \\('c'\\)"):
        list_task(folder_task("unused", split={"train": "train", "test": "more"}), roots)
    with pytest.raises(ValueError, match="'absent' is no folder"):
        list_task(folder_task("unused", split={"train": "absent", "test": "test"}), roots)


def test_file_names_that_are_not_utf8_are_read(tmp_path, roots):
    make_folder(tmp_path / "pets", {"cat": 1, "dog": 1})
    os.rename(tmp_path / "pets" / "cat" / "0.png", os.fsencode(tmp_path / "pets" / "cat") + b"/caf\xe9.png")
    item = list_task(folder_task("pets"), roots).items[0]
    assert item.key == "cat/caf\\xe9.png"
    assert item.read().startswith(b"\x89PNG")
    (tmp_path / "t.csv").write_bytes(b"path,label\npets/cat/caf\xe9.png,x\npets/dog/0.png,y\n")
    listing = list_task(manifest_task(tmp_path / "t.csv"), roots)
    assert listing.items[0].key == "pets/cat/caf\\xe9.png"
    assert listing.items[0].read() == item.read()


def test_a_class_name_that_is_not_utf8_needs_a_name(tmp_path, roots):
    make_folder(tmp_path / "pets", {"cat": 1, "dog": 1})
    os.rename(tmp_path / "pets" / "dog", os.fsencode(tmp_path / "pets") + b"/caf\xe9")
    with pytest.raises(ValueError, match="no readable name"):
        list_task(folder_task("pets"), roots)
    assert list_task(folder_task("pets", class_names=["coffee", "cat"][::-1]), roots).class_names == ("cat", "coffee")


def test_demo_tasks_keep_their_own_parts(roots):
    task = TaskConfig.model_validate({"name": "ink", "source": {"kind": "demo", "task": "digits-ink"}})
    assert {item.split for item in list_task(task, roots).items} == {"train", "val", "test"}
    task = TaskConfig.model_validate({"name": "ink", "source": {"kind": "demo", "task": "no-such"}})
    with pytest.raises(ValueError, match=r"^Task 'ink': "):
        list_task(task, roots)


@pytest.fixture
def bucket(monkeypatch):
    registry = importlib.import_module("fsspec.registry")._registry
    monkeypatch.setitem(registry, "s3", Bucket)  # and the real one afterwards
    return fsspec.filesystem("s3")


def test_a_folder_around_what_is_closed_is_not_listed_through_it(tmp_path, bucket):
    for key in ("cohort/jobs/job-1/secret.png", "pets/cat/0.png", "pets/dog/0.png"):
        bucket.pipe_file(f"/ours/{key}", b"")
    roots = DataRoots((str(tmp_path),), ("file", "s3"), closed=("s3://ours/cohort",))
    assert list_task(folder_task("s3://ours/pets"), roots).class_names == ("cat", "dog")
    with pytest.raises(ValueError, match="files that no job may read") as told:
        list_task(folder_task("s3://ours"), roots)
    assert "secret" not in str(told.value)
    with pytest.raises(ValueError, match="files that no job may read"):
        find_files("s3://ours", roots, lambda name: True)


def test_a_bucket_is_listed_and_read_like_a_folder(tmp_path, bucket):
    for key in ("cat/0.png", "cat/deep/1.jpg", "dog/2.png", "dog/.x.png", "loose.png", "dog/notes.txt"):
        bucket.pipe_file(f"/shop/pets/{key}", key.encode())
    bucket.pipe_file("/shop/t.csv", b"path,label\npets/cat/0.png,x\ns3://shop/pets/dog/2.png,y\n")
    roots = DataRoots((str(tmp_path),), ("file", "s3"))
    listing = list_task(folder_task("s3://shop/pets"), roots)
    assert listing.class_names == ("cat", "dog")
    assert [item.read().decode() for item in listing.items] == ["cat/0.png", "cat/deep/1.jpg", "dog/2.png"]
    assert [item.key for item in listing.items] == ["cat/0.png", "cat/deep/1.jpg", "dog/2.png"]
    listing = list_task(manifest_task("s3://shop/t.csv"), roots)
    assert [item.read().decode() for item in listing.items] == ["cat/0.png", "dog/2.png"]
    with pytest.raises(ValueError, match="is no folder"):
        list_task(folder_task("s3://shop/absent"), roots)
    bucket.pipe_file("/shop/bad.csv", b"path,label\n../other/0.png,x\n")
    with pytest.raises(ValueError, match=r"row 1: .*without `..`"):
        list_task(manifest_task("s3://shop/bad.csv"), roots)
