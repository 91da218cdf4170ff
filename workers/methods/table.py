"""The table of methods: what each trains on a given backbone, without loading weights.  `cohort methods` prints it."""

from typing import NamedTuple

from workers.clip.shape import backbone_shape
from workers.methods.base_config import Sharing
from workers.methods.config import (
    AdapterConfig,
    BitFitConfig,
    CAVLAdapterConfig,
    CLIPAdapterConfig,
    CompacterConfig,
    CoOpConfig,
    FullFineTuningConfig,
    HyperformerConfig,
    LayerNormConfig,
    LinearProbeConfig,
    LoRAConfig,
    MaPLeConfig,
    MethodConfig,
    MmAPConfig,
    ShortcutConfig,
    TaskResConfig,
    TipAdapterConfig,
    TipAdapterFConfig,
    VisionLanguagePromptsConfig,
    VPTConfig,
    ZeroShotConfig,
    paper_budget,
    vl_adapter_compacter,
)
from workers.methods.counts import count_parameters


class Setting(NamedTuple):
    """A setting worth a row, under every sharing that its method has."""

    name: str
    config: MethodConfig
    sharings: tuple[Sharing, ...] | None = None
    """Only these."""


SETTINGS = (
    Setting("default", ZeroShotConfig()),
    Setting("default", LinearProbeConfig()),
    Setting("default", TaskResConfig()),
    Setting("vision", CLIPAdapterConfig()),
    Setting("both", CLIPAdapterConfig(modality="both")),
    Setting("default", TipAdapterConfig()),
    Setting("{shots}_shots", TipAdapterFConfig()),
    Setting("default", CoOpConfig()),
    Setting("4_tokens", CoOpConfig(num_context_tokens=4)),
    Setting("class_specific", CoOpConfig(class_specific=True)),
    Setting("deep", VPTConfig()),
    Setting("shallow", VPTConfig(deep=False)),
    Setting("default", VisionLanguagePromptsConfig()),
    Setting("default", MaPLeConfig()),
    Setting("default", MmAPConfig()),
    Setting("paper_budget", paper_budget()),
    Setting("default", BitFitConfig()),
    Setting("no_layer_norms", BitFitConfig(layer_norms=False)),
    Setting("default", LayerNormConfig()),
    Setting("default", FullFineTuningConfig()),
    Setting("default", LoRAConfig()),
    Setting("rank_8", LoRAConfig(rank=8)),
    Setting("default", AdapterConfig()),
    Setting("shared_up", AdapterConfig(sharing="half", shared_half="up"), ("half",)),
    Setting("default", HyperformerConfig()),
    Setting("default", CompacterConfig()),
    Setting("vl_adapter", vl_adapter_compacter()),
    Setting("default", ShortcutConfig()),
    Setting("lite", ShortcutConfig(lite=True)),
    Setting("default", CAVLAdapterConfig()),
)
"""Methods on features first, then prompts, then weights and adapters."""


def rows(backbone: str, *, classes: int, tasks: int, groups: int, shots: int = 6) -> list[dict]:
    """One row per method, setting and sharing: `method`, `setting`, `sharing`, `group_shared`, `task_specific`,
    `total`, `per_task` (total / tasks) and `percent` of the backbone's parameters.

    `classes` is the number of classes of a task; methods whose size does not depend on it ignore it.  `shots` are the
    training images of a class, for a method that trains something for each image.  Settings that do not fit the
    backbone have no row.
    """
    return rows_and_misfits(backbone, classes=classes, tasks=tasks, groups=groups, shots=shots)[0]


def rows_and_misfits(
    backbone: str, *, classes: int, tasks: int, groups: int, shots: int = 6
) -> tuple[list[dict], dict[str, str]]:
    """`rows`, and why the other settings do not fit the backbone (more layers than it has, bottlenecks that do not
    divide): method and setting -> reason."""
    for name, value in (("classes", classes), ("tasks", tasks), ("groups", groups), ("shots", shots)):
        if value < 1:
            raise ValueError(f"{name}={value} must be at least 1.")
    if groups > tasks:
        raise ValueError(f"groups={groups} exceeds tasks={tasks}. Use at most {tasks}.")
    shape = backbone_shape(backbone)
    table, misfits = [], {}
    for setting in SETTINGS:
        name = setting.name.format(shots=shots)
        title = f"{setting.config.kind} {name}"
        depth = getattr(setting.config, "depth", None) or 1
        if depth > shape.layers:
            misfits[title] = f"depth={depth} exceeds its {shape.layers} layers"
            continue
        for sharing in setting.sharings or setting.config.sharings or (None,):
            config = setting.config.model_copy(update={"sharing": sharing} if sharing else {})
            try:
                counts = count_parameters(
                    config, shape, num_classes=classes, num_tasks=tasks, num_groups=groups, num_train=classes * shots
                )
            except ValueError as error:  # its sizes do not divide this backbone's widths
                misfits[title] = str(error)
                continue
            table.append(
                {
                    "method": config.kind,
                    "setting": name,
                    "sharing": sharing,
                    **counts,
                    "per_task": counts["total"] / tasks,
                    "percent": 100 * counts["total"] / shape.num_parameters,
                }
            )
    return table, misfits
