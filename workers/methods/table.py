"""The table of methods: what each trains on a given backbone, without loading weights.  `cohort methods` prints it."""

from workers.clip.shape import backbone_shape
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


def rows(backbone: str, *, classes: int, tasks: int, groups: int, shots: int = 6) -> list[dict]:
    """One row per method, setting and sharing: `method`, `setting`, `sharing`, `group_shared`, `task_specific`,
    `total`, `per_task` (total / tasks) and `percent` of the backbone's parameters.

    `classes` is the number of classes of a task; methods whose size does not depend on it ignore it.  `shots` are the
    training images of a class, for a method that trains something for each image.
    """
    for name, value in (("classes", classes), ("tasks", tasks), ("groups", groups), ("shots", shots)):
        if value < 1:
            raise ValueError(f"{name}={value} must be at least 1.")
    if groups > tasks:
        raise ValueError(f"groups={groups} exceeds tasks={tasks}. Use at most {tasks}.")
    shape = backbone_shape(backbone)
    table = []
    for method, setting, config in _settings(shape.layers, shots):
        counts = count_parameters(
            config, shape, num_classes=classes, num_tasks=tasks, num_groups=groups, num_train=classes * shots
        )
        table.append(
            {
                "method": method,
                "setting": setting,
                "sharing": getattr(config, "sharing", None),
                **counts,
                "per_task": counts["total"] / tasks,
                "percent": 100 * counts["total"] / shape.num_parameters,
            }
        )
    return table


def _settings(layers: int, shots: int) -> list[tuple[str, str, MethodConfig]]:
    table: list[tuple[str, str, MethodConfig]] = [("zero_shot", "default", ZeroShotConfig())]
    for sharing in CoOpConfig.sharings:
        table.append(("coop", "default", CoOpConfig(sharing=sharing)))
        table.append(("coop", "4_tokens", CoOpConfig(sharing=sharing, num_context_tokens=4)))
        table.append(("coop", "class_specific", CoOpConfig(sharing=sharing, class_specific=True)))
        table.append(("vpt", "deep", VPTConfig(sharing=sharing)))
        table.append(("vpt", "shallow", VPTConfig(sharing=sharing, deep=False)))
        table.append(("vl_prompts", "default", VisionLanguagePromptsConfig(sharing=sharing)))
        table.append(("maple", "default", MaPLeConfig(sharing=sharing)))
    for sharing in MmAPConfig.sharings:
        table.append(("mmap", "default", MmAPConfig(sharing=sharing)))
    if layers >= 9:
        for sharing in MmAPConfig.sharings:
            table.append(("mmap", "paper_budget", paper_budget(sharing)))
    for sharing in BitFitConfig.sharings:
        table.append(("bitfit", "default", BitFitConfig(sharing=sharing)))
        table.append(("bitfit", "no_layer_norms", BitFitConfig(sharing=sharing, layer_norms=False)))
    for sharing in LayerNormConfig.sharings:
        table.append(("layer_norm", "default", LayerNormConfig(sharing=sharing)))
    for sharing in FullFineTuningConfig.sharings:
        table.append(("full_fine_tuning", "default", FullFineTuningConfig(sharing=sharing)))
    for sharing in LoRAConfig.sharings:
        table.append(("lora", "default", LoRAConfig(sharing=sharing)))
        table.append(("lora", "rank_8", LoRAConfig(sharing=sharing, rank=8)))
    for sharing in ShortcutConfig.sharings:
        table.append(("shortcut", "default", ShortcutConfig(sharing=sharing)))
        table.append(("shortcut", "lite", ShortcutConfig(sharing=sharing, lite=True)))
    table.append(("linear_probe", "default", LinearProbeConfig()))
    table.append(("taskres", "default", TaskResConfig()))
    for sharing in CLIPAdapterConfig.sharings:
        table.append(("clip_adapter", "vision", CLIPAdapterConfig(sharing=sharing)))
        table.append(("clip_adapter", "both", CLIPAdapterConfig(sharing=sharing, modality="both")))
    for sharing in TipAdapterConfig.sharings:
        table.append(("tip_adapter", "default", TipAdapterConfig(sharing=sharing)))
        table.append(("tip_adapter_f", f"{shots}_shots", TipAdapterFConfig(sharing=sharing)))
    for sharing in AdapterConfig.sharings:
        table.append(("adapter", "default", AdapterConfig(sharing=sharing)))
    table.append(("adapter", "shared_up", AdapterConfig(sharing="half", shared_half="up")))
    for sharing in HyperformerConfig.sharings:
        table.append(("hyperformer", "default", HyperformerConfig(sharing=sharing)))
    for sharing in CompacterConfig.sharings:
        table.append(("compacter", "default", CompacterConfig(sharing=sharing)))
        table.append(("compacter", "vl_adapter", vl_adapter_compacter(sharing)))
    for sharing in CAVLAdapterConfig.sharings:
        table.append(("cavl_adapter", "default", CAVLAdapterConfig(sharing=sharing)))
    return table
