"""`cohort predict` and `cohort methods`: what needs no service, but the workers' own code."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import typer

from service import show
from workers.bundle import load_bundle
from workers.methods.table import rows


def predict(bundle: Path, task: str, images: list[Path], *, backbone: str | None, device: str, as_json: bool) -> None:
    """Prints one line per image: the class and its probability."""
    gpus = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    here = ["cpu", "cuda", *gpus] if gpus else ["cpu"]
    if device not in here:
        raise ValueError(f"--device {device}: this machine has {', '.join(here)}. Choose one of these.")
    try:
        opened = load_bundle(bundle, backbone=backbone, device=device)
    except json.JSONDecodeError as error:
        raise ValueError(f"{bundle}: its manifest is not JSON ({error}). Pull the bundle again.") from error
    classifier = opened.classifier(task)
    logits = classifier.logits([str(image) for image in images])
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    answers: list[dict[str, Any]] = [
        {
            "image": str(image),
            "class": classifier.class_names[row.argmax()],
            "probability": float(row.max() / row.sum()),
        }
        for image, row in zip(images, odds, strict=True)
    ]
    if as_json:
        typer.echo(json.dumps(answers, indent=2))
        return
    for answer in answers:
        typer.echo(f"{answer['image']}: {answer['class']} ({100 * answer['probability']:.1f} %)")


def methods(backbone: str, *, classes: int, tasks: int, groups: int, as_json: bool) -> None:
    """Prints one row per method, setting and sharing."""
    found = rows(backbone, classes=classes, tasks=tasks, groups=groups)
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    table = show.plain_table(
        ["method", "setting", "sharing", "shared", "own", "total", "per task", "%"],
        [
            [
                row["method"],
                row["setting"],
                row["sharing"] or "-",
                *(f"{row[name]:,.0f}" for name in ("group_shared", "task_specific", "total", "per_task")),
                f"{row['percent']:.3f}",
            ]
            for row in found
        ],
    )
    console = show.console()
    console.print(
        f"{backbone}: trained numbers for {tasks} tasks of {classes} classes in {groups} groups; % of the backbone",
        highlight=False,
    )
    console.print(table)
