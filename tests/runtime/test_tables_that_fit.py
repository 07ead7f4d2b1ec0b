"""Tables and sentences fit a terminal."""

from gopd_jax.runtime.tables import aligned, folded

ROWS = [["", "score", "tokens", "seconds"], ["student", "28.61", "16.1", "7.6"], ["none"]]
WHOLE = ["         score  tokens  seconds", "student  28.61    16.1      7.6", "none"]


def test_columns_are_as_wide_as_their_cells():
    assert aligned(ROWS, None, ["seconds"]) == (WHOLE, [])
    assert aligned(ROWS, 31, ["seconds"]) == (WHOLE, [])


def test_a_table_that_is_too_wide_loses_its_optional_columns_in_their_order():
    lines, left_out = aligned(ROWS, 30, ["seconds", "tokens"])
    assert lines[:2] == ["         score  tokens", "student  28.61    16.1"]
    assert left_out == ["seconds"]
    lines, left_out = aligned(ROWS, 5, ["seconds", "tokens"])
    assert lines[1] == "student  28.61" and left_out == ["seconds", "tokens"]


def test_sentences_break_between_words_and_paths_stay_whole():
    text = "  results in /a/long/path/of/a-run: summary.json, curves.png"
    assert folded(text, None) == text
    lines = folded(f"{text}\n\nshort", 24).split("\n")
    assert lines == [
        "  results in",
        "    /a/long/path/of/a-run:",
        "    summary.json,",
        "    curves.png",
        "",
        "short",
    ]
