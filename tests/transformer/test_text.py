import pytest

from transformer.text import duration


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (75, "1 min 15 s"),
        (1_572, "26 min 12 s"),
        (3_700, "1 h 01 min"),
    ],
)
def test_a_span_of_time_has_its_two_largest_units(seconds: float, text: str):
    assert duration(seconds) == text
