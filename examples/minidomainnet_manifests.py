"""Turns MiniDomainNet's official lists into manifests that a job can name: one CSV per domain, official split kept.

    python examples/minidomainnet_manifests.py [FOLDER]        (data/minidomainnet if left out)

FOLDER holds the images (`clipart/airplane/clipart_002_000001.jpg`, ...) and the lists `splits_mini/<domain>_train.txt`
and `splits_mini/<domain>_test.txt`, a path and a class number a line.  Written are FOLDER/clipart.csv, painting.csv,
real.csv and sketch.csv with the columns path, label, split; paths are relative to FOLDER, labels are class folders.
"""

import csv
import sys
from pathlib import Path

DOMAINS = ("clipart", "painting", "real", "sketch")


def read_list(path: Path) -> list[tuple[str, str, int]]:
    """(path, class folder, class number) of every line.  ValueError for a line of another form."""
    rows = []
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        if not line.strip():
            continue
        image, _, label = line.rpartition(" ")
        parts = image.split("/")
        if len(parts) != 3 or not label.isdecimal():
            raise ValueError(f"{path}, line {number}: {line!r} is not `domain/class/image number`.")
        rows.append((image, parts[1], int(label)))
    return rows


def convert(folder: Path) -> list[Path]:
    """Writes the four manifests.  ValueError where a class folder and a class number do not belong together."""
    written = []
    for domain in DOMAINS:
        number_of: dict[str, int] = {}
        rows = []
        for split in ("train", "test"):
            for image, name, number in read_list(folder / "splits_mini" / f"{domain}_{split}.txt"):
                if number_of.setdefault(name, number) != number:
                    raise ValueError(f"{domain}: the class {name!r} has the numbers {number_of[name]} and {number}.")
                rows.append((image, name, split))
        if len(set(number_of.values())) != len(number_of):
            raise ValueError(f"{domain}: {len(number_of)} class folders share {len(set(number_of.values()))} numbers.")
        written.append(folder / f"{domain}.csv")
        with written[-1].open("w", newline="") as file:
            csv.writer(file).writerows([("path", "label", "split"), *rows])
    return written


if __name__ == "__main__":
    for manifest in convert(Path(sys.argv[1] if len(sys.argv) > 1 else "data/minidomainnet")):
        print(manifest)
