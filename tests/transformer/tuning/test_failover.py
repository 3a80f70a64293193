"""The database of a study fails over while workers run trials: they wait, and the study is as without it."""

import re
import signal
import threading
import time
from pathlib import Path

import pytest

from tests.support import commands
from tests.support.grids import grid
from tests.support.patience import wait_until
from tests.support.pgbouncer import pooler
from tests.support.postgres import FailoverPostgres
from tests.transformer.tuning.workers import check_whole, nested_runs, search_overrides, start, study_of
from transformer.config import load_config
from transformer.tracking import names, runs

pytestmark = pytest.mark.slow

AWAY_S = 10.0  # longer than four missed heartbeats
REFUSES_S = 4.0  # for which the standby answers with errors
N_TRIALS, N_WORKERS = 6, 2


class Log:
    """The log of a process, read while the process runs."""

    def __init__(self, process: commands.Forked) -> None:
        self.process = process
        self.lines: list[str] = []
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        self.lines.extend(self.process.stderr)

    def find(self, pattern: str) -> list[str]:
        return [line for line in list(self.lines) if re.search(pattern, line)]

    def whole(self) -> str:
        """The log of a process that has ended as it should."""
        status = self.process.wait()
        self._thread.join()
        text = "".join(self.lines)
        assert status == 0, text
        return text


# The first is in `make test`, and the others are in `make test-all`.
CASES = [
    pytest.param(signal.SIGQUIT, False, False, "is starting up|not accepting", id="crash, then one that starts"),
    pytest.param(signal.SIGINT, True, False, "read-only", id="shut down, then a read-only standby"),
    pytest.param(signal.SIGQUIT, True, True, "server|read-only|Connection", id="behind a pooler"),
]


@pytest.mark.parametrize(("how", "reads", "pooled", "reason"), CASES[: grid(1)])
def test_a_study_goes_on_after_a_failover(
    small_overrides: list[str],
    mlflow_server: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    how: signal.Signals,
    reads: bool,
    pooled: bool,
    reason: str,
):
    cluster = FailoverPostgres()
    monkeypatch.setenv("PGPASSWORD", cluster.server.password)
    owned = cluster.server.database()
    address = pooler(cluster.server, connections=5).url(owned.rpartition("/")[2]) if pooled else owned
    shared = [*small_overrides, *search_overrides(mlflow_server), f"search.storage_url={address}"]
    shared += [f"search.n_workers={N_WORKERS}", f"search.n_trials={N_TRIALS}", "search.heartbeat_s=2"]
    config = load_config("local", shared)
    run_id = runs.open_run(config, env="local", tags={names.AIRFLOW_RUN: "manual__1"})
    logs = [Log(start(shared, run_id, tmp_path / f"pod-{k}", worker=k)) for k in range(N_WORKERS)]
    wait_until(lambda: all(log.find(r"epoch 1/3 done") for log in logs), "both workers in the middle of a trial")

    cluster.stop(how)
    time.sleep(AWAY_S)
    cluster.take_over(reads=reads)
    time.sleep(REFUSES_S)
    cluster.promote()

    texts = [log.whole() for log in logs]
    for text in texts:
        assert "Traceback" not in text, text
        assert len(re.findall(r"waiting for search\.storage_url=postgresql://\S+ \(\d+ of 120 s\): ", text)) >= 3, text
        assert re.search(r"search\.storage_url=postgresql://\S+ answers again after 1\d s", text), text
        assert "its worker died" not in text, text
    assert any(re.search(f"waiting for .*: .*({reason})", text) for text in texts), texts
    study = study_of(load_config("local", [*shared, f"search.storage_url={owned}"]))
    assert len(study.trials) == N_TRIALS
    check_whole(study, nested_runs(mlflow_server, run_id), N_TRIALS)
