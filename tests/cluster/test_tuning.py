"""A study with two workers at once, whose best trial is then trained."""

import json

from tests.cluster.installation import SERVICES

SPACE = [{"key": "training.learning_rate", "low": 3e-4, "high": 3e-3, "log": True}]


def test_two_workers_tune_and_the_best_trial_is_trained(installation, note):
    conf = installation.conf(
        "training.max_epochs=2",
        f"search.storage_url=postgresql://optuna@postgres.{SERVICES}.svc.cluster.local/optuna",
        f"search.space={json.dumps(SPACE)}",
        "search.pruner.name=none",
        n_trials=4,
        n_workers=2,
        study_name="in-the-cluster",
        train_best=True,
    )
    before = {other.run_id for other in installation.airflow.runs("model_training")}
    run = installation.airflow.trigger("hyperparameter_tuning", conf)
    run.wait("success")
    tasks = run.tasks()
    assert tasks["tune[0]"] == tasks["tune[1]"] == ("success", 1)
    assert tasks["report_study"] == ("success", 1)
    parent = installation.mlflow_run(run)
    trials = installation.mlflow.search_runs(
        [parent.info.experiment_id], f"tags.mlflow.parentRunId = '{parent.info.run_id}'"
    )
    assert len(trials) == 4
    assert {trial.info.status for trial in trials} == {"FINISHED"}
    (best,) = [other for other in installation.airflow.runs("model_training") if other.run_id not in before]
    best.wait("success")
    note("two workers and report_study: success; train_best: success", "4 trials FINISHED")
