"""Descriptions as people read and write them: a spec as YAML."""

import yaml

from workers.spec import Spec


def spec_yaml(spec: Spec) -> str:
    """A description with every default written out."""
    return yaml.safe_dump(spec.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=100)
