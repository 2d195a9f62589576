"""What a remote job runs on: a file of `training_configs/`, checked, and the strategy it takes."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from trainer.config import JobConfig, UserError, nearest
from trainer.config.cnf import MAX_BYTES
from trainer.config.registry import PACKAGE
from trainer.config.settings import beside

FOLDER = "training_configs"
#: What a file may say, level by level.
KEYS = ("workerPoolSpecs",)
POOL_KEYS = ("machineSpec", "replicaCount", "diskSpec")
MACHINE_KEYS = ("machineType", "acceleratorType", "acceleratorCount", "tpuTopology")
DISK_KEYS = ("bootDiskType", "bootDiskSizeGb")

DISK_TYPES = ("pd-ssd", "pd-standard", "hyperdisk-balanced")
#: Of a boot disk, gigabytes.
LEAST_DISK, MOST_DISK = 100, 64_000

#: Accelerators that the service knows by a name of their own.
GPUS = (
    "NVIDIA_TESLA_P100",
    "NVIDIA_TESLA_V100",
    "NVIDIA_TESLA_P4",
    "NVIDIA_TESLA_T4",
    "NVIDIA_TESLA_A100",
    "NVIDIA_A100_80GB",
    "NVIDIA_L4",
    "NVIDIA_H100_80GB",
    "NVIDIA_H100_MEGA_80GB",
    "NVIDIA_H200_141GB",
    "NVIDIA_B200",
    "NVIDIA_GB200",
    "NVIDIA_RTX_PRO_6000",
)
TPUS = ("TPU_V2", "TPU_V3")

_EACH = {"1": 1, "2": 2, "4": 4, "8": 8}
#: Machine types that come with GPUs: a pattern, the GPU, and the number by the size that it names.
_BUILT_IN: tuple[tuple[str, str, Mapping[str, int]], ...] = (
    (r"a2-highgpu-(\d+)g", "NVIDIA_TESLA_A100", _EACH),
    (r"a2-megagpu-(\d+)g", "NVIDIA_TESLA_A100", {"16": 16}),
    (r"a2-ultragpu-(\d+)g", "NVIDIA_A100_80GB", _EACH),
    (r"a3-highgpu-(\d+)g", "NVIDIA_H100_80GB", _EACH),
    (r"a3-megagpu-(\d+)g", "NVIDIA_H100_MEGA_80GB", {"8": 8}),
    (r"a3-ultragpu-(\d+)g", "NVIDIA_H200_141GB", {"8": 8}),
    (r"a4-highgpu-(\d+)g", "NVIDIA_B200", {"8": 8}),
    (r"a4x-highgpu-(\d+)g", "NVIDIA_GB200", {"4": 4}),
    (
        r"g2-standard-(\d+)",
        "NVIDIA_L4",
        {"4": 1, "8": 1, "12": 1, "16": 1, "24": 2, "32": 1, "48": 4, "96": 8},
    ),
    (r"g4-standard-(\d+)", "NVIDIA_RTX_PRO_6000", {"48": 1, "96": 2, "192": 4, "384": 8}),
)
#: GPUs that are attached to n1 machines: how many, and of a machine of how many CPUs at most.
_ATTACHED = {
    "NVIDIA_TESLA_P4": {1: 24, 2: 48, 4: 96},
    "NVIDIA_TESLA_P100": {1: 16, 2: 32, 4: 96},
    "NVIDIA_TESLA_T4": {1: 48, 2: 48, 4: 96},
    "NVIDIA_TESLA_V100": {1: 12, 2: 24, 4: 48, 8: 96},
}
#: CPUs that n1 machines have.
_N1 = ("1", "2", "4", "8", "16", "32", "64", "96")
#: Chips of one machine, by the end of a machine type of TPU v5e or v6e, and its own topology.
_TPU_MACHINE = re.compile(r"(?:ct5lp-hightpu|ct6e-standard)-(1|4|8)t")
_ONE_MACHINE = {1: "1x1", 4: "2x2", 8: "2x4"}
_SLICES = ("2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")


@dataclass(frozen=True)
class Pool:
    """Machines of one kind.

    Attributes:
        machine_type: such as `n1-standard-8`.
        replicas: how many machines.
        accelerator: GPU or TPU by its name; "" for none.
        accelerators: how many, of one machine.
        topology: of a TPU, such as `2x2`.
        disk_type: of the boot disk; "" for the service's default.
        disk_gb: its size; None for the service's default.
    """

    machine_type: str
    replicas: int = 1
    accelerator: str = ""
    accelerators: int = 0
    topology: str = ""
    disk_type: str = ""
    disk_gb: int | None = None

    @property
    def tpu(self) -> bool:
        """Whether its machines have TPUs."""
        return self.accelerator in TPUS or bool(self.topology)

    @property
    def devices(self) -> int:
        """GPUs, TPU cores or chips of all its machines together; 1 each where there are none."""
        if self.topology:
            height, width = self.topology.split("x")
            return int(height) * int(width)
        return self.replicas * max(self.accelerators, 1)


@dataclass(frozen=True)
class Shape:
    """Machines of a job. Make one with :meth:`load`.

    Attributes:
        path: of the file.
        pools: the chief, and further workers if there are any.
    """

    path: str
    pools: tuple[Pool, ...]

    @classmethod
    def load(cls, name: str) -> Shape:
        """Read and check a file of machines.

        Args:
            name: a path, or a name of `training_configs/`, with or without `.yaml`.

        Raises:
            UserError: there is no such file, or what it says is no job of this library.
        """
        path = find(name)
        shape = cls(str(path), _pools(path))
        shape._check()
        return shape

    @property
    def machines(self) -> int:
        """How many machines there are."""
        return sum(pool.replicas for pool in self.pools)

    @property
    def devices(self) -> int:
        """How many devices share a batch."""
        return sum(pool.devices for pool in self.pools)

    @property
    def gpus(self) -> int:
        """GPUs of one machine."""
        return 0 if self.pools[0].tpu else self.pools[0].accelerators

    @property
    def tpu(self) -> bool:
        """Whether it is a TPU."""
        return self.pools[0].tpu

    @property
    def tpu_pod(self) -> bool:
        """Whether it is a TPU of several machines."""
        pool = self.pools[0]
        if pool.topology:
            machine = _TPU_MACHINE.fullmatch(pool.machine_type)
            return machine is not None and pool.devices > int(machine[1])
        return pool.tpu and pool.accelerators > 8

    @property
    def strategy(self) -> str:
        """The `train.strategy` that uses all of it."""
        if self.tpu:
            return "tpu"
        if self.machines > 1:
            return "multiworker"
        return "mirrored" if self.gpus > 1 else "one"

    def __str__(self) -> str:
        """Return what it is in words, such as `2 x n1-standard-8, each with 1 NVIDIA_TESLA_T4`."""
        words = []
        for pool in self.pools:
            each = "each with" if pool.replicas > 1 else "with"
            text = f"{pool.replicas} x {pool.machine_type}"
            if pool.topology:
                text += f" {each} a TPU of {pool.topology} chips"
            elif pool.accelerator:
                text += f" {each} {pool.accelerators} {pool.accelerator}"
            words.append(text)
        return ", ".join(words)

    def fit(self, config: JobConfig) -> JobConfig:
        """Return the config of a job with the strategy that uses this shape.

        Raises:
            UserError: the config asks for another one, for more devices than there are, or for
                batches that they can't share evenly.
        """
        training = config.training
        asked, at = training.strategy, config.where("train.strategy")
        if asked not in ("auto", self.strategy):
            raise UserError(
                f"{at}train.strategy={asked} does not go with {self.path} ({self}), which takes "
                f"train.strategy={self.strategy}; leave it out, or choose another shape"
            )
        if self.strategy in ("multiworker", "tpu") and training.devices is not None:
            raise UserError(
                f"{config.where('train.devices')}train.devices={training.devices} has no effect on "
                f"{self.path} ({self}), all of which is used; leave it out"
            )
        if training.devices is not None:
            there = max(self.gpus, 1)
            if training.devices > there:
                raise UserError(
                    f"{config.where('train.devices')}train.devices={training.devices}, but the "
                    f"machine of {self.path} has {there}"
                )
        used = self.devices
        if self.strategy == "mirrored":
            used = training.devices or used
        if config.batch_size % used:
            raise UserError(
                f"{config.where('batch_size')}batch_size={config.batch_size} can't be divided "
                f"evenly among the {used} devices of {self.path}; make it a multiple of {used}"
            )
        fitted = dataclasses.replace(training, strategy=self.strategy)  # type: ignore[arg-type]
        origins = {**config.origins, "train.strategy": self.path}
        return dataclasses.replace(config, training=fitted, origins=origins)

    def _check(self) -> None:
        first = self.pools[0]
        if first.replicas != 1:
            raise UserError(
                f"{self.path}: the first pool is the chief, so its replicaCount is 1, not "
                f"{first.replicas}; further machines go into a second pool"
            )
        if len(self.pools) > 2:
            raise UserError(
                f"{self.path}: {len(self.pools)} pools; a job has a chief and, in the second pool, "
                "workers"
            )
        if len(self.pools) > 1 and any(pool.tpu for pool in self.pools):
            raise UserError(f"{self.path}: a TPU takes one pool alone, of one replica")
        if len({(pool.accelerator, pool.accelerators) for pool in self.pools}) > 1:
            raise UserError(
                f"{self.path}: chief and workers have different accelerators; each takes the same "
                "share of a batch, so they have to have the same"
            )


def names() -> list[str]:
    """Return the shapes that there are, by name.

    Raises:
        UserError: there is none, as where the library was installed without its checkout.
    """
    found = sorted(path.stem for path in beside(FOLDER).glob("*.yaml"))
    if not found:
        raise UserError(
            f"no machines to choose from: there is no {FOLDER}/NAME.yaml here nor in "
            f"{PACKAGE.parent}; copy that folder of mildnet's repository to the working folder, or "
            "give --shape FILE.yaml"
        )
    return found


def find(name: str) -> Path:
    """Return the file of a shape: a path, or the name of one.

    Raises:
        UserError: there is none.
    """
    if Path(name).is_file():
        return Path(name)
    plain = name.removesuffix(".yaml").removeprefix(f"{FOLDER}/")
    path = beside(FOLDER) / f"{plain}.yaml"
    if path.is_file():
        return path
    raise UserError(f"no shape {name!r}{nearest(plain, names(), 'there are')}")


def _pools(path: Path) -> tuple[Pool, ...]:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UserError(f"{path}: too large for a file of machines")
        given = yaml.safe_load(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError:
        raise UserError(f"{path}: not a text file in UTF-8") from None
    except (yaml.YAMLError, RecursionError) as error:
        raise UserError(f"{path}: not YAML ({' '.join(str(error).split())})") from None
    _mapping(given, KEYS, f"{path}")
    pools = given.get("workerPoolSpecs")
    if not isinstance(pools, list) or not pools:
        raise UserError(
            f"{path}: workerPoolSpecs has to be a list of machines, the first the chief"
        )
    return tuple(
        _pool(pool, f"{path}: pool {number}") for number, pool in enumerate(pools, start=1)
    )


def _mapping(given: Any, keys: Sequence[str], where: str) -> None:
    if not isinstance(given, dict):
        raise UserError(f"{where}: give {', '.join(keys)} as key: value lines")
    for key in given:
        if key not in keys:
            raise UserError(f"{where}: unknown key {key!r}{nearest(str(key), keys)}")


def _pool(given: Any, where: str) -> Pool:
    _mapping(given, POOL_KEYS, where)
    if "machineSpec" not in given:
        raise UserError(f"{where}: machineSpec is missing, with a machineType at least")
    machine, disk = given["machineSpec"], given.get("diskSpec", {})
    _mapping(machine, MACHINE_KEYS, f"{where}: machineSpec")
    _mapping(disk, DISK_KEYS, f"{where}: diskSpec")
    pool = Pool(
        _text(machine, "machineType", where),
        _count(given, "replicaCount", where, 1),
        _text(machine, "acceleratorType", where),
        _count(machine, "acceleratorCount", where, 0),
        _text(machine, "tpuTopology", where),
        _text(disk, "bootDiskType", where),
        _count(disk, "bootDiskSizeGb", where, 0) or None,
    )
    _check_machine(pool, where)
    if pool.disk_type and pool.disk_type not in DISK_TYPES:
        raise UserError(
            f"{where}: bootDiskType {pool.disk_type!r}{nearest(pool.disk_type, DISK_TYPES)}"
        )
    if pool.disk_gb is not None and not LEAST_DISK <= pool.disk_gb <= MOST_DISK:
        raise UserError(
            f"{where}: bootDiskSizeGb is {pool.disk_gb}; {LEAST_DISK} to {MOST_DISK:,} are allowed"
        )
    return pool


def _text(given: Mapping[str, Any], key: str, where: str) -> str:
    value = given.get(key, "")
    if not isinstance(value, str):
        raise UserError(f"{where}: {key} is {value!r}, not a text")
    return value


def _count(given: Mapping[str, Any], key: str, where: str, default: int) -> int:
    value = given.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or (key in given and value < 1):
        raise UserError(f"{where}: {key} is {value!r}; it has to be a whole number from 1 on")
    return value


def _check_machine(pool: Pool, where: str) -> None:
    machine = pool.machine_type
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)+", machine):
        raise UserError(f"{where}: machineType {machine!r} is none, such as n1-standard-8")
    if _TPU_MACHINE.fullmatch(machine) or pool.tpu or machine == "cloud-tpu":
        _check_tpu(pool, where)
        return
    if pool.accelerator and pool.accelerator not in GPUS:
        known = (*GPUS, *TPUS)
        raise UserError(
            f"{where}: acceleratorType {pool.accelerator!r}{nearest(pool.accelerator, known)}"
        )
    if bool(pool.accelerator) != bool(pool.accelerators):
        raise UserError(f"{where}: acceleratorType and acceleratorCount go together; set both")
    for pattern, gpu, counts in _BUILT_IN:
        match = re.fullmatch(pattern, machine)
        if not match:
            continue
        number = counts.get(match[1])
        if number is None:
            raise UserError(f"{where}: there is no {machine}; sizes are {', '.join(counts)}")
        if (pool.accelerator, pool.accelerators) != (gpu, number):
            raise UserError(
                f"{where}: {machine} comes with acceleratorType {gpu} and acceleratorCount "
                f"{number}; set just these"
            )
        return
    n1 = re.fullmatch(r"n1-(?:standard|highmem|highcpu)-(\d+)", machine)
    if n1 and n1[1] not in _N1:
        raise UserError(f"{where}: there is no {machine}; sizes are {', '.join(_N1)}")
    if not pool.accelerator:
        return
    if pool.accelerator not in _ATTACHED:
        raise UserError(f"{where}: {machine} takes no {pool.accelerator}")
    if not machine.startswith("n1-"):
        raise UserError(f"{where}: {pool.accelerator} goes with n1 machines, not with {machine}")
    if pool.accelerators not in _ATTACHED[pool.accelerator]:
        allowed = ", ".join(map(str, _ATTACHED[pool.accelerator]))
        raise UserError(
            f"{where}: acceleratorCount is {pool.accelerators}; of {pool.accelerator} a machine "
            f"takes {allowed}"
        )
    most = _ATTACHED[pool.accelerator][pool.accelerators]
    if n1 and int(n1[1]) > most:
        raise UserError(
            f"{where}: {machine} is too large for {pool.accelerators} {pool.accelerator}, which "
            f"take {most} CPUs at most; take a smaller machine, or more of them"
        )


def _check_tpu(pool: Pool, where: str) -> None:
    match = _TPU_MACHINE.fullmatch(pool.machine_type)
    if match:
        chips = int(match[1])
        fitting = [_ONE_MACHINE[chips]]
        if chips == 4:
            fitting = list(_SLICES)
        if pool.accelerator or pool.accelerators or pool.topology not in fitting:
            raise UserError(
                f"{where}: {pool.machine_type} takes no accelerator, and one of these as "
                f"tpuTopology: {', '.join(fitting)}"
            )
    elif pool.machine_type == "cloud-tpu":
        pod = pool.accelerators >= 32 and pool.accelerators % 32 == 0
        if pool.accelerator not in TPUS or pool.topology or not (pool.accelerators == 8 or pod):
            raise UserError(
                f"{where}: cloud-tpu takes acceleratorType TPU_V2 or TPU_V3, and as "
                "acceleratorCount 8, or a multiple of 32 for a pod"
            )
    else:
        raise UserError(
            f"{where}: {pool.machine_type} has no TPU; machines with one are cloud-tpu (v2, v3), "
            "ct5lp-hightpu-1t, -4t, -8t (v5e) and ct6e-standard-1t, -4t, -8t (v6e)"
        )
    if pool.replicas != 1:
        raise UserError(f"{where}: a TPU takes replicaCount 1, not {pool.replicas}")
