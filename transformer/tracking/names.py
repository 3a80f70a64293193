"""Names in MLflow: tags, artifact paths, run ids, addresses of pages. Imports nothing, to keep DAG parsing fast."""

AIRFLOW_RUN = "airflow_run_id"  # tag: the DAG run that a run belongs to
GIT_COMMIT = "git_commit"  # tag: commit of the code
DATA_FINGERPRINT = "data_fingerprint"  # tag: content hash of the event tables
DATA_TABLES = "data_tables"  # tag: digest of each event table with which the run began, a JSON object by name
DATA_LICENCES = "data_licences"  # tag: a line for each source of the data, with its licence
SPLIT = "split"  # tag: the service dates of each split, as data.split takes them
MODEL_VERSION = "model_version"  # tag: version of the registered model that a run's model became
BEST_TRIAL = "best_trial"  # tag: number of a study's best trial
BEST_OVERRIDES = "best_overrides"  # tag: what makes a configuration that of the best trial, a JSON list of key=value
# Tags with the origin of a run; nested runs inherit them.
ORIGIN = ("env", GIT_COMMIT, "image", "dag_id", AIRFLOW_RUN, DATA_FINGERPRINT, SPLIT, "warm_start_run_id")
CONFIG_ARTIFACT = "config/config.yaml"
FAILURE_REASON = "failure_reason"  # tag of a failed run
WORKSPACE_VARIABLE = "MLFLOW_WORKSPACE"  # MLflow's client reads it: the workspace of every request


def run_page(server: str, experiment_id: str, run_id: str, workspace: str = "") -> str:
    """Address of a run's page. A server with workspaces needs the name of the run's workspace."""
    page = f"{server}/#/experiments/{experiment_id}/runs/{run_id}"
    return f"{page}?workspace={workspace}" if workspace else page


def artifact_page(run_page: str, artifact: str) -> str:
    """Address of the page that shows an artifact of a run; "" if the run has no page."""
    page, *workspace = run_page.split("?")
    return "?".join([f"{page}/artifacts/{artifact}", *workspace]) if run_page else ""


def is_run_id(text: str) -> bool:
    """Whether a text can be a run id: no option, no path out of the folder of runs, only printable characters."""
    return bool(text) and text.isprintable() and not text.startswith(("-", ".")) and not set("/\\ ") & set(text)
