"""Laws of Hugging Face datasets: what their own library writes is read alike, and nothing in them leads elsewhere."""

import io
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import unquote

import datasets
import huggingface_hub
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from tests.workers.data.test_decoding import png_header
from workers.data import huggingface
from workers.data.config import FractionSplit, TaskConfig
from workers.data.dataset import load_task
from workers.data.resizing import Resize
from workers.data.roots import DataRoots
from workers.data.sources import list_task

COMMIT = "0123456789abcdef0123456789abcdef01234567"
HUB = "hf://datasets/org/pets"
CLASSES = ["guinea_pig", "cat"]


def png(number=0):
    stream = io.BytesIO()
    Image.new("RGB", (4, 4), (number, 7, 200)).save(stream, "PNG")
    return stream.getvalue()


def write(path, rows, *, features=None, **options):
    """Rows as a Parquet file without the library; the image column as it stores images."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    table = pyarrow.Table.from_pylist(rows)
    if "image" in table.column_names and not pyarrow.types.is_string(table["image"].type):
        table = table.set_column(
            table.column_names.index("image"), "image", pyarrow.array(table["image"].to_pylist(), image)
        )
    if features is not None:
        table = table.replace_schema_metadata({"huggingface": features})
    pyarrow.parquet.write_table(table, path, **options)


def rows_of(count, start=0, **answers):
    answers = answers or {"label": lambda number: "ab"[number % 2]}
    return [
        {"image": {"bytes": png(number), "path": f"/etc/{number}.png"}}
        | {name: make(number) for name, make in answers.items()}
        for number in range(start, start + count)
    ]


def task_of(uri=".", *, kind="classification", source=None, **settings):
    given = {"name": "t", "kind": kind, "source": {"kind": "huggingface", "uri": str(uri)} | (source or {})}
    return TaskConfig.model_validate(given | settings)


@pytest.fixture
def data(tmp_path):
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


@pytest.fixture
def roots(data):
    return DataRoots((str(data),))


@pytest.fixture
def load(tmp_path, roots):
    def load_dataset(uri=".", **settings):
        return load_task(task_of(uri, **settings), Resize(4), roots=roots, cache_dir=tmp_path / "cache")

    return load_dataset


# What datasets say


@pytest.fixture
def written(data):
    """A dataset of 250 rows in two files as its library writes it: labels by number, tags and captions."""
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "label": datasets.ClassLabel(names=CLASSES),
            "tags": datasets.List(datasets.ClassLabel(names=["all", "even"])),
            "caption": datasets.Value("string"),
        }
    )
    for shard, numbers in enumerate((range(150), range(150, 250))):
        columns = {
            "image": [{"bytes": png(number), "path": None} for number in numbers],
            "label": [number % 2 for number in numbers],
            "tags": [[0, 1] if number % 2 == 0 else [0] for number in numbers],
            "caption": [f"picture {number}" for number in numbers],
        }
        dataset = datasets.Dataset.from_dict(columns, features=features)
        (data / "data").mkdir(exist_ok=True)
        dataset.to_parquet(data / "data" / f"train-{shard:05d}-of-00002.parquet", batch_size=100)
    return data


def test_what_the_datasets_library_writes_is_read_alike(written, roots):
    listing = list_task(task_of(), roots)
    assert listing.class_names == ("cat", "guinea pig")
    keys = [f"data/train-{number // 150:05d}-of-00002.parquet/{number % 150:07d}" for number in range(250)]
    assert [item.key for item in listing.items] == keys
    assert [listing.class_names[item.label] for item in listing.items] == ["guinea pig", "cat"] * 125
    for number in (0, 149, 150, 249, 3):
        assert listing.items[number].read() == png(number)


def test_lists_of_class_numbers_are_labels(written, load):
    loaded = load(kind="multi_label", source={"label_column": "tags"})
    assert loaded.class_names == ("all", "even")
    for part in (loaded.train, loaded.val, loaded.test):
        assert part.labels.tolist() == [[1, int(red % 2 == 0)] for red in part.images[:, 0, 0, 0]]


def test_captions_follow_their_images(written, load):
    loaded = load(kind="retrieval")
    assert loaded.class_names == ()
    for part in (loaded.train, loaded.val, loaded.test):
        assert part.captions == tuple((f"picture {red}",) for red in part.images[:, 0, 0, 0])


def test_labels_may_be_texts_and_numbers_and_images_bare_bytes(data, roots):
    rows = [{"image": png(number), "kind": number % 2 + 9} for number in range(4)]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), data / "train.parquet")
    listing = list_task(task_of(source={"label_column": "kind"}), roots)
    assert (listing.class_names, [item.label for item in listing.items]) == (("9", "10"), [0, 1, 0, 1])
    write(data / "train.parquet", rows_of(4))
    assert list_task(task_of(), roots).class_names == ("a", "b")


@pytest.mark.parametrize(
    "name",
    ["train.parquet", "train-0.parquet", "data/train-00000-of-00001-0a1b2c.parquet", "default/train/0000.parquet"],
)
def test_a_split_is_told_by_the_names_of_files_or_of_their_folder(data, roots, name):
    write(data / name, rows_of(4))
    write(data / name.replace("train", "test"), rows_of(2, start=4))
    write(data / name.replace("train", "trainer"), rows_of(2, start=6))
    assert [item.split for item in list_task(task_of(), roots).items] == [None] * 4
    listing = list_task(task_of(source={"test_split": "test"}), roots)
    assert [item.split for item in listing.items] == ["test"] * 2 + ["train"] * 4


def test_splits_of_the_dataset_are_the_parts_of_the_task(data, load):
    for split, start in {"train": 0, "validation": 20, "test": 30}.items():
        write(data / f"{split}.parquet", rows_of(10, start=start))
    own = {"test_split": "test", "val_split": "validation"}
    loaded = load(source=own, split={"shots": 2, "val_shots": 3, "test_per_class": 4})
    assert [len(part.keys) for part in (loaded.train, loaded.val, loaded.test)] == [4, 6, 8]
    assert {key[:5] for key in loaded.val.keys} == {"valid"} and {key[:5] for key in loaded.test.keys} == {"test."}
    whole = load(source=own, split={"fraction": 1})
    assert [len(part.keys) for part in (whole.train, whole.val, whole.test)] == [10, 10, 10]
    spared = load(source={"test_split": "test"}, split={"shots": 2, "val_shots": 2})
    assert {key[:5] for key in spared.val.keys} == {"train"}


def test_the_fingerprint_is_that_of_the_same_images_in_shards_of_another_size(data, load):
    write(data / "train-0.parquet", rows_of(6))
    write(data / "test-0.parquet", rows_of(4, start=6))
    first = load(source={"test_split": "test"}, split={"fraction": 1})
    write(data / "train-0.parquet", rows_of(3), row_group_size=2)
    write(data / "train-1.parquet", rows_of(3, start=3))
    assert load(source={"test_split": "test"}, split={"fraction": 1}).fingerprint == first.fingerprint
    write(data / "train-1.parquet", rows_of(3, start=4))
    assert load(source={"test_split": "test"}, split={"fraction": 1}).fingerprint != first.fingerprint


def test_few_images_cost_few_row_groups(data, roots, monkeypatch):
    write(data / "train.parquet", rows_of(40), row_group_size=4)
    listing = list_task(task_of(), roots)
    groups = []
    unpack = huggingface._values
    monkeypatch.setattr(
        huggingface, "_values", lambda *given, **more: groups.append(given[1]) or unpack(*given, **more)
    )
    for number in (4, 5, 6, 7, 0, 4, 39):
        assert listing.items[number].read() == png(number)
    assert groups == [1, 0, 9]


# Places


@pytest.fixture
def hub(monkeypatch):
    """A hub on loopback, for its own client, that holds one dataset: revision -> path -> bytes."""
    files: dict[str, dict[str, bytes]] = {}

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self):
            place, _, query = self.path.partition("?")
            match unquote(place).split("/", 6)[1:]:
                case ["api", "datasets", "org", "pets", "revision", revision] if revision in files:
                    self.answer(json.dumps({"id": "org/pets", "sha": revision}).encode())
                case ["api", "datasets", "org", "pets", "tree", rest]:
                    revision, _, folder = rest.partition("/")
                    self.answer(json.dumps(tree(revision, folder, "recursive=true" in query.lower())).encode())
                case ["datasets", "org", "pets", "resolve", revision, path]:
                    start, end = self.headers["range"].removeprefix("bytes=").split("-")
                    self.answer(files[revision][path][int(start) : int(end) + 1], 206)
                case ["api", "datasets", *_]:
                    self.answer(b"{}", 404, "RepoNotFound")
                case _:
                    self.answer(b"{}")

        def answer(self, content, status=200, fault=""):
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("X-Error-Code", fault)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format, *args):
            pass

    def tree(revision, folder, recursive):
        prefix = f"{folder}/" if folder else ""
        own = {path: content for path, content in files[revision].items() if path.startswith(prefix)}
        folders = {prefix + path.removeprefix(prefix).split("/")[0] for path in own if "/" in path.removeprefix(prefix)}
        found = [{"type": "directory", "path": path, "oid": path} for path in folders]
        return found + [
            {"type": "file", "path": path, "oid": path, "size": len(content)}
            for path, content in own.items()
            if recursive or "/" not in path.removeprefix(prefix)
        ]

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        endpoint, known = f"http://127.0.0.1:{server.server_port}", huggingface_hub.constants
        template = known.HUGGINGFACE_CO_URL_TEMPLATE.replace(known.ENDPOINT, endpoint)
        monkeypatch.setattr(known, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(known, "ENDPOINT", endpoint)
        yield files
        server.shutdown()
        thread.join()


def test_a_dataset_of_the_hub_is_read_at_its_commit_and_under_the_roots(data, hub):
    for commit, count in ((COMMIT, 4), ("main", 2)):
        write(data / "x.parquet", rows_of(count))
        hub[commit] = {"en/train-0.parquet": (data / "x.parquet").read_bytes(), "README.md": b"never read"}
    roots = DataRoots((), ("hf",), remote_roots=("hf://datasets/org",))
    for uri, key in ((HUB, "en/train-0.parquet"), (f"{HUB}/en", "train-0.parquet"), (f"{HUB}/", "en/train-0.parquet")):
        listing = list_task(task_of(uri, source={"revision": COMMIT}), roots)
        assert [item.key for item in listing.items] == [f"{key}/{number:07d}" for number in range(4)]
        assert [item.read() for item in listing.items] == [png(number) for number in range(4)]
    for allowed in (DataRoots((), ("hf",), remote_roots=("hf://datasets/org/other",)), DataRoots((), ("s3",))):
        with pytest.raises(ValueError, match=r"outside the data roots|uses the scheme 'hf'"):
            list_task(task_of(HUB, source={"revision": COMMIT}), allowed)
    with pytest.raises(ValueError, match=r"without `\.\.`"):
        list_task(task_of(f"{HUB}/../../other/pets", source={"revision": COMMIT}), roots)
    for uri, revision in ((HUB, COMMIT[::-1]), ("hf://datasets/org/absent", COMMIT)):
        with pytest.raises(ValueError, match=r"^Task 't': "):
            list_task(task_of(uri, source={"revision": revision}), roots)


@pytest.mark.parametrize(
    ("uri", "source", "message"),
    [
        (HUB, {}, "needs the commit"),
        (HUB, {"revision": "main"}, "revision"),
        (HUB, {"revision": COMMIT[:7]}, "revision"),
        (f"{HUB}@{COMMIT}", {}, "names no dataset of the hub"),
        (f"{HUB}@main", {"revision": COMMIT}, "names no dataset of the hub"),
        ("hf://org/pets", {"revision": COMMIT}, "names no dataset of the hub"),
        ("HF://models/org/pets", {"revision": COMMIT}, "names no dataset of the hub"),
        ("hf://datasets/pets", {"revision": COMMIT}, "names no dataset of the hub"),
        ("pets", {"revision": COMMIT}, "other places have none"),
        ("pets", {"val_split": "validation"}, "without test_split"),
        ("pets", {"trust_remote_code": True}, "trust_remote_code"),
        ("pets", {"caption_column": "x"}, "caption_column='x', which is for retrieval"),
    ],
)
def test_a_source_that_is_not_pinned_or_does_not_fit_is_refused(uri, source, message):
    with pytest.raises(ValueError, match=message):
        task_of(uri, source=source)


def test_the_splits_are_the_datasets_own():
    with pytest.raises(ValueError, match="a huggingface source has its own train, val and test images"):
        task_of(split={"train": "a", "test": "b"})
    with pytest.raises(ValueError, match="leaves nothing to test"):
        task_of(split={"fraction": 1})
    assert task_of(kind="multi_label", source={"test_split": "test"}).split == FractionSplit(fraction=1)


def test_places_that_hold_no_such_dataset_are_refused(tmp_path, data, roots):
    write(tmp_path / "outside" / "train.parquet", rows_of(4))
    with pytest.raises(ValueError, match="outside the data roots"):
        list_task(task_of("../outside"), roots)
    with pytest.raises(ValueError, match=r"^Task 't': 'absent' has no Parquet file .*: none at all"):
        list_task(task_of("absent"), roots)
    (data / "train.parquet").symlink_to(tmp_path / "outside" / "train.parquet")
    with pytest.raises(ValueError, match="outside the data roots"):
        list_task(task_of(), roots)
    (data / "train.parquet").unlink()
    for folder in ("en", "fr"):
        write(data / folder / "train.parquet", rows_of(4))
    with pytest.raises(ValueError, match=r"'train' in several folders \('en', 'fr'\)"):
        list_task(task_of(), roots)
    with pytest.raises(ValueError, match=r"of the split 'dev' \(its Parquet files: 'train.parquet'\)"):
        list_task(task_of("en", source={"train_split": "dev"}), roots)
    assert len(list_task(task_of("fr"), roots).items) == 4


def test_a_dataset_card_and_its_scripts_are_never_looked_at(data, roots, monkeypatch):
    write(data / "train.parquet", rows_of(4))
    (data / "README.md").write_text("---\nconfigs: [{config_name: x, data_files: 'https://host/x.parquet'}]\n---\n")
    (data / "data.py").write_text("raise SystemExit('run')")
    (data / "train.pkl").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    opened = []
    opener = huggingface.open_file
    monkeypatch.setattr(huggingface, "open_file", lambda place, roots: opened.append(place) or opener(place, roots))
    assert [item.read() for item in list_task(task_of(), roots).items] == [png(number) for number in range(4)]
    assert set(opened) == {str(data / "train.parquet")}


# What rows and files may not say


def test_paths_and_urls_instead_of_images_are_not_followed(data, load):
    (data / "secret.png").write_bytes(png(99))
    rows = rows_of(20)
    for row, path in zip(rows, (str(data / "secret.png"), "https://host/x.png"), strict=False):
        row["image"] = {"bytes": None, "path": path}
    write(data / "train.parquet", rows)
    loaded = load(bad_image_budget=0.2, split={"fraction": 0.5})
    assert loaded.unreadable == ("train.parquet/0000000", "train.parquet/0000001")
    with pytest.raises(
        ValueError, match=r"2 of 20 .* cannot be read.*\(the row holds no image; paths and URLs are not"
    ):
        load(split={"fraction": 0.5})


@pytest.mark.parametrize("bad", [b"", b"\x89PNG no image", png_header(30_000, 30_000), png()[:40]])
@pytest.mark.filterwarnings("ignore:::PIL")
def test_unreadable_images_are_skipped_under_the_budget_and_named_above_it(data, load, bad):
    rows = rows_of(20)
    rows[3] |= {"image": {"bytes": bad, "path": None}}
    write(data / "train.parquet", rows)
    loaded = load(bad_image_budget=0.1, split={"fraction": 0.5})
    assert (loaded.num_unreadable, loaded.unreadable) == (1, ("train.parquet/0000003",))
    with pytest.raises(ValueError, match=r"1 of 20 images cannot be read, .*'train.parquet/0000003'"):
        load(split={"fraction": 0.5})


def class_list(names):
    return json.dumps({"info": {"features": {"label": {"_type": "ClassLabel", "names": names}}}})


@pytest.mark.parametrize(
    ("rows", "features", "source", "message"),
    [
        (rows_of(2, label=lambda n: n - 1), class_list(CLASSES), {}, "the label -1 is none of the 2 classes"),
        (rows_of(2, label=lambda n: n + 1), class_list(CLASSES), {}, "the label 2 is none of the 2 classes"),
        (rows_of(2, label=lambda n: None if n else "a"), None, {}, "row 1: 'label' is None"),
        (rows_of(2, label=lambda n: n / 2), None, {}, "row 0: 'label' is 0.0"),
        (rows_of(2, label=lambda n: "a"), None, {}, "the only class is 'a'"),
        (rows_of(2, other=lambda n: "a"), None, {}, "no column 'label' among 'image', 'other'"),
        (rows_of(2), None, {"image_column": "img"}, r"'img' is no column of encoded images among 'image' \(struct"),
        ([{"image": "x.png", "label": "a"}], None, {}, r"'image' is no column of encoded images .*\(string\)"),
    ],
)
def test_bad_rows_and_columns_are_refused_by_name(data, roots, rows, features, source, message):
    write(data / "train.parquet", rows, features=features)
    with pytest.raises(ValueError, match=f"^Task 't': .*{message}"):
        list_task(task_of(source=source), roots)


@pytest.mark.parametrize(
    "features", ["{", "[" * 100_000, "[]", '{"info": null}', class_list("ab"), class_list([1, 2]), class_list(None)]
)
def test_what_is_no_class_list_leaves_the_numbers(data, roots, features):
    write(data / "train.parquet", rows_of(4, label=lambda n: n % 2), features=features)
    assert list_task(task_of(), roots).class_names == ("0", "1")


@pytest.mark.parametrize("damage", ["empty", "no parquet", "cut", "footer", "labels"])
def test_a_damaged_file_is_refused_by_name(data, roots, damage):
    write(data / "train.parquet", rows_of(50), compression="none")
    content = bytearray((data / "train.parquet").read_bytes())
    match damage:
        case "empty":
            content.clear()
        case "no parquet":
            content[:] = b"no parquet"
        case "cut":
            del content[len(content) // 2 :]
        case "footer":
            content[-300:-8] = bytes(292)
        case "labels":
            column = pyarrow.parquet.ParquetFile(data / "train.parquet").metadata.row_group(0).column(2)
            start = column.dictionary_page_offset or column.data_page_offset
            content[start : start + column.total_compressed_size] = b"\xff" * column.total_compressed_size
    (data / "train.parquet").write_bytes(content)
    with pytest.raises(ValueError, match=r"^Task 't': The file 'train\.parquet': damaged Parquet"):
        list_task(task_of(), roots)


def test_damaged_images_are_unreadable(data, load):
    write(data / "train.parquet", rows_of(50), compression="none")
    content = bytearray((data / "train.parquet").read_bytes())
    content[10:2000] = b"\xff" * 1990
    (data / "train.parquet").write_bytes(content)
    with pytest.raises(ValueError, match=r"cannot be read, more than bad_image_budget.*damaged Parquet"):
        load()


def test_a_column_that_unpacks_to_far_more_than_its_file_is_not_unpacked(data, roots, monkeypatch):
    bomb = png() + bytes(2**20)
    rows = [{"image": {"bytes": bomb, "path": None}, "label": "ab"[number % 2]} for number in range(64)]
    write(data / "train.parquet", rows, compression="zstd")
    assert (data / "train.parquet").stat().st_size < 2**20
    monkeypatch.setattr(huggingface, "MAX_BYTES", 2**24)
    item = list_task(task_of(), roots).items[0]
    with pytest.raises(ValueError, match=r"row group 0 exceeds the limit of 16777216 bytes. Write smaller row groups"):
        item.read()
    write(data / "train.parquet", rows[:8], compression="zstd")
    assert list_task(task_of(), roots).items[0].read() == bomb
    monkeypatch.setattr(huggingface, "MAX_BYTES", 10)
    with pytest.raises(ValueError, match=r"column 'label' of row group 0 exceeds"):
        list_task(task_of(), roots)
