"""Commands from a model to a search: export, embed, index, search, serve, rank."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trainer.config import UserError
from trainer.config.console import Debug, one_line_errors, plain
from trainer.launch import summary
from trainer.launch.commands.options import (
    BadShare,
    ImageSize,
    Items,
    Json,
    Model,
    Post,
    PostOptions,
    Precision,
    Run,
    Views,
    WithDefault,
    write_json,
)

app = typer.Typer()
index = typer.Typer(
    cls=WithDefault,
    subcommand_metavar="| add ... | remove ... | merge ...",
    help="Embed a catalogue with a run's model and build an index over it.",
)
embed = typer.Typer(
    cls=WithDefault,
    subcommand_metavar="| merge ...",
    help="Embed a catalogue with a run's model into arrays on disk, in shards if wanted.",
)
app.add_typer(index, name="index")
app.add_typer(embed, name="embed")


@app.command()
@one_line_errors
def export(
    run: Run,
    to: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the SavedModel.")],
    precision: Precision = "float32",
    image_size: ImageSize = None,
    tta: Views = "none",
    debug: Debug = False,
) -> None:
    """Write a run's model as a SavedModel that plain TensorFlow loads."""
    summary.quiet_tensorflow()
    from trainer.launch.evaluating import ModelForm, export_run
    from trainer.launch.run_folder import RunFolder

    form = ModelForm(precision, image_size, tta)
    plain().print(f"model in {export_run(RunFolder.open(run), to, form)}")


@embed.command("catalogue", hidden=True)
@one_line_errors
def embed_catalogue(
    run: Run,
    items: Items,
    to: Annotated[
        str, typer.Option(metavar="DIR", help="Folder to make, or to go on with; gs:// too.")
    ],
    beam_options: Annotated[
        list[str] | None,
        typer.Argument(metavar="[-- BEAM OPTIONS]", help="With --beam: behind --."),
    ] = None,
    shard: Annotated[
        str, typer.Option(metavar="i/n", help="Part to embed: 1/4 is the first of four.")
    ] = "1/1",
    beam: Annotated[
        bool, typer.Option("--beam", help="As a pipeline of Apache Beam, for fleets.")
    ] = False,
    model: Model = None,
    max_bad_share: BadShare = None,
    snapshot: Annotated[int, typer.Option(help="Rows after which what is done is written.")] = 1024,
    debug: Debug = False,
) -> None:
    """Embed a catalogue with a run's model into arrays on disk.

    Given again after a stop, it goes on where it was. Pictures that can't be decoded are left out,
    and named in bad_images.log.
    """
    from trainer.launch.embedding.plan import parse_shard

    part = parse_shard(shard)
    if beam:
        from trainer.launch.beam.required import require_beam

        require_beam("mildnet embed --beam")
    elif beam_options:
        raise UserError(f"{beam_options[0]}: options behind -- are Beam's: give --beam as well")
    summary.quiet_tensorflow()
    from trainer.launch.embedding.walk import EmbedOptions, embed_catalogue
    from trainer.launch.run_folder import RunFolder

    options = EmbedOptions(items, to, part, model, snapshot, max_bad_share)
    console = plain()
    finished = RunFolder.open(run)
    if beam:
        from trainer.launch.embedding.pipeline import embed_by_beam

        summary.log_to(console)
        done = embed_by_beam(finished, options, beam_options or [], console.print)
    else:
        done = embed_catalogue(finished, options, console.print)
    summary.show_embedded(done, console)


@embed.command("merge")
@one_line_errors
def embed_merge(
    folders: Annotated[
        list[str],
        typer.Argument(metavar="DIR...", help="Shards, or folders that hold them."),
    ],
    to: Annotated[str, typer.Option(metavar="DIR", help="Folder to make; gs:// too.")],
    max_bad_share: BadShare = None,
    debug: Debug = False,
) -> None:
    """Put the shards of a catalogue together: what embedding it in one go makes."""
    summary.quiet_tensorflow()
    from trainer.launch.embedding.merging import merge

    console = plain()
    summary.show_embedded(
        merge(folders, to, max_bad_share=max_bad_share, tell=console.print), console
    )


@index.command("build", hidden=True)
@one_line_errors
def index_build(
    run: Run,
    to: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the index.")],
    items: Annotated[
        str | None,
        typer.Option(metavar="ITEMS.csv|DIR", help="Catalogue: an items.csv, or its folder."),
    ] = None,
    embeddings: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Instead of --items: what embed wrote of a catalogue."),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="index=hnsw, index.m=32, ..."),
    ] = None,
    model: Model = None,
    debug: Debug = False,
) -> None:
    """Embed a catalogue with a run's model and build an index over it.

    Where an index of the same model is there, only pictures that are new or have changed since are
    embedded.
    """
    if (items is None) == (embeddings is None):
        raise UserError("give --items or --embeddings, one of the two")
    summary.quiet_tensorflow()
    from trainer.launch.run_folder import RunFolder
    from trainer.launch.searching import index_catalogue, index_embeddings

    tell = plain().print
    changes = overrides or []
    if items is not None:
        count = index_catalogue(
            RunFolder.open(run), items, to, changes, model_folder=model, tell=tell
        )
    else:
        count = index_embeddings(
            RunFolder.open(run), str(embeddings), to, changes, model_folder=model
        )
    tell(f"{count} items in {to}")


@index.command("add")
@one_line_errors
def index_add(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="The run that the index was built with.")
    ],
    items: Items,
    to: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the index.")],
    model: Model = None,
    debug: Debug = False,
) -> None:
    """Add the items of a catalogue to an index, without building it anew.

    Pictures that it has not are added, and those that have changed since take the place of the old
    ones. Items that the catalogue does not name stay.
    """
    summary.quiet_tensorflow()
    from trainer.launch.run_folder import RunFolder
    from trainer.launch.updating import add_to_index

    tell = plain().print
    change = add_to_index(RunFolder.open(run), items, to, model_folder=model, tell=tell)
    tell(f"{change}; {change.items} items in {to}")


@index.command("remove")
@one_line_errors
def index_remove(
    folder: Annotated[Path, typer.Option("--from", metavar="DIR", help="Folder of the index.")],
    ids: Annotated[
        list[str] | None,
        typer.Argument(metavar="ID", help="Items: ids as in search results, or paths."),
    ] = None,
    labels: Annotated[
        list[str] | None,
        typer.Option("--label", metavar="LABEL", help="All items of a product; repeatable."),
    ] = None,
    items: Annotated[
        str | None,
        typer.Option(metavar="ITEMS.csv|DIR", help="All items of the pictures of a catalogue."),
    ] = None,
    debug: Debug = False,
) -> None:
    """Remove items from an index, without building it anew."""
    from trainer.launch.updating import remove_from_index

    change = remove_from_index(folder, ids or [], labels=labels or [], source=items)
    plain().print(f"{change}; {change.items} items in {folder}")


@index.command("merge")
@one_line_errors
def index_merge(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the index.")],
    changes: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Default: DIR.changes.sqlite.")
    ] = None,
    debug: Debug = False,
) -> None:
    """Take products that were added and removed while an index was served into the index.

    Their pictures are written to DIR.pictures. No server may be using the changes meanwhile.
    """
    from trainer.launch.updating import merge_changes

    change = merge_changes(folder, changes=changes)
    plain().print(f"{change}; {change.items} items in {folder}")


@app.command()
@one_line_errors
def search(
    run: Run,
    images: Annotated[list[str], typer.Argument(metavar="IMAGE...", help="Picture files.")],
    k: Annotated[int, typer.Option("-k", help="Neighbours for each picture.", min=1)] = 10,
    index: Annotated[
        str | None, typer.Option(metavar="DIR", help="Index to search; default: the run's.")
    ] = None,
    model: Model = None,
    picture: Annotated[
        str | None, typer.Option(metavar="FILE.png", help="Draw queries and neighbours.")
    ] = None,
    json_file: Json = None,
    debug: Debug = False,
) -> None:
    """Find the nearest catalogue items of picture files."""
    summary.quiet_tensorflow()
    from trainer.launch.run_folder import RunFolder
    from trainer.launch.searching import search_images

    rows = search_images(
        RunFolder.open(run), images, k, index_folder=index, model_folder=model, picture=picture
    )
    summary.show_neighbours(rows, plain())
    write_json(json_file, rows)


@app.command()
@one_line_errors
def serve(
    run: Run,
    index: Annotated[
        str | None, typer.Option(metavar="DIR", help="Index to search; default: the run's.")
    ] = None,
    model: Model = None,
    host: Annotated[
        str, typer.Option(help="Address to serve on; 0.0.0.0: all of this machine.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0: a free one.", min=0, max=65535)] = 8080,
    k: Annotated[int, typer.Option("-k", help="Neighbours where none are asked for.")] = 20,
    most_k: Annotated[int, typer.Option(help="Most neighbours that may be asked for.")] = 100,
    most_bytes: Annotated[int, typer.Option(help="Largest picture file.")] = 10_000_000,
    most_pixels: Annotated[int, typer.Option(help="Most pixels of a picture.")] = 50_000_000,
    batch: Annotated[int, typer.Option(help="Most pictures in the model at once.")] = 32,
    batch_wait: Annotated[
        float, typer.Option(help="Most milliseconds it waits for pictures being decoded.")
    ] = 4.0,
    threads: Annotated[int, typer.Option(help="Threads that decode pictures.")] = 2,
    concurrency: Annotated[int, typer.Option(help="Requests at once; 503 beyond.")] = 128,
    deadline: Annotated[float, typer.Option(help="Most seconds for a request.")] = 30.0,
    rate: Annotated[
        str, typer.Option(help="Searches of a client, such as 20/second;600/minute; none.")
    ] = "20/second",
    writable: Annotated[
        bool, typer.Option("--writable", help="Products may be added and removed.")
    ] = False,
    changes: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Keeps them; default: INDEX.changes.sqlite."),
    ] = None,
    api_key_file: Annotated[
        str | None, typer.Option(metavar="FILE", help="Keys, one a line; also MILDNET_API_KEY.")
    ] = None,
    write_key_file: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Keys for changes; also MILDNET_WRITE_KEY."),
    ] = None,
    allow_url_host: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Search by URL from there; *.NAME too; repeatable."),
    ] = None,
    cors_origin: Annotated[
        list[str] | None,
        typer.Option(metavar="URL", help="Pages from there may use the API; repeatable."),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Clients may call this service so; repeatable."),
    ] = None,
    proxy: Annotated[
        str, typer.Option(metavar="ADDRESSES", help="Proxies whose X-Forwarded-For is believed.")
    ] = "",
    drain: Annotated[
        float, typer.Option(help="Seconds to go on after a signal to stop.", min=0)
    ] = 0.0,
    stop_within: Annotated[
        int, typer.Option(help="Most seconds for requests in flight.", min=1)
    ] = 30,
    access_log: Annotated[
        bool, typer.Option("--access-log/--no-access-log", help="A line for each request.")
    ] = True,
    debug: Debug = False,
) -> None:
    """Serve searches over HTTP, and a page to search with, until told to stop."""
    summary.quiet_tensorflow()
    from trainer.launch import serving
    from trainer.launch.run_folder import RunFolder

    options = serving.service_options(
        k=k,
        most_k=most_k,
        most_bytes=most_bytes,
        most_pixels=most_pixels,
        batch=batch,
        batch_wait=batch_wait / 1000,
        threads=threads,
        concurrency=concurrency,
        deadline=deadline,
        rate=None if rate == "none" else rate,
        writable=writable,
        url_hosts=tuple(allow_url_host or ()),
        keys=serving.read_keys(api_key_file, serving.KEY),
        write_keys=serving.read_keys(write_key_file, serving.WRITE_KEY),
        cors_origins=tuple(cors_origin or ()),
        hosts=tuple(allow_host or ()),
        access_log=access_log,
    )
    serving.serve(
        RunFolder.open(run),
        serving.Endpoint(host, port, proxy, drain, stop_within),
        options,
        index_folder=index,
        model_folder=model,
        changes=changes,
    )


@app.command()
@one_line_errors
def rank(
    model: Annotated[
        str, typer.Option(metavar="RUN", help="Run folder, or an exported model's folder.")
    ],
    gallery: Annotated[
        str, typer.Option(metavar="GALLERY.csv", help="Columns img_path, optional product_id.")
    ],
    queries: Annotated[
        str, typer.Option(metavar="QUERIES.csv", help="The same, optional bbox_x, _y, _w, _h.")
    ],
    to: Annotated[Path, typer.Option(metavar="FILE.npy", help="Array to write.")],
    data: Annotated[
        str, typer.Option(metavar="DIR", help="Folder of the pictures; default: the gallery's.")
    ] = "",
    k: Annotated[int, typer.Option("-k", help="Items for each query.", min=1)] = 1000,
    post: Post = "none",
    overrides: PostOptions = None,
    borders: Annotated[
        bool, typer.Option(help="Cut white borders of the gallery's pictures off.")
    ] = True,
    json_file: Json = None,
    debug: Debug = False,
) -> None:
    """Rank a gallery for queries, as the product recognition challenge asks: an array of rows."""
    from trainer.retrieval.rerank.options import method, read_changes

    chosen = method(post, read_changes(overrides or []))
    summary.quiet_tensorflow()
    from trainer.data.files import require_place
    from trainer.launch.ranking import ProductRanker, write_ranks

    require_place(str(to), "ranks.npy")
    if json_file is not None:
        require_place(str(json_file), "ranks.json")
    folder = data or gallery.rpartition("/")[0] or "."
    ranker = ProductRanker(folder, gallery, queries, model=model, k=k, post=chosen, borders=borders)
    found = ranker.rank()
    write_ranks(to, found.rows)
    summary.show_ranks(found, k, plain())
    plain().print(f"ranks in {to}")
    write_json(json_file, found.to_dict())
