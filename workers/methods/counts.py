"""How many numbers a method trains, by formula.  Torch-free."""

from workers.methods.config import MethodConfig, MmAPConfig, ZeroShotConfig


def count_parameters(
    config: MethodConfig,
    *,
    text_width: int,
    image_width: int,
    layers: int,
    num_tasks: int,
    num_groups: int,
) -> dict[str, int]:
    """Trained numbers of a whole job: `group_shared` (all groups), `task_specific` (all tasks) and `total`.

    `layers` is the depth of the shallower tower.  With `sharing: all` there is one group whatever `num_groups` says.
    """
    match config:
        case ZeroShotConfig():
            group_shared = task_specific = 0
        case MmAPConfig():
            one = mmap_parameters(config, text_width=text_width, image_width=image_width, layers=layers)
            sets = {
                "alone": 0,
                "all": 1,
                "grouped": num_groups,
                "grouped+task": num_groups,
            }[config.sharing]
            group_shared = sets * one
            task_specific = num_tasks * one if config.sharing in ("alone", "grouped+task") else 0
    return {
        "group_shared": group_shared,
        "task_specific": task_specific,
        "total": group_shared + task_specific,
    }


def mmap_parameters(config: MmAPConfig, *, text_width: int, image_width: int, layers: int) -> int:
    """N1 = m*n + K*b*(D_text + D_image)/(m*n): the numbers of one MmAP (Xin et al. 2024, section 3.2)."""
    m, n = config.source_shape
    depth = config.depth or layers
    return m * n + depth * config.num_tokens * (text_width + image_width) // (m * n)
