"""Routes that show the catalogue and change it."""

# The annotations below hold values of a service: they are evaluated where they stand.

import hashlib
from typing import Annotated, Any

from fastapi import FastAPI, Path, Query
from starlette.requests import Request
from starlette.responses import Response

from trainer.config import UserError
from trainer.data.fetch import FORMATS
from trainer.serving.api import forms
from trainer.serving.api.answers import Catalogue, Limits, Product, Products, product
from trainer.serving.api.errors import Refusal, problems
from trainer.serving.api.guard import Guard
from trainer.serving.api.pictures import sides, upright_file
from trainer.serving.api.service import Search, Service, while_connected
from trainer.serving.api.thumbnails import Thumbnails
from trainer.serving.api.uploads import form_schema, read_form
from trainer.serving.changes import ChangesFault

#: Seconds for which a browser takes the picture of a product for the same.
FRESH = 60
JPEG = {"image/jpeg": {"schema": {"type": "string", "format": "binary"}}}


def product_routes(app: FastAPI, service: Service, guard: Guard) -> None:
    """Add the routes that show the catalogue, its products and their pictures."""
    options = service.options
    tags: Any = ["products"]
    catalogue, thumbnails = service.catalogue, Thumbnails(service.catalogue)

    @app.get(
        "/v1/catalogue",
        tags=tags,
        summary="What can be searched, and how",
        response_model=Catalogue,
        responses=problems(*guard.refusals()),
        dependencies=guard.look(),
    )
    async def describe() -> Any:
        """Number of products, their categories and domains, and what this service takes."""
        return Catalogue(
            count=len(catalogue),
            categories=list(catalogue.categories),
            domains=list(catalogue.domains),
            limits=Limits(
                k=options.k,
                most_k=options.most_k,
                bytes=options.most_bytes,
                pixels=options.most_pixels,
                formats=[kind.lower() for kind in FORMATS],
                thumbnail=options.thumbnail,
            ),
            writable=options.writable,
            url_search=service.fetch is not None,
            api_key_needed=service.keys.for_reading,
        )

    @app.get(
        "/v1/products",
        tags=tags,
        summary="List products",
        response_model=Products,
        responses=problems(*guard.refusals()),
        dependencies=guard.look(),
    )
    async def listed(
        offset: Annotated[int, Query(ge=0, le=2**31, description="Number of the first.")] = 0,
        limit: Annotated[int, Query(ge=1, le=1000, description="Most of them.")] = 100,
        category: Annotated[forms.Text, Query(description=forms.OF_CATEGORY)] = "",
        domain: Annotated[forms.Text, Query(description=forms.OF_DOMAIN)] = "",
    ) -> Any:
        """Products in the order of the catalogue."""
        items = await service.in_thread(
            catalogue.list,
            offset,
            limit + 1,
            category=category or None,
            domain=domain or None,
        )
        shown = [product(item) for item in items[:limit]]
        return Products(products=shown, offset=offset, more=len(items) > limit)

    @app.get(
        "/v1/products/{id:path}",
        tags=tags,
        summary="Show a product",
        response_model=Product,
        responses=problems(*guard.refusals(404)),
        dependencies=guard.look(),
    )
    async def show(id: Annotated[str, Path(min_length=1, max_length=forms.MOST_ID)]) -> Any:
        """What the catalogue says of a product."""
        return product(await service.in_thread(service.known, catalogue.get, id))

    @app.get(
        "/v1/pictures/{id:path}",
        tags=tags,
        summary="Picture of a product",
        response_class=Response,
        response_model=None,
        responses={
            200: {"content": JPEG, "description": "A JPEG file."},
            304: {"description": "It is the one that `If-None-Match` names."},
            **problems(*guard.refusals(404)),
        },
        dependencies=guard.look(),
    )
    async def picture(
        request: Request,
        id: Annotated[str, Path(min_length=1, max_length=forms.MOST_ID)],
        size: Annotated[
            int, Query(ge=16, le=options.thumbnail, description="Pixels of the longer side.")
        ] = min(256, options.thumbnail),
    ) -> Any:
        """The part of its picture that shows the product."""
        async with service.turn():
            content = await service.in_thread(
                service.known, lambda name: thumbnails.of(name, size), id
            )
        mark = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
        headers = {"ETag": mark, "Cache-Control": f"private, max-age={FRESH}"}
        if options.cors_origins:  # Pages that may use the API show what it finds.
            headers["Cross-Origin-Resource-Policy"] = "cross-origin"
        if request.headers.get("If-None-Match") == mark:
            return Response(status_code=304, headers=headers)
        return Response(content, media_type="image/jpeg", headers=headers)


def change_routes(app: FastAPI, service: Service, guard: Guard) -> None:
    """Add the routes that add and remove products."""
    options = service.options
    tags: Any = ["changes"]
    catalogue = service.catalogue
    New = Annotated[str, Path(max_length=forms.MOST_NEW_ID, pattern=forms.NEW_ID)]

    @app.put(
        "/v1/products/{id:path}",
        tags=tags,
        summary="Add or replace a product",
        response_model=Product,
        responses={
            201: {"model": Product, "description": "It was added."},
            **problems(*guard.refusals(400, 404, 408, 409, 415, write=True)),
        },
        dependencies=guard.change(),
        openapi_extra=form_schema(forms.ProductForm, forms.PICTURE),
    )
    async def put(
        request: Request,
        response: Response,
        id: New,
        replace: Annotated[bool, Query(description="Whether it may be there already.")] = True,
    ) -> Any:
        """Adds a product, to be found from now on. The picture is stored upright."""
        async with service.coming(request):
            form, content = await read_form(request, forms.ProductForm, options.most_bytes)
        async with service.turn():
            # Of the file as it came, as searches with it see it: it finds itself exactly.
            done = await while_connected(request, service.embed(Search(content, form.box)))
            upright = await service.in_thread(upright_file, done.picture)
            there = await service.in_thread(has, id)
            try:
                item = await service.in_thread(
                    catalogue.add,
                    id,
                    upright,
                    done.embedding,
                    label=form.label,
                    category=form.category,
                    domain=form.domain,
                    box=None if done.box is None else sides(done.box),
                    replace=replace,
                )
            except UserError as error:
                if not replace and await service.in_thread(has, id):
                    raise Refusal(409, "there is a product with this id already") from None
                if isinstance(error, ChangesFault):
                    raise
                raise Refusal(422, str(error)) from None
            service.metrics.changes.labels("replaced" if there else "added").inc()
            response.status_code = 200 if there else 201
            return product(item)

    @app.delete(
        "/v1/products/{id:path}",
        tags=tags,
        summary="Remove a product",
        status_code=204,
        response_class=Response,
        response_model=None,
        responses=problems(*guard.refusals(404, write=True)),
        dependencies=guard.change(),
    )
    async def delete(id: Annotated[str, Path(min_length=1, max_length=forms.MOST_ID)]) -> Any:
        """Removes a product, never to be found again unless it is added anew."""
        async with service.turn():
            await service.in_thread(service.known, catalogue.remove, id)
        service.metrics.changes.labels("removed").inc()
        return Response(status_code=204)

    def has(name: str) -> bool:
        try:
            catalogue.get(name)
        except KeyError:
            return False
        return True
