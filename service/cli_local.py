"""`cohort predict` and `cohort methods`: what needs no service, but the workers' own code."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import typer

from service import show
from workers.bundle import load_bundle
from workers.methods.table import rows_and_misfits


def predict(bundle: Path, task: str, images: list[Path], *, backbone: str | None, device: str, as_json: bool) -> None:
    """Prints one line per image: the class, or for a multi-label task all classes in it, with probabilities."""
    gpus = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    here = ["cpu", "cuda", *gpus] if gpus else ["cpu"]
    if device not in here:
        raise ValueError(f"--device {device}: this machine has {', '.join(here)}. Choose one of these.")
    try:
        opened = load_bundle(bundle, backbone=backbone, device=device)
    except json.JSONDecodeError as error:
        raise ValueError(f"{bundle}: its manifest is not JSON ({error}). Pull the bundle again.") from error
    classifier = opened.classifier(task)
    if classifier.kind == "retrieval":
        raise ValueError(
            f"Task {task!r} is a retrieval task: it has no classes, but embeds images and texts to compare them. Use "
            f"load_bundle({str(bundle)!r}).classifier({task!r}).rank(images, texts)."
        )
    logits = classifier.logits([str(image) for image in images])
    answer = _classes if classifier.kind == "multi_label" else _class
    answers = [
        {"image": str(image), **answer(classifier.class_names, row)} for image, row in zip(images, logits, strict=True)
    ]
    if as_json:
        typer.echo(json.dumps(answers, indent=2))
        return
    for found in answers:
        typer.echo(f"{found['image']}: {_line(found)}")


def _class(names: tuple[str, ...], logits: np.ndarray) -> dict[str, Any]:
    """The likeliest class.  [K]"""
    odds = np.exp(logits - logits.max())
    return {"class": names[logits.argmax()], "probability": float(odds.max() / odds.sum())}


def _classes(names: tuple[str, ...], logits: np.ndarray) -> dict[str, Any]:
    """All that are likelier in the image than not, and how likely every class is, likeliest first.  [K]"""
    probabilities = 0.5 * (1 + np.tanh(logits / 2))
    ranked = {names[index]: float(probabilities[index]) for index in np.argsort(-logits, kind="stable")}
    return {"classes": [name for name, value in ranked.items() if value > 0.5], "probabilities": ranked}


def _line(answer: dict[str, Any]) -> str:
    if "class" in answer:
        return f"{answer['class']} ({100 * answer['probability']:.1f} %)"
    told = {name: f"{name} ({100 * value:.1f} %)" for name, value in answer["probabilities"].items()}
    return ", ".join(told[name] for name in answer["classes"]) or f"no class; likeliest {next(iter(told.values()))}"


def methods(backbone: str, *, classes: int, tasks: int, groups: int | None, shots: int, as_json: bool) -> None:
    """Prints one row per method, setting and sharing; on standard error what does not fit the backbone."""
    groups = min(2, tasks) if groups is None else groups
    found, misfits = rows_and_misfits(backbone, classes=classes, tasks=tasks, groups=groups, shots=shots)
    if misfits:
        why = "; ".join(f"{setting} ({reason.rstrip('.')})" for setting, reason in misfits.items())
        typer.echo(f"Left out, since it does not fit {backbone}: {why}.", err=True)
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
