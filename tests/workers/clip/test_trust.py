"""Laws of backbones that a stranger has made: nothing of them is run, and nothing is fetched on their word."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest

from workers.clip.config import BackboneConfig
from workers.clip.frozen import load_clip
from workers.data.roots import DataRoots


class Evil:
    """Unpickling it leaves a trace."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return Path.touch, (self.trace,)  # type: ignore[return-value]


@pytest.fixture
def folder(tiny_clip_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_clip_dir, tmp_path / "clip"))


def load(folder: Path) -> None:
    load_clip(BackboneConfig(model=f"local-dir:{folder}"), roots=DataRoots((str(folder.parent),)))


def describe(folder: Path, tower: str, **more: Any) -> None:
    place = folder / "open_clip_config.json"
    whole = json.loads(place.read_text())
    whole["model_cfg"][tower] |= more
    place.write_text(json.dumps(whole))


@pytest.mark.parametrize("name", ["open_clip_pytorch_model.bin", "model.pth", "weights.pt"])
def test_pickled_weights_are_refused_and_run_nothing(folder: Path, tmp_path: Path, name: str) -> None:
    for weights in folder.glob("*.safetensors"):
        weights.unlink()
    (folder / name).write_bytes(pickle.dumps(Evil(tmp_path / "trace")))
    with pytest.raises(ValueError, match=r"are a pickle.*Convert them to open_clip_model\.safetensors"):
        load(folder)
    assert not (tmp_path / "trace").exists()


def test_a_pickle_beside_good_weights_is_not_looked_at(folder: Path, tmp_path: Path) -> None:
    (folder / "open_clip_pytorch_model.bin").write_bytes(pickle.dumps(Evil(tmp_path / "trace")))
    load(folder)
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize(
    ("tower", "more"),
    [
        ("text_cfg", {"hf_model_name": "someone/else"}),
        ("vision_cfg", {"timm_model_name": "hf-hub:someone/else"}),
        ("text_cfg", {"hf_tokenizer_name": "x", "tokenizer_kwargs": {"trust_remote_code": True}}),
        ("text_cfg", {"tokenizer_kwargs": {"bpe_path": "/etc/passwd"}}),
    ],
)
def test_a_description_that_brings_code_or_other_models_is_refused(
    folder: Path, tower: str, more: dict[str, Any]
) -> None:
    describe(folder, tower, **more)
    with pytest.raises(ValueError, match=r"loads another model|sets tokenizer_kwargs"):
        load(folder)


@pytest.mark.parametrize("text", ["[]", "{", '{"model_cfg": {}}', '{"model_cfg": {"text_cfg": 1, "vision_cfg": {}}}'])
def test_a_description_that_is_none_is_refused_in_words(folder: Path, text: str) -> None:
    (folder / "open_clip_config.json").write_text(text)
    with pytest.raises(ValueError, match=r"backbone"):
        load(folder)


def test_a_file_of_a_folder_that_links_out_of_the_roots_is_refused(folder: Path, tmp_path_factory: Any) -> None:
    outside = tmp_path_factory.mktemp("outside") / "weights"
    weights = next(folder.glob("*.safetensors"))
    shutil.move(weights, outside)
    weights.symlink_to(outside)
    with pytest.raises(ValueError, match=r"open_clip_model\.safetensors' is outside the data roots"):
        load(folder)


def test_a_repository_is_asked_for_only_where_the_operator_lets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_clip, "get_model_config", lambda name: {"text_cfg": {}, "vision_cfg": {}})
    monkeypatch.setattr(open_clip.pretrained, "download_pretrained_from_hf", lambda name: "/cache/pytorch_model.bin")
    config = BackboneConfig(model="hf-hub:someone/else")
    with pytest.raises(ValueError, match="uses the scheme 'hf'"):
        load_clip(config, roots=DataRoots(("/data",)))
    with pytest.raises(ValueError, match="outside the data roots"):
        load_clip(config, roots=DataRoots((), ("hf",), ("hf://us",)))
    with pytest.raises(ValueError, match=r"'pytorch_model\.bin' are a pickle"):
        load_clip(config, roots=DataRoots((), ("hf",)))
