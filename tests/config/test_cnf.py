"""The `.cnf` format: what a line means, and what is said about a line that means nothing."""

import random
from pathlib import Path

import pytest

from trainer.config import UserError, cnf


def values(text: str) -> dict[str, str]:
    return {key: given.value for key, given in cnf.parse(text, "x.cnf").items()}


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ('key="a b"', "a b"),
        ("key='a b'", "a b"),
        ("key=a b", "a b"),
        ("  key  =  a  ", "a"),
        ("key=", ""),
        ('key=""', ""),
        ('key="a" # comment', "a"),
        ('key="a"# comment', "a"),
        ("key=a # comment", "a"),
        ("key=a\t# comment", "a"),
        ("key= # comment", ""),
        ("key=#comment", ""),
        ("key=a#b", "a#b"),
        ('key="a # b"', "a # b"),
        ("key='say \"x\"'", 'say "x"'),
        ('key="say ""x"""', 'say "x"'),
        ("key='it''s'", "it's"),
        ('key=""""', '"'),
        ('key=" a "', " a "),
        ("key=a=b", "a=b"),
        ('key="C:\\new\\table"', "C:\\new\\table"),
        ("key=a\"b'c", "a\"b'c"),
        ('key="$(touch made) `touch made` $HOME"', "$(touch made) `touch made` $HOME"),
        ("key=gs://bucket/a,b", "gs://bucket/a,b"),
        ('key="naïve 服装"', "naïve 服装"),
    ],
)
def test_value_of_a_line(line: str, value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert values(line) == {"key": value}
    assert list(tmp_path.iterdir()) == []  # nothing was executed


def test_lines_comments_and_origins():
    text = "\ufeff".encode().decode("utf-8-sig") + "# head\r\n\r\na=1\r\n  # b=2\nloss.margin='3'\n"
    found = cnf.parse(text, "dir/x.cnf")
    assert {key: (given.value, given.origin) for key, given in found.items()} == {
        "a": ("1", "dir/x.cnf:3"),
        "loss.margin": ("3", "dir/x.cnf:5"),
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a=1\nloss", "x.cnf:2: no '=' in 'loss'; a line is key=value or # comment"),
        ("=1", "x.cnf:1: '' is not a key"),
        ("a b=1", "x.cnf:1: 'a b' is not a key"),
        ("a..b=1", "x.cnf:1: 'a..b' is not a key"),
        ("a.=1", "x.cnf:1: 'a.' is not a key"),
        ('a="x', 'x.cnf:1: a: the closing " is missing'),
        ("a='x''", "x.cnf:1: a: the closing ' is missing"),
        ('a="x"y', "x.cnf:1: a: 'y' follows the closing \""),
        ('a=1\nb=2\na="3"', "x.cnf:3: 'a' is set twice, first in line 1"),
        ("x" * 99, f"x.cnf:1: no '=' in '{'x' * 37}...'; a line is key=value or # comment"),
    ],
)
def test_malformed_line(text: str, message: str):
    with pytest.raises(UserError) as caught:
        cnf.parse(text, "x.cnf")
    assert str(caught.value) == message


def test_files_that_are_no_config(tmp_path: Path):
    cases = {
        "missing.cnf": (None, "there is no such file"),
        "bytes.cnf": (b"\x89PNG\xff\xfe", "not a text file in UTF-8"),
        "zeros.cnf": (b"a=1\0", "not a text file (it has zero bytes)"),
        "large.cnf": (b"#" * 1_000_001, "too large for a config (1,000,001 bytes)"),
    }
    for name, (content, reason) in cases.items():
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(UserError) as caught:
            cnf.read(path)
        assert str(caught.value) == f"{path}: {reason}"
    (tmp_path / "folder.cnf").mkdir()
    with pytest.raises(UserError, match=r"folder\.cnf: not a file; a config is a text file"):
        cnf.read(tmp_path / "folder.cnf")
    with pytest.raises(UserError, match=r"cannot be read|there is no such file"):
        cnf.read("x" * 5000)
    with pytest.raises(UserError, match=r"cannot be read|there is no such file"):
        cnf.read("a\0b")


def test_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "x.cnf"
    path.write_text("a=1")

    def refuse(self: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(UserError) as caught:
        cnf.read(path)
    assert str(caught.value) == f"{path}: cannot be read: Permission denied"


def test_byte_order_mark_and_empty_file(tmp_path: Path):
    (tmp_path / "x.cnf").write_bytes(b"\xef\xbb\xbfa=1\n")
    assert cnf.read(tmp_path / "x.cnf")["a"].value == "1"
    (tmp_path / "y.cnf").write_bytes(b"")
    assert cnf.read(tmp_path / "y.cnf") == {}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("loss.margin=0.3", "0.3"),
        ("loss.margin = 0.3", "0.3"),
        ("loss.margin=a # b", "a # b"),
        ('loss.margin="a b "', "a b "),
        ('loss.margin=""', ""),
        ("loss.margin=", None),
        ('loss.margin="', '"'),
        ("loss.margin=a=b", "a=b"),
    ],
)
def test_override(text: str, value: str | None):
    assert cnf.parse_override(text) == ("loss.margin", cnf.Given(value, "--set"))


@pytest.mark.parametrize("text", ["loss.margin", "=3", "", "a b=3", "--config=3"])
def test_malformed_override(text: str):
    with pytest.raises(UserError, match=r"write it as key=value, such as --set loss\.margin=0\.3"):
        cnf.parse_override(text)


def test_what_is_written_is_read_back():
    rng = random.Random(5)
    alphabet = "ab \t#=\"'\\,;$`%é服()[]{}\u2028\x0b\x85"
    for _ in range(3000):
        written = {
            f"k{i}": "".join(rng.choice(alphabet) for _ in range(rng.randrange(9)))
            for i in range(3)
        }
        assert values(cnf.write(written)) == written
        notes = dict.fromkeys(written, 'a "note" # here')
        assert values(cnf.write(written, notes)) == written


def test_written_forms():
    assert cnf.write({"a": True, "b": None, "c": 1e-07, "d": (1, 2.5), "e": ["x", "y"]}) == (
        'a=true\nb=none\nc=1e-07\nd="1, 2.5"\ne="x, y"\n'
    )
