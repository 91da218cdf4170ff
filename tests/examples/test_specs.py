"""The example jobs are what they say they are."""

from pathlib import Path

import pytest

from examples.make_specs import specs
from service.spec import parse_spec
from workers.data.config import DemoSource, ManifestSource, ShotsSplit
from workers.demo.tasks import DEMO_TASKS
from workers.methods.config import MmAPConfig

EXAMPLES = Path(__file__).parents[2] / "examples"
BENCHMARKS = sorted(specs())


def test_committed_specs_are_what_the_generator_writes():
    written = {name: (EXAMPLES / name).read_text() for name in BENCHMARKS}
    assert written == specs()


def test_every_yaml_file_of_the_examples_is_tested():
    assert sorted(path.name for path in EXAMPLES.glob("*.yaml")) == sorted(
        [*BENCHMARKS, "arbitrate.yaml", "demo.yaml", "mixed_kinds.yaml", "search.yaml"]
    )


@pytest.mark.parametrize("name", BENCHMARKS)
def test_benchmark_spec_says_what_its_name_says(name: str):
    spec = parse_spec((EXAMPLES / name).read_bytes())
    dataset, shots, seed = name.removesuffix(".yaml").rsplit("_", 2)
    assert spec.name == name.removesuffix(".yaml").replace("_", "-")
    assert len(spec.tasks) == 4
    for task in spec.tasks:
        assert task.split == ShotsSplit(shots=int(shots.removesuffix("shot")), val_shots=0, seed=int(seed[-1]))
        assert task.template == "a photo of a {}."
        assert isinstance(task.source, ManifestSource) == (dataset == "minidomainnet")
    assert spec.training.seed == int(seed[-1])
    assert (spec.training.epochs, spec.training.optimizer, spec.training.lr) == (5, "sgd", 0.0035)
    assert spec.training.batch_size == {"office_home": 16, "minidomainnet": 4}[dataset]
    assert (spec.backbone.model, spec.backbone.pretrained) == ("ViT-B-16-quickgelu", "openai")
    assert spec.backbone.precision == "bf16"
    assert spec.method == MmAPConfig(num_tokens=4, source_shape=(2, 2), depth=12, sharing="grouped+task")
    assert spec.baselines == ("zero_shot", "alone", "all")


def test_demo_names_every_demo_task_with_its_own_template():
    spec = parse_spec((EXAMPLES / "demo.yaml").read_bytes())
    assert spec.backbone.model == "demo"
    assert {task.name: task.template for task in spec.tasks} == {
        name: task.template for name, task in DEMO_TASKS.items()
    }
    assert all(task.source == DemoSource(task=task.name) for task in spec.tasks)


def test_the_mixed_job_holds_a_task_of_every_kind():
    spec = parse_spec((EXAMPLES / "mixed_kinds.yaml").read_bytes())
    assert sorted(task.kind for task in spec.tasks) == ["classification", "multi_label", "retrieval"]


def test_the_search_example_searches():
    assert parse_spec((EXAMPLES / "search.yaml").read_bytes()).search is not None


def test_the_arbitrated_example_puts_its_groups_to_the_test():
    spec = parse_spec((EXAMPLES / "arbitrate.yaml").read_bytes())
    assert spec.grouping.arbitrate and not spec.grouping.approve
    assert all(isinstance(task.split, ShotsSplit) and task.split.val_shots for task in spec.tasks)
