"""From a catalogue, with labels or without, to MILDNet's lists of triplets."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
import logging
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from trainer.config import UserError
from trainer.data import files
from trainer.data.readers.folder import picture_files
from trainer.data.readers.items import read_items
from trainer.data.table import ItemTable
from trainer.retrieval.pictures import Picture, SheetRow, contact_sheet, side_by_side
from trainer.retrieval.triplets.draw import DIVIDE_STREAM, SHOW_STREAM, Triplets
from trainer.retrieval.triplets.from_labels import from_labels
from trainer.retrieval.triplets.from_likeness import Depths, from_likeness, held_out
from trainer.retrieval.triplets.lists import whole_numbers

log = logging.getLogger(__name__)

#: Triplets of each kind in the picture.
SHOWN = 5


@dataclass(frozen=True)
class TripletOptions:
    """What triplets are made of.

    Args:
        unlabelled: take what the scorers agree on for a positive, instead of equal labels.
        folder_categories: without labels, in a folder of pictures: the first folder of a picture
            is its category.
        split: comma list of splits to use; None: `train` where the catalogue has that, else all.
        query_domain: domain of the anchors; empty: any.
        gallery_domain: domain of positives and negatives; empty: any.
        per_anchor: triplets of each anchor, at least 1.
        per_label: at most so many triplets of a label; None: all.
        in_class_share: share of in-class negatives, 0 to 1.
        hard: with labels, take in-class negatives from the first `depths.high` neighbours.
        scorers: names from :data:`trainer.retrieval.descriptors.SCORERS`.
        trunk: a trunk whose features are one more scorer; empty: none.
        weights: weights of the trunk: `imagenet`, `none` or the path of a file.
        image_size: height and width of the trunk's pictures, pixels.
        run: a finished run whose model is one more scorer; empty: none.
        depths: places in the neighbour lists.
        val_share: share of the labels, or of the pictures without labels, for validation.
        seed: 0 or more.

    Raises:
        UserError: an option is out of range, or of no use beside the others.
    """

    unlabelled: bool = False
    folder_categories: bool = False
    split: str | None = None
    query_domain: str = ""
    gallery_domain: str = ""
    per_anchor: int = 2
    per_label: int | None = None
    in_class_share: float = 0.5
    hard: bool = False
    scorers: tuple[str, ...] = ("color", "texture", "shape")
    trunk: str = ""
    weights: str = "imagenet"
    image_size: int = 224
    run: str = ""
    depths: Depths = field(default_factory=Depths)
    val_share: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        for wrong, message in (
            (self.per_anchor < 1, f"per-anchor {self.per_anchor}: at least 1 triplet"),
            (
                self.per_label is not None and self.per_label < 1,
                f"per-label {self.per_label}: at least 1 triplet",
            ),
            (
                not 0 <= self.in_class_share <= 1,
                f"in-class-share {self.in_class_share}: a share is from 0 to 1",
            ),
            (not 0 < self.val_share < 1, f"val-share {self.val_share}: above 0 and below 1"),
            (self.seed < 0, f"seed {self.seed}: a seed is 0 or more"),
            (
                self.unlabelled and (self.hard or self.per_label is not None),
                "hard and per-label need labels, and the catalogue is said to have none: leave "
                "them out (without labels, in-class negatives come from neighbour lists anyway)",
            ),
            (
                self.folder_categories and not self.unlabelled,
                "folder-categories is for catalogues without labels: add unlabelled",
            ),
            (
                self.scored and not (self.scorers or self.trunk or self.run),
                "there is no scorer: name one of color, texture, shape, or a trunk, or a run",
            ),
        ):
            if wrong:
                raise UserError(message)

    @property
    def scored(self) -> bool:
        """Whether the pictures themselves are looked at."""
        return self.unlabelled or self.hard


@dataclass(frozen=True)
class Written:
    """A list of triplets that was written.

    Attributes:
        path: the CSV file.
        triplets: its rows.
        in_class: how many of them have an in-class negative.
        pictures: different pictures in it.
        anchors: pictures that were tried as anchors.
        skipped: anchors without a triplet.
        replaced: negatives of the other kind than was drawn, as there was none of that.
    """

    path: str
    triplets: int
    in_class: int
    pictures: int
    anchors: int
    skipped: int
    replaced: int


@dataclass(frozen=True)
class Made:
    """What :func:`make_triplets` has made.

    Attributes:
        files: the lists, for training first.
        images: the folder that file names in them are relative to.
        left_out: pictures and rows of the catalogue that were not used.
        log: file that names them, each with its reason.
    """

    files: tuple[Written, ...]
    images: str
    left_out: int
    log: str

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return dataclasses.asdict(self)


def make_triplets(
    catalogue: str,
    to: str,
    options: TripletOptions,
    *,
    val: str | None = None,
    picture: str | None = None,
    overwrite: bool = False,
) -> Made:
    """Write a MILDNet CSV: anchor, positive, negative; three file names a row and no header.

    The same catalogue, options and seed give the same bytes, with any number of threads and
    whatever the order of the catalogue's rows. Pictures that cannot be used are left out, and named
    in `TO.bad_images.log`.

    Args:
        catalogue: an `items.csv`, a folder with one, a folder of labels with pictures in them, or,
            without labels, any folder of pictures.
        to: the CSV file.
        options: what triplets are made of.
        val: a second CSV file, for validation. It shares no label with the first, or, without
            labels, no picture.
        picture: PNG file to draw some triplets of `to` to.
        overwrite: replace CSV files that are there.

    Raises:
        UserError: nothing of the kind is there, a file exists, or no triplet can be made.
    """
    targets = [to] if val is None else [to, val]
    if val is not None and files.absolute(to) == files.absolute(val):
        raise UserError(f"both lists would be written to {to}: give them two names")
    for target in targets:
        if files.is_file(target) and not overwrite:
            raise UserError(f"{target} exists: choose another name, or replace it with --overwrite")
    table, folder = _read(catalogue, options)
    _check_domains(table, options)
    table, names, images, log_file, left_out = _usable(table, folder, to, options)
    vectors: dict[str, np.ndarray] = {}
    if options.scored:
        vectors, good = _scored(table, names, options, log_file)
        left_out += len(table) - len(good)
        table, names = table.select(good), [names[row] for row in good]
        vectors = {name: table_of[good] for name, table_of in vectors.items()}

    parts = [np.arange(len(table))] if val is None else _divided(table, vectors, options)
    drawn = [_drawn(table, rows, vectors, options) for rows in parts]
    for triplets, target in zip(drawn, targets, strict=True):
        if not len(triplets):
            raise UserError(_why_none(table, target, triplets, options))
    written = tuple(
        _write(target, triplets, names) for triplets, target in zip(drawn, targets, strict=True)
    )
    if picture is not None:
        _draw(table, drawn[0], options, picture, title=os.path.basename(to))
    return Made(written, images, left_out, log_file)


def _read(catalogue: str, options: TripletOptions) -> tuple[ItemTable, str]:
    """Return the catalogue's rows and the folder that it is in."""
    if files.is_file(catalogue):
        source = files.absolute(catalogue)
        folder = source.rpartition("/")[0]
    else:
        folder = files.require_folder(catalogue)
        source = files.join(folder, "items.csv")
    if files.is_file(source):
        if options.folder_categories:
            raise UserError(f"folder-categories is for folders of pictures, not for {source}")
        table = read_items(source, labels=not options.unlabelled)
    elif options.unlabelled:
        table = _pictures(folder, options.folder_categories)
    else:
        from trainer.data.readers.folder import folder as labelled

        table = labelled(folder)
    split = options.split
    if split is None and "train" in table.splits:
        split = "train"
    if split is not None:
        from trainer.data.verify import require_split

        table = require_split(table, split)
    return table, folder


def _pictures(folder: str, folder_categories: bool) -> ItemTable:
    """Return the pictures of a folder without labels."""
    names = picture_files(folder)
    return ItemTable.from_columns(
        path=[files.join(folder, name) for name in names],
        label=names,
        category=[name.rpartition("/")[0].split("/")[0] for name in names]
        if folder_categories
        else None,
    )


def _check_domains(table: ItemTable, options: TripletOptions) -> None:
    known = sorted(set(table.domain.tolist()) - {""})
    for name, domain in (
        ("query-domain", options.query_domain),
        ("gallery-domain", options.gallery_domain),
    ):
        if domain and domain not in known:
            there = f"it has {', '.join(known)}" if known else "it names no domains"
            raise UserError(f"{name} {domain!r}: the catalogue has no such pictures; {there}")


def _usable(
    table: ItemTable, folder: str, to: str, options: TripletOptions
) -> tuple[ItemTable, list[str], str, str, int]:
    """Return the rows to use, one a file, in the order of their names; their names; the folder
    these are relative to; the log of what is left out; and how much that is."""
    from trainer.data.verify import verify_images

    path = np.array([_tidy(name) for name in table.path], object)
    table = dataclasses.replace(table, path=path)
    images = _images(path.tolist(), folder)
    start = len(images) + 1
    order = sorted(range(len(table)), key=lambda row: table.path[row])
    faults = {row: why for row in order if (why := _unfit(table.path[row][start:]))}
    faults |= _twice(table, [row for row in order if row not in faults], options)
    kept = table.select([row for row in order if row not in faults])
    if not len(kept):
        raise UserError(f"no picture of {folder} can be used: {next(iter(faults.values()))}")
    if not np.isnan(kept.box).all():
        log.warning("a list of triplets has no place for boxes: training sees whole pictures")

    if not files.is_remote(to):
        Path(files.absolute(to)).parent.mkdir(parents=True, exist_ok=True)
    log_file = f"{to}.bad_images.log"
    if files.is_remote(log_file):
        log_file = os.path.basename(log_file)
    good = verify_images(kept, max_bad_share=math.inf, log_file=log_file)
    _note(log_file, ((table.path[row], why) for row, why in faults.items()))
    names = [path[start:] for path in good.path.tolist()]
    left_out = len(table) - len(good) + len(table.problems)
    return good, names, images, log_file, left_out


def _tidy(path: str) -> str:
    """Return a local path without `..`: names in a list lie below one folder."""
    return path if files.is_remote(path) else os.path.normpath(path)


def _images(paths: list[str], folder: str) -> str:
    """Return `folder` if all pictures are below it, else the folder that they have in common."""
    if all(path.startswith(f"{folder}/") for path in paths):
        return folder
    common = []
    for parts in zip(*(path.split("/")[:-1] for path in paths), strict=False):
        if len(set(parts)) > 1:
            break
        common.append(parts[0])
    if not any(part and not part.endswith(":") for part in common):
        raise UserError(
            "the pictures have no folder in common, which a list of triplets needs: put them below "
            "one folder"
        )
    return "/".join(common)


def _unfit(name: str) -> str:
    """Return why a file name cannot stand in a list, or an empty text."""
    if name != name.strip() or any(part.startswith(".") for part in name.split("/")):
        return "a list of triplets cannot name hidden files, and names that begin or end in a space"
    if any(mark in name for mark in "\n\r\0"):
        return "a list of triplets cannot name a file with a line break in its name"
    try:
        name.encode()
    except UnicodeEncodeError:
        return "its name is not UTF-8"
    return ""


def _twice(table: ItemTable, rows: list[int], options: TripletOptions) -> dict[int, str]:
    """Return the rows that cannot stay because others show the same file."""
    by_path: dict[str, list[int]] = {}
    for row in rows:
        by_path.setdefault(table.path[row], []).append(row)
    faults: dict[int, str] = {}
    for same in by_path.values():
        several = len(same) > 1 and len(set(table.label[same].tolist())) > 1
        if several and not options.unlabelled:
            why = "it shows several products, and a list of triplets names whole pictures"
            faults |= dict.fromkeys(same, why)
        else:
            faults |= dict.fromkeys(same[1:], "an earlier row has the same file")
    return faults


def _note(log_file: str, faults: Iterable[tuple[str, str]]) -> None:
    """Add lines to the log of what is left out."""
    lines = [f"{path}: {why}\n" for path, why in faults]
    if lines:
        before = files.read_text(log_file) if os.path.exists(log_file) else ""
        with files.whole_file(log_file) as stream:
            stream.writelines([before, *lines])


def _scored(
    table: ItemTable, names: list[str], options: TripletOptions, log_file: str
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return what each scorer says of each row, and the rows that can be used."""
    from trainer.retrieval.descriptors import describe

    good = np.ones(len(table), bool)
    faults: list[tuple[str, str]] = []
    vectors: dict[str, np.ndarray] = {}
    if options.scorers:
        found = describe(table.path.tolist(), options.scorers, boxes=table.box)
        vectors |= found.vectors
        good[list(found.unreadable)] = False
        faults += [(table.path[row], why) for row, why in found.unreadable.items()]
    vectors |= dict(_embedded(table, options))
    vectors = {name: whole_numbers(values) for name, values in vectors.items()}
    if not options.hard:
        first: dict[bytes, int] = {}
        for row in np.flatnonzero(good).tolist():
            parts = (values[row].tobytes() for values in vectors.values())
            key = hashlib.blake2b(b"".join(parts), digest_size=16).digest()
            if first.setdefault(key, row) != row:
                # Not to be told from it, a copy would be its positive, or worse, its negative.
                good[row] = False
                faults.append((table.path[row], f"to all scorers a copy of {names[first[key]]}"))
    _note(log_file, faults)
    return vectors, np.flatnonzero(good)


def _embedded(table: ItemTable, options: TripletOptions) -> Iterator[tuple[str, np.ndarray]]:
    """Yield what networks say of each row."""
    if options.trunk:
        import keras

        from trainer.retrieval.descriptors import trunk_features

        if options.weights == "none":
            keras.utils.set_random_seed(options.seed)
        yield (
            "trunk",
            trunk_features(
                table, options.trunk, weights=options.weights, image_size=options.image_size
            ),
        )
    if options.run:
        from trainer.launch.run_folder import RunFolder
        from trainer.launch.searching import embed_items
        from trainer.serving.embedder import Embedder

        yield "run", embed_items(Embedder(RunFolder.open(options.run).file("model")), table)


def _divided(
    table: ItemTable, vectors: Mapping[str, np.ndarray], options: TripletOptions
) -> list[np.ndarray]:
    """Return the rows for training and those for validation."""
    if options.unlabelled:
        chosen = held_out(
            vectors,
            *_parts(table, np.arange(len(table)), options),
            share=options.val_share,
            categories=table.category,
            depths=options.depths,
            seed=options.seed,
        )
    else:
        # Labels of one picture have no positive: they are negatives of the training list.
        labels, pictures = np.unique(table.label, return_counts=True)
        random = np.random.default_rng([options.seed, DIVIDE_STREAM])
        able = random.permutation(labels[pictures > 1])
        count = max(2, round(options.val_share * len(able)))
        if len(able) - count < 2:
            raise UserError(
                f"{len(able)} labels have two pictures or more: after {count} for validation too "
                "few are left to train on; add products, or leave out --val"
            )
        chosen = np.flatnonzero(np.isin(table.label, able[:count]))
    return [np.setdiff1d(np.arange(len(table)), chosen), chosen]


def _parts(
    table: ItemTable, rows: np.ndarray, options: TripletOptions
) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows that may be anchors, and those that may be positives and negatives."""
    queries, gallery = (
        rows[table.domain[rows] == domain] if domain else rows
        for domain in (options.query_domain, options.gallery_domain)
    )
    return queries, gallery


def _drawn(
    table: ItemTable, rows: np.ndarray, vectors: Mapping[str, np.ndarray], options: TripletOptions
) -> Triplets:
    shared = {
        "per_anchor": options.per_anchor,
        "in_class_share": options.in_class_share,
        "seed": options.seed,
    }
    if not options.unlabelled:
        return from_labels(
            table,
            rows,
            query_domain=options.query_domain,
            gallery_domain=options.gallery_domain,
            per_label=options.per_label,
            hard=vectors if options.hard else None,
            depth=options.depths.high,
            **shared,  # type: ignore[arg-type]
        )
    queries, members = _parts(table, rows, options)
    _, gallery = _parts(table, np.arange(len(table)), options)
    return from_likeness(
        vectors,
        queries,
        gallery,
        members=members,
        categories=table.category,
        depths=options.depths,
        **shared,  # type: ignore[arg-type]
    )


def _why_none(table: ItemTable, target: str, triplets: Triplets, options: TripletOptions) -> str:
    tried = f"no triplet can be made for {target}: none of {triplets.anchors} anchors has "
    if options.unlabelled:
        near, agree = options.depths.near, options.depths.agree
        return (
            f"{tried}a positive, which {agree} scorers have among their first {near}, and a "
            "negative; raise --near, lower --agree, or bring more pictures"
        )
    domain = f" of the domain {options.gallery_domain!r}" if options.gallery_domain else ""
    return (
        f"{tried}another picture{domain} with its label and one with another label; the catalogue "
        f"has {len(table)} pictures of {len(table.classes)} labels"
    )


def _write(target: str, triplets: Triplets, names: list[str]) -> Written:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([[names[row] for row in rows] for rows in triplets.rows.tolist()])
    if not files.is_remote(target):
        Path(files.absolute(target)).parent.mkdir(parents=True, exist_ok=True)
    files.write_bytes(target, text.getvalue().encode())
    return Written(
        path=target,
        triplets=len(triplets),
        in_class=int(triplets.in_class.sum()),
        pictures=len(np.unique(triplets.rows)),
        anchors=triplets.anchors,
        skipped=triplets.skipped,
        replaced=triplets.replaced,
    )


def _draw(
    table: ItemTable, triplets: Triplets, options: TripletOptions, path: str, title: str
) -> None:
    """Draw some triplets, those with in-class negatives beside the others."""
    random = np.random.default_rng([options.seed, SHOW_STREAM])
    order = random.permutation(len(triplets))

    def shown(row: int) -> Picture:
        known = table.category[row] if options.unlabelled else table.label_names[table.label[row]]
        return Picture(str(table.path[row]), known or None)  # whole, as training sees it

    sheets = []
    for name, kind in (("in-class", True), ("out-of-class", False)):
        rows = []
        for place in order[triplets.in_class[order] == kind][:SHOWN]:
            anchor, positive, negative = map(shown, triplets.rows[place].tolist())
            rows.append(SheetRow(anchor, [positive, negative], ["", name]))
        if rows:
            share = np.mean(triplets.in_class == kind)
            sheet = contact_sheet(
                rows,
                title=f"{title}: {name} negatives, {share:.0%} of {len(triplets):,} triplets",
                columns=("anchor", "positive", "negative"),
                marks=not options.unlabelled,
            )
            sheets.append(sheet)
    side_by_side(sheets, path)
