"""How errors become task failures: one line each, kept for `close_run`, and a retry only where it can help."""

from collections.abc import Iterator
from contextlib import contextmanager

from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowTaskTimeout
from airflow.sdk.types import RuntimeTaskInstanceProtocol

from transformer.errors import ServiceError, UserError

ERROR_KEY = "error"  # XCom under which a failed task leaves its reason


@contextmanager
def one_line_failures(ti: RuntimeTaskInstanceProtocol) -> Iterator[None]:
    """Turn what the user must correct into a failure without retry, and an absent service into one with.

    Every failure leaves its first line as XCom `error` of the task.
    """
    failure: BaseException
    try:
        yield
        return
    except UserError as error:
        failure = AirflowFailException(str(error))
    except ServiceError as error:
        failure = AirflowException(str(error))
    except (Exception, AirflowTaskTimeout) as error:
        failure = error
    ti.xcom_push(key=ERROR_KEY, value=(str(failure) or type(failure).__name__).splitlines()[0])
    raise failure from None
