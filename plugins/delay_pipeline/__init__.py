"""Airflow glue of the delay pipeline: params, the stage operator, the MLflow run of a DAG run and its link.

Nothing here imports the ML stack when a DAG file is parsed.
"""

import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]

# Airflow puts this plugins folder on the path, not the repository it lies in, where `transformer` is.
if str(REPOSITORY) not in sys.path:
    sys.path.append(str(REPOSITORY))
