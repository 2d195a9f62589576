"""Commands that make data sets, lists of triplets, and runs of weights from elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trainer.config.console import Debug, one_line_errors, plain
from trainer.launch import summary
from trainer.launch.commands.options import ImageSize, IntoRun, Json, NewRun, write_json

app = typer.Typer()
data = typer.Typer(no_args_is_help=True, help="Make data sets to train on.")
convert = typer.Typer(no_args_is_help=True, help="Make runs of weights from elsewhere.")
app.add_typer(data, name="data")
app.add_typer(convert, name="convert")


@app.command()
@one_line_errors
def triplets(
    catalogue: Annotated[
        str, typer.Argument(metavar="CATALOGUE", help="An items.csv, or a folder of pictures.")
    ],
    to: Annotated[str, typer.Option(metavar="FILE.csv", help="List to write.")],
    val: Annotated[
        str | None, typer.Option(metavar="FILE.csv", help="Second list, for validation.")
    ] = None,
    val_share: Annotated[
        float, typer.Option(help="Share of labels, or of unlabelled pictures, for it.")
    ] = 0.1,
    unlabelled: Annotated[
        bool, typer.Option("--unlabelled", help="Go by likeness; labels are not looked at.")
    ] = False,
    folder_categories: Annotated[
        bool,
        typer.Option("--folder-categories", help="Unlabelled folders are named by category."),
    ] = False,
    split: Annotated[
        str | None, typer.Option(help="Comma list of splits; default: train if there is one.")
    ] = None,
    query_domain: Annotated[str, typer.Option(help="Domain of anchors.")] = "",
    gallery_domain: Annotated[str, typer.Option(help="Domain of positives and negatives.")] = "",
    per_anchor: Annotated[int, typer.Option(help="Triplets of each anchor.")] = 2,
    per_label: Annotated[
        int | None, typer.Option(help="At most so many triplets of a label.")
    ] = None,
    in_class_share: Annotated[
        float, typer.Option(help="Share of negatives that are like the anchor.")
    ] = 0.5,
    hard: Annotated[
        bool, typer.Option("--hard", help="In-class negatives from the nearest neighbours.")
    ] = False,
    scorers: Annotated[
        str, typer.Option(help="Comma list of color, texture, shape.")
    ] = "color,texture,shape",
    trunk: Annotated[
        str, typer.Option(metavar="NAME", help="Features of a trunk as one more scorer.")
    ] = "",
    weights: Annotated[
        str, typer.Option(help="Of the trunk: imagenet, none, or a file.")
    ] = "imagenet",
    image_size: Annotated[int, typer.Option(help="Of the trunk, pixels.", min=1)] = 224,
    run: Annotated[
        str, typer.Option(metavar="RUN", help="Model of a finished run as one more scorer.")
    ] = "",
    near: Annotated[int, typer.Option(help="Positives are among so many neighbours...")] = 3,
    agree: Annotated[int, typer.Option(help="... of so many scorers.")] = 2,
    in_class_from: Annotated[
        int, typer.Option(help="In-class negatives come behind so many neighbours...")
    ] = 20,
    in_class_to: Annotated[int, typer.Option(help="... and before this one is passed.")] = 100,
    seed: Annotated[int, typer.Option(help="Another seed draws other triplets.")] = 0,
    picture: Annotated[
        str | None, typer.Option(metavar="FILE.png", help="Draw some of the triplets.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace lists that are there.")
    ] = False,
    json_file: Json = None,
    debug: Debug = False,
) -> None:
    """Write a list of triplets to train on, from labels or from likeness alone."""
    summary.quiet_tensorflow()
    from trainer.launch.triplets import Depths, TripletOptions, make_triplets

    options = TripletOptions(
        unlabelled=unlabelled,
        folder_categories=folder_categories,
        split=split,
        query_domain=query_domain,
        gallery_domain=gallery_domain,
        per_anchor=per_anchor,
        per_label=per_label,
        in_class_share=in_class_share,
        hard=hard,
        scorers=tuple(name.strip() for name in scorers.split(",") if name.strip()),
        trunk=trunk,
        weights=weights,
        image_size=image_size,
        run=run,
        depths=Depths(near=near, agree=agree, low=in_class_from, high=in_class_to),
        val_share=val_share,
        seed=seed,
    )
    made = make_triplets(catalogue, to, options, val=val, picture=picture, overwrite=overwrite)
    summary.show_triplets(made, plain())
    write_json(json_file, made.to_dict())


@app.command("amazon-reviews")
@one_line_errors
def amazon_reviews(
    model: Annotated[
        str, typer.Option(metavar="RUN", help="Finished run whose exported model compares.")
    ],
    to: Annotated[str, typer.Option(metavar="DIR", help="Folder to make, or to go on with.")],
    reviews: Annotated[
        list[str],
        typer.Option(metavar="FILE", help="Reviews of a category, or a pattern; repeatable."),
    ],
    metadata: Annotated[
        list[str],
        typer.Option(metavar="FILE", help="Metadata of a category, or a pattern; repeatable."),
    ],
    beam_options: Annotated[
        list[str] | None,
        typer.Argument(metavar="[-- BEAM OPTIONS]", help="Behind --, such as --runner."),
    ] = None,
    threshold: Annotated[
        list[float] | None,
        typer.Option(help="Least mean similarity; repeatable; default: 0.5 and 0.6, a table each."),
    ] = None,
    least_pictures: Annotated[int, typer.Option(help="Of a product that is kept.")] = 2,
    reduced: Annotated[int, typer.Option(help="Pixels at which pictures are embedded.")] = 256,
    per_host: Annotated[int, typer.Option(help="Connections to a host, of a worker.")] = 4,
    rate: Annotated[
        float | None, typer.Option(help="Requests a second to a host, of a worker.")
    ] = None,
    timeout: Annotated[float, typer.Option(help="Seconds without an answer.")] = 15.0,
    attempts: Annotated[int, typer.Option(help="At most, for a picture, in a start.")] = 4,
    back_off: Annotated[
        float, typer.Option(help="Seconds between the first two attempts, doubled after.")
    ] = 1.0,
    retry_after: Annotated[
        float, typer.Option(help="Seconds until another start asks again, doubled with each.")
    ] = 600.0,
    threads: Annotated[
        int | None, typer.Option(help="Pictures in flight, of a worker; default: 2 x per host.")
    ] = None,
    snapshot: Annotated[
        int, typer.Option(help="Pictures after which a worker writes what it has.")
    ] = 1000,
    least_side: Annotated[int, typer.Option(help="Pixels of a picture's shorter side.")] = 16,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Go to no other hosts; *.NAME too; repeatable."),
    ] = None,
    allow_network: Annotated[
        list[str] | None,
        typer.Option(metavar="CIDR", help="Private addresses to go to all the same; repeatable."),
    ] = None,
    user_agent: Annotated[str, typer.Option(help="What to call oneself.")] = "mildnet",
    most_malformed: Annotated[
        float, typer.Option(help="Share of a file's lines that may be malformed.")
    ] = 0.01,
    debug: Debug = False,
) -> None:
    """Make a data set of the Amazon review dump: user pictures that are like their products'.

    An Apache Beam pipeline, on this machine or where Beam's own options say. Given again after a
    stop, it goes on where it was; failures that may pass are tried again once they are due.
    """
    from trainer.launch.amazon_reviews import options as settings
    from trainer.launch.beam.required import require_beam

    require_beam("mildnet amazon-reviews")
    summary.quiet_tensorflow()
    console = plain()
    summary.log_to(console)
    options = settings.ReviewOptions(
        reviews=reviews,
        metadata=metadata,
        model=model,
        to=to,
        thresholds=threshold or (0.5, 0.6),
        least_pictures=least_pictures,
        reduced=reduced,
        most_malformed=most_malformed,
        fetch=settings.FetchSettings(
            options=settings.fetch_options(
                timeout=timeout,
                attempts=attempts,
                back_off=back_off,
                per_host=per_host,
                rate=rate,
                least_side=least_side,
                allow_hosts=None if allow_host is None else tuple(allow_host),
                allow_networks=tuple(allow_network or ()),
                user_agent=user_agent,
            ),
            retry_after=retry_after,
            threads=2 * per_host if threads is None else threads,
            snapshot=snapshot,
        ),
        beam=tuple(beam_options or ()),
    )
    from trainer.launch.amazon_reviews.creating import create
    from trainer.launch.amazon_reviews.showing import show_created

    show_created(create(options, tell=console.print), console)


@data.command("fashion-mnist")
@one_line_errors
def fashion_mnist(
    to: Annotated[Path, typer.Option(metavar="DIR", help="Folder to make.")],
    source: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder with the IDX files.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(help="At most this many pictures of each class and file.", min=1)
    ] = None,
    debug: Debug = False,
) -> None:
    """Make an items data set from Fashion-MNIST, with an open-set and a closed split."""
    summary.quiet_tensorflow()
    from trainer.data.prepare.fashion_mnist import prepare

    prepare(str(to), None if source is None else str(source), limit=limit)
    plain().print(f"data set in {to}")


@data.command("icon-themes")
@one_line_errors
def icon_themes(
    to: Annotated[Path, typer.Option(metavar="DIR", help="Folder to make.")],
    source: Annotated[
        list[Path] | None,
        typer.Option(metavar="DIR", help="Folder that holds themes; may be given several times."),
    ] = None,
    theme: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Theme to take instead of the usual six; several times."),
    ] = None,
    size: Annotated[int, typer.Option(help="Side of the pictures in pixels.", min=8)] = 64,
    debug: Debug = False,
) -> None:
    """Make an items data set from installed icon themes: one label an icon, one domain a theme."""
    from trainer.data.prepare.icon_themes import prepare

    prepare(str(to), [str(folder) for folder in source or []], themes=theme or (), size=size)
    plain().print(f"data set in {to}")


@convert.command("mildnet-h5")
@one_line_errors
def mildnet_h5(
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="weights-improvement-*.h5 or model.h5.")
    ],
    model_id: Annotated[str, typer.Option(metavar="NAME", help="The model that was trained.")],
    to: NewRun,
    overrides: IntoRun = None,
    debug: Debug = False,
) -> None:
    """Make a run of weights that MILDNet's own code saved (tf.keras 1.10, HDF5)."""
    summary.quiet_tensorflow()
    from trainer.launch.converting import convert_mildnet_h5

    convert_mildnet_h5(file, model_id, to, overrides or [])
    plain().print(f"run in {to}")


@convert.command("swinv2")
@one_line_errors
def swinv2(
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="model.safetensors, or a .bin or .pth file.")
    ],
    to: NewRun,
    window: Annotated[
        int | None, typer.Option(help="Side of a window in tokens; default: as trained.", min=1)
    ] = None,
    image_size: ImageSize = None,
    overrides: IntoRun = None,
    debug: Debug = False,
) -> None:
    """Make a run of Swin V2 weights of Hugging Face, timm or Microsoft's release."""
    summary.quiet_tensorflow()
    from trainer.launch.converting import convert_swinv2

    convert_swinv2(file, to, window=window, image_size=image_size, overrides=overrides or [])
    plain().print(f"run in {to}")


@convert.command("open-clip")
@one_line_errors
def open_clip(
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="A .safetensors, .bin, .pt or .pth file.")
    ],
    to: NewRun,
    image_size: ImageSize = None,
    epsilon: Annotated[
        float | None, typer.Option(help="Added to variances; default: as published for its size.")
    ] = None,
    overrides: IntoRun = None,
    debug: Debug = False,
) -> None:
    """Make a run of the ConvNeXt of an OpenCLIP model, or of a ConvNeXt of timm."""
    summary.quiet_tensorflow()
    from trainer.launch.converting import convert_open_clip

    convert_open_clip(file, to, image_size=image_size, epsilon=epsilon, overrides=overrides or [])
    plain().print(f"run in {to}")
