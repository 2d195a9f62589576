"""`mildnet phases`: jobs one after the other, each beginning with the weights of the one before."""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from rich.console import Console
from rich.table import Table

from trainer.config import JobConfig, UserError, nearest
from trainer.config.cnf import plain_text
from trainer.launch.run_folder import RunFolder
from trainer.launch.starting import weights_of
from trainer.launch.summary import HEADLINE, run_and_show

#: What a file of phases may say, and what it may say of a phase.
KEYS, PHASE_KEYS = ("name", "set", "phases"), ("config", "name", "set", "match")
State = Literal["done", "begun", "waiting"]


@dataclass(frozen=True)
class Phase:
    """One job of several.

    Attributes:
        name: unique among the phases.
        config: of the job, with `init_from` set from the second phase on.
        folder: its run.
    """

    name: str
    config: JobConfig
    folder: RunFolder

    @property
    def state(self) -> State:
        """Whether the run has finished (its report is the last file to be written), or begun."""
        if self.folder.exists("report.html"):
            return "done"
        return "begun" if self.folder.exists("config.json") else "waiting"

    def begun(self) -> Phase:
        """Return the phase with `init_from` as the run has it, which may have been moved since."""
        if self.state == "waiting":
            return self
        before = self.folder.config().init_from
        return dataclasses.replace(self, config=dataclasses.replace(self.config, init_from=before))

    def began_with(self) -> str | None:
        """Return what :func:`weights_of` said of the run that this one began with."""
        if not self.folder.exists("restored.json"):
            return None
        return self.folder.read_json("restored.json").get("weights")


@dataclass(frozen=True)
class Phases:
    """Jobs in their order, and the folder that holds their runs.

    A file of phases is YAML:

        name: product_recognition      # folder of the runs; default: the file's name
        set: {train.log_every: 10}     # wins over every config; default: nothing
        phases:
          - arcface_1st.cnf            # a config, relative to the file
          - config: arcface_2nd.cnf
            name: second               # default: the config's name
            set: {lr: 0.0001}          # wins over this config
            match: matching            # init_match: all (default) or matching

    Attributes:
        folder: where the runs are.
        phases: the jobs.
    """

    folder: str
    phases: tuple[Phase, ...]

    @classmethod
    def load(cls, path: str, overrides: Iterable[str] = (), to: str = "") -> Phases:
        """Read a file of phases with all its configs, and check them.

        Args:
            path: the file.
            overrides: `key=value` texts for the config of every phase; they win over `set`.
            to: folder of the runs; default: the file's `name` below the first config's `job_dir`.

        Raises:
            UserError: the file, or a config that it names, is missing or wrong.
        """
        given = _read(path)
        entries = [_entry(path, number, item) for number, item in enumerate(given["phases"], 1)]
        overrides = list(overrides)
        configs = []
        for entry in entries:
            config = Path(path).parent / entry["config"]
            if not config.is_file():
                raise UserError(f"{path}: phase {entry['name']}: {config}: no such file")
            pairs = {**given["set"], **entry["set"]}.items()
            own = [f"{key}={plain_text(value)}" for key, value in pairs]
            try:
                configs.append(JobConfig.load(config, [*own, *overrides]))
            except UserError as error:
                raise UserError(f"{path}: phase {entry['name']}: {error}") from None
        names = [entry["name"] for entry in entries]
        for name in names:
            if names.count(name) > 1:
                raise UserError(f"{path}: two phases are called {name}; give one another name")
        below = configs[0].job_dir.rstrip("/")
        folder = (to or f"{below}/{given.get('name') or Path(path).stem}").rstrip("/")
        phases: list[Phase] = []
        for number, (entry, config) in enumerate(zip(entries, configs, strict=True), start=1):
            run = RunFolder(f"{folder}/{number}_{entry['name']}")
            if phases:
                began = {"init_from": phases[-1].folder.path, "init_match": entry["match"]}
                config = JobConfig.from_mapping(
                    {**config.to_dict(), **began}, source=path, name=config.name
                )
            phases.append(Phase(entry["name"], config, run))
        return cls(folder, tuple(phases))

    def run(self, console: Console, *, fresh: str | None = None, yes: bool = False) -> None:
        """Run what is not done yet, from where an earlier call stopped.

        Args:
            console: is told of each phase, and gets a table of all in the end.
            fresh: name of a phase to begin anew, with all after it.
            yes: do not ask before the old runs are deleted.

        Raises:
            UserError: something that the user can mend, such as a phase that began with other
                weights than those that are there now.
        """
        anew = self._anew(fresh)
        self._check(anew)
        for number, phase in enumerate(self.phases):
            if phase.state == "done" and number < anew:
                console.print(f"{phase.name}: done", markup=False)
                continue
            fresh_now = number >= anew
            config = (phase if fresh_now else phase.begun()).config
            if not run_and_show(config, run_dir=phase.folder.path, fresh=fresh_now, yes=yes):
                return
            # Model and moments refer to one another in circles, and would stay beside the next.
            gc.collect()
        self.show(console)

    def show(self, console: Console) -> None:
        """Print a table of the phases: how far they are, and what those that are done reached."""
        table = Table(title=f"Phases in {self.folder}", title_justify="left")
        for column in ("phase", "state", "steps"):
            table.add_column(column, justify="right" if column == "steps" else "left")
        for _, label in HEADLINE:
            table.add_column(label, justify="right")
        for phase in self.phases:
            cells = [""] * (1 + len(HEADLINE))
            if phase.state == "done":
                evaluation = phase.folder.read_json("evaluation.json")
                metrics = evaluation["trained"]["metrics"]
                cells = [f"{evaluation['training']['step']:,}"]
                cells += [f"{100 * metrics[metric]:.1f}" for metric, _ in HEADLINE]
            table.add_row(phase.name, phase.state, *cells)
        console.print(table)

    def _anew(self, fresh: str | None) -> int:
        """Return the number of the first phase to begin anew, beyond the last for none."""
        names = [phase.name for phase in self.phases]
        if fresh is None:
            return len(names)
        if fresh not in names:
            raise UserError(f"there is no phase {fresh!r}{nearest(fresh, names)}")
        return names.index(fresh)

    def _check(self, anew: int) -> None:
        """Refuse, before anything runs, what a later phase would end with."""
        for number, phase in enumerate(self.phases[:anew]):
            if phase.state == "waiting":
                continue
            again = f"--fresh-from {phase.name}"
            phase.folder.check(phase.begun().config, anew=again)
            before = self.phases[number - 1] if number else None
            if before and not _follows(phase, before):
                raise UserError(
                    f"phase {phase.name} began with other weights of {before.name} than are in "
                    f"{before.folder.path} now; begin it anew with {again}"
                )


def _follows(phase: Phase, before: Phase) -> bool:
    """Return whether the run of a phase began with the weights that the one before has now."""
    if before.state != "done":
        return False
    began = phase.began_with()
    # One that had not come so far yet will begin with them.
    return began == weights_of(before.folder) or (began is None and phase.state == "begun")


def _read(path: str) -> dict[str, Any]:
    try:
        given = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not YAML ({' '.join(str(error).split())})") from None
    if not isinstance(given, dict) or not isinstance(given.get("phases"), list):
        raise UserError(f"{path}: needs `phases:` with a list of configs")
    _check_keys(path, given, KEYS)
    if not given["phases"]:
        raise UserError(f"{path}: phases names no config")
    _check_set(path, given)
    if "name" in given:
        _check_name(path, given["name"])
    return {"set": {}, **given}


def _entry(path: str, number: int, item: Any) -> dict[str, Any]:
    """Return what the file says of a phase, with the defaults."""
    entry = {"config": item} if isinstance(item, str) else item
    where = f"{path}: phase {number}"
    if not isinstance(entry, dict) or not isinstance(entry.get("config"), str):
        raise UserError(f"{where}: give the path of a config, or a mapping with `config`")
    _check_keys(where, entry, PHASE_KEYS)
    entry = {"name": Path(entry["config"]).stem, "set": {}, "match": "all", **entry}
    _check_name(where, entry["name"])
    _check_set(where, entry)
    if entry["match"] not in ("all", "matching"):
        raise UserError(f"{where}: match is {entry['match']!r}; all or matching")
    return entry


def _check_name(where: str, name: Any) -> None:
    if not isinstance(name, str) or not name.replace("-", "").replace("_", "").isalnum():
        raise UserError(f"{where}: name is {name!r}; letters, digits, - and _ are allowed")


def _check_set(where: str, given: Mapping[str, Any]) -> None:
    changes = given.get("set", {})
    if not isinstance(changes, dict) or not all(map(_is_value, changes.values())):
        raise UserError(f"{where}: set needs keys with values, such as set: {{lr: 0.001}}")


def _is_value(value: Any) -> bool:
    if isinstance(value, list):
        return all(map(_is_value, value))
    return value is None or isinstance(value, bool | int | float | str)


def _check_keys(where: str, given: Mapping[Any, Any], known: Iterable[str]) -> None:
    for key in given:
        if key not in known:
            raise UserError(f"{where}: unknown key {key!r}{nearest(str(key), list(known))}")
