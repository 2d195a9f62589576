"""What clients send."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, create_model

from trainer.serving.api.options import ServiceOptions
from trainer.serving.api.pictures import BOX
from trainer.serving.api.service import Wanted
from trainer.serving.public_names import MOST, NEW

#: Characters of the id of a product: those of the catalogue that was indexed are paths.
MOST_ID = 1000
#: Ids of products that clients add.
NEW_ID, MOST_NEW_ID = f"^{NEW.pattern}$", MOST
#: Characters of a URL.
MOST_URL = 2000

#: Labels, categories, domains: no control characters, which would end up in files and logs.
Text = Annotated[str, Field(max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")]
#: The same, but not blank.
Name = Annotated[str, Field(max_length=200, pattern=r"^[^\x00-\x1f\x7f]*\S[^\x00-\x1f\x7f]*$")]
BoxText = Annotated[str, Field(max_length=64, pattern=BOX)]

PICTURE = "A JPEG, PNG, WebP, GIF (its first frame) or BMP file."
OF_K = "Neighbours."
OF_CATEGORY = "Only products of this category; empty: of any."
OF_DOMAIN = "Only products of this domain; empty: of any."
OF_LABEL = "Only products with this label; empty: with any."
OF_BOX = "Part that counts: x,y,w,h in pixels of the upright picture; empty: all of it."


class SearchForm(BaseModel):
    """What comes with a picture that is searched with."""

    model_config = ConfigDict(extra="forbid")

    k: int
    category: Text = Field("", description=OF_CATEGORY)
    domain: Text = Field("", description=OF_DOMAIN)
    label: Text = Field("", description=OF_LABEL)
    box: BoxText = Field("", description=OF_BOX)

    def wanted(self) -> Wanted:
        """Return what the search is for."""
        return Wanted(self.k, self.category or None, self.domain or None, self.label or None)


class UrlSearch(SearchForm):
    """A search with a picture that is elsewhere."""

    url: str = Field(max_length=MOST_URL, description="Of the picture: http or https.")


class ProductForm(BaseModel):
    """What comes with the picture of a product."""

    model_config = ConfigDict(extra="forbid")

    label: Name = Field(description="What to call the product.")
    category: Text = Field("", description="May be empty.")
    domain: Text = Field("", description="May be empty.")
    box: BoxText = Field("", description=OF_BOX)


Search = TypeVar("Search", bound=SearchForm)


def with_limits(form: type[Search], options: ServiceOptions) -> type[Search]:
    """Return a form that knows how many neighbours a service gives."""
    k = (int, Field(options.k, ge=1, le=options.most_k, description=OF_K))
    made: Any = create_model(form.__name__, __base__=form, __doc__=form.__doc__, k=k)  # type: ignore[call-overload]
    return made
