"""CSV and TSV: what was written is read, and whatever does not fit is an error with its line."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from harness.data.readers import read
from harness.errors import TaskError

ROWS = "".join(f"Parcel {number} is late,{'ab'[number % 2]}\n" for number in range(200))


def rows(folder: Path, content: str | bytes, name: str = "d.csv", **options: object) -> list[dict[str, object]]:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return list(read(path, "auto", options))


def message(folder: Path, content: str | bytes, name: str = "d.csv", **options: object) -> str:
    with pytest.raises(TaskError) as raised:
        rows(folder, content, name, **options)
    return str(raised.value)


def test_cells_stay_text(tmp_path: Path) -> None:
    found = rows(tmp_path, "text,label\nNA,007\nnull,None\n nan ,\n")
    assert found == [
        {"text": "NA", "label": "007"},
        {"text": "null", "label": "None"},
        {"text": " nan ", "label": ""},
    ]


def test_unquoted_commas_are_an_error_with_all_their_lines(tmp_path: Path) -> None:
    said = message(tmp_path, "label,text\na,late, and wet\nb,fine\n" + "a,so, and so\n" * 8)
    assert "d.csv:2: the row has 3 cells, and the header names 2 columns (label, text): 'a,late, and wet'." in said
    assert "9 of 10 rows do not fit (also lines 4, 5, 6, 7, 8, …)." in said


def test_missing_cells_are_an_error(tmp_path: Path) -> None:
    assert "d.csv:3: the row has 2 cells, and the header names 3 columns" in message(tmp_path, "a,b,c\n1,2,3\n4,5\n")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (ROWS.replace("Parcel 20 ", '"Parcel 20 '), "d.csv:22: a quote is opened in this row and never closed"),
        (ROWS.replace("Parcel 20 ", '"Parcel" 20 '), "d.csv:22: a cell goes on after its closing quote"),
        (
            ROWS.replace("Parcel 20 ", '"Parcel 20 ').replace("Parcel 60 is late", 'Parcel 60 is 7"'),
            "d.csv:22: a quote is opened in this row and closed 40 lines later",
        ),
    ],
    ids=["never closed", "text after", "closed by another"],
)
def test_a_stray_quote_swallows_no_rows(tmp_path: Path, content: str, said: str) -> None:
    found = message(tmp_path, "text,label\n" + content)
    assert said in found
    assert "quoting: none" in found
    assert len(rows(tmp_path, "text,label\n" + content, quoting="none")) == 200


def test_stray_quotes_swallow_no_rows_without_classes(tmp_path: Path) -> None:
    lines = [f"question {number},answer {number}" for number in range(20)]
    lines[5], lines[15] = f'"{lines[5]}', 'question 15",answer 15'
    said = message(tmp_path, "\n".join(["q,a", *lines]))
    assert "d.csv:7: a quote is opened in this row and closed 10 lines later" in said


def test_cells_of_several_lines_are_read(tmp_path: Path) -> None:
    content = "text,label\n" + '"Hello,\nmy parcel is late",a\n"Dear all,\nthanks\n",b\n' * 20
    assert rows(tmp_path, content)[:2] == [
        {"text": "Hello,\nmy parcel is late", "label": "a"},
        {"text": "Dear all,\nthanks\n", "label": "b"},
    ]
    tall = "text,label\n" + 'one,a\n"two,a\nthree",a\nfour,a\n'
    assert "multiline: true" in message(tmp_path, tall)
    assert rows(tmp_path, tall, multiline=True)[1] == {"text": "two,a\nthree", "label": "a"}


@pytest.mark.parametrize(("delimiter", "written"), [(";", '";"'), ("\t", "tab"), ("|", '"|"')])
def test_another_delimiter_is_named(tmp_path: Path, delimiter: str, written: str) -> None:
    content = f"review{delimiter}stars\nGood, really{delimiter}5\nBad{delimiter}1\n"
    said = message(tmp_path, content)
    assert (
        f"one column named {f'review{delimiter}stars'!r}: the delimiter is {delimiter!r}. Add delimiter: {written}."
        in said
    )
    assert rows(tmp_path, content, delimiter=written.strip('"')) == [
        {"review": "Good, really", "stars": "5"},
        {"review": "Bad", "stars": "1"},
    ]


def test_one_column_is_read(tmp_path: Path) -> None:
    assert rows(tmp_path, "text; and more\nx\ny;z;z\n") == [{"text; and more": "x"}, {"text; and more": "y;z;z"}]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "d.csv is empty."),
        ("\n \n", "d.csv is empty."),
        ("text,label\n", "d.csv holds a header (text, label) and no rows."),
        ("text,label,text\n1,2,3\n", "d.csv:1: columns 1 and 3 are both named 'text'. Rename one of them."),
        ("text,label\na\0b,c\n", "d.csv:2: there is a null byte in this line."),
        ('text,label\n"x", "a"\n', "d.csv:2: there is a blank between a delimiter and a quote"),
        ('text,label\n"a \\"b\\", c",x\n"d",y\n', 'With escapechar: "\\\\" every row has 2 cells'),
        (b"PK\x03\x04rest", "d.csv is an Excel or zip file"),
        ("version https://git-lfs.github.com/spec/v1\n", "run `git lfs pull`"),
    ],
)
def test_one_clear_sentence_each(tmp_path: Path, content: str | bytes, said: str) -> None:
    assert said in message(tmp_path, content)


def test_blanks_line_ends_and_headers(tmp_path: Path) -> None:
    expected = [{"text": "a", "label": "b"}, {"text": "c", "label": "d"}, {"text": "e", "label": "f"}]
    assert rows(tmp_path, b"\xef\xbb\xbf text , label \r\na,b\nc,d\re,f\r\n\r\n  \n") == expected
    assert rows(tmp_path, "a,b\nc,d\ne,f\n", names=["text", "label"]) == expected
    assert rows(tmp_path, ",text\n0,x\n") == [{"Unnamed: 0": "0", "text": "x"}]
    assert rows(tmp_path, 'text, label\n"x", "y"\n', skipinitialspace=True) == [{"text": "x", "label": "y"}]
    assert rows(tmp_path, "text,label\nx,y\n", columns={"question": "text"}) == [{"question": "x"}]


def test_every_wrong_option_is_named(tmp_path: Path) -> None:
    said = message(tmp_path, "a,b\n1,2\n", delimeter=";", quoting="all", quotechar="''")
    assert "unknown option of reader csv 'delimeter'. Did you mean 'delimiter'?" in said
    assert "quoting: got 'all'; it must be 'minimal' or 'none'." in said
    assert "quotechar: got \"''\"; it must be one sign." in said
    assert "they must differ" in message(tmp_path, "a,b\n1,2\n", delimiter='"')
    assert 'delimiter: ";"' in message(tmp_path, "a,b\n1,2\n", delimiter="")


def test_tsv(tmp_path: Path) -> None:
    assert rows(tmp_path, "text\tlabel\nso, so\ta\n", "d.tsv") == [{"text": "so, so", "label": "a"}]
    assert "the delimiter is ','. Add delimiter: \",\"" in message(tmp_path, "text,label\nx,a\n", "d.tsv")


def test_a_huge_cell_is_read(tmp_path: Path) -> None:
    assert len(str(rows(tmp_path, f"text,label\n{'x' * 10**6},a\n")[0]["text"])) == 10**6


TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\ufeff"), max_size=12)
NAMES = st.lists(TEXTS.map(str.strip).filter(bool), min_size=2, max_size=4, unique=True)


@given(st.data(), st.sampled_from([",", ";", "\t"]))
def test_what_csv_writes_is_read_back(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, sign: str) -> None:
    names = data.draw(NAMES)
    table = data.draw(st.lists(st.lists(TEXTS, min_size=len(names), max_size=len(names)), min_size=1, max_size=8))
    assume(names not in table)  # a header in the middle is refused
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=sign, quoting=csv.QUOTE_ALL)
    writer.writerows([names, *table])
    folder = tmp_path_factory.mktemp("csv")
    found = rows(folder, text.getvalue(), delimiter=sign, multiline=True)
    assert found == [dict(zip(names, cells, strict=True)) for cells in table]
