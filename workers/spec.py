"""The base of every config that a user can write: frozen, unknown keys refused, field docstrings are the help text."""

from pydantic import BaseModel, ConfigDict


class Spec(BaseModel):
    """A part of a job as the user wrote it.  Immutable; a misspelt key is an error, not silence."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)
