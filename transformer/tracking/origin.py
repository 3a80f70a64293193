"""The origin of a run, in the tags that MLflow's pages show as "Source" and "Created by"."""

from __future__ import annotations

import getpass

from transformer.tracking.names import SOURCE_COMMIT, SOURCE_NAME, SOURCE_TYPE, USER

COMMAND = "python -m transformer"
JOB, LOCAL = "JOB", "LOCAL"  # MLflow's names of a source's type


def origin_tags(dag_id: str, commit: str, user: str) -> dict[str, str]:
    """Source, commit and user of a run.

    Args:
        dag_id: the DAG that opened the run; "" = it was opened by hand.
        user: the person who triggered it; "" = the user of this process.
    """
    return {
        SOURCE_NAME: dag_id or COMMAND,
        SOURCE_TYPE: JOB if dag_id else LOCAL,
        SOURCE_COMMIT: commit,
        USER: user or process_user(),
    }


def process_user() -> str:
    """The user of this process; "unknown" in a container whose user id has no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"
