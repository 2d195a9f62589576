"""What a search tries: a YAML file of config keys, checked before anything runs."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import yaml

from trainer.config import JobConfig, UserError, cnf, nearest, registry
from trainer.config.job import ALIASES, COMPONENT_KEYS, OUTSIDE_TRAINING

#: What may be said of a key, and the heading of settings that are the same for all trials.
FIELDS = ("choices", "low", "high", "log", "step", "when")
FIXED = "fixed"
#: Key that names a component -> its kind.
KINDS = {key: kind for kind, key in COMPONENT_KEYS.items()}
#: A grid beyond this is a mistake: no one waits for as many jobs.
MOST_COMBINATIONS = 100_000
LONGEST_SUFFIX = 100

Value = None | bool | int | float | str


@dataclass(frozen=True)
class Searched:
    """A key that differs between trials: one of `choices`, or a number from `low` to `high`.

    Attributes:
        key: of the config.
        place: `file:line` of the space.
        choices: values as the config has them; lists as text.
        low: least value; an int or a float, as the key's type is.
        high: greatest value.
        step: distance of neighbouring values; None: any number, or any whole number.
        log: whether the logarithm is spread evenly, rather than the number.
        when: values of other keys, one of which a trial must have for this key to be set.
    """

    key: str
    place: str
    choices: tuple[Value, ...] = ()
    low: int | float | None = None
    high: int | float | None = None
    step: int | float | None = None
    log: bool = False
    when: Mapping[str, tuple[Value, ...]] = field(default_factory=dict)

    @property
    def values(self) -> tuple[Value, ...]:
        """All values, in order.

        Raises:
            UserError: there is no end of them.
        """
        if self.choices:
            return self.choices
        if self.step is None:
            raise UserError(
                f"{self.place}: {self.key}: a grid needs choices, or low, high and step"
            )
        # Decimal: 0.1 + 2 * 0.1 is 0.3, as a person would write it.
        low, step = Decimal(str(self.low)), Decimal(str(self.step))
        count = int((Decimal(str(self.high)) - low) / step) + 1
        kind = int if isinstance(self.low, int) else float
        return tuple(kind(low + number * step) for number in range(count))

    def to_dict(self) -> dict[str, Any]:
        """Return all that the search goes by, ready for JSON."""
        values: dict[str, Any] = {"choices": list(self.choices)}
        if not self.choices:
            values = {"low": self.low, "high": self.high, "step": self.step, "log": self.log}
        return {**values, "when": {key: list(allowed) for key, allowed in self.when.items()}}


class Space:
    """The keys that a search tries values of, and the job that they are set in.

    Args:
        path: the YAML file.
        job: a job config (`.cnf`).
        overrides: `key=value` texts that win over the config and over the settings that the
            space fixes.

    Raises:
        UserError: file, line and key of the first thing that is wrong.
    """

    def __init__(self, path: str | Path, job: str | Path, overrides: Sequence[str] = ()) -> None:
        self.source = str(path)
        self._job = job
        self._contexts: dict[tuple[tuple[str, Value], ...], JobConfig | None] = {}
        content, lines = _read(self.source)
        fixed = content.pop(FIXED, None) or {}
        if not isinstance(fixed, dict):
            raise UserError(f"{self._at(lines, FIXED)}: write it as key: value lines")
        if not content:
            raise UserError(f"{self.source}: names no key to search")
        content = {ALIASES.get(key, key): value for key, value in content.items()}
        lines = {ALIASES.get(key, key): line for key, line in lines.items()}
        JobConfig.load(job, overrides)
        self.overrides: list[str] = []
        for key, value in fixed.items():
            self._override(f"{self._at(lines, FIXED)}: ", key, value)
        self.overrides += overrides
        set_already = {cnf.parse_override(text)[0] for text in self.overrides}
        for key in content:
            if key in set_already:
                raise UserError(
                    f"{self._at(lines, key)}: {key} is searched, so it can't be set as well; take "
                    "it out of one of the two"
                )
        if {"steps", "train_epochs"} <= content.keys():
            raise UserError(f"{self._at(lines, 'steps')}: search steps or train_epochs, not both")
        #: In an order in which each comes after those that it depends on.
        self.parameters: tuple[Searched, ...] = ()
        for key in _ordered(content, lambda key: self._at(lines, key)):
            parameter = self._parameter(key, content[key], self._at(lines, key))
            self.parameters += (parameter,)

    def config(self, params: Mapping[str, Value] | None = None) -> JobConfig:
        """Return the job's config with the values of a trial.

        Raises:
            UserError: they do not go together.
        """
        texts = [_text(key, value) for key, value in (params or {}).items()]
        try:
            return JobConfig.load(self._job, [*self.overrides, *texts])
        except UserError as error:
            raise UserError(str(error).removeprefix(f"{cnf.OVERRIDE}: ")) from None

    def active(self, parameter: Searched, params: Mapping[str, Value]) -> bool:
        """Return whether a trial sets `parameter`, given its values of those before it.

        It does if `when` holds, and if it is a parameter of a component that the trial uses.
        """
        for key, allowed in parameter.when.items():
            if key not in params or params[key] not in allowed:
                return False
        return self._takes(self._context(params), parameter.key)

    def combinations(self) -> list[dict[str, Value]]:
        """Return the values of each trial of the grid; the last key changes fastest.

        Raises:
            UserError: a key has no end of values, or there are too many combinations.
        """
        found = list(itertools.islice(self._combinations(self.parameters), MOST_COMBINATIONS + 1))
        if len(found) > MOST_COMBINATIONS:
            raise UserError(f"{self.source}: a grid of more than {MOST_COMBINATIONS:,} trials")
        return found

    def examples(self, parameter: Searched) -> Iterator[JobConfig]:
        """Yield the config with each choice, or both ends, for each component that takes it."""
        if parameter.key in KINDS:
            return
        heads = [other for other in self.parameters if other.key in KINDS]
        for params in self._combinations(heads):
            if self._context(params) is not None and self.active(parameter, params):
                for value in parameter.choices or (parameter.low, parameter.high):
                    yield self.config({**params, parameter.key: value})

    def to_dict(self) -> dict[str, Any]:
        """Return all that the search goes by, ready for JSON."""
        return {parameter.key: parameter.to_dict() for parameter in self.parameters}

    def _combinations(self, parameters: Sequence[Searched]) -> Iterator[dict[str, Value]]:
        def complete(params: dict[str, Value], place: int) -> Iterator[dict[str, Value]]:
            if place == len(parameters):
                yield params
            elif not self.active(parameters[place], params):
                yield from complete(params, place + 1)
            else:
                for value in parameters[place].values:
                    yield from complete({**params, parameters[place].key: value}, place + 1)

        return complete({}, 0)

    def _parameter(self, key: str, about: Any, place: str) -> Searched:
        if not re.fullmatch(r"[\w.-]+", key):
            raise UserError(f"{place}: {key!r} is no key of a config")
        if key in (*OUTSIDE_TRAINING, "train.monitor") or key.startswith(("tracker.", "index.")):
            raise UserError(
                f"{place}: {key} does not change the weights: there is nothing to search"
            )
        if not isinstance(about, dict):
            raise UserError(f"{place}: {key}: give choices: [...], or low: and high:")
        for name in about:
            if name not in FIELDS:
                raise UserError(f"{place}: {key}: unknown {name!r}{nearest(str(name), FIELDS)}")
        when = self._when(key, about.get("when"), place)
        if "choices" in about:
            others = sorted(set(about) - {"choices", "when"})
            if others:
                raise UserError(f"{place}: {key}: choices and {others[0]} do not go together")
            return Searched(key, place, self._choices(key, about["choices"], place), when=when)
        if key in KINDS:
            raise UserError(f"{place}: {key}: give choices: [...]")
        if missing := {"low", "high"} - about.keys():
            raise UserError(f"{place}: {key}: {sorted(missing)[-1]} is missing, or choices: [...]")
        return self._range(key, about, place, when)

    def _choices(self, key: str, given: Any, place: str) -> tuple[Value, ...]:
        if not isinstance(given, list) or not given:
            raise UserError(f"{place}: {key}: choices is a list of one value or more")
        choices = tuple(self._canonical(key, value, place) for value in given)
        for number, value in enumerate(choices):
            if value in choices[:number]:
                raise UserError(f"{place}: {key}: {cnf.plain_text(value)} comes twice in choices")
        return choices

    def _range(
        self, key: str, about: Mapping[str, Any], place: str, when: Mapping[str, Any]
    ) -> Searched:
        ends = [self._canonical(key, about[name], place) for name in ("low", "high")]
        low, high = ends
        if not _is_number(low) or not _is_number(high) or type(low) is not type(high):
            raise UserError(f"{place}: {key} is no number: give choices: [...]")
        log, step = about.get("log", False), about.get("step")
        if not isinstance(log, bool):
            raise UserError(f"{place}: {key}: log is {log!r}; it is true or false")
        if not low < high:  # type: ignore[operator]
            raise UserError(f"{place}: {key}: low is {low}, which is not below high, {high}")
        if log and low <= 0:  # type: ignore[operator]
            raise UserError(f"{place}: {key}: log needs low above 0, not {low}")
        if log and step is not None:
            raise UserError(f"{place}: {key}: log and step do not go together")
        if step is not None:
            try:
                number = float(step)
                if isinstance(step, bool) or not 0 < number < float("inf"):
                    raise ValueError
                step = number if isinstance(low, float) else int(number)
                if step != number:
                    raise ValueError
            except (TypeError, ValueError):
                kind = "a whole number" if isinstance(low, int) else "a number"
                raise UserError(
                    f"{place}: {key}: step is {about['step']!r}; it is {kind} above 0"
                ) from None
        return Searched(key, place, (), low, high, step, log, when)  # type: ignore[arg-type]

    def _when(self, key: str, given: Any, place: str) -> dict[str, tuple[Value, ...]]:
        if given is None:
            return {}
        if not isinstance(given, dict):
            raise UserError(f"{place}: {key}: when is written as {{KEY: VALUE}}")
        known = {parameter.key: parameter for parameter in self.parameters}
        found = {}
        for other, values in given.items():
            values = values if isinstance(values, list) else [values]
            found[other] = tuple(self._canonical(other, value, place) for value in values)
            for value in found[other]:
                if value not in known[other].choices:
                    raise UserError(
                        f"{place}: {key}: when: {other} is never {cnf.plain_text(value)}"
                    )
        return found

    def _canonical(self, key: str, value: Any, place: str) -> Value:
        """Return `value` as the config has it, once every component that takes it has."""
        if key in KINDS:
            try:
                return registry.get(KINDS[key], str(value)).name
            except UserError as error:
                raise UserError(f"{place}: {key}: {error}") from None
        contexts = [
            heads
            for heads in self._combinations([p for p in self.parameters if p.key in KINDS])
            if self._context(heads) is not None
        ]
        taking = [heads for heads in contexts if self._takes(self._context(heads), key)]
        found: Any = None
        # Where none takes it, the first says so, with the nearest key.
        for heads in taking or contexts[:1] or [{}]:
            try:
                found = _value_of(self.config({**heads, key: value}), key)
            except UserError as error:
                raise UserError(f"{place}: {error}") from None
        return cnf.plain_text(found) if isinstance(found, list | tuple) else found

    def _context(self, params: Mapping[str, Value]) -> JobConfig | None:
        """Return the config with the components of a trial; None where they do not go together."""
        heads = {key: value for key, value in params.items() if key in KINDS}
        known = tuple(heads.items())
        if known not in self._contexts:
            try:
                self._contexts[known] = self.config(heads)
            except UserError:
                self._contexts[known] = None
        return self._contexts[known]

    def _takes(self, config: JobConfig | None, key: str) -> bool:
        kind, dot, name = key.rpartition(".")
        if not dot or kind not in COMPONENT_KEYS:
            return True
        return config is not None and name in config.component(kind)[0].parameters

    def _override(self, lead: str, key: Any, value: Any) -> None:
        try:
            self.overrides.append(_text(str(key), value))
            self.config()
        except UserError as error:
            raise UserError(f"{lead}{error}") from None

    def _at(self, lines: Mapping[str, int], key: str) -> str:
        return f"{self.source}:{lines.get(key, 1)}"


def suffix(params: Mapping[str, Value]) -> str:
    """Return the values of a trial as a part of a file name, such as `lr=0.01_loss.margin=0.2`."""
    words = "_".join(f"{key}={cnf.plain_text(value)}" for key, value in params.items())
    return re.sub(r"[^\w.=+-]+", "-", words)[:LONGEST_SUFFIX].rstrip("-.")


def in_words(params: Mapping[str, Value]) -> str:
    """Return the values of a trial as a person reads them."""
    parts = (
        f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={cnf.plain_text(value)}"
        for key, value in params.items()
    )
    return "  ".join(parts)


def _text(key: str, value: Any) -> str:
    return f"{key}={cnf.format_value(value)}"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _value_of(config: JobConfig, key: str) -> Any:
    prefix, dot, name = key.rpartition(".")
    if not dot:
        return getattr(config, key)
    return getattr(config.training, name) if prefix == "train" else config.parameters[prefix][name]


def _ordered(content: Mapping[str, Any], at: Any) -> list[str]:
    """Return the keys, components first, each after those that its `when` names."""
    waiting = sorted(content, key=lambda key: key not in KINDS)
    done: list[str] = []
    while waiting:
        for key in waiting:
            about = content[key]
            when = about.get("when") if isinstance(about, dict) else None
            needs = list(when) if isinstance(when, dict) else []
            for other in needs:
                if other not in content or "choices" not in (content[other] or {}):
                    hint = nearest(str(other), content, "it has")
                    raise UserError(
                        f"{at(key)}: {key}: when names {other!r}, which is no key of this space "
                        f"that has choices{hint}"
                    )
                if key in KINDS and other not in KINDS:
                    raise UserError(
                        f"{at(key)}: {key}: a component can depend on other components alone, not "
                        f"on {other}"
                    )
            if set(needs) <= set(done):
                break
        else:
            raise UserError(f"{at(waiting[0])}: {waiting[0]}: when goes round in a circle")
        waiting.remove(key)
        done.append(key)
    return done


def _read(path: str) -> tuple[dict[str, Any], dict[str, int]]:
    """Return a YAML file's mapping, and the line of each of its keys."""
    try:
        text = Path(path).read_bytes().decode("utf-8-sig")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        if not isinstance(node, yaml.MappingNode):
            raise UserError(f"{path}: not a space: write it as KEY: {{choices: [...]}} lines")
        lines = _lines(node, path)
        content = yaml.safe_load(text)
    except OSError as error:
        words = str(error.strerror)
        raise UserError(f"{path}: cannot be read: {words[:1].lower()}{words[1:]}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not a text file in UTF-8") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark is not None else path
        raise UserError(f"{where}: not YAML: {getattr(error, 'problem', None) or error}") from None
    return {str(key): value for key, value in content.items()}, lines


def _lines(node: yaml.MappingNode, path: str) -> dict[str, int]:
    """Return the line of each key; YAML itself would let the last of two equal ones win."""
    lines: dict[str, int] = {}
    for key, value in node.value:
        line, name = key.start_mark.line + 1, str(key.value)
        if name in lines:
            raise UserError(f"{path}:{line}: {name!r} comes twice, first in line {lines[name]}")
        lines[name] = line
        if isinstance(value, yaml.MappingNode):
            _lines(value, path)
    return lines
