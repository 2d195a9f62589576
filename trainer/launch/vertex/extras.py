"""Extras that a job needs: the packages that only some configs use."""

from __future__ import annotations

import re
from collections.abc import Iterator

from trainer.config import JobConfig
from trainer.data.files import is_remote

#: Components whose packages have an extra of their name.
OWN = ("annoy", "hyperdash", "kerascv", "kerashub", "milvus", "wandb")


def extras_of(config: JobConfig, *, gpu: bool) -> list[str]:
    """Return the extras without which a job would end, or not use its machine.

    Args:
        config: of the job.
        gpu: whether its machines have GPUs.
    """
    return ["gpu" if gpu else "cpu", *dict.fromkeys(_needed(config))]


def _needed(config: JobConfig) -> Iterator[str]:
    model = config.parameters.get("model", {})
    trunk, weights = str(model.get("trunk", "")).strip(), str(model.get("weights", ""))
    head = "".join(re.findall(r"^\w+", trunk))
    yield from (name for name in (*config.trackers, config.index, head) if name in OWN)
    # A module of TF-Hub in a folder needs nothing, one at an address what fetches it.
    if is_remote(str(model.get("hub_handle", ""))) or (head == "hub" and is_remote(trunk)):
        yield "hub"
    if weights.endswith(".safetensors") or (head == "efficientnet_lite0" and weights == "imagenet"):
        yield "pretrained"
    readers = f"{config.dataset} {config.parameters.get('dataset', {}).get('parts', '')}"
    if re.search(r"\bcars196\b", readers):
        yield "mat"
