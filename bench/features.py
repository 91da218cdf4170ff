"""How long methods on cached features take: an epoch over 10,000 images and 100 classes in the real loop.

    python -m bench.features [--rounds 5] [--threads 2]

Features have ViT-B/16's width (512) and ten augmented views; what they hold does not matter, so a tower of one tiny
block makes them.  Tip-Adapter-F has 16 shots a class, 1,600 keys, and takes as many steps as the others.  Wall time and
the processor time of all threads are both told: on a machine that others use the first is a bound from above, and the
second what the work itself takes.
"""

import argparse
import statistics
import time
from pathlib import Path

import numpy as np
import torch

from bench.record import write_record
from workers.clip.config import BackboneConfig
from workers.clip.frozen import FrozenCLIP, freeze
from workers.clip.scratch import new_clip, new_tokenizer
from workers.data.dataset import ImageSet, TaskData
from workers.methods.config import (
    CLIPAdapterConfig,
    LinearProbeConfig,
    MethodConfig,
    TaskResConfig,
    TipAdapterConfig,
    TipAdapterFConfig,
)
from workers.training.config import AugmentConfig, TrainConfig
from workers.training.distributed import Ranks
from workers.training.features import FeatureCache
from workers.training.forward import ClassLists
from workers.training.run import GroupRun, GroupWork
from workers.training.train import train_step

NUM_IMAGES, NUM_CLASSES, SHOTS, BATCH = 10_000, 100, 16, 256
VALIDATION_SHOTS = 4
TARGET = 1.0
"""Seconds per epoch on two cores."""
TRAINED: dict[str, MethodConfig] = {
    "taskres": TaskResConfig(),
    "clip_adapter vision": CLIPAdapterConfig(),
    "clip_adapter text": CLIPAdapterConfig(modality="text"),
    "clip_adapter both": CLIPAdapterConfig(modality="both"),
    "tip_adapter_f": TipAdapterFConfig(search=False),
}
FITTED: dict[str, MethodConfig] = {
    "taskres, enhanced base": TaskResConfig(enhanced=True),
    "tip_adapter, search": TipAdapterConfig(),
    "linear_probe, C = 1": LinearProbeConfig(c=1.0),
}
TINY = {
    "model_cfg": {
        "embed_dim": 512,
        "vision_cfg": {"image_size": 16, "patch_size": 16, "width": 32, "layers": 1, "head_width": 16},
        "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
    },
    "preprocess_cfg": {"size": [16, 16]},
}


def main() -> None:
    """Measures, prints and writes bench/results/features-DEVICE.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    config = BackboneConfig(model="features", pretrained="random")
    clip = freeze(new_clip(TINY), new_tokenizer(16), config, device=arguments.device)
    many, few = _task(NUM_IMAGES), _task(NUM_CLASSES * SHOTS)
    cache = FeatureCache(clip)
    epochs, fits = {}, {}
    for name, method in TRAINED.items():
        data = few if name == "tip_adapter_f" else many
        epochs[name] = _told(name, _epochs(clip, cache, data, method, arguments.rounds))
    for name, method in FITTED.items():
        fits[name] = _told(name, _fit(clip, cache, few, method))
    write_record(
        f"features-{arguments.device}",
        f"python -m bench.features --rounds {arguments.rounds} --threads {arguments.threads}",
        {
            "setting": f"{NUM_IMAGES} images a epoch, {NUM_CLASSES} classes, batch {BATCH}, width 512, "
            f"{SHOTS} shots a class where a method is fitted to images",
            "target_seconds_per_epoch": TARGET,
            "seconds_per_epoch": epochs,
            "seconds_to_fit": fits,
        },
    )


def _told(name: str, found: dict[str, float]) -> dict[str, float]:
    print(f"{name:<28}" + "".join(f"{label} {value:7.3f}   " for label, value in found.items()), flush=True)
    return found


def _task(num_train: int) -> TaskData:
    """Every class has its own mean colour; what is learned is beside the point."""
    rng = np.random.default_rng(0)
    means = rng.integers(40, 216, size=(NUM_CLASSES, 3, 1, 1))

    def images(count: int) -> ImageSet:
        labels = np.arange(count) % NUM_CLASSES
        pixels = means[labels] + rng.integers(-40, 40, size=(count, 3, 16, 16))
        return ImageSet(pixels.astype(np.uint8), labels, tuple(map(str, range(count))))

    names = tuple(f"thing number {index}" for index in range(NUM_CLASSES))
    train, val, none = images(num_train), images(VALIDATION_SHOTS * NUM_CLASSES), images(0)
    return TaskData("task", names, "a photo of a {}.", train, val, none, f"{num_train} images", 0, ())


def _run(clip: FrozenCLIP, cache: FeatureCache, data: TaskData, method: MethodConfig) -> GroupRun:
    config = TrainConfig(batch_size=BATCH, max_steps=1_000_000, augment=AugmentConfig())
    run = GroupRun(
        clip, GroupWork("group", ("task",), method, Path("unused")), {"task": data}, config, ClassLists(clip), cache
    )
    for part in (run.features["task"].train, run.features["task"].val, run.features["task"].texts):
        part()  # features are computed once, for all methods, and are not what is measured
    return run


def _epochs(
    clip: FrozenCLIP, cache: FeatureCache, data: TaskData, method: MethodConfig, rounds: int
) -> dict[str, float]:
    run = _run(clip, cache, data, method)
    run.fit()
    wall, processor = [], []
    for turn in range(rounds + 1):
        started, worked = time.perf_counter(), time.process_time()
        for _ in range(-(-NUM_IMAGES // BATCH)):
            train_step(clip, [run], run._lists, Ranks())
        if turn:  # the first round warms up
            wall.append(time.perf_counter() - started)
            processor.append(time.process_time() - worked)
    return {
        "wall": round(statistics.median(wall), 3),
        "best wall": round(min(wall), 3),
        "processor": round(statistics.median(processor), 3),
    }


def _fit(clip: FrozenCLIP, cache: FeatureCache, data: TaskData, method: MethodConfig) -> dict[str, float]:
    run = _run(clip, cache, data, method)
    started, worked = time.perf_counter(), time.process_time()
    run.fit()
    return {"wall": round(time.perf_counter() - started, 3), "processor": round(time.process_time() - worked, 3)}


if __name__ == "__main__":
    main()
