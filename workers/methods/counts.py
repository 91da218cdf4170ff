"""How many numbers a method trains, by formula.  Torch-free."""

from workers.clip.config import BackboneShape
from workers.methods.base_config import Sharing
from workers.methods.config import MethodConfig


def count_parameters(
    config: MethodConfig,
    shape: BackboneShape,
    *,
    num_classes: int,
    num_tasks: int,
    num_groups: int,
    num_train: int = 0,
    num_multi_label: int = 0,
) -> dict[str, int]:
    """Trained numbers of a whole job: `group_shared` (all groups), `task_specific` (all tasks) and `total`.

    With `sharing: all` there is one group whatever `num_groups` says.  `num_train` is the number of training images of
    a task, for a method that trains something for each; `num_multi_label` tasks learn a bias of their logits besides.
    """
    sharing: Sharing | None = getattr(config, "sharing", None)
    shared, own = config.sizes(shape, num_classes)
    group_shared = shared * (1 if sharing == "all" else num_groups)
    task_specific = num_tasks * own + (num_multi_label if config.trains else 0)
    of_images = num_tasks * num_train * config.per_train_image(shape)
    if sharing in ("all", "grouped"):
        group_shared += of_images
    else:
        task_specific += of_images
    return {"group_shared": group_shared, "task_specific": task_specific, "total": group_shared + task_specific}
