"""Routes that search."""

# The annotations below hold values of a service: they are evaluated where they stand.

import time
from typing import Annotated, Any

from fastapi import FastAPI, Path, Query
from starlette.requests import Request

from trainer.data.fetch import Failure
from trainer.serving.api import forms
from trainer.serving.api.answers import Found, FoundLike, QueryPicture, neighbour
from trainer.serving.api.errors import Refusal, problems
from trainer.serving.api.guard import Guard
from trainer.serving.api.pictures import sides
from trainer.serving.api.service import Fetch, Search, Service, Wanted, while_connected
from trainer.serving.api.uploads import form_schema, json_schema, read_form, read_json

#: What becomes of a failed fetch: a status and a line. Anything else: 422, and that it failed.
#: The words of the fetcher are not shown: they tell of networks that the client cannot see.
FETCH_FAILURES = {
    "refused": (403, "this service does not go to this URL"),
    "redirect": (422, "the URL leads elsewhere, to where this service does not go"),
    "bad_url": (422, "url: must be http or https, without user name and password"),
    "too_large": (413, "the picture at this URL has more bytes than allowed"),
    "wrong_type": (415, "there is no picture at this URL that can be searched with"),
    "damaged": (422, "the picture at this URL is damaged"),
    "too_many_pixels": (422, "the picture at this URL has more pixels than allowed"),
    "not_found": (422, "there is nothing at this URL"),
    "gone": (422, "there is nothing at this URL"),
    "unknown_host": (422, "there is no host of this name"),
    "timeout": (422, "the server of this URL does not answer in time"),
    "deadline": (422, "the server of this URL does not answer in time"),
}


def search_routes(app: FastAPI, service: Service, guard: Guard) -> None:
    """Add the routes that search, by picture, by product and by URL."""
    options = service.options
    tags: Any = ["search"]
    search_form = forms.with_limits(forms.SearchForm, options)
    url_search = forms.with_limits(forms.UrlSearch, options)

    async def found(content: bytes, form: forms.SearchForm, begin: float) -> Found:
        done = await service.search(Search(content, form.box, form.wanted()))
        width, height = done.picture.upright_size
        box = None if done.box is None else list(sides(done.box))
        return Found(
            neighbours=[neighbour(hit) for hit in done.neighbours],
            query=QueryPicture(width=width, height=height, box=box),
            seconds=time.perf_counter() - begin,
        )

    async def found_at(fetch: Fetch, form: forms.UrlSearch) -> Found:
        begin = time.perf_counter()
        fetched = await service.fetched(fetch, form.url)
        if isinstance(fetched, Failure):
            unknown = (422, "the picture at this URL could not be fetched")
            raise Refusal(*FETCH_FAILURES.get(fetched.reason, unknown))
        return await found(fetched.content, form, begin)

    @app.post(
        "/v1/search",
        tags=tags,
        summary="Search with a picture",
        response_model=Found,
        responses=problems(*guard.refusals(400, 408, 415)),
        dependencies=guard.search(),
        openapi_extra=form_schema(search_form, forms.PICTURE),
    )
    async def search(request: Request) -> Any:
        """The products that are most like a picture, or like the part of it in a box."""
        async with service.coming(request):
            form, content = await read_form(request, search_form, options.most_bytes)
        async with service.turn():
            begin = time.perf_counter()
            return await while_connected(request, found(content, form, begin))

    @app.post(
        "/v1/search-url",
        tags=tags,
        summary="Search with a picture that is elsewhere",
        response_model=Found,
        responses=problems(*guard.refusals(403, 408, 415)),
        dependencies=guard.search(),
        openapi_extra=json_schema(url_search),
    )
    async def search_url(request: Request) -> Any:
        """The same for a picture by URL, from hosts that the service was started with."""
        fetch = service.fetch
        if fetch is None:
            raise Refusal(403, "this service does not search by URL: send the picture")
        async with service.coming(request):
            form = await read_json(request, url_search)
        async with service.turn():
            return await while_connected(request, found_at(fetch, form))

    @app.get(
        "/v1/neighbours/{id:path}",
        tags=tags,
        summary="Search with a product",
        response_model=FoundLike,
        responses=problems(*guard.refusals(404)),
        dependencies=guard.search(),
    )
    async def neighbours(
        id: Annotated[str, Path(min_length=1, max_length=forms.MOST_ID)],
        k: Annotated[int, Query(ge=1, le=options.most_k, description=forms.OF_K)] = options.k,
        category: Annotated[forms.Text, Query(description=forms.OF_CATEGORY)] = "",
        domain: Annotated[forms.Text, Query(description=forms.OF_DOMAIN)] = "",
        label: Annotated[forms.Text, Query(description=forms.OF_LABEL)] = "",
    ) -> Any:
        """The products that are most like one of the catalogue, without itself."""
        async with service.turn():
            begin = time.perf_counter()
            wanted = Wanted(k, category or None, domain or None, label or None, (id,))
            like = Search(wanted=wanted)
            like.embedding = await service.in_thread(service.known, service.catalogue.vector, id)
            await service.search_like(like)
            return FoundLike(
                neighbours=[neighbour(hit) for hit in like.neighbours],
                seconds=time.perf_counter() - begin,
            )
