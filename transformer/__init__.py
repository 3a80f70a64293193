"""Network-wide train-delay prediction with a set transformer: data, statistics, model, training, evaluation.

This package never imports Airflow. Every backend runs `python -m transformer STAGE`.
"""

import os

# By default MLflow sends usage data to its makers; the value `false` allows that. MLflow reads the variable when it is
# loaded, which is after this line.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
