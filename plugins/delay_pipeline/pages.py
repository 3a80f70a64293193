"""Addresses of Airflow's own pages."""

from urllib.parse import quote

from airflow.configuration import conf


def dag_run_page(dag_id: str, run_id: str) -> str:
    """Return the address of the page of a DAG run, or "" if `api.base_url` is empty."""
    server = conf.get("api", "base_url", fallback="").rstrip("/")
    return f"{server}/dags/{dag_id}/runs/{quote(run_id, safe='')}" if server else ""
