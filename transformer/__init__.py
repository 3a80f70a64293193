"""Network-wide train-delay prediction with a set transformer: data, statistics, model, training, evaluation.

This package never imports Airflow. `python -m transformer <stage>` is what every backend runs.
"""

import os

# MLflow reports its use to its makers otherwise. Read when MLflow is loaded, after this; who wants it says `false`.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
