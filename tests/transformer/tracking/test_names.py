import pytest

from transformer.tracking.names import artifact_page, is_run_id, run_page, sibling_page


@pytest.mark.parametrize("text", ["0123456789abcdef0123456789abcdef", "my-run_7", "a.b"])
def test_ids(text: str) -> None:
    assert is_run_id(text)


@pytest.mark.parametrize(
    "text", ["", "..", ".hidden", "../x", "a/b", "a\\b", "-x", "--env", "a b", "a\0", "a\nb", "\u202ea"]
)
def test_what_is_no_id(text: str) -> None:
    assert not is_run_id(text)


def test_pages_open_in_the_face_for_model_training() -> None:
    """MLflow's other face, for GenAI, hides the charts and the registry."""
    page = run_page("http://mlflow", "7", "abc")
    assert page == "http://mlflow/#/experiments/7/runs/abc?workflowType=machine_learning"
    report = artifact_page(page, "evaluation/report.html")
    assert report == (
        "http://mlflow/#/experiments/7/runs/abc/artifacts/evaluation/report.html?workflowType=machine_learning"
    )
    assert artifact_page("", "evaluation/report.html") == ""
    assert sibling_page(page, "def") == run_page("http://mlflow", "7", "def")
    assert sibling_page("", "def") == ""


def test_pages_of_a_server_with_workspaces() -> None:
    page = run_page("http://mlflow", "7", "abc", "night-trains")
    assert page == "http://mlflow/#/experiments/7/runs/abc?workflowType=machine_learning&workspace=night-trains"
    assert artifact_page(page, "a.html").endswith(
        "/abc/artifacts/a.html?workflowType=machine_learning&workspace=night-trains"
    )
    assert sibling_page(page, "def") == run_page("http://mlflow", "7", "def", "night-trains")
