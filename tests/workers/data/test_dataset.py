import errno
import os
import resource
import shutil
import subprocess
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from workers import faults
from workers.data.config import TaskConfig
from workers.data.dataset import Resize, load_task
from workers.data.roots import DataRoots
from workers.failures import FailureClass, classify, is_full

RESIZE = Resize(8)
ROOM = Path(__file__).parents[3]


@pytest.fixture
def pets(tmp_path):
    """Two classes of eight small images, all different."""
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for number in range(8):
            noise = rng.integers(0, 256, size=(12, 10, 3), dtype=np.uint8)
            Image.fromarray(noise).save(tmp_path / "pets" / name / f"{number}.png")
    return tmp_path / "pets"


def task_of(folder, **settings):
    given = {"name": "pets", "source": {"kind": "folder", "uri": str(folder)}, "split": {"shots": 3, "val_shots": 2}}
    return TaskConfig.model_validate(given | settings)


def load(folder, *, resize=RESIZE, sample=None, **settings):
    root, task = folder.parent, task_of(folder, **settings)
    return load_task(task, resize, roots=DataRoots((str(root),)), cache_dir=root / "cache", sample=sample)


def packs(folder):
    return sorted((folder.parent / "cache").rglob("*.pack"))


def inode_of(path):
    return path.stat().st_ino


def test_a_task_is_split_labelled_and_mapped(pets):
    data = load(pets)
    assert [len(part.labels) for part in (data.train, data.val, data.test)] == [6, 4, 6]
    assert data.class_names == ("cat", "dog") and data.num_unreadable == 0
    for part in (data.train, data.val, data.test):
        assert part.images.shape == (len(part.labels), 3, 8, 8)
        assert part.images.dtype == np.uint8 and part.labels.dtype == np.int64
        assert isinstance(part.images, np.memmap) and not part.images.flags.writeable
        assert [key.startswith("dog") for key in part.keys] == part.labels.tolist()
        assert list(part.keys) == sorted(part.keys)


def test_pixels_are_those_of_the_file(pets):
    plain = load(pets, resize=Resize(10, mode="squash")).test
    wide = np.asarray(Image.open(pets / plain.keys[0]).resize((10, 10), Image.Resampling.BICUBIC))
    assert np.array_equal(plain.images[0], wide.transpose(2, 0, 1))


def test_an_empty_val_is_allowed(pets):
    data = load(pets, split={"shots": 3, "val_shots": 0})
    assert data.val.images.shape == (0, 3, 8, 8) and data.val.keys == ()


def test_the_second_load_only_reads_the_cache(pets):
    first = load(pets)
    (pack,) = packs(pets)
    before = (inode_of(pack), pack.stat().st_mtime_ns)
    second = load(pets)
    assert (inode_of(pack), pack.stat().st_mtime_ns) == before
    assert first.fingerprint == second.fingerprint
    assert np.array_equal(first.test.images, second.test.images)


def test_a_moved_folder_shares_the_cache_and_the_fingerprint(pets):
    first = load(pets)
    shutil.copytree(pets, pets.parent / "copy")
    assert load(pets.parent / "copy").fingerprint == first.fingerprint
    assert len(packs(pets)) == 1


def test_another_split_of_known_images_decodes_nothing(pets):
    load(pets)
    (pack,) = packs(pets)
    # Other pixels under sound checksums: whoever decodes again does not see them.
    forged = _forge(pack)
    other = load(pets, split={"shots": 5, "val_shots": 0})
    assert len(packs(pets)) == 2
    assert all(np.all(image == forged) for image in other.train.images)


def _forge(pack):
    start = 4096
    content = bytearray(pack.read_bytes())
    count = int.from_bytes(content[16:24], "little")
    pixels = bytes([7]) * (3 * 8 * 8)
    content[start:] = pixels * count
    table_end = 24 + 36 * count
    content[24 + 32 * count : table_end] = zlib.crc32(pixels).to_bytes(4, "little") * count
    content[table_end : table_end + 4] = zlib.crc32(bytes(content[:table_end])).to_bytes(4, "little")
    pack.write_bytes(content)
    return 7


def test_every_preprocessing_has_a_cache_of_its_own(pets):
    sizes = [load(pets, resize=resize).train.images for resize in (Resize(8), Resize(9), Resize(8, mode="squash"))]
    assert [images.shape[-1] for images in sizes] == [8, 9, 8]
    assert not np.array_equal(sizes[0], sizes[2])
    assert len(packs(pets)) == 3


@pytest.mark.parametrize("damage", ["a pixel", "the last pixel", "cut", "longer", "empty", "header", "magic"])
def test_a_damaged_cache_is_rebuilt(pets, damage):
    expected = load(pets)
    whole = np.array(expected.test.images)
    (pack,) = packs(pets)
    content = bytearray(pack.read_bytes())
    good = bytes(content)
    match damage:
        case "a pixel":
            content[4096] ^= 1
        case "the last pixel":
            content[-1] ^= 1
        case "cut":
            del content[-10:]
        case "longer":
            content += b"\0"
        case "empty":
            content.clear()
        case "header":
            content[30] ^= 1
        case "magic":
            content[0] ^= 1
    pack.write_bytes(content)
    again = load(pets)
    assert np.array_equal(again.test.images, whole) and again.fingerprint == expected.fingerprint
    assert pack.read_bytes() == good


def test_damage_in_one_pack_does_not_spread_to_another(pets):
    load(pets)
    (pack,) = packs(pets)
    content = bytearray(pack.read_bytes())
    content[4096:] = bytes(len(content) - 4096)
    pack.write_bytes(content)
    data = load(pets, split={"shots": 5, "val_shots": 0})
    shutil.rmtree(pets.parent / "cache")
    assert np.array_equal(data.train.images, load(pets, split={"shots": 5, "val_shots": 0}).train.images)


def test_what_a_killed_builder_left_behind_does_no_harm(pets):
    load(pets)
    (pack,) = packs(pets)
    (lock,) = pack.parent.glob("*.lock")
    lock.with_suffix(".tmp").write_bytes(b"half a pack")
    pack.unlink()
    load(pets)
    assert not list(pack.parent.glob("*.tmp"))
    assert packs(pets) == [pack]


@pytest.mark.parametrize(("action", "number"), [("full", errno.ENOSPC), ("io", errno.EIO), ("denied", errno.EACCES)])
def test_a_pack_that_cannot_be_written_leaves_nothing_and_says_what_to_do(pets, action, number):
    faults.arm(f"write.pack:{action}")
    try:
        with pytest.raises(OSError, match=r"\.pack could not be written: .* then retry the job") as failed:
            load(pets)
    finally:
        faults.arm("")
    assert failed.value.errno == number and classify(failed.value) is FailureClass.STORAGE
    assert {path.suffix for path in (pets.parent / "cache").rglob("*") if path.is_file()} == {".lock"}
    assert load(pets).train.images.shape[0] == 6


def test_a_disk_that_fills_up_while_images_are_decoded_ends_the_load_and_thins_no_data(pets):
    """A limit on the size of files stands in for the disk's end: it comes in the middle of real writing."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OSError, match=r"could not be written: File too large. .* then retry the job") as failed:
            load(pets)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert is_full(failed.value) and classify(failed.value) is FailureClass.STORAGE
    assert {path.suffix for path in (pets.parent / "cache").rglob("*") if path.is_file()} == {".lock"}


LOADER = """
import sys
from pathlib import Path
from workers.data.config import TaskConfig
from workers.data.dataset import Resize, load_task
from workers.data.roots import DataRoots
folder = Path(sys.argv[1])
task = TaskConfig.model_validate_json(sys.argv[2])
sys.stdin.readline()
data = load_task(task, Resize(8), roots=DataRoots((str(folder.parent),)), cache_dir=folder.parent / "cache")
assert "torch" not in sys.modules
print(data.fingerprint, int(data.test.images.astype(int).sum()))
"""


def test_two_processes_that_build_the_same_cache_agree_and_need_no_torch(pets):
    command = [sys.executable, "-c", LOADER, str(pets), task_of(pets).model_dump_json()]
    environment = os.environ | {"PYTHONPATH": str(ROOM)}
    both = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        for _ in range(2)
    ]
    with ThreadPoolExecutor(2) as pool:
        outputs = [output for output, _ in pool.map(lambda process: process.communicate("go\n", timeout=60), both)]
    assert [process.returncode for process in both] == [0, 0]
    data = load(pets)
    assert outputs == [f"{data.fingerprint} {int(data.test.images.astype(int).sum())}\n"] * 2
    assert len(packs(pets)) == 1


def test_many_threads_may_load_at_once(pets):
    with ThreadPoolExecutor(4) as pool:
        splits = [{"shots": shots, "val_shots": 0} for shots in (2, 2, 3, 3)]
        found = list(pool.map(lambda split: load(pets, split=split).fingerprint, splits))
    assert found[0] == found[1] != found[2] == found[3]


def break_images(folder):
    """Six ways of being unreadable, all in the class cat, beside its eight good images."""
    cat = folder / "cat"
    (cat / "bad-empty.png").write_bytes(b"")
    (cat / "bad-magic.jpg").write_bytes(b"GIF89 says the name is wrong")
    Image.new("RGB", (64, 64), "red").save(cat / "whole.jpg")
    (cat / "bad-cut.jpg").write_bytes((cat / "whole.jpg").read_bytes()[:-20])
    (cat / "whole.jpg").unlink()
    (cat / "bad-loop.png").symlink_to(cat / "bad-loop.png")
    (cat / "bad-dangling.png").symlink_to(cat / "absent.png")
    os.mkfifo(cat / "bad-pipe.png")
    os.rename(cat / "bad-magic.jpg", os.fsencode(cat) + b"/bad-\xff.jpg")
    return 6


def test_unreadable_images_are_skipped_and_counted(pets):
    clean = load(pets, split={"shots": 8, "val_shots": 0})
    bad = break_images(pets)
    data = load(pets, split={"shots": 8, "val_shots": 0}, bad_image_budget=0.5)
    assert data.num_unreadable == bad
    assert data.unreadable == tuple(sorted(data.unreadable)) and "cat/bad-\\xff.jpg" in data.unreadable
    assert data.fingerprint == clean.fingerprint
    assert not any("bad" in key for part in (data.train, data.test) for key in part.keys)
    assert load(pets, split={"shots": 8, "val_shots": 0}, bad_image_budget=0.5).unreadable == data.unreadable


def test_past_the_budget_the_load_fails_and_names_the_images(pets):
    bad = break_images(pets)
    with pytest.raises(
        ValueError, match=rf"^Task 'pets': {bad} of 22 images .*'cat/bad-cut.jpg' \(OSError: .*truncated"
    ):
        load(pets, split={"shots": 8, "val_shots": 0}, bad_image_budget=0.05)


def test_at_most_twenty_unreadable_images_are_named(pets):
    for number in range(30):
        (pets / "cat" / f"bad-{number:02d}.png").write_bytes(b"x")
    with pytest.raises(ValueError, match="30 of 46 images") as caught:
        load(pets)
    assert str(caught.value).count("bad-") == 20
    data = load(pets, bad_image_budget=1.0)
    assert data.num_unreadable == 30 and len(data.unreadable) == 20


def test_a_class_with_no_readable_image_is_refused_whatever_the_budget(pets):
    for path in (pets / "cat").iterdir():
        path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"^Task 'pets': 1 of 2 classes have no readable image"):
        load(pets, bad_image_budget=1.0)


def test_missing_images_of_a_manifest_are_unreadable(pets):
    rows = [f"pets/{name}/{number}.png,{name}" for name in ("cat", "dog") for number in range(9)]
    table = pets.parent / "table.csv"
    table.write_text("path,label\n" + "\n".join(rows))
    source = {"kind": "manifest", "uri": str(table)}
    data = load(pets, source=source, bad_image_budget=0.2)
    assert data.unreadable == ("pets/cat/8.png", "pets/dog/8.png")


def test_the_fingerprint_follows_content_names_labels_and_split(pets):
    first = load(pets).fingerprint
    assert load(pets, class_names=["tabby", "dog"]).fingerprint != first
    assert load(pets, split={"shots": 3, "val_shots": 1}).fingerprint != first
    assert load(pets, resize=Resize(9)).fingerprint == first
    assert load(pets, template="{}", name="other").fingerprint == first
    Image.new("RGB", (9, 9), "red").save(pets / "dog" / "0.png")
    assert load(pets).fingerprint != first


def test_a_demo_task_loads(tmp_path):
    task = TaskConfig.model_validate(
        {"name": "ink", "source": {"kind": "demo", "task": "digits-ink"}, "split": {"shots": 2, "test_per_class": 1}}
    )
    data = load_task(task, Resize(16), roots=DataRoots(()), cache_dir=tmp_path)
    assert len(data.train.labels) == 2 * len(data.class_names) and len(data.test.labels) == len(data.class_names)


def test_a_sample_holds_every_class_and_readable_images_alone(pets):
    whole = load(pets)
    data = load(pets, sample={"train": 2, "val": 1, "test": 100})
    assert [len(part.labels) for part in (data.train, data.val, data.test)] == [2, 1, len(whole.test.labels)]
    assert sorted(data.train.labels.tolist()) == [0, 1]
    assert set(data.train.keys) <= set(whole.train.keys)
    break_images(pets)
    few = load(pets, split={"shots": 8, "val_shots": 0}, sample={"train": 14, "val": 0, "test": 0})
    assert len(few.train.labels) == 14 and 0 < few.num_unreadable <= 6


def test_a_loading_that_is_interrupted_ends_with_the_image_it_is_at(pets, tmp_path):
    seen = 0

    def check() -> None:
        nonlocal seen
        seen += 1
        if seen == 2:
            raise InterruptedError("enough")

    with pytest.raises(InterruptedError, match="enough"):
        load_task(task_of(pets), RESIZE, roots=DataRoots((str(pets.parent),)), cache_dir=tmp_path / "cold", check=check)
    assert seen == 2
