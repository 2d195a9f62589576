"""The source package: what is in it, that it runs, and that one source gives one file."""

import importlib.metadata
import io
import os
import subprocess
import sys
import tarfile
import tomllib
from email import message_from_string
from pathlib import Path

import pytest

import trainer
from trainer.config import JobConfig, Settings, UserError
from trainer.launch.vertex import package

ROOT = Path(__file__).resolve().parents[3]


def config(*overrides: str) -> JobConfig:
    values = {"model_id": "mildnet", "loss": "triplet_semihard"}
    return JobConfig.from_mapping(values, overrides, Settings(), name="job")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[package.Package, Path]:
    """The package of this checkout with modules of the user's own, and the folder it unpacks to."""
    here = tmp_path_factory.mktemp("workplace")
    (here / "my_loop.py").write_text("def fit(task):\n    return task\n")
    (here / "my_shop" / "lists").mkdir(parents=True)
    (here / "my_shop" / "__init__.py").write_text("")
    (here / "my_shop" / "rates.py").write_text("def slow(step):\n    return 0.1\n")
    (here / "my_shop" / "lists" / "names.txt").write_text("mug\n")
    (here / "my_shop" / "__pycache__").mkdir()
    (here / "my_shop" / "__pycache__" / "rates.pyc").write_bytes(b"x")
    (here / "plain").mkdir()
    (here / "plain" / "mapping.py").write_text("def of(step):\n    return 1\n")
    (here / "unrelated.py").write_text("")
    before = os.getcwd()
    os.chdir(here)
    try:
        made = package.build(
            config(
                "trainer=my_loop",
                "train.decay_function=my_shop.rates.slow",
                "train.trainable_function=plain.mapping.of",
            ),
            ("cpu", "wandb"),
        )
    finally:
        os.chdir(before)
    to = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(fileobj=io.BytesIO(made.content)) as archive:
        archive.extractall(to, filter="data")
    return made, to / f"mildnet-{trainer.__version__}"


def test_name_and_place(built: tuple[package.Package, Path]):
    made, _ = built
    name = f"mildnet-{trainer.__version__}.tar.gz"
    assert made.file_name == name
    assert made.place == f"packages/{made.digest}/{name}"
    assert made.constraints_place == f"packages/{made.digest}/constraints.txt"
    assert len(made.digest) == 12
    assert made.constraints == (ROOT / "constraints.txt").read_text()


def test_everything_that_the_library_needs_is_in_it(built: tuple[package.Package, Path]):
    _, folder = built
    theirs = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "trainer").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyc"
    }
    mine = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    # Others may write a file into the library's folder while this runs.
    assert {name for name in theirs - mine if (ROOT / name).stat().st_size} == set()
    assert {"my_loop.py", "my_shop/rates.py", "my_shop/lists/names.txt", "plain/mapping.py"} <= mine
    assert "unrelated.py" not in mine
    assert not any("__pycache__" in name for name in mine)


def test_what_it_asks_for(built: tuple[package.Package, Path]):
    _, folder = built
    project = tomllib.loads((folder / "pyproject.toml").read_text())
    found = project["project"]
    assert (found["name"], found["version"]) == ("mildnet", trainer.__version__)
    assert found["requires-python"] == ">=3.11"
    assert {"tensorflow>=2.19", "typer>=0.15", "faiss-cpu>=1.9", "wandb>=0.31"} <= set(
        found["dependencies"]
    )
    assert not any(name.startswith(("pytest", "optuna")) for name in found["dependencies"])
    assert project["tool"]["setuptools"]["py-modules"] == ["my_loop"]
    requires = (folder / "mildnet.egg-info" / "requires.txt").read_text().split()
    assert sorted(requires) == sorted(found["dependencies"])


def test_it_runs_where_it_is_unpacked(built: tuple[package.Package, Path], tmp_path: Path):
    _, folder = built
    program = (
        "import trainer, my_loop, my_shop.rates, plain.mapping, sys; "
        "assert trainer.__file__.startswith"
        "(sys.argv[1]); from trainer.config import JobConfig; "
        "print(JobConfig.load('job.cnf').loss)"
    )
    (tmp_path / "job.cnf").write_text("model_id=mildnet\nloss=triplet_semihard\n")
    done = subprocess.run(
        [sys.executable, "-c", program, str(folder)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.returncode) == ("triplet_semihard\n", 0), done.stderr


def test_the_same_source_gives_the_same_bytes(tmp_path: Path):
    def tree(folder: Path, text: str) -> Path:
        (folder / "a").mkdir(parents=True)
        (folder / "a" / "__init__.py").write_text(text)
        (folder / "MANIFEST.in").write_text("graft a\n")
        package._write_metadata(folder, ">=3.11", ["x"], ["a"], [])
        return folder

    one, two = tree(tmp_path / "1", "x = 1\n"), tree(tmp_path / "2", "x = 1\n")
    os.utime(two / "a" / "__init__.py", (1e9, 1e9))
    other = tree(tmp_path / "3", "x = 2\n")
    digests = [package._digest(folder, None) for folder in (one, two, other)]
    assert digests[0] == digests[1] != digests[2]
    assert package._digest(one, "x==1\n") != digests[0]
    assert package._sdist(one, tmp_path / "b1") == package._sdist(two, tmp_path / "b2")


def test_an_installed_library_knows_what_it_requires(monkeypatch: pytest.MonkeyPatch):
    text = (
        "Metadata-Version: 2.1\nName: mildnet\nVersion: 9\nRequires-Python: >=3.11\n"
        "Requires-Dist: numpy>=1.26\nRequires-Dist: faiss-cpu>=1.9; extra == 'cpu'\n"
        "Requires-Dist: tensorflow[and-cuda]>=2.19; extra == 'gpu'\n"
        "Requires-Dist: tomli>=2; python_version < '3.13'\n"
        "Requires-Dist: uvloop; (os_name == 'nt' or os_name == 'posix') and extra == 'cpu'\n"
        "Requires-Dist: httptools; sys_platform == 'no-such' and extra == 'cpu'\n"
        "Provides-Extra: cpu\nProvides-Extra: gpu\n"
    )
    monkeypatch.setattr(importlib.metadata, "metadata", lambda name: message_from_string(text))
    found = package._installed_metadata()
    # Where they hold is decided there and not here.
    assert found.requires == ("numpy>=1.26", 'tomli>=2; python_version < "3.13"')
    assert found.extras == {
        "cpu": [
            "faiss-cpu>=1.9",
            'uvloop; os_name == "nt" or os_name == "posix"',
            'httptools; sys_platform == "no-such"',
        ],
        "gpu": ["tensorflow[and-cuda]>=2.19"],
    }
    assert found.python == ">=3.11"


def test_a_checkout_and_what_was_installed_from_it_require_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "setup.py").write_text(
        "from setuptools import setup\nsetup(name='mildnet', python_requires='>=3.11', "
        "install_requires=['numpy>=1.26', 'tomli>=2; python_version < \"3.13\"'], "
        "extras_require={'serve': ['limits>=5', 'uvloop>=1; sys_platform != \"win32\"']})\n"
    )
    monkeypatch.setattr(package, "PACKAGE", tmp_path / "trainer")
    found = package._checkout_metadata()
    assert found.requires == ("numpy>=1.26", 'tomli>=2; python_version < "3.13"')
    assert found.extras == {"serve": ["limits>=5", 'uvloop>=1; sys_platform != "win32"']}
    program = (
        "from setuptools.build_meta import prepare_metadata_for_build_wheel as made; made('.')"
    )
    package._run(program, tmp_path)
    (metadata,) = tmp_path.glob("*.dist-info/METADATA")
    installed = message_from_string(metadata.read_text())
    monkeypatch.setattr(importlib.metadata, "metadata", lambda name: installed)
    assert package._installed_metadata() == found


def test_a_library_that_is_neither(monkeypatch: pytest.MonkeyPatch):
    def missing(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(package, "checkout", lambda: False)
    monkeypatch.setattr(importlib.metadata, "metadata", missing)
    with pytest.raises(UserError, match=r"neither a checkout .* give an image .*\(--image\)"):
        package.build(config())


def test_an_extra_that_does_not_exist():
    with pytest.raises(UserError, match=r"^extras: no extra 'wandbb'; did you mean 'wan"):
        package.build(config(), ("wandbb",))


@pytest.mark.parametrize(
    ("overrides", "found"),
    [
        ([], []),
        (["trainer=trainer.examples.ranker"], []),
        (["trainer=loops.mine", "train.trainable_function=loops.parts.some"], ["loops"]),
        (["schedule=custom", "schedule.function=rates.slow"], ["rates.py"]),
        (["trainer=plain.deep.loop"], ["plain"]),
    ],
)
def test_modules_of_a_config(
    overrides: list[str], found: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loops").mkdir()
    (tmp_path / "loops" / "__init__.py").write_text("")
    (tmp_path / "rates.py").write_text("")
    (tmp_path / "plain" / "deep").mkdir(parents=True)
    (tmp_path / "plain" / "deep" / "loop.py").write_text("")
    assert [str(path) for path in package.user_code(config(*overrides))] == found


def test_modules_that_cannot_be_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"^trainer=no_such_loop: no module 'no_such_loop' in /"):
        package.user_code(config("trainer=no_such_loop"))
    with pytest.raises(
        UserError, match=r"^trainer=rich: rich is installed here and not in the wor"
    ):
        package.user_code(config("trainer=rich"))


def test_a_build_that_fails_is_told_in_one_line(tmp_path: Path):
    with pytest.raises(UserError, match=r"^the package of the job can't be built: .*no such thing"):
        package._run("raise SystemError('no such thing')", tmp_path)
