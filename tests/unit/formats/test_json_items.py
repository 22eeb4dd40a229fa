"""Large JSON files item by item: the same values as json.load, their places, and the line of damage."""

import json

import pytest

from hf_relabel.errors import FormatError
from hf_relabel.formats import json_items
from hf_relabel.formats.json_items import line_of, read_items

OBJECT = """{
  "info": {"name": "é ] } \\" [", "list": [1, [2]]},
  "images": [ {"id": 1}, {"id": 2, "file_name": "ü/ö.jpg"} ],
  "empty": [],
  "number": -12.5e3,
  "annotations": [
    {"id": 7, "counts": "a,b]"},
    17,
    null
  ]
}
"""


@pytest.fixture(params=[1, 3, 64, 1 << 20])
def chunk(request, monkeypatch):
    """Files read in pieces so small that every value is cut somewhere."""
    monkeypatch.setattr(json_items, "CHUNK", request.param)
    return request.param


def test_items_are_those_of_the_whole_file(tmp_path, chunk):
    path = tmp_path / "a.json"
    path.write_text(OBJECT, encoding="utf-8")
    items = list(read_items(path))
    whole = json.loads(OBJECT)
    assert [(item.key, item.value) for item in items] == [
        ("info", whole["info"]),
        ("images", {"id": 1}),
        ("images", {"id": 2, "file_name": "ü/ö.jpg"}),
        ("empty", []),
        ("number", -12500.0),
        ("annotations", {"id": 7, "counts": "a,b]"}),
        ("annotations", 17),
        ("annotations", None),
    ]
    assert [item.in_list for item in items] == [False, True, True, False, False, True, True, True]
    content = path.read_bytes()
    assert [json.loads(content[item.start : item.stop]) for item in items] == [item.value for item in items]
    assert [line_of(path, item.start) for item in items] == [2, 3, 3, 4, 5, 7, 8, 9]


def test_a_list_and_a_byte_order_mark(tmp_path, chunk):
    path = tmp_path / "a.json"
    path.write_text('\n[123, {"a": 45}]', encoding="utf-8-sig")
    assert [(item.key, item.value) for item in read_items(path)] == [(None, 123), (None, {"a": 45})]
    path.write_text("{}")
    assert list(read_items(path)) == []


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("", 1, "'{' expected, but the file ends"),
        ("17", 1, "'{' expected, found '1'"),
        ('{"images": [\n{"id": 1},\n{"id": 2', 3, "Expecting"),
        ('{"images": [\n{"id": 1}\n{"id": 2}]}', 3, "',' expected, found '{'"),
        ('{"images": [\n{"id": 1},\n]}', 3, "a comma before the end of a list"),
        ('{"a": 1,\n}', 2, "a comma before the end"),
        ('{"a": 1\n} x', 2, "text after the end"),
        ('{"a"\n 1}', 2, "':' expected"),
        ("{\n1: 2}", 2, "a key is not a string"),
        ('{"a": [\n{"b": tru}]}', 2, "Expecting value"),
        ('{"a": [\n' + "[" * 200_000, 2, "nested too deeply"),
    ],
)
def test_damage_is_told_with_its_line(tmp_path, text, line, reason):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(FormatError, match="not valid JSON") as caught:
        list(read_items(path))
    assert f"{path}, line {line}: " in str(caught.value)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_item_without_an_end_is_not_read_to_the_end_of_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(json_items, "CHUNK", 100)
    monkeypatch.setattr(json_items, "MAX_ITEM_BYTES", 1000)
    path = tmp_path / "a.json"
    path.write_text('{"images": [\n{"name": "' + "x" * 100_000)
    with pytest.raises(FormatError, match=r"line 2: .*Unterminated string"):
        list(read_items(path))


def test_text_that_is_not_utf8_and_a_file_that_is_not_there(tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(b'{"images": [\n{"id": "\xff"}]}')
    with pytest.raises(FormatError, match=r"line 2: not valid JSON .not UTF-8 text"):
        list(read_items(path))
    with pytest.raises(FormatError, match=r"cannot be read .No such file"):
        list(read_items(tmp_path / "b.json"))
