"""What a job takes from modules of the user's own: model, data, loss, and the training loop."""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import logging
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from trainer.config import UserError
from trainer.config.job import EXAMPLE_ROWS, JobConfig
from trainer.config.model_module import ModelModule
from trainer.config.user_code import user_function, user_module
from trainer.data.files import read_text
from trainer.data.join import join
from trainer.data.table import ItemTable
from trainer.launch.run_folder import RunFolder

if TYPE_CHECKING:
    import keras

LOG = logging.getLogger(__name__)

#: Folder of a run with the source of the user's modules.
CODE = "code"

#: Names that a module may give its data sets -> the split that they are.
SPLITS = {
    "train": "train",
    "trn": "train",
    "val": "val",
    "vld": "val",
    "test": "test",
    "tst": "test",
}


def build_model(config: JobConfig) -> keras.Model:
    """Build the model of a config: its component, or what `build(image_size)` of its module makes.

    Raises:
        UserError: it can't be built, or the module's is not a model of images to embeddings.
    """
    if not config.model_module:
        return config.build("model", config.image_size)
    from trainer.models.names import restart_numbers

    module = ModelModule.load(config.model_module).module
    restart_numbers()
    model = module.build(config.image_size)
    _check_model(model, config.image_size, f"{_place(config)}: build({config.image_size})")
    return model


def build_loss(config: JobConfig) -> Any:
    """Build the loss of a config: its component, or what `loss()` of its module makes.

    Raises:
        UserError: it can't be built, or the module's doesn't fit the sampler.
    """
    if config.loss:
        return config.build("loss")
    module = ModelModule.load(config.model_module).module
    if not hasattr(module, "loss"):
        raise UserError(f"{_place(config)}: set loss in its config, or define loss()")
    loss = module.loss()
    if not callable(loss):
        raise UserError(
            f"{_place(config)}: loss() returns {_kind(loss)}, not a loss that is called with "
            "labels and embeddings"
        )
    takes = getattr(loss, "takes", "labels")
    if takes not in EXAMPLE_ROWS:
        raise UserError(
            f"{_place(config)}: loss() takes {takes!r}; allowed are {', '.join(EXAMPLE_ROWS)}"
        )
    if EXAMPLE_ROWS[takes] != config.example_rows():
        raise UserError(
            f"{_place(config)}: loss() learns from {takes}, but sampler {config.sampler!r} gives "
            "others; set sampler in its config, or the attribute `takes` of the loss"
        )
    return loss


def read_datasets(config: JobConfig) -> ItemTable:
    """Return what `datasets()` of a config's module gives, as one table with splits.

    Labels are the same where their text is, whichever table they are in.

    Raises:
        UserError: it is not a mapping of tables, or holds nothing to evaluate on.
    """
    given = ModelModule.load(config.model_module).module.datasets()
    where = f"{_place(config)}: datasets()"
    if not isinstance(given, Mapping):
        raise UserError(f"{where} returns {_kind(given)}, not a mapping of train, val, test")
    parts: dict[str, ItemTable] = {}
    for key, table in given.items():
        split = SPLITS.get(key)
        if split is None:
            raise UserError(
                f"{where} gives {key!r}; allowed are train (or trn), val (vld) and test (tst)"
            )
        if split in parts:
            raise UserError(f"{where} gives {split} under two names; give it once")
        if not isinstance(table, ItemTable):
            raise UserError(
                f"{where}[{key!r}] is {_kind(table)}, not an ItemTable; "
                "trainer.data.table.ItemTable.from_rows makes one"
            )
        parts[split] = table
    if "train" not in parts:
        raise UserError(f"{where} gives no train; it has {', '.join(parts) or 'nothing'}")
    if len(parts) == 1:
        raise UserError(f"{where} gives train alone; give test or val too, to evaluate on")
    return join(
        [
            dataclasses.replace(table, split=np.full(len(table), split, object))
            for split, table in parts.items()
        ]
    )


def training_loop(config: JobConfig) -> Callable[[Any], Any]:
    """Return `fit(task)`: the library's, or that of the module that `trainer` names.

    Raises:
        UserError: there is no such module, or no such function in it.
    """
    if config.trainer:
        return _own_loop(config.trainer)
    from trainer.training.loop import fit

    return fit


def check_modules(config: JobConfig) -> None:
    """Import the modules and functions that a config names, before anything slow.

    Raises:
        UserError: one of them is not there, or lacks what is needed of it.
    """
    if config.model_module:
        ModelModule.load(config.model_module)
    if config.trainer:
        user_function(f"{config.trainer}.fit", "trainer")
    for key in ("trainable_function", "decay_function"):
        if name := getattr(config.training, key):
            user_function(name, f"train.{key}")


def note_sources(folder: RunFolder, config: JobConfig) -> dict[str, dict[str, str]]:
    """Copy the source of a config's modules to the run, and return name, file and sha256 of each.

    A module that has changed since the run began is copied beside its older form, with a warning.
    """
    noted = {}
    for key in ("model_module", "trainer"):
        name = getattr(config, key)
        if name:
            module = user_module(name, key)
            text = inspect.getsource(module)
            digest = hashlib.sha256(text.encode()).hexdigest()
            _keep(folder, name, text, digest)
            noted[key] = {"name": name, "file": str(module.__file__), "sha256": digest}
    return noted


def import_model_module(config: JobConfig) -> ModuleType | None:
    """Import the module that built a run's model, so that Keras finds its layers again."""
    if not config.model_module:
        return None
    return user_module(config.model_module, "model_module")


def _own_loop(name: str) -> Callable[[Any], Any]:
    fit = user_function(f"{name}.fit", "trainer")

    def checked(task: Any) -> Any:
        outcome = fit(task)
        if not dataclasses.is_dataclass(outcome) or not hasattr(outcome, "step"):
            raise UserError(
                f"trainer={name}: fit(task) returns {_kind(outcome)}, not an Outcome as that of "
                "trainer.training.loop"
            )
        return outcome

    return checked


def _keep(folder: RunFolder, name: str, text: str, digest: str) -> None:
    file = f"{CODE}/{name}.py"
    if folder.exists(file) and read_text(folder.file(file)) != text:
        LOG.warning(
            "%s has changed since the run began: what follows may differ from a run in one go", name
        )
        file = f"{CODE}/{name}.{digest[:8]}.py"
    if not folder.exists(file):
        folder.write_text(file, text)


def _check_model(model: Any, size: int, where: str) -> None:
    import keras

    if not isinstance(model, keras.Model):
        raise UserError(f"{where} returns {_kind(model)}, not a keras.Model")
    try:
        taken, given = model.input_shape, model.output_shape
    except AttributeError:
        raise UserError(
            f"{where} returns a model whose shapes are not known before it is called; make it of "
            "keras.Input and layers (functional, or Sequential with an Input)"
        ) from None
    if not _fits(taken, (None, size, size, 3)):
        raise UserError(
            f"{where} takes {_shape(taken)}, not images ({size}, {size}, 3) in batches: "
            f"(None, {size}, {size}, 3)"
        )
    if not (isinstance(given, tuple) and len(given) == 2 and isinstance(given[1], int)):
        raise UserError(f"{where} gives {_shape(given)}, not one embedding an image: (None, D)")
    paths = [weight.path for weight in model.weights]
    twice = sorted({path for path in paths if paths.count(path) > 1})
    if twice:
        raise UserError(
            f"{where}: two weights have the path {twice[0]}, so that a checkpoint can't tell them "
            "apart; name the layers"
        )
    _check_copy(model, where)


def _check_copy(model: keras.Model, where: str) -> None:
    """Check that the model can be made anew from its config, as saving and exporting do."""
    reason = "its copy has other weights"
    try:
        copy = model.__class__.from_config(model.get_config())
        same = [w.shape for w in copy.weights] == [w.shape for w in model.weights]
    except (TypeError, ValueError, NotImplementedError, AttributeError) as error:
        same, reason = False, (str(error).strip() or type(error).__name__).splitlines()[0]
    if not same:
        raise UserError(
            f"{where}: the model can't be saved and loaded ({reason}); give layers of your own "
            "get_config() and keras.saving.register_keras_serializable(), and take such layers in "
            "place of Lambda"
        )


def _fits(shape: Any, wanted: tuple[int | None, ...]) -> bool:
    return (
        isinstance(shape, tuple)
        and len(shape) == len(wanted)
        and shape[-1] == wanted[-1]
        and all(size is None or size == want for size, want in zip(shape, wanted, strict=True))
    )


def _place(config: JobConfig) -> str:
    return f"model_module={config.model_module}"


def _kind(value: Any) -> str:
    name = type(value).__name__
    return "nothing" if value is None else f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"


def _shape(shape: Any) -> str:
    return str(shape) if isinstance(shape, tuple) else f"several of shapes {shape}"
