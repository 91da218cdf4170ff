"""What every message over HTTP is: frozen, read from rows and objects alike, its docstrings the API's help texts."""

from pydantic import BaseModel, ConfigDict


class Message(BaseModel):
    """A part of an answer."""

    model_config = ConfigDict(frozen=True, from_attributes=True, use_attribute_docstrings=True)
