"""Options dataclasses: typed, documented fields with limits."""

import re
from dataclasses import dataclass, field
from typing import Literal

import pytest

from trainer.config import JobConfig, TrainOptions, cnf, options
from trainer.config.options import option


@dataclass(frozen=True)
class Some:
    share: float = option(0.5, "a share", above=0, below=1)
    count: int | None = option(None, "a count", least=1, most=9)
    pattern: str = option("", "names", regex=True)
    kind: Literal["a", "b"] = option("a", "a kind", needed=True)
    hidden: list[int] = field(default_factory=list)


def test_fields_become_parameters():
    parameters = options.parameters_of(Some)
    assert list(parameters) == ["share", "count", "pattern", "kind"]
    assert parameters["count"].annotation == (int | None)
    assert [p.name for p in parameters.values() if p.required] == ["kind"]
    assert options.help_of(Some, "share") == "a share"


@pytest.mark.parametrize(
    ("name", "value", "parsed"),
    [
        ("share", "0.001", 0.001),
        ("count", "none", None),
        ("count", "1", 1),
        ("count", 9, 9),
        ("pattern", "a|b", "a|b"),
    ],
)
def test_within_the_limits(name: str, value: object, parsed: object):
    assert options.parse(Some, name, value) == parsed


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("share", "0", "0.0 is too small; it must be more than 0"),
        ("share", "1", "1.0 is too large; it must be less than 1"),
        ("count", "0", "0 is too small; it must be 1 or more"),
        ("count", "10", "10 is too large; it must be 9 or less"),
        ("pattern", "[", "'[' is not a regular expression: unterminated character set"),
        ("kind", "c", "'c' is not one of a, b"),
    ],
)
def test_outside_the_limits(name: str, value: str, message: str):
    with pytest.raises(ValueError, match=re.escape(message)):
        options.parse(Some, name, value)


@pytest.mark.parametrize("owner", [JobConfig, TrainOptions])
def test_the_real_options_are_documented_and_their_defaults_are_allowed(owner: type):
    for name, parameter in options.parameters_of(owner).items():
        assert options.help_of(owner, name)
        text = None if parameter.default is None else cnf.plain_text(parameter.default)
        assert options.parse(owner, name, text) == parameter.default
        assert type(options.parse(owner, name, text)) is type(parameter.default)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("devices", "0"),
        ("accumulate", "0"),
        ("clip_value", "0"),
        ("clip_norm", "-1"),
        ("ema", "-0.1"),
        ("decay_exclude", "("),
        ("trainable", "*"),
        ("trunk_lr_scale", "-1"),
        ("loss_lr_scale", "-1"),
        ("ema", "1"),
        ("ema", "0"),
        ("validate_every", "0"),
        ("checkpoint_every", "0"),
        ("keep", "0"),
        ("log_every", "0"),
        ("strategy", "two"),
        ("precision", "float16"),
        ("monitor", "accuracy"),
        ("verify", "partly"),
        ("deterministic", "sometimes"),
    ],
)
def test_training_options_refuse(name: str, value: str):
    with pytest.raises(ValueError, match=r"is not|too small|too large"):
        options.parse(TrainOptions, name, value)


def test_training_options_accept():
    parsed = {
        "strategy": "mirrored",
        "devices": "2",
        "precision": "mixed_bfloat16",
        "xla": "yes",
        "clip_norm": "1",
        "trainable": "^head/",
        "ema": "0.99",
        "monitor": "map_at_r",
        "deterministic": "false",
    }
    options_ = TrainOptions(
        **{name: options.parse(TrainOptions, name, value) for name, value in parsed.items()}
    )
    assert (options_.devices, options_.xla, options_.clip_norm) == (2, True, 1.0)
    assert (options_.trainable, options_.ema, options_.deterministic) == ("^head/", 0.99, False)
