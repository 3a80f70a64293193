import pytest

from transformer.tracking.names import is_run_id


@pytest.mark.parametrize("text", ["0123456789abcdef0123456789abcdef", "my-run_7", "a.b"])
def test_ids(text: str) -> None:
    assert is_run_id(text)


@pytest.mark.parametrize(
    "text", ["", "..", ".hidden", "../x", "a/b", "a\\b", "-x", "--env", "a b", "a\0", "a\nb", "\u202ea"]
)
def test_what_is_no_id(text: str) -> None:
    assert not is_run_id(text)
