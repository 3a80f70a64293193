"""Optuna's storage in PostgreSQL that waits for a server that goes away, for example during a fail-over.

Every call is repeated until the server answers again, see `waiting.patiently`. A connection may break after the server
has carried out a request, and before its answer arrives. The repetition of such a request changes nothing more.

No worker can record heartbeats while the server is away. So after such a time, no worker counts as dead until each one
could record them again.
"""

from __future__ import annotations

import copy
import math
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial, wraps
from typing import Any, TypeVar

import psycopg
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy import Engine, event
from sqlalchemy.engine import ExceptionContext

from transformer.errors import UnansweredError
from transformer.waiting import patiently

Answer = TypeVar("Answer")
CREATION = "creation"  # system attribute of a trial: unique to the request that created the trial
# Methods that Optuna calls on the storage or its cache, and that may simply be repeated. Heartbeats are not among them:
# the next heartbeat is the repetition.
_REPEATABLE = (
    "_get_best_trial_id",
    "_get_trials",
    "_set_trial_param",
    "create_new_study",
    "get_all_studies",
    "get_study_directions",
    "get_study_id_from_name",
    "get_study_name_from_id",
    "get_study_system_attrs",
    "get_study_user_attrs",
    "get_trial",
    "get_trial_id_from_study_id_trial_number",
    "set_study_system_attr",
    "set_study_user_attr",
    "set_trial_intermediate_value",
    "set_trial_system_attr",
    "set_trial_user_attr",
)
# Classes of SQLSTATE: connection exceptions, insufficient resources, operator intervention except a cancelled query.
_AWAY = ("08", "53", "57P")
_STANDBY = "25006"  # a write to a server that is read-only: during a fail-over, the standby


def away(error: BaseException | None) -> bool:
    """Whether an error of psycopg says that the server is away, or cannot work now."""
    if not isinstance(error, psycopg.Error):
        return False
    if error.sqlstate is None:  # the connection could not be made, or broke
        return isinstance(error, psycopg.OperationalError)
    return error.sqlstate.startswith(_AWAY) or error.sqlstate == _STANDBY


def raise_unanswered(engine: Engine, unanswered: Callable[[BaseException], UnansweredError | None]) -> None:
    """Let an engine raise UnansweredError in place of SQLAlchemy's error.

    Args:
        unanswered: returns the error for an exception of psycopg; None = SQLAlchemy's error is raised.
    """

    @event.listens_for(engine, "handle_error", retval=True)
    def _replace(context: ExceptionContext) -> BaseException | None:
        if context.is_pre_ping:  # the pool opens another connection
            return None
        return unanswered(context.original_exception)


class PatientStorage(RDBStorage):
    """Optuna's storage, whose calls wait for the server.

    Args:
        wait_s: see `waiting.patiently`.
        unanswered: see `raise_unanswered`.
    """

    def __init__(
        self,
        url: str,
        engine_kwargs: dict[str, Any],
        *,
        wait_s: float,
        unanswered: Callable[[BaseException], UnansweredError | None],
        **heartbeats: Any,
    ) -> None:
        self._wait_s = wait_s
        self._away_until: float | None = None  # when the server was last seen away
        # The constructor already connects, so no event of its engine could replace the error.
        super().__init__(url, engine_kwargs, **heartbeats)
        raise_unanswered(self.engine, unanswered)

    @contextmanager
    def noting_silence(self) -> Iterator[None]:
        """Note that the server was away, if the block finds no answer, or takes longer than a heartbeat's interval."""
        began = time.monotonic()
        answered = True
        try:
            yield
        except UnansweredError:
            answered = False
            raise
        finally:
            now = time.monotonic()
            if not answered or now - began > (self.heartbeat_interval or math.inf):
                self._away_until = now

    def record_heartbeat(self, trial_id: int) -> None:
        with self.noting_silence():
            super().record_heartbeat(trial_id)

    def _get_stale_trial_ids(self, study_id: int) -> list[int]:
        find = partial(super()._get_stale_trial_ids, study_id)
        assert self.grace_period is not None
        if self._away_until is not None and time.monotonic() - self._away_until < self.grace_period:
            return []
        return self._patiently(find)

    def _patiently(
        self, request: Callable[[], Answer], carried_out: Callable[[], Answer | None] = lambda: None
    ) -> Answer:
        with self.noting_silence():
            return patiently(request, self._wait_s, carried_out=carried_out)

    def _create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> FrozenTrial:
        template = copy.deepcopy(template_trial) or create_trial(state=TrialState.RUNNING)
        mark = uuid.uuid4().hex
        template.system_attrs = {**template.system_attrs, CREATION: mark}
        create = partial(super()._create_new_trial, study_id, template)
        return self._patiently(create, partial(self._created, study_id, mark))

    def _created(self, study_id: int, mark: str) -> FrozenTrial | None:
        every = RDBStorage._get_trials(self, study_id, None, set(), -1)
        return next((trial for trial in every if trial.system_attrs.get(CREATION) == mark), None)

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        change = partial(super().set_trial_state_values, trial_id, state, values)

        def changed() -> bool | None:
            # Only one worker claims or ends trials at a time, so it was this worker.
            return True if RDBStorage.get_trial(self, trial_id).state is state else None

        return self._patiently(change, changed)


def _patient(method: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(method)
    def repeated(self: PatientStorage, *arguments: Any, **named: Any) -> Any:
        return self._patiently(partial(method, self, *arguments, **named))

    return repeated


for _name in _REPEATABLE:
    setattr(PatientStorage, _name, _patient(getattr(RDBStorage, _name)))
