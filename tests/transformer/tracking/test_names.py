import pytest

from transformer.tracking.names import artifact_page, is_run_id, run_page


@pytest.mark.parametrize("text", ["0123456789abcdef0123456789abcdef", "my-run_7", "a.b"])
def test_ids(text: str) -> None:
    assert is_run_id(text)


@pytest.mark.parametrize(
    "text", ["", "..", ".hidden", "../x", "a/b", "a\\b", "-x", "--env", "a b", "a\0", "a\nb", "\u202ea"]
)
def test_what_is_no_id(text: str) -> None:
    assert not is_run_id(text)


def test_pages_of_a_run_and_of_its_artifacts() -> None:
    page = "https://mlflow.example.org/#/experiments/1/runs/ab"
    assert run_page("https://mlflow.example.org", "1", "ab") == page
    assert artifact_page(page, "evaluation/report.html") == f"{page}/artifacts/evaluation/report.html"
    in_workspace = run_page("https://mlflow.example.org", "1", "ab", "night-trains")
    assert in_workspace == f"{page}?workspace=night-trains"
    assert artifact_page(in_workspace, "a.html") == f"{page}/artifacts/a.html?workspace=night-trains"
    assert artifact_page("", "a.html") == ""
