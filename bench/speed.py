"""How fast a training step is, as ratios to the image tower's own forward and activation backward (the yardstick).

    python -m bench.speed [--precision fp32 bf16] [--rounds 3] [--model ViT-B-16] [--methods [KIND ...]]

With `--methods` one step of every method that trains inside the towers is measured instead of MmAP in all its parts;
where kinds are named, of these alone, and no record is written.

Every round runs all contestants one after the other, so a machine that slows down slows all of them; the median of the
rounds' ratios is reported.  A first round warms up and does not count.  Weights are random: speed does not depend on
them.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from pydantic import TypeAdapter

from bench.record import write_record
from workers.clip.blocks import Blocks, attention
from workers.clip.config import BackboneConfig
from workers.clip.frozen import DTYPES, FrozenCLIP, create_untrained, freeze
from workers.clip.scratch import new_tokenizer
from workers.clip.seam import Rows
from workers.clip.text_tower import TextTower
from workers.data.dataset import ImageSet, TaskData
from workers.methods.config import MethodConfig, MmAPConfig
from workers.training.batches import draw_batch
from workers.training.config import TrainConfig
from workers.training.distributed import Ranks
from workers.training.features import FeatureCache
from workers.training.forward import ClassLists
from workers.training.gradients import task_gradients
from workers.training.run import GroupRun, GroupWork
from workers.training.train import train_step

ADJECTIVES = ("", "small ", "red ", "wooden ", "old ")
NOUNS = """alarm clock, backpack, battery, bed, bicycle, bottle, bucket, calculator, calendar,
candle, chair, clipboard, computer, couch, curtain, desk lamp, drill, eraser,
fan, file cabinet, flower, folder, fork, glasses, hammer, helmet, kettle,
keyboard, knife, laptop, marker, monitor, mop, mouse, mug, notebook,
oven, pan, paper clip, pen, pencil, postcard, printer, radio, refrigerator,
ruler"""
TARGETS = {
    "mmap step, 65 classes x 16 images": 1.25,
    "mmap step, 126 classes x 4 images": {"fp32": 1.6, "bf16": 1.8},
    "signatures of 8 tasks / joint step": 1.15,
    "two groups / one group": 1.1,
    "prompt methods' steps": 1.3,
    "adapters' steps": 1.6,
}


PROMPTS = ("coop", "vpt", "vl_prompts", "maple", "mmap")
ADAPTERS = ("adapter", "cavl_adapter", "hyperformer", "compacter", "lora", "shortcut")
OTHERS = ("bitfit", "layer_norm", "full_fine_tuning")
METHODS = (*PROMPTS, *ADAPTERS, *OTHERS)


def main() -> None:
    """Measures, prints and writes bench/results/speed-PRECISION.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="ViT-B-16")
    parser.add_argument("--precision", nargs="+", default=["fp32", "bf16"], choices=list(DTYPES))
    parser.add_argument("--rounds", type=int, help="default: 3; 1 with --methods, whose rounds are long")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--methods", nargs="*", choices=METHODS, metavar="KIND", help=f"of {', '.join(METHODS)}")
    arguments = parser.parse_args()
    kinds = arguments.methods
    rounds = (3 if kinds is None else 1) if arguments.rounds is None else arguments.rounds
    for precision in arguments.precision:
        torch.manual_seed(0)
        config = BackboneConfig(model=arguments.model, pretrained="random", precision=precision)
        clip = freeze(create_untrained(arguments.model), new_tokenizer(77), config, device=arguments.device)
        ratios = measure(clip, rounds) if kinds is None else measure_methods(clip, rounds, kinds or METHODS)
        for label, ratio in ratios.items():
            print(f"{precision}  {label:<64}{ratio:6.2f}", flush=True)
        if not kinds:
            command = f"python -m bench.speed --model {arguments.model} --precision {precision} --rounds {rounds}"
            _write(f"{arguments.device}-{precision}", command, ratios, methods=kinds is not None)


def measure(clip: FrozenCLIP, rounds: int) -> dict[str, float]:
    """All ratios for one backbone."""
    ratios: dict[str, float] = {}
    slow = replace(clip, text=_unshared(clip))
    for classes, images in ((65, 16), (126, 4)):
        label = f"{classes} classes x {images} images"
        data = _tasks(clip, 4, classes, images, shared_classes=True)
        step, plain = _joint_step(clip, data, images), _joint_step(slow, data, images)
        times = _race(clip, {"yardstick": _yardstick(clip, 4 * images), "step": step, "plain": plain}, rounds)
        ratios[f"mmap step, {label}"] = _ratio(times, "step", "yardstick")
        ratios[f"77-token text without sharing / ours, {label}"] = _ratio(times, "plain", "step")
    own = _tasks(clip, 8, 12, 8, shared_classes=False)
    joint = _joint_step(clip, own, 8, MmAPConfig(sharing="all"))
    times = _race(clip, {"signatures": _signatures(clip, own), "joint": joint}, rounds)
    ratios["signatures of 8 tasks / joint step"] = _ratio(times, "signatures", "joint")
    data = _tasks(clip, 4, 12, 8, shared_classes=False)
    times = _race(clip, {"two": _joint_step(clip, data, 8, groups=2), "one": _joint_step(clip, data, 8)}, rounds)
    ratios["two groups / one group"] = _ratio(times, "two", "one")
    return ratios


def measure_methods(clip: FrozenCLIP, rounds: int, kinds: Sequence[str]) -> dict[str, float]:
    """One step of these methods at 65 classes x 16 images, four tasks that share it, as a ratio to the yardstick."""
    data = _tasks(clip, 4, 65, 16, shared_classes=True)
    contestants = {"yardstick": _yardstick(clip, 64)}
    for kind in kinds:
        config = TypeAdapter(MethodConfig).validate_python({"kind": kind, "sharing": "all"})
        contestants[kind] = _joint_step(clip, data, 16, config)
    times = _race(clip, contestants, rounds)
    return {f"{kind} step": _ratio(times, kind, "yardstick") for kind in kinds}


def _tasks(clip: FrozenCLIP, num: int, classes: int, images: int, *, shared_classes: bool) -> dict[str, TaskData]:
    names = [f"{adjective}{noun}" for adjective in ADJECTIVES for noun in NOUNS.replace("\n", " ").split(", ")]
    rng = np.random.default_rng(0)
    tasks = {}
    for index in range(num):
        first = 0 if shared_classes else index * classes
        labels = rng.integers(0, classes, size=4 * images)
        pixels = rng.integers(0, 256, size=(4 * images, 3, clip.resize.size, clip.resize.size), dtype=np.uint8)
        part = ImageSet(pixels, labels, tuple(str(row) for row in range(4 * images)))
        empty = ImageSet(pixels[:0], labels[:0], ())
        name = f"task{index}"
        tasks[name] = TaskData(
            name, tuple(names[first : first + classes]), "a photo of a {}.", part, empty, empty, name, 0, ()
        )
    return tasks


def _joint_step(
    clip: FrozenCLIP, data: dict[str, TaskData], images: int, method: MethodConfig | None = None, *, groups: int = 1
) -> Callable[[], None]:
    """One real training step, optimiser included."""
    config = TrainConfig(batch_size=images, max_steps=10_000, augment=None)
    names = tuple(data)
    size = len(names) // groups
    lists = ClassLists(clip)
    with tempfile.TemporaryDirectory() as folder:
        runs = [
            GroupRun(
                clip,
                GroupWork(f"g{part}", names[part * size : (part + 1) * size], method or MmAPConfig(), Path(folder)),
                data,
                config,
                lists,
                FeatureCache(clip),
            )
            for part in range(groups)
        ]
    return lambda: train_step(clip, runs, lists, Ranks())


def _signatures(clip: FrozenCLIP, data: dict[str, TaskData]) -> Callable[[], None]:
    config = TrainConfig(batch_size=8, augment=None)
    lists = ClassLists(clip)
    work = GroupWork("shared", tuple(data), MmAPConfig(sharing="all"), Path("unused"))
    run = GroupRun(clip, work, data, config, lists, FeatureCache(clip))
    batches = {name: draw_batch(task, config, 0) for name, task in data.items()}
    return lambda: task_gradients(clip, run.method, lists, batches) and None


def _yardstick(clip: FrozenCLIP, images: int) -> Callable[[], None]:
    """The image tower's own forward and activation backward: the input of block 1 requires a gradient, no prompts."""
    size = clip.resize.size
    pixels = torch.randn(images, 3, size, size, device=clip.device)

    visual = clip.image._visual
    blocks = Blocks(visual.transformer.resblocks, {}, None)
    nothing = Rows.of([(0, images)], clip.device)

    def run() -> None:
        x = visual._embeds(pixels.to(clip.image.dtype)).detach().requires_grad_()
        y = x
        for layer in range(len(blocks)):
            heads = [blocks.heads(layer, part) for part in blocks.query_key_value(layer, blocks.norm(layer, "ln_1", y))]
            y = blocks.finish(layer, y, attention(*heads).transpose(1, 2).flatten(2), nothing)
        (visual._pool(y)[0] @ visual.proj).sum().backward()

    return run


def _unshared(clip: FrozenCLIP) -> TextTower:
    """The same text tower over the full padded context, every class by itself."""
    text = clip.text
    return TextTower(text._owner, pool_type=text._pool_type, eos_id=text._eos_id, fast=False)


def _race(clip: FrozenCLIP, contestants: dict[str, Callable[[], None]], rounds: int) -> dict[str, list[float]]:
    """Seconds of every counted round."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(rounds + 1):
        for name, run in contestants.items():
            started = time.perf_counter()
            run()
            if clip.device.type == "cuda":
                torch.cuda.synchronize()
            seconds = time.perf_counter() - started
            print(f"round {turn} of {rounds}: {name} {seconds:.2f} s", file=sys.stderr, flush=True)
            if turn:  # the first round warms up
                times[name].append(seconds)
    return times


def _ratio(times: dict[str, list[float]], above: str, below: str) -> float:
    return statistics.median(a / b for a, b in zip(times[above], times[below], strict=True))


def _write(machine: str, command: str, ratios: dict[str, float], *, methods: bool) -> None:
    rounded = {label: round(value, 3) for label, value in ratios.items()}
    name = f"speed{'-methods' * methods}-{machine}"
    write_record(name, command + " --methods" * methods, {"targets": TARGETS, "ratios": rounded})


if __name__ == "__main__":
    main()
