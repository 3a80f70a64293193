"""Airflow's REST API: trigger a DAG, follow its run, and do what a person does on its page."""

import time
from dataclasses import dataclass

import requests

from tests.support.patience import wait_until

ENDED = ("success", "failed")


class Airflow:
    def __init__(self, address):
        self.address = address
        self._session = requests.Session()
        self._session.trust_env = False
        token = self._session.get(f"{address}/auth/token", timeout=60).json()["access_token"]
        self._session.headers["Authorization"] = f"Bearer {token}"

    def ask(self, method, path, **options):
        answer = self._session.request(method, f"{self.address}/api/v2/{path}", timeout=60, **options)
        assert answer.ok, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json() if answer.content else None

    def dags(self):
        return [dag["dag_id"] for dag in self.ask("GET", "dags")["dags"]]

    def import_errors(self):
        return self.ask("GET", "importErrors")["import_errors"]

    def trigger(self, dag_id, conf):
        run = self.ask("POST", f"dags/{dag_id}/dagRuns", json={"logical_date": None, "conf": conf})
        return Run(self, dag_id, run["dag_run_id"])

    def runs(self, dag_id):
        return [Run(self, dag_id, run["dag_run_id"]) for run in self.ask("GET", f"dags/{dag_id}/dagRuns")["dag_runs"]]


@dataclass(frozen=True)
class Run:
    airflow: Airflow
    dag_id: str
    run_id: str

    @property
    def path(self):
        return f"dags/{self.dag_id}/dagRuns/{self.run_id}"

    def state(self):
        return self.airflow.ask("GET", self.path)["state"]

    def tasks(self):
        """State and number of the try of every task, by name; a mapped task's name ends with its index."""
        found = self.airflow.ask("GET", f"{self.path}/taskInstances")["task_instances"]
        return {
            task["task_id"] + (f"[{task['map_index']}]" if task["map_index"] >= 0 else ""): (
                task["state"],
                task["try_number"],
            )
            for task in found
        }

    def wait(self, *states):
        """Wait until the run has ended. It must end in one of the states."""
        self.wait_for(lambda: self.state() in ENDED, "the end")
        state = self.state()
        assert state in states, f"{self.run_id} is {state}: {self.tasks()}"

    def wait_for(self, holds, what):
        wait_until(holds, f"{what} of {self.dag_id} {self.run_id}: {self.tasks()}", every_s=1)

    def wait_for_task(self, task_id, *states, tries=1):
        self.wait_for(
            lambda: (task := self.tasks().get(task_id, (None, 0)))[0] in states and task[1] >= tries,
            f"{task_id} in {' or '.join(states)}",
        )

    def xcom(self, task_id, key):
        path = f"{self.path}/taskInstances/{task_id}/xcomEntries/{key}"
        return self.airflow.ask("GET", path)["value"]

    def error(self, task_id):
        """Why the last try of a task failed; "" = it has not failed. Airflow deletes it when the next try begins."""
        path = f"{self.path}/taskInstances/{task_id}/xcomEntries"
        entries = self.airflow.ask("GET", path)["xcom_entries"]
        return self.xcom(task_id, "error") if any(entry["key"] == "error" for entry in entries) else ""

    def log(self, task_id, tries=1):
        """The log that the page of a task shows, without times; "" = it has not begun."""
        if self.tasks().get(task_id, (None, 0))[1] < tries:
            return ""
        path = f"{self.path}/taskInstances/{task_id}/logs/{tries}"
        lines = self.airflow.ask("GET", path, headers={"Accept": "application/json"})["content"]
        return "\n".join(line["event"] if isinstance(line, dict) else str(line) for line in lines)

    def mark_failed(self):
        self.airflow.ask("PATCH", self.path, json={"state": "failed"})

    def mark_task_failed(self, task_id):
        self.airflow.ask("PATCH", f"{self.path}/taskInstances/{task_id}", json={"new_state": "failed"})

    def clear(self, task_id):
        body = {"dry_run": False, "dag_run_id": self.run_id, "task_ids": [task_id], "include_downstream": True}
        body |= {"only_failed": False, "reset_dag_runs": True}
        self.airflow.ask("POST", f"dags/{self.dag_id}/clearTaskInstances", json=body)
        time.sleep(1)
