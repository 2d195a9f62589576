"""Weights of other projects, made into run folders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.config import UserError, get
from trainer.config.job import JobConfig
from trainer.data.files import sha256, whole_folder
from trainer.launch.run_folder import RunFolder

if TYPE_CHECKING:
    import keras

    from trainer.models.weights.swinv2_sizes import Sizes


def convert_mildnet_h5(path: str, model_id: str, to: Path, overrides: Sequence[str] = ()) -> Path:
    """Make a run of weights that MILDNet's code saved, as if the job had finished here.

    The model is built in its released form, which the weights were trained in. The folder appears
    whole or not at all, with `config.cnf`, `config.json`, `environment.json`, `model.keras` and the
    exported `model/`; `mildnet index`, `search` and `evaluate` take it.

    Args:
        path: a `weights-improvement-*.h5` or `model.h5`.
        model_id: the model that was trained.
        to: folder to make.
        overrides: `key=value` texts, such as `data_path=...` for evaluation, or `model.skips=...`
            for another order of the skips.

    Returns:
        `to`.

    Raises:
        UserError: the file is of another model or damaged, or `to` holds something.
    """
    get("model", model_id)
    _refuse_to_overwrite(to)
    from trainer.models.weights.mildnet_h5 import check_model_id, load_released

    check_model_id(model_id)
    values = {
        "model_id": model_id,
        "model.fidelity": "released",
        "model.weights": "none",
        "loss": "hinge_loss",
    }
    config = JobConfig.from_mapping(values, overrides, source="mildnet-h5", name=to.name)
    if config.model_id != model_id:
        raise UserError(f"--set: model_id={config.model_id}, but --model-id {model_id}")
    model = config.build("model", config.image_size)
    load_released(model, model_id, path)
    return _write_run(model, config, path, to)


def convert_swinv2(
    path: str,
    to: Path,
    *,
    window: int | None = None,
    image_size: int | None = None,
    overrides: Sequence[str] = (),
) -> Path:
    """Make a run of published weights of Swin V2, as if a job had finished with them.

    The embedding is the mean of the normalised tokens, what Hugging Face's Swinv2Model calls
    `pooler_output`, unscaled. The size of the net is found out from the file (see
    :func:`trainer.models.weights.swinv2_sizes.read_sizes`), with a `config.json` beside it. With
    other windows or pictures than it was trained with, positions keep the unit of its training.

    Args:
        path: a `model.safetensors` of Hugging Face or timm, or a PyTorch checkpoint of theirs or
            Microsoft's (`.bin`, `.pth`).
        to: folder to make.
        window: side of a window, in tokens; default: what the file was trained with.
        image_size: side of the pictures, in pixels; default: what the file was trained on.
        overrides: `key=value` texts, such as `data_path=...` for evaluation.

    Returns:
        `to`.

    Raises:
        UserError: no such file, damaged, of another model, or it does not tell its window and
            `window` is not given; or `to` holds something.
    """
    _refuse_to_overwrite(to)
    from trainer.models import TRUNK
    from trainer.models.weights.files import read_arrays
    from trainer.models.weights.swinv2 import hugging_face, load_swinv2
    from trainer.models.weights.swinv2_sizes import read_sizes

    arrays = hugging_face(read_arrays(path), path)
    sizes = read_sizes(arrays, path, window, image_size).resized(window, image_size)
    values = {
        "model_id": "mildnet",
        "model.trunk": _swinv2_trunk(sizes),
        "model.weights": "none",
        "model.preprocessing": "native",
        "model.skips": "none",
        "model.embedding_dim": "none",
        "model.normalize": False,
        "image_size": sizes.image_size,
        "loss": "triplet_margin",
    }
    config, model = _build(values, overrides, "swinv2", to)
    load_swinv2(model.get_layer(TRUNK), arrays, path)
    return _write_run(model, config, path, to)


def convert_open_clip(
    path: str,
    to: Path,
    *,
    image_size: int | None = None,
    epsilon: float | None = None,
    overrides: Sequence[str] = (),
) -> Path:
    """Make a run of published weights of a ConvNeXt, as if a job had finished with them.

    The embedding is CLIP's own, projection included, at unit length; of a file without projection
    it is the pooled and normalised output. What the file is of is found out from it (see
    :func:`trainer.models.weights.open_clip_sizes.read_sizes`).

    Args:
        path: a `.safetensors` file or PyTorch checkpoint (`.bin`, `.pt`, `.pth`) of OpenCLIP, whose
            text tower is left out, or of timm.
        to: folder to make.
        image_size: side of the pictures, in pixels; default: what the net was trained on.
        epsilon: added to variances in the net; default: as published for nets of its size.
        overrides: `key=value` texts, such as `data_path=...` for evaluation.

    Returns:
        `to`.

    Raises:
        UserError: no such file, damaged, or of another model; or `to` holds something.
    """
    _refuse_to_overwrite(to)
    from trainer.models import TRUNK
    from trainer.models.weights.files import read_arrays
    from trainer.models.weights.open_clip import load_open_clip, timm_names
    from trainer.models.weights.open_clip_sizes import read_sizes

    arrays = timm_names(read_arrays(path), path)
    sizes = read_sizes(arrays, path)
    values = {
        "model_id": "mildnet",
        "model.trunk": sizes.trunk(epsilon),
        "model.weights": "none",
        "model.preprocessing": sizes.preprocessing,
        "model.skips": "none",
        "model.embedding_dim": "none",
        "image_size": image_size or sizes.image_size,
        "loss": "triplet_margin",
    }
    config, model = _build(values, overrides, "open-clip", to)
    load_open_clip(model.get_layer(TRUNK), arrays, path)
    return _write_run(model, config, path, to)


def _build(
    values: Mapping[str, Any], overrides: Sequence[str], source: str, to: Path
) -> tuple[JobConfig, keras.Model]:
    """Return the config of a converted run, and its model, with all weights to come from the file.

    Raises:
        UserError: an override changes what the file decides, or adds weights that it has not.
    """
    from trainer.models import TRUNK

    plain = JobConfig.from_mapping(values, (), source=source, name=to.name).to_dict()
    config = JobConfig.from_mapping(values, overrides, source=source, name=to.name)
    given = config.to_dict()
    if config.image_size != plain["image_size"]:
        raise UserError(f"--set: image_size={config.image_size}; use --image-size for that")
    for key in values:
        # The length of an embedding is no weight.
        if key.startswith("model") and key != "model.normalize" and given.get(key) != plain[key]:
            raise UserError(f"--set: {key}={given.get(key)} does not go with the file's weights")
    model = config.build("model", config.image_size)
    beside = len(model.weights) - len(model.get_layer(TRUNK).weights)
    if beside:
        raise UserError(f"--set: the model would have {beside} weights that the file has not")
    return config, model


def _swinv2_trunk(sizes: Sizes) -> str:
    """Return the trunk as a config writes it: a preset where one has these numbers."""
    from trainer.models.trunks.swinv2 import PRESETS

    numbers = (sizes.embed_dim, sizes.depths, sizes.heads)
    values: dict[str, Any] = dict(zip(("embed_dim", "depths", "heads"), numbers, strict=True))
    for preset, (*published, _) in PRESETS.items():
        if numbers == tuple(published):
            values = {"preset": preset}
    if sizes.patch != 4:
        values["patch"] = sizes.patch
    values["window"] = sizes.window
    if sizes.pretrained_windows:
        values["pretrained_windows"] = sizes.pretrained_windows
    return f"swinv2({', '.join(f'{key}={value!r}' for key, value in values.items())})"


def _refuse_to_overwrite(to: Path) -> None:
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise UserError(f"{to} exists; choose a new folder")


def _write_run(model: keras.Model, config: JobConfig, source: str, to: Path) -> Path:
    """Write the run of a model that was made of the file `source`, whole or not at all."""
    from trainer.launch.environment import describe_environment
    from trainer.serving.export import export

    facts = {"converted_from": {"file": Path(source).name, "sha256": sha256(source)}}
    with whole_folder(to) as part:
        run = RunFolder(str(part))
        run.write_text("config.cnf", config.to_cnf())
        run.write_json("config.json", config.to_dict())
        run.write_json("environment.json", {**facts, **describe_environment()})
        model.save(part / "model.keras")
        export(model, part / "model", image_size=config.image_size)
    return to
