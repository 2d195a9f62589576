import pytest

from trainer.config.spelling import parse_arguments


def test_parameters_in_parentheses():
    assert parse_arguments("()") == {}
    assert parse_arguments("(a=1, b='x, (y)', c=(1, 2.5), d=[True, None], e=-3)") == {
        "a": 1,
        "b": "x, (y)",
        "c": (1, 2.5),
        "d": [True, None],
        "e": -3,
    }


@pytest.mark.parametrize(
    "text",
    ["(1)", "(a=b)", "(a=1", "a=1", "(a=1)(b=2)", "(a=1) + 1", "(a=open('x'))", "", "(a=1).b"],
)
def test_anything_else_is_refused_and_not_executed(text):
    with pytest.raises(ValueError, match="write a name, or NAME"):
        parse_arguments(text)
