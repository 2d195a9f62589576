"""SavedModels of others, of TensorFlow 1 and 2, as a layer of a Keras 3 model."""

from __future__ import annotations

import atexit
import hashlib
import shutil
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from trainer.data.files import sha256
from trainer.models.saved_model_formats import Net, open_saved_model

#: Fingerprint -> folder, of the SavedModels that this process has seen. A copy of a layer, which
#: knows no more than the layer's config, finds its SavedModel here.
_SEEN: dict[str, Path] = {}


@keras.saving.register_keras_serializable(package="mildnet")
class SavedModelLayer(keras.layers.Layer):
    """Runs a SavedModel, whose variables become weights of the model around it.

    The folder is kept in the `.keras` file of the model, so that this one does without it later.
    Always computes in float32, whatever the dtype policy. Where the layer is frozen, statistics of
    batch normalisation stay and dropout is off while training.

    Args:
        folder: the SavedModel; None: that of an equal layer of this process, or, until
            `load_assets`, nothing.
        signature: which of its signatures to run; default: what the SavedModel can be called as
            (TensorFlow 2), else `default`, else `serving_default`, else its only one.
        output: which of several outputs; default: `default`, or the only one.
        content: what the config of an equal layer says; left out with `folder`.

    Maps float32 (B, H, W, 3) to float32 (B, D) or (B, h, w, D).

    Raises:
        ValueError: the folder holds no SavedModel, or none that takes such pictures.
    """

    def __init__(
        self,
        folder: str | None = None,
        signature: str | None = None,
        output: str | None = None,
        content: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        kwargs["dtype"] = "float32"
        super().__init__(**kwargs)
        self.signature = signature
        self.output_name = output
        self._content = dict(content or {})
        self._net: Net | None = None
        if folder is not None:
            self._content["fingerprint"] = remember(Path(folder))
        self._find()

    def _find(self) -> None:
        """Open the SavedModel if this process has seen it."""
        folder = _SEEN.get(self._content.get("fingerprint", ""))
        if folder is not None:
            self._net = open_saved_model(folder, self.signature, self.output_name)

    def build(self, input_shape: Any) -> None:
        net = self._net
        if net is not None:
            self._content["variables"] = [
                (name, list(value.shape), tf.as_dtype(value.dtype).name, name in net.trainable)
                for name, value in net.variables.items()
            ]
        self.by_name = {
            name: self._add(name, tuple(shape), dtype, trainable)
            for name, shape, dtype, trainable in self._content["variables"]
        }
        if net is not None:
            for name, value in net.variables.items():
                self.by_name[name].assign(value)
            net.bind(self.by_name)
            spec = tf.TensorSpec((None, *input_shape[1:]), tf.float32)
            run = tf.function(lambda images: net(images, False), autograph=False)
            found = run.get_concrete_function(spec).output_shapes
            if not isinstance(found, tf.TensorShape) or found.rank not in (2, 4):
                raise ValueError(f"the SavedModel gives {found}, not vectors or maps of features")
            if found[-1] is None:
                raise ValueError("the SavedModel does not say how many features it gives")
            self._content["features"] = found.as_list()[1:]

    def _add(self, name: str, shape: tuple[int, ...], dtype: str, trainable: bool) -> Any:
        *scopes, last = name.split("/")
        with ExitStack() as stack:
            for scope in scopes:
                stack.enter_context(keras.name_scope(scope))
            return keras.Variable(
                shape=shape,
                dtype=dtype,
                trainable=trainable,
                initializer="zeros",
                aggregation="mean",
                name=last,
            )

    def call(self, images: Any, training: bool | None = None) -> Any:
        if self._net is None:
            raise ValueError(f"layer {self.name} has lost its SavedModel: load the model anew")
        features = self._net(tf.cast(images, tf.float32), bool(training) and self.trainable)
        return tf.ensure_shape(features, (None, *self._content["features"]))

    def compute_output_spec(self, images: Any, training: bool | None = None) -> Any:
        return keras.KerasTensor((images.shape[0], *self._content["features"]), dtype="float32")

    def save_assets(self, dir_path: str) -> None:
        """Write the SavedModel into a `.keras` file, beside the weights."""
        folder = _SEEN.get(self._content["fingerprint"])
        if folder is None or not (folder / "saved_model.pb").is_file():
            raise FileNotFoundError(f"{folder}, of which the model is made, is gone: put it back")
        shutil.copytree(folder, dir_path, dirs_exist_ok=True)

    def load_assets(self, dir_path: str) -> None:
        """Take the SavedModel out of a `.keras` file, whose folder is removed after loading."""
        if self._net is not None:
            return
        kept = Path(tempfile.mkdtemp(prefix="mildnet-saved-model-"))
        atexit.register(shutil.rmtree, kept, ignore_errors=True)
        shutil.copytree(dir_path, kept, dirs_exist_ok=True)
        if remember(kept) != self._content["fingerprint"]:
            raise ValueError(f"the SavedModel of layer {self.name} is damaged")
        self._net = open_saved_model(kept, self.signature, self.output_name)
        self._net.bind(self.by_name)

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        config.pop("dtype")
        return {
            **config,
            "signature": self.signature,
            "output": self.output_name,
            "content": self._content,
        }


def remember(folder: Path) -> str:
    """Return the fingerprint of a folder, and let copies of its layer find it."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(f"{path.relative_to(folder).as_posix()}\n{sha256(path)}\n".encode())
    _SEEN[digest.hexdigest()] = folder
    return digest.hexdigest()
