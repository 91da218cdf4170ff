"""What can be trained on a frozen CLIP.  Torch-free; the union below IS the registry of methods."""

from typing import Annotated

from pydantic import Field

from workers.methods.base_config import Sharing
from workers.methods.feature_config import ZeroShotConfig
from workers.methods.prompt_config import MmAPConfig, paper_budget

MethodConfig = Annotated[ZeroShotConfig | MmAPConfig, Field(discriminator="kind")]

__all__ = ["MethodConfig", "MmAPConfig", "Sharing", "ZeroShotConfig", "paper_budget"]
