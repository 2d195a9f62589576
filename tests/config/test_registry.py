"""The registry reads components from source text, and checks values against their signatures."""

import subprocess
import sys
from pathlib import Path
from typing import Literal

import pytest

from trainer.config import UserError, components, get, nearest, register, registry
from trainer.config.registry import ROOMS, Parameter


def add(shelf: Path, room: str, text: str) -> None:
    head = "from typing import Literal\nfrom trainer.config import register\n"
    (shelf / room / "added.py").write_text(head + text, encoding="utf-8")
    registry.components.cache_clear()
    registry._scan.cache_clear()


def test_components_are_found_by_kind_in_alphabetical_order(shelf: Path):
    assert list(components("sampler")) == ["classes_per_batch", "random_triplets", "triplets"]
    assert list(components("loss")) == ["hinge_loss", "triplet_semihard"]
    assert list(components("trunk")) == []


def test_a_component_as_its_source_says(shelf: Path):
    small = get("model", "small")
    assert (small.module, small.qualname) == ("shelf.models.models", "small")
    assert small.summary == "A small model."
    assert list(small.parameters) == ["widths", "weights", "note", "layers"]
    assert small.parameters["widths"] == Parameter("widths", tuple[int, ...], (16, 32))
    assert small.parameters["weights"].type_name == "str|none"
    assert get("model", "small_wide").parameters["widths"].default == (64, 128)
    assert get("loss", "hinge_loss").tags == {"takes": "triplets"}
    csv = get("dataset", "triplets").parameters["train_csv"]
    assert csv.required
    assert csv.default is None
    assert get("index", "flat").parameters == {}


def test_defaults_have_the_declared_type(shelf: Path):
    rotation = get("augment", "mildnet").parameters["rotation"].default
    assert (rotation, type(rotation)) == (30.0, float)


def test_build_calls_the_component_with_checked_parameters(shelf: Path):
    built = get("model", "small").build(64, widths="1, 2", note="hi")
    assert built == (64, (1, 2), None, "hi", ())
    assert get("model", "small_wide").build(64)[1] == (64, 128)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"widhts": "1"}, "model 'small' has no parameter 'widhts'; did you mean 'widths'?"),
        (
            {"zzz": "1"},
            "model 'small' has no parameter 'zzz'; it takes: widths, weights, note, layers",
        ),
        ({"widths": "1, x"}, "model.widths: 'x' is not a whole number"),
    ],
)
def test_check_refuses(shelf: Path, given: dict, message: str):
    with pytest.raises(UserError) as caught:
        get("model", "small").check(given)
    assert str(caught.value) == message


def test_check_asks_for_required_parameters(shelf: Path):
    with pytest.raises(UserError, match=r"^dataset 'triplets' needs train_csv$"):
        get("dataset", "triplets").check({})


def test_unknown_names(shelf: Path):
    with pytest.raises(UserError, match=r"^unknown loss 'hinge'; did you mean 'hinge_loss'\?$"):
        get("loss", "hinge")
    with pytest.raises(UserError, match=r"component 'lss'; did you mean 'loss'\?$"):
        components("lss")
    with pytest.raises(ValueError, match="unknown kind of component 'lss'"):
        register("lss", "x")
    assert nearest("q", ["alpha", "beta"]) == "; known are: alpha, beta"
    assert nearest("q", []) == "; known are: none"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('@register("loss", "hinge_loss")\ndef f(): "D."\n', "'hinge_loss' is registered twice"),
        ('@register("loss", "f")\ndef f(*, a=1): "D."\n', "a has no type"),
        ('@register("loss", "f")\ndef f(*, a: int = 0.5): "D."\n', "0.5 is not a whole number"),
        ('@register("loss", "f")\ndef f(*, a: int = None): "D."\n', "None is not a whole number"),
        (
            '@register("loss", "f", defaults={"b": 1})\ndef f(*, a: int = 1): "D."\n',
            "has no keyword parameter ['b']",
        ),
        (
            '@register("loss", "f", released={"b": 1})\ndef f(*, a: int = 1): "D."\n',
            "has no keyword parameter ['b']",
        ),
        (
            '@register("loss", "f", released={"a": "x"})\ndef f(*, a: int = 1): "D."\n',
            "released: 'x' is not a whole number",
        ),
        (
            '@register("loss", "f", released={})\ndef f(*, fidelity: str = ""): "D."\n',
            "has a parameter fidelity of its own",
        ),
        (
            '@register("loss", "f", like="g")\n@register("loss", "g")\ndef f(): "D."\n',
            "f is like 'g', which is not marked above it",
        ),
    ],
)
def test_a_component_that_is_wrong_in_itself(shelf: Path, text: str, message: str):
    add(shelf, "losses", text)
    with pytest.raises(RuntimeError) as caught:
        components("loss")
    assert message in str(caught.value)


def test_a_file_added_to_a_room_is_enough(shelf: Path):
    add(
        shelf,
        "losses",
        '@register("loss", "new")\ndef new(*, a: int = 1):\n    "D."\n    return a\n',
    )
    assert get("loss", "new").build(a="1e2") == 100


def test_a_class_without_a_constructor_has_the_parameters_of_its_base(shelf: Path):
    add(
        shelf,
        "losses",
        """
class Base:
    def __init__(self, *, a: int = 1):
        self.a = a

class Middle(Base):
    pass

@register("loss", "heir", defaults={"a": 5})
class Heir(Middle):
    "D."

@register("loss", "own")
class Own(Base):
    "D."

    def __init__(self, *, b: float = 2):
        self.b = b

@register("loss", "alone")
class Alone(dict):
    "D."
""",
    )
    assert get("loss", "heir").parameters == {"a": Parameter("a", int, 5)}
    assert get("loss", "heir").build().a == 5
    assert get("loss", "own").parameters == {"b": Parameter("b", float, 2.0)}
    assert get("loss", "alone").parameters == {}


FAITHFUL = """
@register("model", "net", defaults={"width": 8}, released={"width": 9, "skips": ("none",)})
@register("model", "wide", like="net", defaults={"width": 64}, released={"note": "old"})
@register("model", "plain", like="wide", defaults={"note": "p"})
@register("model", "same", released={})
@register("model", "own")
def net(image_size: int, *, width: int = 4, skips: tuple[str, ...] = (), note: str = ""):
    "D."
    return (image_size, width, skips, note)
"""


def test_released_values_are_defaults_that_a_config_still_wins_over(shelf: Path):
    add(shelf, "models", FAITHFUL)
    net = get("model", "net")
    assert net.parameters["fidelity"].type_name == "corrected|released"
    assert net.build(1) == (1, 8, (), "")
    assert net.build(1, fidelity="corrected") == (1, 8, (), "")
    assert net.build(1, fidelity="released") == (1, 9, ("none",), "")
    assert net.build(1, fidelity="released", width=3) == (1, 3, ("none",), "")
    assert net.build(1, skips="a, b", fidelity="released") == (1, 9, ("a", "b"), "")
    with pytest.raises(UserError, match="'papers' is not one of corrected, released"):
        net.build(1, fidelity="papers")
    same = get("model", "same")
    assert same.build(1, fidelity="released") == same.build(1) == (1, 4, (), "")
    assert "fidelity" not in get("model", "own").parameters


def test_a_mark_like_another_takes_over_its_values(shelf: Path):
    add(shelf, "models", FAITHFUL)
    assert get("model", "wide").build(1) == (1, 64, (), "")
    assert get("model", "wide").build(1, fidelity="released") == (1, 9, ("none",), "old")
    assert get("model", "plain").build(1) == (1, 64, (), "p")
    assert get("model", "plain").build(1, fidelity="released") == (1, 9, ("none",), "old")


@pytest.mark.parametrize(
    ("annotation", "value", "parsed"),
    [
        (int, "3", 3),
        (int, "1e3", 1000),
        (int, "-3", -3),
        (float, "3", 3.0),
        (float, 3, 3.0),
        (float, "1e-3", 0.001),
        (bool, "true", True),
        (bool, "No", False),
        (bool, True, True),
        (str, "none", "none"),
        (str, "", ""),
        (str | None, "None", None),
        (str | None, "", None),
        (int | None, None, None),
        (int | None, "4", 4),
        (int | str, "4", 4),
        (int | str, "four", "four"),
        (Literal["a", "b"], "b", "b"),
        (Literal[1, 2], "2", 2),
        (Literal["a"] | None, "none", None),
        (tuple[int, ...], "(1, 2)", (1, 2)),
        (tuple[int, ...], "[1,2,]", (1, 2)),
        (tuple[int, ...], "5", (5,)),
        (tuple[int, ...], [1, 2], (1, 2)),
        (tuple[float, float], "1, 2", (1.0, 2.0)),
        (tuple[str, ...], "", ()),
    ],
)
def test_parse(annotation: object, value: object, parsed: object):
    result = Parameter("x", annotation).parse(value)
    assert result == parsed
    assert type(result) is type(parsed)


@pytest.mark.parametrize(
    ("annotation", "value", "message"),
    [
        (int, "3.5", "'3.5' is not a whole number"),
        (int, "1.5e0", "'1.5e0' is not a whole number"),
        (int, "1e999", "'1e999' is not a whole number"),
        (int, True, "True is not a whole number"),
        (int, "", "'' is not a whole number"),
        (int, 2.0, "2.0 is not a whole number"),
        (int, "9" * 5000, f"'{'9' * 56}... is not a whole number"),
        (float, "x", "'x' is not a number"),
        (float, "nan", "'nan' is not a number"),
        (float, "inf", "'inf' is not a number"),
        (float, float("inf"), "inf is not a finite number"),
        (float, 10**400, None),
        (float, False, "False is not a number"),
        (bool, "maybe", "'maybe' is not true or false"),
        (bool, 1, "1 is not true or false"),
        (str, 3, "3 is not text"),
        (int | None, "x", "'x' is not a whole number or none"),
        (Literal["a", "b"], "c", "'c' is not one of a, b"),
        (Literal[1, 2], True, "True is not one of 1, 2"),
        (Literal["a", "b"] | None, "c", "'c' is not one of a, b or none"),
        (tuple[int, ...], "1, x", "'x' is not a whole number"),
        (tuple[int, ...], 5, "5 is not a list of int"),
        (tuple[float, float], "1", "1 values, where 2 are needed"),
    ],
)
def test_parse_refuses(annotation: object, value: object, message: str | None):
    with pytest.raises(ValueError, match=r"is not|are needed") as caught:
        Parameter("x", annotation).parse(value)
    if message is not None:
        assert str(caught.value) == message


@pytest.mark.parametrize(
    ("annotation", "name"),
    [
        (float, "float"),
        (int | None, "int|none"),
        (Literal["a", "b"], "a|b"),
        (tuple[int, ...], "list of int"),
        (tuple[float, float], "list of 2: float, float"),
    ],
)
def test_type_name(annotation: object, name: str):
    assert Parameter("x", annotation).type_name == name


def test_reading_all_components_imports_no_tensorflow():
    code = (
        "import sys\n"
        "from trainer.config.registry import ROOMS, components\n"
        "print(sum(len(components(kind)) for kind in ROOMS))\n"
        "heavy = {'tensorflow', 'keras', 'numpy', 'faiss', 'PIL'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 20


@pytest.mark.parametrize("kind", ROOMS)
def test_each_real_component_is_documented(kind: str):
    from trainer.config.describe import component_help

    assert components(kind)
    for name, component in components(kind).items():
        assert component.summary.endswith("."), f"{kind} {name}: no summary line"
        described = component_help(component)
        missing = set(component.parameters) - set(described)
        assert not missing, f"{kind} {name}: the docstring does not describe {sorted(missing)}"
