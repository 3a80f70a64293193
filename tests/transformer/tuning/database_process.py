"""Opens a study database in its own process and runs commands from standard input. Each one is answered by a line.

python database_process.py HOLDER '{"renew_every_s": 0.2, "expires_after_s": 2}' key=value …
"""

import json
import sys
import time
from pathlib import Path

import optuna

from transformer.config import Config, load_config
from transformer.errors import ServiceError, UserError
from transformer.tuning.database import DatabaseSettings, StudyDatabase, open_database
from transformer.tuning.lease import LeaseSettings


def main(holder: str, lease: str, *overrides: str) -> None:
    config = load_config("local", overrides)
    settings = DatabaseSettings(LeaseSettings(**json.loads(lease)), exclusive_within_s=20)
    answer("ready")
    sys.stdin.readline()
    try:
        with open_database(config, holder, lambda study, trial: None, settings) as database:
            answer("open")
            for line in sys.stdin:
                answer(do(config, database, *line.split()))
    except (UserError, ServiceError) as error:
        answer(f"{type(error).__name__}: {error}")


def do(config: Config, database: StudyDatabase, what: str, *arguments: str) -> str:
    """Run `trials N`, `save`, or `lock FILE N`: hold the lock and count in FILE, without other protection, N times."""
    try:
        if what == "trials":
            study = optuna.create_study(storage=database.storage, study_name="delays", load_if_exists=True)
            for _ in range(int(arguments[0])):
                study.add_trial(optuna.create_trial(value=1.0))
        elif what == "lock":
            counter = Path(arguments[0])
            for _ in range(int(arguments[1])):
                with database.exclusively():
                    count = int(counter.read_text())
                    time.sleep(0.01)
                    counter.write_text(str(count + 1))
        else:
            database.save()
    except (UserError, ServiceError) as error:
        return f"{type(error).__name__}: {error}"
    return "done"


def answer(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
