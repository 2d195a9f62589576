"""Weights of other projects, made into run folders."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from trainer.config import UserError, get
from trainer.config.job import JobConfig
from trainer.data.files import whole_folder
from trainer.launch.run_folder import RunFolder


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
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise UserError(f"{to} exists; choose a new folder")
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
    from trainer.launch.environment import describe_environment
    from trainer.serving.export import export

    model = config.build("model", config.image_size)
    load_released(model, model_id, path)
    content = Path(path).read_bytes()
    source = {"file": Path(path).name, "sha256": hashlib.sha256(content).hexdigest()}
    with whole_folder(to) as part:
        run = RunFolder(str(part))
        run.write_text("config.cnf", config.to_cnf())
        run.write_json("config.json", config.to_dict())
        run.write_json("environment.json", {"converted_from": source, **describe_environment()})
        model.save(part / "model.keras")
        export(model, part / "model", image_size=config.image_size)
    return to
