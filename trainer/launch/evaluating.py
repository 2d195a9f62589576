"""Metrics of a run on its data, or of embeddings in a file; and a run's model, exported again."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from trainer.config import UserError
from trainer.config.job import JobConfig
from trainer.data.domains import query_masks
from trainer.data.table import ItemTable
from trainer.launch.modules import build_model, import_model_module
from trainer.launch.run_folder import RunFolder
from trainer.launch.searching import embed_items
from trainer.launch.splits import read_split
from trainer.launch.starting import without_weights
from trainer.retrieval.embeddings_file import EmbeddingsFile, read_embeddings
from trainer.retrieval.metrics import Evaluation, evaluate

if TYPE_CHECKING:
    import keras

    from trainer.serving.precision import Precision

#: Cut-offs of the metrics that a job reports.
KS = (1, 5, 10, 100, 1000)


@dataclass(frozen=True)
class ModelForm:
    """What a run's model is exported as.

    Attributes:
        precision: type of weights and layers, see :func:`trainer.serving.export.export`.
        image_size: height and width of its input in pixels; None: as trained.
        tta: views of each picture, see :meth:`trainer.serving.views.Views.parse`.
    """

    precision: Precision = "float32"
    image_size: int | None = None
    tta: str = "none"

    def __str__(self) -> str:
        size = f"{self.image_size} pixels" if self.image_size else "size as trained"
        return f"{self.precision}, {size}, views: {self.tta}"


#: The form in which every run holds its model.
AS_TRAINED = ModelForm()


def measure(config: JobConfig, table: ItemTable, embeddings: np.ndarray) -> Evaluation:
    """Measure embeddings of a table as a config asks for it: its domains, its seed.

    Args:
        config: names the domains of queries and gallery.
        table: what was embedded.
        embeddings: (N, D) float32, one for each row.
    """
    return evaluate(embeddings, table.label, **options_of_run(config, table))


def options_of_run(config: JobConfig, table: ItemTable) -> dict[str, Any]:
    """Return the options of `metrics.evaluate` that a config and a table ask for."""
    is_query, is_gallery = query_masks(table, config.query_domain, config.gallery_domain)
    return {
        "is_query": is_query,
        "is_gallery": is_gallery,
        "ks": KS,
        "categories": table.category if any(table.category) else None,
        "domains": table.domain if any(table.domain) else None,
        "seed": config.seed,
    }


def evaluate_run(
    run: RunFolder, split: str | None = None, form: ModelForm = AS_TRAINED
) -> Evaluation:
    """Measure the exported model of a run on the data of its config.

    Args:
        run: a finished run.
        split: comma list of splits; default: the one that the run was tested on.
        form: what the model is exported as for that; as trained, the run's own export is measured.

    Raises:
        UserError: no model, one that cannot be had in this form, or data that is not there.
    """
    return measure(run.config(), *embed_split(run, split, form))


def embed_split(
    run: RunFolder, split: str | None = None, form: ModelForm = AS_TRAINED
) -> tuple[ItemTable, np.ndarray]:
    """Return rows of a run's data set, and their (N, D) float32 embeddings by its exported model.

    Args:
        run: a finished run.
        split: comma list of splits; default: the one that the run was tested on.
        form: what the model is exported as for that; as trained, the run's own export embeds.

    Raises:
        UserError: no model, one that cannot be had in this form, or data that is not there.
    """
    from trainer.serving.embedder import Embedder

    table = read_split(run.config(), split)
    with exported(run, form) as folder:
        return table, embed_items(Embedder(folder), table)


def evaluate_file(path: str | os.PathLike[str]) -> Evaluation:
    """Measure embeddings from an .npz file.

    Raises:
        UserError: no such file, or arrays that do not fit.
    """
    content = read_embeddings(path)
    return evaluate(content.embeddings, content.labels, **options_of_file(content))


def options_of_file(content: EmbeddingsFile) -> dict[str, Any]:
    """Return the options of `metrics.evaluate` that an embeddings file asks for."""
    return {
        "is_query": content.is_query,
        "is_gallery": content.is_gallery,
        "ks": KS,
        "categories": content.categories,
        "domains": content.domains,
    }


def export_run(run: RunFolder, to: Path, form: ModelForm = AS_TRAINED) -> Path:
    """Write the model of a finished run as a SavedModel.

    Args:
        run: a finished run.
        to: folder to write.
        form: what the model is exported as.

    Raises:
        UserError: the run has no model, it cannot be had in this form, or `to` holds something
            else.
    """
    from trainer.serving.export import export

    size = form.image_size or run.config().image_size
    return export(_model_at(run, size), to, image_size=size, precision=form.precision, tta=form.tta)


@contextlib.contextmanager
def exported(run: RunFolder, form: ModelForm) -> Iterator[str]:
    """Give the folder of a run's model in a form: its own export, or another one for the time."""
    if form == AS_TRAINED:
        yield run.file("model")
        return
    with tempfile.TemporaryDirectory() as scratch:
        yield str(export_run(run, Path(scratch) / "model", form))


def _model_at(run: RunFolder, size: int) -> keras.Model:
    """Return the model of a run for pictures of another size.

    Raises:
        UserError: the run has no model, or its net is bound to the size it was trained with.
    """
    import keras

    from trainer.models.weights.assign import assign
    from trainer.training.step import to_numpy

    model = load_model(run)
    config = run.config()
    if size == config.image_size:
        return model
    wanted = f"image_size={size}"
    before = keras.config.dtype_policy()
    # Layers go by the policy of the process, which was another when the run was trained.
    keras.config.set_dtype_policy(config.training.precision)
    try:
        other = build_model(dataclasses.replace(without_weights(config), image_size=size))
    except (UserError, ValueError) as error:
        words = str(error).partition("\n")[0]
        raise UserError(f"{wanted}: no such net as that of {run.path} ({words})") from None
    finally:
        keras.config.set_dtype_policy(before)
    bound = f"{wanted}: the net of {run.path} is bound to pictures of {config.image_size}"
    if other.output_shape != model.output_shape:
        lengths = f"{model.output_shape[-1]} to {other.output_shape[-1]}"
        raise UserError(f"{bound}: its embeddings would go from {lengths} numbers")
    shapes = {weight.path: tuple(weight.shape) for weight in other.weights}
    for weight in model.weights:
        if shapes.get(weight.path) != tuple(weight.shape):
            raise UserError(f"{bound}: its weights {weight.path} are made for that size")
    assign(other, {weight.path: to_numpy(weight.value) for weight in model.weights}, run.path)
    return other


def load_model(run: RunFolder) -> keras.Model:
    """Return the Keras model of a finished run.

    Raises:
        UserError: the run has none, or its file is damaged.
    """
    import_model_module(run.config())
    if not run.exists("model.keras"):
        raise UserError(f"{run.file('model.keras')}: no such file; the run has not finished")
    return load_keras(run.file("model.keras"))


def load_keras(source: str) -> keras.Model:
    """Return the model in a `.keras` file.

    Raises:
        UserError: the file is damaged, or names layers that are not known or not installed.
    """
    import keras

    import trainer.models.layers
    import trainer.models.saved_model
    import trainer.models.swinv2  # noqa: F401 - they register layers that model.keras names
    from trainer.models.names import restart_numbers

    restart_numbers()  # nets of others have layers without a name
    try:
        return keras.saving.load_model(source, compile=False)
    except (ValueError, OSError, KeyError, TypeError) as error:
        for package in ("keras_hub", "keras_cv"):
            if f"'{package}." in str(error) and importlib.util.find_spec(package) is None:
                extra = package.replace("_", "")
                raise UserError(
                    f'{source} needs {package}: pip install "mildnet[{extra}]"'
                ) from None
        words = str(error).partition("\n")[0]
        raise UserError(f"{source}: truncated, or not a model of mildnet ({words})") from None
