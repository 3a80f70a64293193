"""Names in MLflow: tags, artifact paths, run ids, addresses of pages. Imports nothing, to keep DAG parsing fast."""

DAG_ID = "dag_id"  # tag: the DAG that opened a run
AIRFLOW_RUN = "airflow_run_id"  # tag: the DAG run that a run belongs to
OVERRIDES = "overrides"  # tag: the overrides of the configuration, a JSON list of key=value
GIT_COMMIT = "git_commit"  # tag: commit of the code
DATA_FINGERPRINT = "data_fingerprint"  # tag: content hash of the event tables
DATA_TABLES = "data_tables"  # tag: digest of each event table with which the run began, a JSON object by name
DATA_LICENCES = "data_licences"  # tag: a line for each source of the data, with its licence
SPLIT = "split"  # tag: the service dates of each split, as data.split takes them
MODEL_VERSION = "model_version"  # tag: version of the registered model that a run's model became
BEST_TRIAL = "best_trial"  # tag: number of a study's best trial
BEST_OVERRIDES = "best_overrides"  # tag: what makes a configuration that of the best trial, a JSON list of key=value
TRAINING_REASON = "training_reason"  # tag: why an evaluation asked for the training of a run, one line
WARM_START = "warm_start_run_id"  # tag: the run whose weights a run began with
STUDY_NAME = "study_name"  # tag of the run of a study and of its trials
TRIAL, STATE = "trial", "state"  # tags of a trial's run: its number, and how it ended
WINDOW = "window"  # tag of the run of an evaluation on a window: the window's first and last date
CONFIG_ARTIFACT = "config/config.yaml"
FAILURE_REASON = "failure_reason"  # tag of a failed run
AIRFLOW_PAGE = "airflow_run_url"  # tag: address of the page of the DAG run
# Tags of MLflow, which its pages show
DESCRIPTION = "mlflow.note.content"  # Markdown
PARENT = "mlflow.parentRunId"  # of a nested run
USER = "mlflow.user"  # "Created by"
SOURCE_NAME, SOURCE_TYPE = "mlflow.source.name", "mlflow.source.type"
SOURCE_COMMIT = "mlflow.source.git.commit"
# Tags with the origin of a run; nested runs inherit them.
ORIGIN = (
    "env", GIT_COMMIT, "image", DAG_ID, AIRFLOW_RUN, AIRFLOW_PAGE, DATA_FINGERPRINT, SPLIT, WARM_START,
    USER, SOURCE_NAME, SOURCE_TYPE, SOURCE_COMMIT,
)  # fmt: skip
WORKSPACE_VARIABLE = "MLFLOW_WORKSPACE"  # MLflow's client reads it: the workspace of every request
EXPERIMENT_KIND = "mlflow.experimentKind"  # tag of an experiment
MODEL_TRAINING = "custom_model_development"  # such an experiment opens on its runs, and not on traces of GenAI
# MLflow's pages have two faces. Without this query, a browser that is new to the server shows a run as one of GenAI.
_AS_MODEL_TRAINING = "?workflowType=machine_learning"
WORKSPACE_VARIABLE = "MLFLOW_WORKSPACE"  # MLflow's client reads it: the workspace of every request


def run_page(server: str, experiment_id: str, run_id: str, workspace: str = "") -> str:
    """Address of the page of a run, in the face for model training. A server with workspaces needs that of the run."""
    page = f"{server}/#/experiments/{experiment_id}/runs/{run_id}{_AS_MODEL_TRAINING}"
    return f"{page}&workspace={workspace}" if workspace else page


def sibling_page(run_page: str, run_id: str) -> str:
    """Address of the page of another run of the same experiment."""
    start, mark, end = run_page.partition("/runs/")
    return f"{start}{mark}{run_id}{''.join(end.partition('?')[1:])}" if mark else run_page


def artifact_page(run_page: str, artifact: str) -> str:
    """Address of the page that shows an artifact of a run; "" if the run has no page."""
    page, mark, query = run_page.partition("?")
    return f"{page}/artifacts/{artifact}{mark}{query}" if page else ""


def is_run_id(text: str) -> bool:
    """Whether a text can be a run id: no option, no path out of the folder of runs, only printable characters."""
    return bool(text) and text.isprintable() and not text.startswith(("-", ".")) and not set("/\\ ") & set(text)
