"""A request is repeated while its server does not answer, with growing pauses and a line for people."""

import logging
import re
import threading
import time

import pytest

from transformer import waiting
from transformer.errors import ServiceError, Terminated, UnansweredError, remedy
from transformer.waiting import patiently, reporting_silence

AWAY = UnansweredError("S3 at http://s3", "connection refused", "start it")


def away(times):
    """A request that its server leaves unanswered so many times."""
    left = [times]

    def request():
        if left[0] > 0:
            left[0] -= 1
            raise AWAY
        return "answer"

    return request


@pytest.fixture(autouse=True)
def _no_earlier_lines(monkeypatch):
    monkeypatch.setattr(waiting, "_lines", waiting._Lines())


def test_an_answer_that_comes_at_once_leaves_no_line(caplog, pauses):
    caplog.set_level(logging.INFO)
    assert patiently(away(0), 120.0) == "answer"
    assert not pauses and not caplog.messages


def test_pauses_grow_and_lines_say_what_is_waited_for(caplog, pauses):
    caplog.set_level(logging.INFO)
    assert patiently(away(8), 120.0) == "answer"
    assert len(pauses) == 8
    assert [round(pause) for pause in pauses[:3]] <= [1, 2, 3] and max(pauses) <= 6
    assert pauses[-1] > 3 * pauses[0]
    *lines, last = caplog.messages
    assert lines[0] == "waiting for S3 at http://s3 (0 of 120 s): connection refused"
    assert last.startswith("S3 at http://s3 answers again after ")


@pytest.mark.parametrize(("wait_s", "tries"), [(0.0, 1), (1.0, 3)])
def test_the_error_says_how_long_it_waited(pauses, wait_s, tries):
    calls = []

    def request():
        calls.append(1)
        raise AWAY

    with pytest.raises(UnansweredError) as caught:
        patiently(request, wait_s)
    assert len(calls) >= tries and (wait_s or len(calls) == 1)
    waited = " for " in str(caught.value)
    assert waited == (wait_s > 0)
    assert isinstance(caught.value, ServiceError) and str(caught.value).endswith("(connection refused); start it")
    assert sum(pauses) >= wait_s


def test_the_time_of_a_long_request_does_not_count(monkeypatch):
    """A download that breaks off after an hour is tried again, too."""
    clock = [0.0]
    monkeypatch.setattr(waiting.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(waiting, "sleep_using_event", lambda _: lambda seconds: None)
    tried = away(1)

    def request():
        clock[0] += 3_600.0
        return tried()

    assert patiently(request, 120.0) == "answer"


def test_other_errors_are_not_repeated(pauses):
    def request():
        raise ServiceError("refused")

    with pytest.raises(ServiceError, match=r"^refused$"):
        patiently(request, 120.0)
    assert not pauses


def test_nothing_waits_after_sigterm(pauses, monkeypatch):
    monkeypatch.setattr(Terminated, "arrived", True)
    with pytest.raises(UnansweredError):
        patiently(away(1), 120.0)
    assert not pauses


def test_an_event_ends_the_waiting_at_once():
    stop = threading.Event()
    threading.Timer(0.2, stop.set).start()
    began = time.monotonic()
    with pytest.raises(UnansweredError):
        patiently(away(10**6), 120.0, first_pause_s=60.0, stop=stop)
    assert time.monotonic() - began < 5


def test_threads_that_wait_for_one_server_share_a_line(caplog):
    def wait():
        with pytest.raises(UnansweredError):
            patiently(away(10**6), 0.3, first_pause_s=0.2)

    threads = [threading.Thread(target=wait) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum("waiting for S3" in line for line in caplog.messages) == 1


def test_a_slow_answer_is_reported_while_it_is_awaited(caplog, monkeypatch):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(waiting, "SILENT_S", 0.1)
    monkeypatch.setattr(waiting, "_silence", waiting._Silence())
    with reporting_silence("MLflow at http://m"), reporting_silence("MLflow at http://m"):
        time.sleep(0.5)
    time.sleep(0.3)  # on a busy machine, the thread may be about to write a line
    count = len(caplog.messages)
    lines = {re.sub(r"\d+ s$", "N s", line) for line in caplog.messages}
    assert count >= 2 and lines == {"waiting for the answer of MLflow at http://m for N s"}
    time.sleep(0.3)
    assert len(caplog.messages) == count


@pytest.mark.parametrize("pod", [False, True])
def test_a_remedy_fits_the_place(monkeypatch, pod):
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    if pod:
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    assert remedy(laptop="here", pod="there") == ("there" if pod else "here")


def test_a_request_that_was_carried_out_is_not_repeated(pauses):
    """The first request is sent without a look. Before each repetition, a look says whether it was carried out."""
    sent, looks = [], [None, "answer"]

    def request():
        sent.append("request")
        raise AWAY

    assert patiently(request, 120.0, carried_out=lambda: looks.pop(0)) == "answer"
    assert sent == ["request", "request"] and not looks and len(pauses) == 2
