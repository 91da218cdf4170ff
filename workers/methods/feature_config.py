"""Settings of the methods that work on features of the frozen towers.  Torch-free."""

from typing import ClassVar, Literal

from pydantic import field_validator

from workers.methods.base_config import MethodSpec


class ZeroShotConfig(MethodSpec):
    """CLIP as it is: the template with the class name, nothing trained (Radford et al. 2021)."""

    trains: ClassVar[bool] = False
    feature_side: ClassVar[bool] = True

    kind: Literal["zero_shot"] = "zero_shot"
    templates: tuple[str, ...] = ()
    """Several templates to average over, each with `{}` for the class name; empty: the task's own."""

    @field_validator("templates")
    @classmethod
    def _each_has_one_place(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return check_templates(value)


def check_templates(templates: tuple[str, ...]) -> tuple[str, ...]:
    """The templates themselves; ValueError for one without exactly one place for the class name."""
    for template in templates:
        if template.count("{}") != 1:
            raise ValueError(f"template {template!r} must hold `{{}}` exactly once, where the class name goes.")
    return templates
