"""Laws of WebDataset shards: what a sample says, and what a tar file from outside cannot do."""

import importlib
import io
import json
import os
import tarfile

import fsspec
import pytest
from PIL import Image

from tests.workers.data.test_decoding import png_header
from tests.workers.data.test_sources import Bucket
from workers.data import tars, webdataset
from workers.data.config import TaskConfig
from workers.data.dataset import load_task
from workers.data.locations import MAX_SHARDS, expand_braces
from workers.data.resizing import Resize
from workers.data.roots import DataRoots
from workers.data.sources import list_task


def png(number=0):
    stream = io.BytesIO()
    Image.new("RGB", (4, 4), (number, 7, 200)).save(stream, "PNG")
    return stream.getvalue()


def shard(path, members, **header):
    """A tar file; a member is a name with bytes, text, something to put into JSON, or a TarInfo of its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", **header) as tar:
        for name, content in members:
            if isinstance(content, tarfile.TarInfo):
                tar.addfile(content)
                continue
            content = content.encode() if isinstance(content, str) else content
            content = content if isinstance(content, bytes) else json.dumps(content).encode()
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def samples(count, start=0, **answers):
    """Samples in turn of the classes a and b, or with answers by extension that are made from the number."""
    answers = answers or {"cls": lambda number: "ab"[number % 2]}
    return [
        (f"{number:04d}.{extension}", content)
        for number in range(start, start + count)
        for extension, content in [("png", png(number)), *((key, make(number)) for key, make in answers.items())]
    ]


def task_of(uri, *, kind="classification", source=None, **settings):
    given = {"name": "t", "kind": kind, "source": {"kind": "webdataset", "uri": str(uri)} | (source or {})}
    return TaskConfig.model_validate(given | settings)


@pytest.fixture
def roots(tmp_path):
    (tmp_path / "data").mkdir()
    return DataRoots((str(tmp_path / "data"),))


@pytest.fixture
def data(tmp_path, roots):
    return tmp_path / "data"


@pytest.fixture
def load(tmp_path, roots):
    def load_shards(uri, **settings):
        return load_task(task_of(uri, **settings), Resize(4), roots=roots, cache_dir=tmp_path / "cache")

    return load_shards


# What shards say


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_samples_of_all_shards_are_listed_and_read_from_their_place(data, roots, format):
    for number in range(3):
        shard(data / f"x-{number:02d}.tar", samples(2, start=2 * number), format=format)
    listing = list_task(task_of("x-{00..02}.tar"), roots)
    assert listing.class_names == ("a", "b")
    assert [(item.key, item.label, item.split) for item in listing.items] == [
        (f"x-{number // 2:02d}.tar/{number:04d}", number % 2, None) for number in range(6)
    ]
    assert [item.read() for item in listing.items] == [png(number) for number in range(6)]


@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_names_that_are_not_ascii_and_folders_are_read(data, roots, format):
    long = "deep/" * 40 + "ä"
    folder = tarfile.TarInfo("deep")
    folder.type = tarfile.DIRTYPE
    members = [
        ("", folder),
        (f"{long}.PNG", png(1)),
        (f"{long}.cls", "a\n"),
        ("./x.png", png(2)),
        ("./x.cls", "b"),
        ("._x.png", b"what a Mac adds"),
        ("README", "no sample"),
        ("notes.md", "no sample"),
    ]
    shard(data / "x.tar", members, format=format)
    listing = list_task(task_of("x.tar"), roots)
    assert [(item.key, item.read()) for item in listing.items] == [(f"x.tar/{long}", png(1)), ("x.tar/x", png(2))]


def test_keys_are_those_of_the_shards_under_the_first_brace(data, roots):
    for name in ("art", "photo"):
        shard(data / "sets" / name / "0.tar", samples(2))
    listing = list_task(task_of(f"file://{data}/sets/{{art,photo}}/0.tar"), roots)
    assert [item.key for item in listing.items] == [
        "art/0.tar/0000",
        "art/0.tar/0001",
        "photo/0.tar/0000",
        "photo/0.tar/0001",
    ]


@pytest.mark.parametrize(
    ("source", "answers"),
    [
        ({}, {"cls": lambda n: f" {n % 2}\n"}),
        ({"label_extension": "txt"}, {"txt": lambda n: str(n % 2), "npy": lambda n: b"\x93NUMPY never looked at"}),
        ({"label_extension": "json"}, {"json": lambda n: {"label": n % 2}, "pyd": lambda n: b"\x80never looked at"}),
        ({"label_extension": "Meta.json", "label_key": "class"}, {"mETA.json": lambda n: {"class": str(n % 2)}}),
    ],
)
def test_a_label_is_a_text_or_in_a_json(data, roots, source, answers):
    shard(data / "x.tar", samples(4, **answers))
    listing = list_task(task_of("x.tar", source=source, class_names=["zero", "one"]), roots)
    assert (listing.class_names, [item.label for item in listing.items]) == (("zero", "one"), [0, 1, 0, 1])


@pytest.mark.parametrize(
    ("source", "answers"),
    [
        ({}, {"cls": lambda n: "all|even" if n % 2 == 0 else "all"}),
        ({"label_extension": "json"}, {"json": lambda n: {"label": ["all", "even"] if n % 2 == 0 else ["all"]}}),
    ],
)
def test_a_sample_may_have_several_labels_or_none(data, load, source, answers):
    shard(data / "x.tar", [*samples(8, **answers), ("none.png", png(99)), (f"none.{next(iter(answers))}", "")])
    if "json" in answers:
        with pytest.raises(ValueError, match="sample 'none': 'json' cannot be read"):
            load("x.tar", kind="multi_label", source=source)
        shard(data / "x.tar", [*samples(8, **answers), ("none.png", png(99)), ("none.json", {"label": []})])
    loaded = load("x.tar", kind="multi_label", source=source)
    assert loaded.class_names == ("all", "even")
    for part in (loaded.train, loaded.val, loaded.test):
        for key, labels in zip(part.keys, part.labels.tolist(), strict=True):
            assert labels == ([0, 0] if key.endswith("none") else [1, int(int(key[-4:]) % 2 == 0)])


@pytest.mark.parametrize(
    ("source", "answers"),
    [
        ({}, {"txt": lambda n: f"picture  {n}\n"}),
        ({"caption_extension": "json"}, {"json": lambda n: {"caption": [f"picture {n}"]}}),
    ],
)
def test_captions_follow_their_images(data, load, source, answers):
    shard(data / "x.tar", samples(6, **answers))
    loaded = load("x.tar", kind="retrieval", source=source)
    assert [len(part.keys) for part in (loaded.train, loaded.val, loaded.test)] == [3, 1, 2]
    for part in (loaded.train, loaded.val, loaded.test):
        assert part.captions == tuple((f"picture {int(key[-4:])}",) for key in part.keys)
        assert part.images[:, 0, 0, 0].tolist() == [int(key[-4:]) for key in part.keys]


def test_shards_of_parts_are_used_whole(data, load):
    shard(data / "train-0.tar", samples(4))
    shard(data / "train-1.tar", samples(4, start=4))
    shard(data / "test.tar", samples(2, start=8))
    loaded = load("unused", split={"train": "train-{0..1}.tar", "test": "test.tar"})
    assert loaded.train.keys[0] == "train/train-0.tar/0000"
    assert [len(part.keys) for part in (loaded.train, loaded.val, loaded.test)] == [8, 0, 2]


def test_one_of_several_images_is_named_by_its_extension(data, roots):
    members = [(f"{n}.{side}.png", png(n + (side == "left"))) for n in (10, 20) for side in ("left", "right")]
    shard(data / "x.tar", [*members, ("10.cls", "a"), ("20.cls", "b")])
    with pytest.raises(ValueError, match=r"sample '10' has several images \('left.png', 'right.png'\)"):
        list_task(task_of("x.tar"), roots)
    listing = list_task(task_of("x.tar", source={"image_extension": "left.png"}), roots)
    assert [item.read() for item in listing.items] == [png(11), png(21)]


def test_shards_have_the_fingerprint_of_the_same_images_in_folders(tmp_path, data, load, roots):
    for part, numbers in {"train": range(4), "test": range(4, 8)}.items():
        members = []
        for number in numbers:
            key = f"{'ab'[number % 2]}/{number}"
            members += [(f"{key}.png", png(number)), (f"{key}.cls", key[0])]
            (data / part / key).parent.mkdir(parents=True, exist_ok=True)
            (data / part / f"{key}.png").write_bytes(png(number))
        shard(data / f"{part}.tar", members)
    given = {"name": "t", "source": {"kind": "folder", "uri": "."}, "split": {"train": "train", "test": "test"}}
    folder = load_task(TaskConfig.model_validate(given), Resize(4), roots=roots, cache_dir=tmp_path / "cache")
    assert load("unused", split={"train": "train.tar", "test": "test.tar"}).fingerprint == folder.fingerprint


def test_a_second_load_decodes_nothing(tmp_path, data, load):
    shard(data / "x.tar", samples(8))
    first = load("x.tar", split={"shots": 2, "val_shots": 1})
    (pack,) = (tmp_path / "cache").rglob("*.pack")
    written = pack.stat().st_mtime_ns
    assert load("x.tar", split={"shots": 2, "val_shots": 1}).fingerprint == first.fingerprint
    assert pack.stat().st_mtime_ns == written


def test_shards_in_a_bucket_are_read_by_the_image(tmp_path, data, monkeypatch):
    monkeypatch.setitem(importlib.import_module("fsspec.registry")._registry, "s3", Bucket)
    bucket = fsspec.filesystem("s3")
    for number in range(2):
        made = shard(data / "x.tar", samples(2, start=2 * number))
        bucket.pipe_file(f"/shop/wds/{number}.tar", made.read_bytes())
    roots = DataRoots((), ("s3",), remote_roots=("s3://shop/wds",))
    listing = list_task(task_of("s3://shop/wds/{0..1}.tar"), roots)
    assert [item.read() for item in listing.items] == [png(number) for number in range(4)]
    with pytest.raises(ValueError, match="outside the data roots"):
        list_task(task_of("s3://shop/{wds,other}/0.tar"), roots)
    with pytest.raises(ValueError, match=r"^Task 't': The shard '2.tar' .* does not exist"):
        list_task(task_of("s3://shop/wds/{0..2}.tar"), roots)


# Places


def test_braces_are_numbers_or_choices_and_multiply():
    assert expand_braces("x.tar") == ["x.tar"]
    assert expand_braces("x-{008..010}.tar") == ["x-008.tar", "x-009.tar", "x-010.tar"]
    assert expand_braces("{9..11}") == ["9", "10", "11"]
    assert expand_braces("{a,b}/{0..1}.tar") == ["a/0.tar", "a/1.tar", "b/0.tar", "b/1.tar"]
    assert len(expand_braces(f"{{1..{MAX_SHARDS}}}")) == MAX_SHARDS


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("{{0..1},{3..4}}.tar", "hold none"),
        ("x-{0..1.tar", "must be closed"),
        ("x-0..1}.tar", "must be closed"),
        ("x-{}.tar", "is no choice"),
        ("x-{0...3}.tar", "is no choice"),
        ("x-{5..3}.tar", "Count upwards"),
        ("{0..999999999}.tar", "Count upwards"),
        ("{0..999}{0..999}{0..999}.tar", "are 1000000000, more than 10000"),
        ("{0,0}.tar", "name one twice"),
    ],
)
def test_patterns_that_are_none_are_refused(roots, pattern, message):
    with pytest.raises(ValueError, match=f"^Task 't': Shards .*{message}"):
        list_task(task_of(pattern), roots)


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("pipe:cat /etc/passwd", "does not exist"),
        ("pipe:curl http://host/x.tar", "uses the scheme"),
        ("https://host/x-{0..1}.tar", "uses the scheme 'https'"),
        ("simplecache::file:///etc/x.tar", "one plain path"),
        ("{.,../..}/x.tar", "outside the data roots"),
        ("/etc/{passwd,shadow}", "outside the data roots"),
        ("link.tar", "outside the data roots"),
        ("absent-{0..1}.tar", "'absent-0.tar' .* does not exist"),
        ("folder", "does not exist or cannot be read"),
        ("pipe.tar", "not a regular file"),
    ],
)
def test_shards_come_from_files_under_the_roots_alone(tmp_path, data, roots, uri, message):
    (data / "folder").mkdir()
    (data / "link.tar").symlink_to(shard(tmp_path / "outside.tar", samples(2)))
    os.mkfifo(data / "pipe.tar")
    with pytest.raises(ValueError, match=f"^Task 't': .*{message}"):
        list_task(task_of(uri), roots)


# What a tar file from outside cannot do


def special(kind, name="x.png", target="/etc/passwd"):
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


@pytest.mark.parametrize(
    "members",
    [
        [("x.png", special(kind))]
        for kind in (
            tarfile.SYMTYPE,
            tarfile.LNKTYPE,
            tarfile.FIFOTYPE,
            tarfile.CHRTYPE,
            tarfile.BLKTYPE,
            tarfile.CONTTYPE,
            tarfile.GNUTYPE_SPARSE,
            b"?",
        )
    ],
)
def test_links_devices_and_sparse_files_are_refused(data, roots, members):
    shard(data / "x.tar", [*samples(2), *members])
    with pytest.raises(
        ValueError, match=r"^Task 't': The shard 'x.tar' cannot be read: at byte \d+: 'x.png' is a link"
    ):
        list_task(task_of("x.tar"), roots)


@pytest.mark.parametrize("name", ["../x.png", "a/../../x.png", "/etc/x.png", "a/.."])
@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_names_that_lead_out_are_refused(data, roots, name, format):
    shard(data / "x.tar", [(name, png())], format=format)
    with pytest.raises(ValueError, match="leads out of the tar file"):
        list_task(task_of("x.tar"), roots)


def test_a_path_in_a_pax_header_is_held_to_the_same_rule(data, roots):
    member = tarfile.TarInfo("x.png")
    member.pax_headers = {"path": "../../etc/x.png"}
    shard(data / "x.tar", [("", member)], format=tarfile.PAX_FORMAT)
    with pytest.raises(ValueError, match="leads out of the tar file"):
        list_task(task_of("x.tar"), roots)


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ({"size": "-512"}, "a member of -1 bytes"),
        ({"size": "9" * 18}, "a member of 9+ bytes, but"),
        ({"size": "9" * 5000}, "a member of -1 bytes"),
        ({"GNU.sparse.major": "1"}, "a sparse file"),
        ({"comment": "x" * 100_000}, "a header of .* more than 65536"),
    ],
)
def test_a_pax_header_cannot_lead_astray(data, roots, headers, message):
    member = tarfile.TarInfo("x.png")
    member.pax_headers = headers
    shard(data / "x.tar", [*samples(2), ("", member)], format=tarfile.PAX_FORMAT)
    with pytest.raises(ValueError, match=message):
        list_task(task_of("x.tar"), roots)


@pytest.mark.parametrize("record", [b"0 path=x\n", b"99 path=x\n", b"x", b"999999999999 path=x\n", b"9 path=x\n\n "])
def test_a_damaged_pax_header_is_refused(data, roots, record):
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.XHDTYPE, len(record)
    (data / "x.tar").write_bytes(header.tobuf() + record.ljust(512, b"\0") + bytes(1024))
    with pytest.raises(ValueError, match="a damaged pax header"):
        list_task(task_of("x.tar"), roots)


def negative():
    block = bytearray(tarfile.TarInfo("x.png").tobuf(tarfile.GNU_FORMAT))
    block[124:136] = b"\xff" * 10 + b"\xfe\x00"  # -512
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def claims(size):
    member = tarfile.TarInfo("x.png")
    member.size = size
    return member.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "at byte 0: empty header"),
        (b"no tar file", "at byte 0: truncated header"),
        (b"\x1f\x8b" * 600, "at byte 0: .*plain tar"),
        (negative() + bytes(1024), "a member of -512 bytes"),
        (claims(2**62) + bytes(1024), f"a member of {2**62} bytes, but 1024 are left"),
    ],
)
def test_what_is_no_tar_file_is_refused(data, roots, content, message):
    (data / "x.tar").write_bytes(content)
    with pytest.raises(ValueError, match=f"^Task 't': The shard 'x.tar' cannot be read: .*{message}"):
        list_task(task_of("x.tar"), roots)


def test_a_shard_that_is_cut_anywhere_is_refused(data, roots):
    whole = shard(data / "x.tar", samples(2)).read_bytes()
    end = len(whole.rstrip(b"\0")) // 512 * 512 + 512
    for length in [*range(0, end, 100), end]:
        (data / "x.tar").write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"The shard 'x\.tar' cannot be read: at byte"):
            list_task(task_of("x.tar"), roots)


def test_a_shard_with_a_damaged_header_does_not_end_there(data, roots):
    content = bytearray(shard(data / "x.tar", samples(4)).read_bytes())
    content[content.index(b"0002.png")] ^= 1
    (data / "x.tar").write_bytes(content)
    with pytest.raises(ValueError, match="bad checksum"):
        list_task(task_of("x.tar"), roots)


def test_a_shard_that_shrinks_after_listing_gives_no_half_image(data, roots):
    shard(data / "x.tar", samples(2))
    last = list_task(task_of("x.tar"), roots).items[-1]
    (data / "x.tar").write_bytes(b"")
    with pytest.raises(ValueError, match="shorter"):
        last.read()


def test_a_huge_member_is_an_unreadable_image(data, load, monkeypatch):
    monkeypatch.setattr(webdataset, "MAX_BYTES", 1000)
    shard(data / "x.tar", [*samples(20), ("big.png", png() + bytes(1000)), ("big.cls", "a")])
    loaded = load("x.tar", bad_image_budget=0.1, split={"shots": 3, "val_shots": 1})
    assert (loaded.num_unreadable, loaded.unreadable) == (1, ("x.tar/big",))


@pytest.mark.parametrize("bad", [b"", b"\x89PNG no image", png_header(30_000, 30_000), png()[:40], None])
@pytest.mark.filterwarnings("ignore:::PIL")
def test_unreadable_images_are_skipped_under_the_budget_and_named_above_it(data, load, bad):
    extra = [] if bad is None else [("bad.png", bad)]
    shard(data / "x.tar", [*samples(20), *extra, ("bad.cls", "a")])
    loaded = load("x.tar", bad_image_budget=0.1, split={"fraction": 0.5})
    assert (loaded.num_unreadable, loaded.unreadable) == (1, ("x.tar/bad",))
    with pytest.raises(ValueError, match=r"1 of 21 images cannot be read, .*'x.tar/bad' \("):
        load("x.tar", split={"fraction": 0.5})


# What samples may not say


@pytest.mark.parametrize(
    ("members", "source", "message"),
    [
        ([("x.png", png())], {}, "sample 'x' has no 'cls'; it has 'png'"),
        ([("x.png", png()), ("x.cls", "")], {}, "sample 'x': 'cls' is ''"),
        ([("x.png", png()), ("x.cls", b"\xff\xfe")], {}, "sample 'x': 'cls' cannot be read"),
        ([("x.png", png()), ("x.cls", "a"), ("x.cls", "b")], {}, "'x.cls' is there twice"),
        ([("x.png", png()), ("x.PNG", png()), ("x.cls", "a")], {}, "'x.PNG' is there twice"),
        ([("x.png", png()), ("x.cls", "a" * 2_000_000)], {}, "'x.cls' has 2000000 bytes, more than"),
        ([("x.png", png()), ("x.json", "{")], {"label_extension": "json"}, "sample 'x': 'json' cannot be read"),
        ([("x.png", png()), ("x.json", "[" * 9999)], {"label_extension": "json"}, "'json' cannot be read"),
        ([("x.png", png()), ("x.json", "[1]")], {"label_extension": "json"}, "is no JSON object"),
        ([("x.png", png()), ("x.json", "{}")], {"label_extension": "json"}, "sample 'x': 'label' is None"),
        ([("x.png", png()), ("x.json", {"label": 1.5})], {"label_extension": "json"}, "'label' is 1.5"),
        ([("x.png", png()), ("x.cls", "a")], {}, "the only class is 'a'"),
        ([], {}, "no class was found"),
    ],
)
def test_bad_samples_are_refused_by_name(data, roots, members, source, message):
    shard(data / "x.tar", members)
    with pytest.raises(ValueError, match=f"^Task 't': .*{message}"):
        list_task(task_of("x.tar", source=source), roots)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"source": {"label_extension": "pyd"}}, "label_extension"),
        ({"source": {"label_extension": "pickle"}}, "label_extension"),
        ({"source": {"caption_extension": "npy"}, "kind": "retrieval"}, "caption_extension"),
        ({"source": {"caption_key": "x"}}, "caption_key='x', which is for retrieval"),
        ({"source": {"label_separator": ";"}}, "label_separator=';', which is for multi_label"),
        ({"source": {"label_key": "x"}, "kind": "retrieval"}, "label_key='x', which is for classification and"),
        ({"split": {"fraction": 1}}, "leaves nothing to test"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        task_of("x.tar", **settings)


def test_the_walk_finds_what_tarfile_finds(data):
    made = shard(data / "x.tar", [*samples(5), ("deep/" * 50 + "ü.bin", bytes(1000))])
    with tarfile.open(made) as tar, open(made, "rb") as file:
        known = [(member.name, member.offset_data, member.size) for member in tar]
        assert [(member.name, member.start, member.size) for member in tars.list_members(file)] == known
