"""Run a whole DAG in this process, with doubles of its stages and of MLflow."""

from pathlib import Path

import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.models import dagrun
from airflow.models.dag import DagModel
from sqlalchemy import update

from delay_pipeline import stage
from tests.support.tracking_double import FakeTracking

REPOSITORY = Path(__file__).resolve().parents[2]
# prose: allow length – a program
STAGE = """
import json, pathlib, sys
print("running", *sys.argv[1:], flush=True)
if {failing!r} and set({failing!r}.split()) <= set(sys.argv):
    print("error: data/x does not exist; run fetch-files", file=sys.stderr)
    sys.exit(2)
pathlib.Path(sys.argv[sys.argv.index("--result") + 1]).write_text(json.dumps({{"argv": sys.argv[1:]}}))
"""


@pytest.fixture
def run_dag(monkeypatch, tmp_path, airflow_database):
    """Run a DAG with a conf. A stage whose arguments have all the words of `failing` exits 2. Returns the DAG run.

    `opened` is the id of the MLflow run; "" = none. A run of type `asset_triggered` has no logical date, and `events`
    started it.
    """
    create_by_hand = dagrun.get_or_create_dagrun

    def run(dag_id, conf, failing="", opened="new-run", run_type="manual", events=()):
        def create(session, **given):
            session.execute(update(DagModel).values(is_paused=False))  # as `make up` leaves them
            created = create_by_hand(session=session, **given)
            created.run_type = run_type
            created.consumed_asset_events.extend(session.merge(event) for event in events)
            session.commit()
            return created

        monkeypatch.setattr(dagrun, "get_or_create_dagrun", create)
        script = tmp_path / "stage.py"
        script.write_text(STAGE.format(failing=failing))
        monkeypatch.setattr(stage, "MODULE", [str(script)])
        FakeTracking.install(monkeypatch, opened=opened)
        date = {"logical_date": None} if run_type == "asset_triggered" else {}
        return DagBag(str(REPOSITORY / "dags")).dags[dag_id].test(run_conf=conf, **date)

    return run


@pytest.fixture
def states():
    """Return the state of every task instance of a DAG run. A mapped instance is named with its index."""

    def read(run):
        return {
            ti.task_id if ti.map_index < 0 else f"{ti.task_id}[{ti.map_index}]": ti.state
            for ti in run.get_task_instances()
        }

    return read
