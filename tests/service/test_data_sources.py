"""A whole job on shards, and one on a dataset in Parquet files: every kind of task, from data to bundle."""

import io
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from service.states import JobState
from workers.bundle import load_bundle

KINDS = ("classification", "multi_label", "retrieval")
ANSWERS = {"classification": ("cls", "label"), "multi_label": ("cls", "label"), "retrieval": ("txt", "caption")}
COUNT = 16


def _png(number: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (24, 20), (200 - 150 * (number % 2), 5 * number, 90)).save(stream, "PNG")
    return stream.getvalue()


def _answer(kind: str, number: int) -> str:
    colour = ("red", "green")[number % 2]
    return {"multi_label": f"any|{colour}", "retrieval": f"{colour} picture {number}"}.get(kind, colour)


def _webdataset(folder: Path) -> dict[str, dict[str, Any]]:
    sources = {}
    for kind in KINDS:
        for shard in range(2):
            with tarfile.open(folder / f"{kind}-{shard}.tar", "w") as tar:
                for number in range(shard, COUNT, 2):
                    parts = {"png": _png(number), ANSWERS[kind][0]: _answer(kind, number // 2).encode()}
                    for extension, content in parts.items():
                        member = tarfile.TarInfo(f"{number:03d}.{extension}")
                        member.size = len(content)
                        tar.addfile(member, io.BytesIO(content))
        sources[kind] = {"kind": "webdataset", "uri": f"{folder}/{kind}-{{0..1}}.tar"}
    return sources


def _huggingface(folder: Path) -> dict[str, dict[str, Any]]:
    sources = {}
    for kind in KINDS:
        (folder / kind).mkdir()
        for split, numbers in {"train": range(0, COUNT, 2), "test": range(1, COUNT, 2)}.items():
            rows = [{"image": {"bytes": _png(n)}, ANSWERS[kind][1]: _answer(kind, n // 2)} for n in numbers]
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / kind / f"{split}.parquet")
        sources[kind] = {"kind": "huggingface", "uri": str(folder / kind), "test_split": "test"}
    return sources


@pytest.mark.parametrize("write", [_webdataset, _huggingface])
def test_a_job_goes_from_data_to_bundle(write: Callable[..., dict], make_world, make_spec, tmp_path: Path) -> None:
    tasks = [{"name": kind.replace("_", "-"), "kind": kind, "source": own} for kind, own in write(tmp_path).items()]
    world = make_world()
    job = world.submit(make_spec(tasks=[tasks[0] | {"split": {"shots": 4, "val_shots": 1}}, *tasks[1:]]))
    assert world.attempt(job) is JobState.SUCCEEDED, world.why(job)
    bundle = load_bundle(world.folder(job) / "bundle")
    bundle.verify()
    assert bundle.classifier("classification").class_names == ("green", "red")
    assert bundle.classifier("multi-label").class_names == ("any", "green", "red")
    assert bundle.classifier("retrieval").rank([_png(0)], ["red picture 0", "green picture 1"]).shape == (1, 2)
