"""The example jobs load data that lies on disk as the real data sets do."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from examples.minidomainnet_manifests import DOMAINS, convert
from service.spec import check_roots, parse_spec
from workers.data.dataset import Resize, load_task
from workers.data.roots import DataRoots

EXAMPLES = Path(__file__).parents[2] / "examples"
OFFICE_HOME = {"Art": "art", "Clipart": "clipart", "Product": "product", "Real World": "real_world"}
OFFICE_CLASSES = ("Alarm_Clock", "Backpack", "Batteries")
MINI_CLASSES = ("The_Great_Wall_of_China", "aircraft_carrier", "alarm_clock")
SIZE = Resize(size=16)


def write_image(path: Path, rng: np.random.Generator) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rng.integers(0, 256, size=(20, 24, 3), dtype=np.uint8)).save(path)


@pytest.fixture
def office_home(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for domain in OFFICE_HOME:
        for name in OFFICE_CLASSES:
            for number in range(1, 9):
                write_image(tmp_path / "office_home" / domain / name / f"{number:05d}.jpg", rng)
    return tmp_path


@pytest.fixture
def minidomainnet(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    folder = tmp_path / "minidomainnet"
    (folder / "splits_mini").mkdir(parents=True)
    for domain in DOMAINS:
        lines: dict[str, list[str]] = {"train": [], "test": []}
        for label, name in enumerate(MINI_CLASSES):
            for number in range(7):
                image = f"{domain}/{name}/{domain}_{label:03d}_{number:06d}.jpg"
                write_image(folder / image, rng)
                lines["train" if number < 5 else "test"].append(f"{image} {label}")
        for split, content in lines.items():
            (folder / "splits_mini" / f"{domain}_{split}.txt").write_text("\n".join(content) + "\n")
    return tmp_path


def test_office_home_trains_on_its_shots_and_tests_on_all_others(office_home: Path, tmp_path: Path):
    spec = parse_spec((EXAMPLES / "office_home_6shot_seed1.yaml").read_bytes())
    roots = DataRoots((str(office_home),))
    check_roots(spec, roots)
    assert [task.name for task in spec.tasks] == list(OFFICE_HOME.values())
    for task in spec.tasks:
        data = load_task(task, SIZE, roots=roots, cache_dir=tmp_path / "cache")
        assert data.class_names == ("Alarm Clock", "Backpack", "Batteries")
        assert np.bincount(data.train.labels).tolist() == [6, 6, 6]
        assert np.bincount(data.test.labels).tolist() == [2, 2, 2]
        assert len(data.val.labels) == 0
        assert not set(data.train.keys) & set(data.test.keys)


def test_seeds_of_office_home_choose_different_shots(office_home: Path, tmp_path: Path):
    roots = DataRoots((str(office_home),))
    chosen = []
    for seed in (1, 2, 3):
        task = parse_spec((EXAMPLES / f"office_home_6shot_seed{seed}.yaml").read_bytes()).tasks[0]
        chosen.append(load_task(task, SIZE, roots=roots, cache_dir=tmp_path / "cache").train.keys)
    assert len(set(chosen)) == 3


def test_minidomainnet_keeps_the_official_split(minidomainnet: Path, tmp_path: Path):
    convert(minidomainnet / "minidomainnet")
    spec = parse_spec((EXAMPLES / "minidomainnet_3shot_seed1.yaml").read_bytes())
    roots = DataRoots((str(minidomainnet),))
    check_roots(spec, roots)
    for task in spec.tasks:
        data = load_task(task, SIZE, roots=roots, cache_dir=tmp_path / "cache")
        assert data.class_names == ("The Great Wall of China", "aircraft carrier", "alarm clock")
        assert np.bincount(data.train.labels).tolist() == [3, 3, 3]
        lists = minidomainnet / "minidomainnet" / "splits_mini"
        for part, split in (("train", data.train), ("test", data.test)):
            official = {line.split()[0] for line in (lists / f"{task.name}_{part}.txt").read_text().splitlines()}
            assert set(split.keys) <= official
        assert len(data.test.labels) == 6
        assert len(data.val.labels) == 0


def test_conversion_refuses_a_class_with_two_numbers(minidomainnet: Path):
    path = minidomainnet / "minidomainnet" / "splits_mini" / "real_test.txt"
    path.write_text(path.read_text().replace(" 2\n", " 1\n"))
    with pytest.raises(ValueError, match="'alarm_clock' has the numbers 2 and 1"):
        convert(minidomainnet / "minidomainnet")


def test_conversion_says_which_line_it_cannot_read(minidomainnet: Path):
    (minidomainnet / "minidomainnet" / "splits_mini" / "clipart_train.txt").write_text("clipart/x.jpg zero\n")
    with pytest.raises(ValueError, match=r"clipart_train.txt, line 1: 'clipart/x.jpg zero'"):
        convert(minidomainnet / "minidomainnet")
