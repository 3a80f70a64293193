"""Everything that connects the stages to Airflow: params, operators, the MLflow run of a DAG run, links and alerts.

No module of this package imports the ML stack when Airflow parses a DAG file.
"""

import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]

# Airflow puts the plugins folder on the path, but not the repository, which holds `transformer`.
if str(REPOSITORY) not in sys.path:
    sys.path.append(str(REPOSITORY))
