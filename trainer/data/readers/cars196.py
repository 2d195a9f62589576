"""`dataset="cars196"`: Stanford Cars, in both layouts that were published."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from trainer.config import UserError, register
from trainer.data import files
from trainer.data.readers.published import (
    boxes_of,
    class_splits,
    first_there,
    missing,
    published_root,
)
from trainer.data.table import ItemTable

#: All pictures in one folder, with one file that says of each whether it is for testing.
TOGETHER = ("cars_annos.mat", "car_ims")
META = ("devkit/cars_meta.mat", "cars_meta.mat")
TRAIN = ("devkit/cars_train_annos.mat", "cars_train_annos.mat")
# It was published by itself, beside the devkit, whose own list of test pictures has no classes.
TEST = ("cars_test_annos_withlabels.mat", "devkit/cars_test_annos_withlabels.mat")
#: Pictures to train on and to test on in folders of their own, with a devkit.
APART = ("|".join(META), "|".join(TRAIN), "|".join(TEST), "cars_train", "cars_test")
CORNERS = ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2")


@register("dataset", "cars196")
def cars196(
    data_path: str,
    *,
    split: Literal["classes", "published"] = "classes",
    val: float = 0,
    val_seed: int = 0,
    boxes: bool = False,
) -> ItemTable:
    """Stanford Cars (Cars-196): 16,185 pictures of 196 makes, models and years of cars.

    Args:
        data_path: folder with `cars_annos.mat` and `car_ims`; or with `cars_train`, `cars_test`,
            `devkit` and `cars_test_annos_withlabels.mat`; or the one that holds such a folder
            under the name `stanford_cars`.
        split: `classes` trains on the first half of the classes (98) and tests on the others, as
            papers on retrieval do; `published` takes the published parts for training (8,144) and
            testing (8,041), which have the same classes.
        val: share (below 1) or number of the training classes that are held out for validation;
            default 0, none.
        val_seed: decides which classes.
        boxes: whether pictures are cut to the published boxes, default false.

    Raises:
        UserError: a folder or a file is missing or damaged, or SciPy, which reads `.mat` files
            (extra `mat`).
        ValueError: `val` leaves nothing to train on.

    Krause et al.: 3D object representations for fine-grained categorization, 2013.
    """
    root, needed = _place(data_path)
    if needed is TOGETHER:
        found = _read_mat(files.join(root, TOGETHER[0]), "annotations", "class_names")
        names = _texts(found["class_names"])
        cars = _Cars(names)
        cars.add(files.join(root, TOGETHER[0]), found["annotations"], "relative_im_path", "")
    else:
        names = _texts(_read_mat(first_there(root, *META), "class_names")["class_names"])
        cars = _Cars(names)
        for part, lists in (("train", TRAIN), ("test", TEST)):
            path = first_there(root, *lists)
            found = _read_mat(path, "annotations")
            cars.add(path, found["annotations"], "fname", f"cars_{part}/", part == "test")
    if not cars.pictures:
        example = f"; the first: {cars.problems[0]}" if cars.problems else ""
        raise UserError(f"{root} lists no picture that can be used{example}")
    if split == "published":
        in_train = [not tested for tested in cars.tested]
    else:
        in_train = [number <= len(names) // 2 for number in cars.classes]
    labels = [names[number - 1] for number in cars.classes]
    return ItemTable.from_columns(
        [files.join(root, name) for name in cars.pictures],
        labels,
        split=class_splits(labels, in_train, val, val_seed),
        box=boxes_of(cars.pictures, cars.boxes) if boxes else None,
        problems=cars.problems,
    )


def _place(data_path: str) -> tuple[str, tuple[str, ...]]:
    """Return the folder that holds the data set, and what is needed there: the layout."""
    root = files.require_folder(data_path)
    inner = files.join(root, "stanford_cars")
    layouts: tuple[tuple[str, ...], ...] = (TOGETHER, APART)
    for place in (root, inner):
        for needed in layouts:
            if not missing(place, needed):
                return place, needed
    # Of neither all is there: the layout of which there is more is the one that was meant.
    place = inner if files.is_folder(inner) else root
    needed = min(layouts, key=lambda names: len(missing(place, names)) / len(names))
    advice = (
        "give the folder that holds cars_annos.mat and car_ims, or cars_train, cars_test, devkit "
        "and cars_test_annos_withlabels.mat"
    )
    return published_root(data_path, "stanford_cars", needed, advice), needed


@dataclass
class _Cars:
    """Pictures with what a list says of them."""

    names: list[str]
    pictures: list[str] = field(default_factory=list)
    classes: list[int] = field(default_factory=list)
    tested: list[bool] = field(default_factory=list)
    boxes: dict[str, tuple[float, ...]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def add(
        self, path: str, rows: np.ndarray, picture: str, folder: str, tested: bool | None = None
    ) -> None:
        """Take up the rows of a list.

        Args:
            path: the file they are from.
            rows: struct array of MATLAB.
            picture: field that names the picture.
            folder: what its name is relative to, below the data set.
            tested: whether these are pictures to test on; none: the field `test` says so.

        Raises:
            UserError: a field is missing.
        """
        needed = (picture, "class", *CORNERS, *(() if tested is not None else ("test",)))
        lost = [name for name in needed if name not in (rows.dtype.names or ())]
        if lost:
            raise UserError(f"{path}: its annotations have no {', '.join(lost)}")
        for number, row in enumerate(rows, start=1):
            try:
                values: dict[str, Any] = {name: np.asarray(row[name]).item() for name in needed}
                name, kind = folder + values[picture], int(values["class"])
                x1, y1, x2, y2 = (float(values[corner]) for corner in CORNERS)
            except (TypeError, ValueError, OverflowError):
                self.problems.append(f"{path}:{number}: a field has no value of its kind")
                continue
            if not 1 <= kind <= len(self.names):
                self.problems.append(f"{path}:{number}: class {kind} of {len(self.names)}")
                continue
            self.pictures.append(name)
            self.classes.append(kind)
            self.tested.append(bool(values["test"]) if tested is None else tested)
            # MATLAB counts pixels from 1, and the last one is inside.
            self.boxes[name] = (x1 - 1, y1 - 1, x2 - x1 + 1, y2 - y1 + 1)


def _read_mat(path: str, *names: str) -> Mapping[str, np.ndarray]:
    """Return variables of a MATLAB file, each as a list in one dimension.

    Raises:
        UserError: it is missing, damaged, or lacks one; or SciPy is missing.
    """
    try:
        from scipy.io import loadmat
    except ImportError:
        raise UserError("reading .mat files needs SciPy: pip install 'mildnet[mat]'") from None
    try:
        content = files.read_bytes(path)
    except OSError as error:
        raise UserError(f"cannot read {path}: {files.reason(error)}") from None
    try:
        found = loadmat(io.BytesIO(content), variable_names=names)
    except Exception as error:  # SciPy's reader fails on damaged bytes with errors of any kind
        what = str(error).partition("\n")[0] or type(error).__name__
        raise UserError(f"{path} is damaged, or no .mat file ({what}): fetch it again") from None
    lost = [name for name in names if name not in found]
    if lost:
        raise UserError(f"{path} holds no {', '.join(lost)}: it is not the published file")
    return {name: np.asarray(found[name]).ravel() for name in names}


def _texts(cells: np.ndarray) -> list[str]:
    """Return the texts of a cell array."""
    return ["".join(map(str, np.asarray(cell).ravel())) for cell in cells]
