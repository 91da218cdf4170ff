"""Laws of what is refused before any training: a method that does not fit the backbone or the tasks."""

from typing import Any, get_args

import pytest

from workers.clip.frozen import FrozenCLIP
from workers.data.dataset import TaskData
from workers.methods.config import CoOpConfig, MethodConfig, MmAPConfig
from workers.training.train import check_method

EVERY = [(kind, sharing) for kind in get_args(get_args(MethodConfig)[0]) for sharing in kind.sharings or (None,)]


@pytest.mark.parametrize(("kind", "sharing"), EVERY)
def test_every_method_passes_on_tasks_it_can_train(
    tiny_clip: FrozenCLIP, tasks: dict[str, TaskData], kind: Any, sharing: str | None
):
    small = {"num_context_tokens": 2, "reduction": 4}
    settings: dict[str, Any] = {name: value for name, value in small.items() if name in kind.model_fields}
    config = kind(**settings | ({"sharing": sharing} if sharing else {}))
    alike = {name: tasks[name] for name in ("art", "clipart")}
    check_method(tiny_clip, config, alike)


def test_a_long_class_name_of_any_task_is_refused(tiny_clip: FrozenCLIP, tasks: dict[str, TaskData], renamed: Any):
    crowded = tasks | {"pets": renamed(tasks["pets"], class_names=("cat", "dog " * 40))}
    for config in (CoOpConfig(num_context_tokens=12), MmAPConfig(num_tokens=20)):
        with pytest.raises(ValueError, match="class sentence"):
            check_method(tiny_clip, config, crowded)
