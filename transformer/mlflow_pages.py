"""Addresses of MLflow's pages. Imports nothing, so that Airflow's parser can know them too."""


def run_page(server: str, experiment_id: str, run_id: str) -> str:
    return f"{server}/#/experiments/{experiment_id}/runs/{run_id}"


def artifact_page(run_page: str, artifact: str) -> str:
    """The page that shows an artifact of a run; "" where the run has no page."""
    return f"{run_page}/artifacts/{artifact}" if run_page else ""
