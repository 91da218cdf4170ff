"""Writes the job descriptions of the two benchmarks: `python examples/make_specs.py` (in the repository's root).

Twelve files: Office-Home with 6 and 12 images per class, MiniDomainNet with 3 and 6, three seeds each, with the
hyper-parameters of MmAP's paper (Xin et al., AAAI 2024): SGD at 0.0035, 5 epochs, 16 or 4 images per task and step, the
last epoch counts.  No validation images, as there is no choice to make with them; test images are never used for one.
"""

from dataclasses import dataclass
from pathlib import Path

SEEDS = (1, 2, 3)

HEADER = """\
# {title}, {shots} images per class, seed {seed}.  Written by examples/make_specs.py: change it there.
# {data}
name: {slug}-{shots}shot-seed{seed}
backbone: {{model: ViT-B-16-quickgelu, pretrained: openai, precision: bf16}}
tasks:
"""

TASK = """\
  - name: {task}
    source: {source}
    split: {{shots: {shots}, val_shots: 0, seed: {seed}}}
    template: "a photo of a {{}}."
"""

FOOTER = """\
method: {{kind: mmap, num_tokens: 4, source_shape: [2, 2], depth: 12, sharing: grouped+task}}
profile: {{epochs: 5, snapshots: 5, microbatches: 4}}
grouping: {{num_groups: auto, similarity: cross_fit}}
training: {{epochs: 5, batch_size: {batch_size}, optimizer: sgd, lr: 0.0035, seed: {seed}}}
baselines: [zero_shot, alone, all]
resources: {{devices_per_group: 1, device: auto}}
"""


@dataclass(frozen=True)
class Benchmark:
    """A data set whose domains are the tasks of one job."""

    title: str
    slug: str
    data: str
    """Where the images have to lie, under a data root (`data/` unless COHORT_DATA_ROOTS says otherwise)."""
    sources: dict[str, str]
    """Task -> its source, as YAML."""
    shots: tuple[int, ...]
    batch_size: int

    def spec(self, shots: int, seed: int) -> str:
        """The job description as YAML."""
        values = {**vars(self), "shots": shots, "seed": seed}
        tasks = [TASK.format(task=task, source=source, **values) for task, source in self.sources.items()]
        return HEADER.format(**values) + "".join(tasks) + FOOTER.format(**values)


BENCHMARKS = (
    Benchmark(
        title="Office-Home, 65 classes in 4 domains",
        slug="office-home",
        data="The archive's four folders, one sub-folder per class: data/office_home/{Art,Clipart,Product,Real World}.",
        sources={
            "art": "{kind: folder, uri: office_home/Art}",
            "clipart": "{kind: folder, uri: office_home/Clipart}",
            "product": "{kind: folder, uri: office_home/Product}",
            "real_world": "{kind: folder, uri: office_home/Real World}",
        },
        shots=(6, 12),
        batch_size=16,
    ),
    Benchmark(
        title="MiniDomainNet, 126 classes in 4 domains",
        slug="minidomainnet",
        data="Images and lists under data/minidomainnet, then once: python examples/minidomainnet_manifests.py",
        sources={
            domain: f"{{kind: manifest, uri: minidomainnet/{domain}.csv, split_column: split}}"
            for domain in ("clipart", "painting", "real", "sketch")
        },
        shots=(3, 6),
        batch_size=4,
    ),
)


def specs() -> dict[str, str]:
    """File name -> content of all twelve."""
    return {
        f"{benchmark.slug.replace('-', '_')}_{shots}shot_seed{seed}.yaml": benchmark.spec(shots, seed)
        for benchmark in BENCHMARKS
        for shots in benchmark.shots
        for seed in SEEDS
    }


if __name__ == "__main__":
    for name, content in specs().items():
        (Path(__file__).parent / name).write_text(content)
        print(name)
