import pytest

from hf_relabel.release.markdown import escape, one_line


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("tabby cat", "tabby cat"),
        ("n02123045, 0.5 (50%)", "n02123045, 0.5 \\(50%\\)"),
        ("![x](http://a.b/c.png)", "\\!\\[x\\]\\(http\\://a.b/c.png\\)"),
        ("[x](javascript:alert(1))", "\\[x\\]\\(javascript\\:alert\\(1\\)\\)"),
        ("a | b", "a \\| b"),
        ("a \\| b", "a \\\\\\| b"),
        ("one\ntwo\r\n\tthree", "one two three"),
        ("<script>&amp;</script>", "&lt;script&gt;&amp;amp;&lt;/script&gt;"),
        ("`code` *bold* __x__", "\\`code\\` \\*bold\\* \\_\\_x\\_\\_"),
        ("www.example.org", "www\\.example.org"),
        (0.5, "0.5"),
    ],
)
def test_text_from_data_has_no_effect_in_markdown(text, expected):
    assert escape(text) == expected


def test_one_line():
    assert one_line(" a\n b  c ") == "a b c"
