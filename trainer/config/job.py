"""A job config: every key checked, every default resolved, before data or TensorFlow is touched."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from trainer.config import cnf, options, registry
from trainer.config.addresses import check_address
from trainer.config.cnf import Given
from trainer.config.errors import UserError
from trainer.config.model_module import ModelModule
from trainer.config.options import option
from trainer.config.registry import Component, Parameter
from trainer.config.settings import Settings
from trainer.config.train_options import TrainOptions

#: Kind of component -> the key that names the one to use. `trackers` takes several.
COMPONENT_KEYS: dict[str, str] = {
    "model": "model_id",
    "loss": "loss",
    "miner": "miner",
    "memory": "memory",
    "optimizer": "optimizer",
    "schedule": "schedule",
    "dataset": "dataset",
    "sampler": "sampler",
    "augment": "augment",
    "index": "index",
}

#: Other spellings of a key: MILDNet's configs write `train_epocs`.
ALIASES: dict[str, str] = {"train_epocs": "train_epochs"}

#: Keys that cannot change the trained weights: a run may go on under other values of these.
OUTSIDE_TRAINING: tuple[str, ...] = (
    "name",
    "job_dir",
    "config",
    "trackers",
    "index",
    "train.keep",
    "train.log_every",
    "train.checkpoint_every",
    "train.summary_every",
    "train.summary_margin",
    "train.hold_mb",
)

DEFAULT_EPOCHS = 10.0

#: Rows of a batch that make one example, by what a sampler gives and a loss takes.
EXAMPLE_ROWS: dict[str, int] = {"labels": 1, "pairs": 2, "triplets": 3}


@dataclass(frozen=True)
class JobConfig:
    """All that defines a job. Make one with :meth:`load` or :meth:`from_mapping`."""

    model_id: str = option("", "embedding model", needed=True)
    loss: str = option("", "loss to train with", needed=True)
    miner: str = option(
        "",
        "what chooses a loss's triplets from labelled batches; empty = the sampler gives what the "
        "loss takes",
    )
    memory: str = option(
        "", "memory of earlier batches that the loss holds each batch against as well; empty = none"
    )
    optimizer: str = option("mo", "optimizer")
    lr: float = option(0.001, "learning rate, before the schedule", above=0)
    schedule: str = option("constant", "course of the learning rate")
    batch_size: int = option(
        16, "triplets or images a step, whichever the sampler counts; all devices together", least=1
    )
    train_epochs: float | None = option(
        None, f"passes over the training data, {DEFAULT_EPOCHS:g} if steps is not set", above=0
    )
    steps: int | None = option(None, "length in steps, instead of train_epochs", least=1)
    seed: int = option(0, "seed of everything random", least=0, most=2**31 - 1)
    dataset: str = option("", "data-set reader; triplets if train_csv is set, else items")
    data_path: str = option("", "folder or gs:// path of the data; default MILDNET_DATA_PATH")
    train_csv: str = option("", "triplet file to train on, in the data path")
    val_csv: str = option("", "triplet file to validate on, in the data path")
    train_split: str = option("train", "comma list of splits to train on")
    val_split: str = option("val", "comma list of splits to validate on")
    test_split: str = option("test", "comma list of splits to evaluate on")
    val_share: float = option(
        0.1, "share of the classes to validate on, where the data has no splits", least=0, below=1
    )
    test_share: float = option(
        0.2, "share of the classes to evaluate on, where the data has no splits", above=0, below=1
    )
    query_domain: str = option("", "domain whose images are the queries; empty = all")
    gallery_domain: str = option("", "domain whose images are searched; empty = all")
    max_bad_share: float = option(
        0.01, "share of unreadable images and rows that a job puts up with", least=0, most=1
    )
    image_size: int = option(224, "height and width of the model's input, pixels", least=1)
    sampler: str = option("", "what makes up a batch; chosen by the loss if not set")
    augment: str = option("", "augmentation; mildnet for triplet files, else none")
    init_from: str = option(
        "",
        "weights the job begins with (--from), instead of model.weights: a finished run, a .keras "
        "file, or a checkpoint of a run",
    )
    init_match: Literal["all", "matching"] = option(
        "all",
        "which weights init_from gives: all have to match, or those that match by path and shape",
    )
    model_module: str = option(
        "",
        "module of your own (package.module, --model-module) with build() and datasets(), instead "
        "of model_id and dataset, and with loss() where no loss is set",
    )
    trainer: str = option(
        "", "module of your own with fit(task), a changed copy of the library's loop; empty = that"
    )
    index: str = option("flat", "search index over the embeddings")
    trackers: tuple[str, ...] = option(("csv", "tensorboard"), "comma list of experiment trackers")
    name: str = dataclasses.field(
        default="",
        compare=False,
        metadata={
            "help": "name of the job and of its run folder; default: the config's file name, _ for "
            "each run of characters that a name may not have"
        },
    )
    job_dir: str = option("runs", "folder or gs:// path of run folders; default MILDNET_JOB_DIR")
    config: str = option("", "machine file in training_configs, for remote jobs")
    training: TrainOptions = dataclasses.field(default_factory=TrainOptions)
    #: Checked parameters of each component, complete: by kind, and `tracker.NAME`.
    parameters: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    #: Where each key comes from: `file:line`, `--set`, `default`, ...
    origins: dict[str, str] = dataclasses.field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def load(
        cls,
        path: str | Path,
        overrides: Iterable[str] = (),
        settings: Settings | None = None,
    ) -> JobConfig:
        """Read and check a `.cnf` file.

        Args:
            path: the file.
            overrides: `key=value` texts that win over the file; `key=` goes back to the default.
            settings: default :meth:`Settings.load`.

        Raises:
            UserError: with file, line and key of the first thing that is wrong.
        """
        path = Path(path)
        given = cnf.read(path)
        name = path.resolve().parent.name if path.stem == "config" else path.stem
        return cls._resolve(given, overrides, settings, str(path), name)

    @classmethod
    def from_mapping(
        cls,
        values: Mapping[str, Any],
        overrides: Iterable[str] = (),
        settings: Settings | None = None,
        *,
        source: str = "config",
        name: str = "job",
    ) -> JobConfig:
        """Check a mapping of keys to values, as text or typed; `source` names it in errors."""
        given = {key: Given(value, source) for key, value in values.items()}
        return cls._resolve(given, overrides, settings, source, name)

    @classmethod
    def from_module(
        cls, module: str, overrides: Iterable[str] = (), settings: Settings | None = None
    ) -> JobConfig:
        """Import a model module, and check its `config`.

        Args:
            module: dotted name, `package.module`.
            overrides: `key=value` texts that win over the module's `config`.
            settings: default :meth:`Settings.load`.

        Raises:
            UserError: there is no such module, it lacks a part, or its config is wrong.
        """
        values = ModelModule.load(module).values()
        name = module.rpartition(".")[2]
        return cls.from_mapping(values, overrides, settings, source=f"{module}.config", name=name)

    @classmethod
    def _resolve(
        cls,
        given: Mapping[str, Given],
        overrides: Iterable[str],
        settings: Settings | None,
        source: str,
        name: str,
    ) -> JobConfig:
        settings = Settings.load() if settings is None else settings
        return _Resolver(given, overrides, settings, source).config(name)

    def component(self, kind: str, name: str | None = None) -> tuple[Component, dict[str, Any]]:
        """Return the component of `kind` and its checked parameters.

        Args:
            kind: `model`, `loss`, `optimizer`, ..., or `tracker`.
            name: which tracker; not used for the other kinds.
        """
        if kind == "tracker":
            if name not in self.trackers:
                raise KeyError(name)
            return registry.get(kind, name), dict(self.parameters[f"tracker.{name}"])
        return registry.get(kind, getattr(self, COMPONENT_KEYS[kind])), dict(self.parameters[kind])

    def example_rows(self) -> int:
        """Return how many rows of a batch make one example: image 1, pair 2, triplet 3."""
        return EXAMPLE_ROWS[self.component("sampler")[0].tags.get("gives", "labels")]

    def build(self, kind: str, *supplied: Any, name: str | None = None) -> Any:
        """Build the component of `kind` from the `supplied` positional arguments.

        Raises:
            UserError: the component refuses a value; the message names the key.
        """
        component, parameters = self.component(kind, name)
        component.load()  # an error of the module itself is no fault of the config
        try:
            return component.call(*supplied, **parameters)
        except ValueError as error:
            prefix = kind if name is None else f"{kind}.{name}"
            key = _key_in(str(error), prefix, parameters) or COMPONENT_KEYS.get(kind, "trackers")
            raise UserError(f"{self.where(key)}{key}: {' '.join(str(error).split())}") from error

    def to_dict(self) -> dict[str, Any]:
        """Return all keys with their values, ready for JSON; :meth:`from_mapping` reads it back.

        What a component's `fidelity` decides is left to it, as far as nothing else was set.
        """
        return self._to_dict(implied=False)

    def _to_dict(self, *, implied: bool) -> dict[str, Any]:
        values: dict[str, Any] = {}
        kinds = {key: kind for kind, key in COMPONENT_KEYS.items()}
        for key in options.parameters_of(JobConfig):
            value = getattr(self, key)
            if key in ("train_epochs", "steps") and value is None:
                continue
            values[key] = _listed(value)
            if key in kinds:
                self._add_parameters(values, kinds[key], implied)
            if key == "trackers":
                for tracker in self.trackers:
                    self._add_parameters(values, f"tracker.{tracker}", implied)
        for key, value in dataclasses.asdict(self.training).items():
            values[f"train.{key}"] = _listed(value)
        return values

    def _add_parameters(self, values: dict[str, Any], prefix: str, implied: bool) -> None:
        parameters = self.parameters.get(prefix, {})
        left_out = {} if implied else self._implied(prefix, parameters)
        for key, value in parameters.items():
            # Written once, as the flat key, so that overriding that key of a saved config works.
            if prefix == "dataset" and key in _CSV_KEYS and value == getattr(self, key):
                continue
            # The same for what `fidelity` decides.
            if key in left_out and value == left_out[key]:
                continue
            values[f"{prefix}.{key}"] = _listed(value)

    def _implied(self, prefix: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Return the values that follow from the component's `fidelity`."""
        if prefix not in COMPONENT_KEYS or prefix not in self.parameters:
            return {}
        component, _ = self.component(prefix)
        defaults = component.defaults(parameters)
        return {key: defaults[key] for key in component.released or ()}

    def to_cnf(self, *, origins: bool = False) -> str:
        """Return the effective config as a `.cnf` text; loading it gives an equal config.

        Args:
            origins: for readers: add to each line a comment that says where the value comes from,
                and write what `fidelity` decides, too.
        """
        values = self._to_dict(implied=origins)
        return cnf.write(values, {k: self.origin(k) for k in values} if origins else None)

    def origin(self, key: str) -> str:
        """Return where the value of `key` comes from: `file:line`, `--set`, `default`, ..."""
        return self.origins.get(key, "default")

    def where(self, key: str) -> str:
        """Return what an error about `key` begins with: its origin and a colon; "" by default."""
        return f"{self.origins[key]}: " if key in self.origins else ""

    def fingerprint(self) -> str:
        """Return a SHA-256 over all that can change the trained weights, as 64 hex digits."""
        text = json.dumps(self._defining(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def differences(self, other: JobConfig) -> list[str]:
        """Return what keeps the two fingerprints apart, as `key: here, not there` texts."""
        mine, theirs = self._defining(), other._defining()
        absent = object()
        found = []
        for key in dict.fromkeys([*mine, *theirs]):
            here, there = mine.get(key, absent), theirs.get(key, absent)
            if here != there:
                words = ["(not set)" if v is absent else cnf.plain_text(v) for v in (here, there)]
                found.append(f"{key}: {words[0]}, not {words[1]}")
        return found

    def _defining(self) -> dict[str, Any]:
        return {
            key: value
            for key, value in self.to_dict().items()
            if key not in OUTSIDE_TRAINING and not key.startswith(("tracker.", "index."))
        }


_CSV_KEYS = ("train_csv", "val_csv")


def _merge(given: Mapping[str, Given], overrides: Iterable[str]) -> dict[str, Given]:
    """Return the keys under their proper names, with the overrides applied."""
    merged: dict[str, Given] = {}
    for key, value in given.items():
        proper = ALIASES.get(key, key)
        if proper in merged:
            raise UserError(f"{value.origin}: {key!r} and {proper!r} are the same key; set one")
        merged[proper] = value
    lengths = [merged[key] for key in ("steps", "train_epochs") if key in merged]
    if len(lengths) == 2 and not any(map(_is_none, lengths)):
        raise UserError(f"{lengths[0].origin}: steps and train_epochs are both set; set one")
    for text in overrides:
        key, value = cnf.parse_override(text)
        key = ALIASES.get(key, key)
        if value.value is None:
            # Kept where it takes nothing back, so that a misspelt name is still refused.
            if merged.pop(key, None) is None:
                merged[key] = Given(_DEFAULT, value.origin)
            continue
        merged[key] = value
        if key in ("steps", "train_epochs") and not _is_none(value):
            merged.pop("train_epochs" if key == "steps" else "steps", None)
    return merged


def _listed(value: Any) -> Any:
    """Return a tuple as the list that JSON makes of it."""
    return list(value) if isinstance(value, tuple) else value


def _is_none(given: Given) -> bool:
    return given.value is None or str(given.value).lower() == "none"


#: Stands for a key that an override puts back to its default.
_DEFAULT = object()


class _Resolver:
    """Turns what was given into a config, collecting where each value comes from."""

    def __init__(
        self,
        written: Mapping[str, Given],
        overrides: Iterable[str],
        settings: Settings,
        source: str,
    ) -> None:
        self.written = written
        self.given = _merge(written, overrides)
        self.settings = settings
        self.source = source
        self.origins: dict[str, str] = {}
        self.values: dict[str, Any] = {}
        self.chosen: dict[str, Component] = {}

    def config(self, name: str) -> JobConfig:
        self._flat_keys()
        self._check_name(name or "job")
        self._choose_components()
        self._check_parameter_names()
        training = self._training()
        parameters = {prefix: self._parameters(prefix) for prefix in self.chosen}
        self._check_memory_size(parameters)
        return JobConfig(
            **self.values,
            training=training,
            parameters=parameters,
            origins=self.origins,
        )

    def _check_name(self, source: str) -> None:
        """Check the name that was given, or make one of a file's or folder's name."""
        given = self.values["name"]
        if not given:
            self.values["name"] = name = re.sub(r"^\W+|[^\w.+=-]+", "_", source)
            if name != source:
                self.origins["name"] = f"from {source!r}"
        elif not re.fullmatch(r"\w[\w.+=-]*", given):
            raise UserError(
                f"{self._at('name')}name={given!r} does not name a folder: letters, "
                "digits, _, ., +, = and - do, after a letter or digit"
            )

    def _flat_keys(self) -> None:
        parameters = options.parameters_of(JobConfig)
        # Names first: a needed key is more likely misspelt than forgotten.
        for key, given in self.given.items():
            if "." not in key and key not in parameters:
                raise UserError(f"{given.origin}: unknown key {key!r}{self._nearest(key)}")
        for key, parameter in parameters.items():
            taken = self._take(key)
            if taken is None:
                self.values[key] = parameter.default
                continue
            with _located(taken.origin, key):
                value = options.parse(JobConfig, key, taken.value)
                self.values[key] = _checked(parameter, value)
        for key, setting in (("data_path", "MILDNET_DATA_PATH"), ("job_dir", "MILDNET_JOB_DIR")):
            if key not in self.origins and self.settings.get(setting):
                self.values[key] = self.settings.get(setting)
                self.origins[key] = self.settings.origins[setting]
        if self.values["train_epochs"] is None and self.values["steps"] is None:
            self.values["train_epochs"] = DEFAULT_EPOCHS
        if self.values["model_module"]:
            self._check_module_keys()
            return
        for key in ("model_id", "loss"):
            if not self.values[key]:
                raise UserError(f"{self._at(key)}{key} is missing; set it, such as {_EXAMPLE[key]}")

    def _check_module_keys(self) -> None:
        module = self.values["model_module"]
        for key in ("model_id", "dataset", "train_csv", "val_csv"):
            if self.values[key]:
                raise UserError(
                    f"{self._at(key)}{key}={self.values[key]} does not go with "
                    f"model_module={module}, which brings its own; leave one of the two out"
                )
        for key, given in self.given.items():
            kind = key.partition(".")[0]
            if "." in key and kind in ("model", "dataset"):
                raise UserError(
                    f"{given.origin}: unknown key {key!r}; the {kind} is made by "
                    f"model_module={module}"
                )

    def _take(self, key: str) -> Given | None:
        given = self.given.get(key)
        if given is None or given.value is _DEFAULT:
            return None
        self.origins[key] = given.origin
        return given

    def _choose_components(self) -> None:
        values = self.values
        own = bool(values["model_module"])
        for kind in ("model", "loss", "optimizer", "schedule", "index"):
            # What a module makes itself is no component, and is checked when it is made.
            if not (own and kind in ("model", "loss") and not values[COMPONENT_KEYS[kind]]):
                self._choose(kind)
        if not own:
            fallback = "triplets" if values["train_csv"] else "items"
            values["dataset"] = values["dataset"] or fallback
            self._choose("dataset")
        from_files = values["dataset"] == "triplets"
        values["augment"] = values["augment"] or ("mildnet" if from_files else "none")
        self._choose("augment")
        takes = self._choose_miner()
        self._choose_memory()
        if not values["sampler"]:
            values["sampler"] = {
                "labels": "classes_per_batch",
                "pairs": "pairs",
                "triplets": "triplets" if from_files else "random_triplets",
            }[takes]
        self._choose("sampler")
        gives = self.chosen["sampler"].tags.get("gives", "labels")
        if takes != gives and "loss" in self.chosen:
            kind = "miner" if values["miner"] else "loss"
            key = "sampler" if "sampler" in self.origins else kind
            fitting = _tagged("sampler", "gives", takes)
            raise UserError(
                f"{self._at(key)}{kind} {values[kind]!r} learns from {takes}, but sampler "
                f"{values['sampler']!r} gives {gives}; fitting samplers: {', '.join(fitting)}"
            )
        if len(set(values["trackers"])) < len(values["trackers"]):
            raise UserError(f"{self._at('trackers')}trackers: one tracker is named twice")
        for name in values["trackers"]:
            self.chosen[f"tracker.{name}"] = self._get("tracker", name, "trackers")

    def _choose_miner(self) -> str:
        """Return what the loss takes, or the miner in front of it if there is one."""
        values = self.values
        takes = "labels"
        if "loss" in self.chosen:
            takes = self.chosen["loss"].tags.get("takes", takes)
        if not values["miner"]:
            return takes
        self._choose("miner")
        if "loss" not in self.chosen:
            raise UserError(
                f"{self._at('miner')}miner={values['miner']} goes with the library's losses; "
                f"set loss, one of {', '.join(_tagged('loss', 'takes', 'triplets'))}"
            )
        if takes != "triplets":
            raise UserError(
                f"{self._at('miner')}miner {values['miner']!r} finds triplets, but loss "
                f"{values['loss']!r} learns from {takes}; fitting losses: "
                f"{', '.join(_tagged('loss', 'takes', 'triplets'))}"
            )
        return "labels"

    def _choose_memory(self) -> None:
        """Check that the loss can hold a batch against a memory, if there is one."""
        values = self.values
        if not values["memory"]:
            return
        self._choose("memory")
        loss = self.chosen.get("loss")
        fitting = ", ".join(_tagged("loss", "memory", "yes"))
        if loss is None:
            raise UserError(
                f"{self._at('memory')}memory={values['memory']} goes with the library's losses; "
                f"set loss, one of {fitting}"
            )
        if loss.tags.get("memory") != "yes":
            raise UserError(
                f"{self._at('memory')}memory {values['memory']!r} needs a loss over all pairs of "
                f"labelled batches, which {values['loss']!r} is not; fitting losses: {fitting}"
            )

    def _check_memory_size(self, parameters: Mapping[str, Mapping[str, Any]]) -> None:
        size, rows = parameters.get("memory", {}).get("size"), self.values["batch_size"]
        if size is not None and size < rows:
            key = "memory.size" if "memory.size" in self.origins else "batch_size"
            raise UserError(
                f"{self._at(key)}memory.size={size} is less than batch_size={rows}; a memory holds "
                "one batch at least"
            )

    def _choose(self, kind: str) -> None:
        key = COMPONENT_KEYS[kind]
        self.chosen[kind] = self._get(kind, self.values[key], key)

    def _get(self, kind: str, name: str, key: str) -> Component:
        try:
            return registry.get(kind, name)
        except UserError as error:
            name_key = "" if key == kind else f"{key}: "
            raise UserError(f"{self._at(key)}{name_key}{error}") from None

    def _check_parameter_names(self) -> None:
        for key, given in list(self.given.items()):
            prefix, dot, name = key.rpartition(".")
            if not dot:
                continue
            known = self._known_below(prefix)
            if known is not None and name in known[0]:
                continue
            if given.origin != cnf.OVERRIDE and name in self._replaced(prefix):
                del self.given[key]
                continue
            if prefix in ("miner", "memory") and known is None:
                raise UserError(
                    f"{given.origin}: {key} is set, but no {prefix}; set {prefix}, one of "
                    f"{', '.join(registry.components(prefix))}"
                )
            if known is None:
                raise UserError(f"{given.origin}: unknown key {key!r}{self._nearest(key)}")
            names, lead = known
            close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
            hint = f"did you mean '{prefix}.{close[0]}'?" if close else lead + ", ".join(names)
            raise UserError(f"{given.origin}: unknown key {key!r}; {hint}")

    def _replaced(self, kind: str) -> list[str]:
        """Return the parameters of the file's component, or the default, that --set replaced."""
        key = COMPONENT_KEYS.get(kind, "")
        taken_back = key in self.written and key not in self.given
        if self.origins.get(key) != cnf.OVERRIDE and not taken_back:
            return []
        named = self.written.get(key)
        name = named.value if named else options.parameters_of(JobConfig)[key].default
        if kind == "dataset" and not name:
            name = "triplets" if "train_csv" in self.written else "items"
        component = registry.components(kind).get(str(name))
        return list(component.parameters) if component else []

    def _known_below(self, prefix: str) -> tuple[list[str], str] | None:
        """Return the names that may follow `prefix`, and the words that introduce the list."""
        if prefix == "train":
            return list(options.parameters_of(TrainOptions)), "the training options are: "
        component = self.chosen.get(prefix)
        if prefix.startswith("tracker."):
            # A tracker that is off keeps its keys in the file, so that it can be turned on again.
            component = registry.components("tracker").get(prefix.removeprefix("tracker."))
        if component is None:
            return None
        takes = "takes: " if component.parameters else "takes no parameters"
        return list(component.parameters), f"{component.kind} {component.name!r} {takes}"

    def _nearest(self, key: str) -> str:
        known = [*options.parameters_of(JobConfig), *ALIASES]
        known += [f"train.{name}" for name in options.parameters_of(TrainOptions)]
        for prefix, component in self.chosen.items():
            known += [f"{prefix}.{name}" for name in component.parameters]
        close = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
        return f"; did you mean {close[0]!r}?" if close else "; see `mildnet describe config`"

    def _training(self) -> TrainOptions:
        values = {}
        for name, parameter in options.parameters_of(TrainOptions).items():
            given = self._take(f"train.{name}")
            if given is not None:
                with _located(given.origin, f"train.{name}"):
                    values[name] = _checked(
                        parameter, options.parse(TrainOptions, name, given.value)
                    )
        training = TrainOptions(**values)
        if training.strategy == "one" and (training.devices or 1) > 1:
            raise UserError(
                f"{self._at('train.devices')}train.devices={training.devices} does not go with "
                "train.strategy=one; use train.strategy=mirrored"
            )
        if training.clip_range is not None:
            low, high = training.clip_range
            at = f"{self._at('train.clip_range')}train.clip_range={low:g}, {high:g}"
            if not low < high:
                raise UserError(f"{at}: the first has to be less than the second")
            if training.clip_value is not None:
                raise UserError(f"{at} and train.clip_value are both set; set one")
        return training

    def _parameters(self, prefix: str) -> dict[str, Any]:
        component = self.chosen[prefix]
        found: dict[str, Any] = {}
        for name, parameter in component.parameters.items():
            key = f"{prefix}.{name}"
            given = self._take(key)
            if prefix == "dataset" and component.name == "triplets" and name in _CSV_KEYS:
                given = self._csv_parameter(name, key, given)
            if given is not None:
                with _located(given.origin, key):
                    found[name] = _checked(parameter, parameter.parse(given.value))
                    if name == component.tags.get("address"):
                        check_address(found[name], component.tags["environment"])
            elif parameter.required:
                where = self._at(COMPONENT_KEYS.get(prefix, "trackers"))
                raise UserError(
                    f"{where}{component.kind} {component.name!r} needs {key}; set it "
                    f"({parameter.type_name})"
                )
        defaults = component.defaults(found)
        return {name: (found if name in found else defaults)[name] for name in component.parameters}

    def _csv_parameter(self, name: str, key: str, given: Given | None) -> Given | None:
        if not self.values[name]:
            return given
        flat = Given(self.values[name], self.origins[name])
        if given is not None and given.value != flat.value:
            raise UserError(f"{given.origin}: {key} and {name} differ; set one of them")
        return flat

    def _at(self, key: str) -> str:
        return f"{self.origins.get(key, self.source)}: "


def _tagged(kind: str, tag: str, value: str) -> list[str]:
    """Return the names of the components of `kind` whose `tag` (by default labels) is `value`."""
    found = registry.components(kind).items()
    return [name for name, component in found if component.tags.get(tag, "labels") == value]


_EXAMPLE = {"model_id": 'model_id="mildnet_mobilenet"', "loss": 'loss="triplet_semihard"'}


class _located:
    """Turns a ValueError into a UserError that begins with place and key."""

    def __init__(self, origin: str, key: str) -> None:
        self.prefix = f"{origin}: {key}: "

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, ValueError):
            raise UserError(self.prefix + " ".join(str(error).split())) from None


def _checked(parameter: Parameter, value: Any) -> Any:
    """Return `value`, having made sure that the saved config will give it back.

    Raises:
        ValueError: a `.cnf` file cannot hold it: more than one line, or a comma in a list item.
    """
    text = cnf.plain_text(value)
    if "\n" in text or "\r" in text or "\0" in text:
        raise ValueError(f"{text!r} is more than one line of text")
    try:
        again = parameter.parse(None if value is None else text)
    except ValueError:
        again = None
    if again != value or type(again) is not type(value):
        raise ValueError(f"{value!r} cannot be written in a config")
    return value


def _key_in(message: str, prefix: str, parameters: Iterable[str]) -> str | None:
    """Return the key of the parameter that an error message speaks of, if it names one."""
    words = message.replace("=", " ").replace(":", " ").replace(",", " ").split()
    for word in words:
        if word.strip("'\"`().;") in parameters:
            return f"{prefix}." + word.strip("'\"`().;")
    return None
