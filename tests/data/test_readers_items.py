import numpy as np
import pytest

from trainer.config import UserError, get
from trainer.data.readers.items import items, read_items


def read(folder, text, encoding="utf-8", **parameters):
    data = text if isinstance(text, bytes) else text.encode(encoding)
    (folder / "items.csv").write_bytes(data)
    return items(str(folder), **parameters)


def test_reads_all_columns_in_any_order(tmp_path):
    table = read(
        tmp_path,
        "domain,label,path,y,x,h,w,split,category,price\n"
        "street,0012,a/b.jpg,2,1,4.5,3,train,tops,9.99\n"
        "shop,12,/else/c.jpg,,,,,test,,\n"
        "shop,12,gs://bucket/d.jpg,0,0,1,1,,,5\n",
    )
    assert table.path.tolist() == [str(tmp_path / "a/b.jpg"), "/else/c.jpg", "gs://bucket/d.jpg"]
    assert [table.label_names[code] for code in table.label] == ["0012", "12", "12"]
    assert table.domain.tolist() == ["street", "shop", "shop"]
    assert table.split.tolist() == ["train", "test", ""]
    assert table.category.tolist() == ["tops", "", ""]
    assert table.box[0].tolist() == [1, 2, 3, 4.5]
    assert np.isnan(table.box[1]).all()
    assert table.problems == ()


@pytest.mark.parametrize(
    "text",
    [
        "\ufeffpath,label\na.jpg,x\nb.jpg,y\n",
        "path,label\r\na.jpg,x\r\nb.jpg,y\r\n",
        "path,label\ra.jpg,x\rb.jpg,y",
        '"path","label"\n"a.jpg","x"\n\n"b.jpg",y\n\n',
        "Path , LABEL\n a.jpg,x\nb.jpg , y",
    ],
    ids=["byte order mark", "CRLF", "CR", "quotes and empty lines", "spaces and capitals"],
)
def test_reads_what_spreadsheets_write(tmp_path, text):
    table = read(tmp_path, text)
    assert table.path.tolist() == [str(tmp_path / "a.jpg"), str(tmp_path / "b.jpg")]
    assert table.label_names == ("x", "y")
    assert table.problems == ()


def test_quoted_commas_and_quotes_stay(tmp_path):
    table = read(tmp_path, 'path,label,note\n"a,b.jpg","the ""best"" one","two\nlines"\nc.jpg,d,\n')
    assert table.path[0] == str(tmp_path / "a,b.jpg")
    assert table.label_names == ("d", 'the "best" one')
    assert table.problems == ()


def test_another_file_below_the_data_path(tmp_path):
    (tmp_path / "open").mkdir()
    (tmp_path / "open/list.csv").write_text("path,label\n../images/a.png,x\n")
    table = items(str(tmp_path), file="open/list.csv")
    assert table.path.tolist() == [str(tmp_path / "open/../images/a.png")]


def test_rows_that_cannot_be_used_are_named_with_file_line_and_reason(tmp_path):
    table = read(
        tmp_path,
        "path,label,x,y,w,h\n"
        "good.jpg,a,,,,\n"  # 2
        ",a,,,,\n"
        "c.jpg,,,,,\n"
        "d.jpg,a\n"
        "e.jpg,a,1,2,3,many\n"
        "f.jpg,a,1,2,0,4\n"
        "g.jpg,a,1,2,,4\n"
        "h.jpg,a,nan,2,3,4\n"
        "i.jpg,a,1,2,1e300,4\n"  # 10
        "good.jpg,b,,,,\n"
        '"k.jpg"x,a,,,,\n'
        "good.jpg,a,1,1,1,1\n"  # 13: the same picture, another product in it
        "n\0.jpg,a,,,,\n",
    )
    assert len(table) == 2
    csv = tmp_path / "items.csv"
    reasons = dict(problem.removeprefix(f"{csv}:").split(": ", 1) for problem in table.problems)
    assert list(reasons) == ["3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "14"]
    assert reasons["3"] == "no path"
    assert reasons["4"] == "no label"
    assert reasons["5"] == "2 fields, the header has 6"
    assert reasons["6"] == "the box 1,2,3,many is not four numbers"
    assert reasons["7"] == "the box 1,2,0,4 has no area"
    assert "not four numbers" in reasons["8"]
    assert reasons["11"] == "the same picture as in line 2"
    assert "expected after" in reasons["12"]
    assert "zero byte" in reasons["14"]


def test_every_line_that_two_stray_quotes_swallow_counts(tmp_path):
    lines = ["path,label", 'a.jpg,"x', *(f"{i}.jpg,x" for i in range(40)), 'b.jpg,x"', "c.jpg,x"]
    table = read(tmp_path, "\n".join(lines))
    assert table.path.tolist() == [str(tmp_path / "c.jpg")]
    assert len(table.problems) == 42
    assert table.problems[0].startswith(f"{tmp_path}/items.csv:2: a line break inside label")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,lable\na,b\n", "no column 'label'; did you mean 'lable'"),
        ("file,label\na,b\n", "no column 'path'; it has: file"),
        ("path,label,domian\na,b,c\n", "unknown column 'domian'; did you mean 'domain'"),
        ("path,label,path\na,b,c\n", "'path' comes 2 times"),
        ("path,label,x,y\na,b,1,2\n", "a box needs all of x,y,w,h; the header has x,y"),
        ("path;label\na;b\n", "separated by commas"),
        ("", "empty or has no header"),
        ("path,label\n", "holds no row"),
        ("path,label\n,\n", "holds no row that can be used; the first: .*:2: no path"),
        ('path,label\na,b\nc,"d\ne,f\n', "items.csv:3: a quote opened here is never closed"),
        ("path,label\na,b\n".encode("utf-16"), "not UTF-8 text .byte 0xff at position 0"),
        ("path,label\nä.jpg,b\n".encode("latin-1"), "not UTF-8"),
    ],
)
def test_a_table_that_cannot_be_read_is_refused_in_one_line(tmp_path, text, message):
    with pytest.raises(UserError, match=message) as caught:
        read(tmp_path, text)
    assert "\n" not in str(caught.value)


def test_missing_places_are_named(tmp_path):
    with pytest.raises(UserError, match="no/such does not exist"):
        items(str(tmp_path / "no/such"))
    with pytest.raises(UserError, match=r"there is no .*items.csv: dataset 'items' reads a CSV"):
        items(str(tmp_path))
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is a file, not a folder"):
        items(str(tmp_path / "file"))
    with pytest.raises(UserError, match="no data path is set"):
        items("")


def test_is_a_component(tmp_path):
    (tmp_path / "items.csv").write_text("path,label\na,b\n")
    assert len(get("dataset", "items").build(str(tmp_path))) == 1


def test_a_table_without_labels_is_read_where_none_are_wanted(tmp_path):
    path = tmp_path / "items.csv"
    path.write_text("path,category,label\na.jpg,mug,\nb.jpg,hat,x\n,hat,x\n")
    table = read_items(str(path), labels=False)
    assert table.label_names == ("a.jpg", "b.jpg")
    assert table.category.tolist() == ["mug", "hat"]
    assert table.problems == (f"{path}:4: no path",)
    path.write_text("path\na.jpg\nb.jpg\n")
    assert len(read_items(str(path), labels=False)) == 2
    with pytest.raises(UserError, match="no column 'label'"):
        read_items(str(path))
