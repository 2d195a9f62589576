"""How long a model takes, cold and warm: exported in several forms, at several batch sizes."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from trainer.config import UserError
from trainer.launch.costs import folder_bytes
from trainer.launch.environment import machine_in_words
from trainer.launch.evaluating import ModelForm, exported
from trainer.launch.run_folder import RunFolder

if TYPE_CHECKING:
    from trainer.serving.precision import Precision
    from trainer.serving.timing import ColdTiming

#: Images in a call, by default.
BATCHES = (1, 8, 32)
#: Types that a model can be exported in.
PRECISIONS = ("float32", "float16", "bfloat16")


@dataclass(frozen=True)
class ModelSpeed:
    """Times and size of exported models.

    Attributes:
        source: run or folder.
        machine: what it was measured on.
        rows: size on disk in bytes and times, one for each form and batch size.
    """

    source: str
    machine: str
    rows: tuple[tuple[int, ColdTiming], ...]

    def to_dict(self) -> dict[str, Any]:
        """Return everything, ready for JSON."""
        rows = [
            {"bytes": size, **dataclasses.asdict(cold), "images_per_second": speed}
            for size, cold in self.rows
            for speed in [cold.timing.images_per_second]
        ]
        return {"source": self.source, "machine": self.machine, "rows": rows}


def forms_of(
    precisions: Sequence[str], image_sizes: Sequence[int], tta: Sequence[str]
) -> list[ModelForm]:
    """Return every combination, each list empty for what is as trained.

    Raises:
        UserError: an unknown precision.
    """
    for name in precisions:
        if name not in PRECISIONS:
            raise UserError(f"precision {name!r}: allowed are {', '.join(PRECISIONS)}")
    return [
        ModelForm(precision, size, views)
        for precision, size, views in itertools.product(
            cast("Sequence[Precision]", precisions) or ("float32",),
            image_sizes or (None,),
            tta or ("none",),
        )
    ]


def measure_speed(
    source: str,
    forms: Sequence[ModelForm],
    batches: Sequence[int] = BATCHES,
    *,
    seconds: float = 2.0,
    tell: Callable[[str], object] = lambda line: None,
) -> ModelSpeed:
    """Time a run's model in several forms, or an exported model as it is.

    The model is loaded anew for each batch size, so that each has a first call.

    Args:
        source: run folder, or folder of an exported model.
        forms: what the run's model is exported as.
        batches: images in a call, each 1 or more.
        seconds: how long each is timed at the least, in seconds.
        tell: takes a line on what is being measured.

    Raises:
        UserError: neither a run nor an export, forms for an export, or one that cannot be had.
    """
    from trainer.serving.timing import time_cold

    def timed(folder: str, name: str) -> list[tuple[int, ColdTiming]]:
        size = folder_bytes(folder)
        rows = []
        for batch in batches:
            tell(f"{name}, batch of {batch}")
            rows.append((size, time_cold(folder, batch, seconds=seconds)))
        return rows

    run = RunFolder(source)
    rows = []
    if run.exists("config.json"):
        for form in forms:
            with exported(run, form) as folder:
                rows += timed(folder, str(form))
    elif list(forms) != [ModelForm()]:
        raise UserError(f"{source}: not a run; an exported model has one precision, size and tta")
    else:
        rows = timed(source, "as exported")
    return ModelSpeed(source, machine_in_words(), tuple(rows))
