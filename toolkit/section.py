"""What every part of a recipe is made of: frozen values that refuse keys they do not know."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Fraction = Annotated[float, Field(ge=0, le=1)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]


class Section(BaseModel):
    """A part of a recipe: frozen, and strict about keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")
