"""Words of texts as biomedical texts have them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sklearn_epee._spans import split_words


def words_of(text):
    return [text[start:end] for start, end in split_words(text)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", []),
        (" \t\n", []),
        ("insulin-induced", ["insulin", "-", "induced"]),
        ("TNF-κB, β2-agonist", ["TNF", "-", "κB", ",", "β2", "-", "agonist"]),
        ("0.5mg/kg, 1,000 IU", ["0.5", "mg", "/", "kg", ",", "1,000", "IU"]),
        ("CYP2D6 p53 5-FU 5FU", ["CYP2D6", "p53", "5", "-", "FU", "5", "FU"]),
        ("37.5°C ±2%", ["37.5", "°", "C", "±", "2", "%"]),
        ("the patient's (n=3).", ["the", "patient", "'", "s", "(", "n", "=", "3", ")", "."]),
        ("10µg", ["10", "µg"]),
        ("1.5.", ["1.5", "."]),
        ("snake_case", ["snake", "_", "case"]),
        ("cafe\u0301 au lait", ["cafe\u0301", "au", "lait"]),
        ("soft\u00adhyphen", ["soft\u00adhyphen"]),
        ("हिन्दी है", ["हिन्दी", "है"]),
        ("दर्द", ["दर्द"]),
        ("a\u200bb\ufeff", ["a", "b"]),
        ("tab\x00\x07null", ["tab", "null"]),
        ("👩\u200d⚕\ufe0f ok", ["👩\u200d", "⚕\ufe0f", "ok"]),
    ],
)
def test_texts_are_split_into_words(text, words):
    assert words_of(text) == words


@given(st.text())
def test_words_ascend_and_leave_only_blanks_between_them(text):
    spans = split_words(text)
    borders = [0, *(border for span in spans for border in span), len(text)]
    assert borders == sorted(borders)
    assert all(start < end for start, end in spans)
    between = "".join(text[a:b] for a, b in zip(borders[::2], borders[1::2], strict=True))
    assert not any(character.isalnum() for character in between)
