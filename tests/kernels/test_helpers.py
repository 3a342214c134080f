"""Threads that help calls: kept between them, as many as are needed, on the caller's CPUs, none in a forked child."""

import os
import subprocess
import sys
import threading

import numpy as np
import pytest

import salience
from forking import holds_in_child

PROLOGUE = """
import os, pathlib, threading, time
import numpy as np, salience

random = np.random.default_rng(0)
x = random.standard_normal((20_000, 64), dtype=np.float32)
q = random.standard_normal((64, 64), dtype=np.float32)

def helpers():
    found = []
    for task in pathlib.Path("/proc/self/task").iterdir():
        try:
            if (task / "comm").read_text() == "salience\\n":
                found.append(int(task.name))
        except OSError:  # a caller's thread, which has ended
            pass
    return found

def search_until(come_true, threads):  # a helper that wakes too late finds no work
    deadline = time.monotonic() + 60
    while not come_true():
        assert time.monotonic() < deadline
        salience.topk(q, x, 10, threads=threads)
"""


def run(script):
    command = [sys.executable, "-c", PROLOGUE + script]
    subprocess.run(command, check=True, timeout=120, env={**os.environ, "OPENBLAS_NUM_THREADS": "1"})


@pytest.fixture
def problem():
    random = np.random.default_rng(0)
    x, q = (random.standard_normal((rows, 64), dtype=np.float32) for rows in (20_000, 64))
    return q, x, salience.topk(q, x, 10, threads=1)


def test_calls_share_helpers():
    run("""
assert not helpers()
search_until(lambda: helpers(), threads=4)
for _ in range(10):
    salience.topk(q, x, 10, threads=4)
assert len(helpers()) <= 3
callers = [threading.Thread(target=salience.topk, args=(q, x, 10), kwargs={"threads": 3}) for _ in range(4)]
for caller in callers:
    caller.start()
for caller in callers:
    caller.join()
assert len(helpers()) <= 8
""")


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one CPU")
def test_helpers_run_where_the_caller_may():
    run("""
every = os.sched_getaffinity(0)
for cpus in (every, {min(every)}, {max(every)}, every):
    os.sched_setaffinity(0, cpus)
    search_until(lambda: [os.sched_getaffinity(task) for task in helpers()] == [cpus], threads=2)
""")


def test_callers_on_many_threads_get_their_own_answers(problem):
    q, x, expected = problem
    found = []

    def search(shift):
        for _ in range(10):
            ids, scores = salience.topk(np.roll(q, shift, axis=0), x, 10, threads=3)
            found.append(np.array_equal(ids, np.roll(expected[0], shift, axis=0)) and np.isfinite(scores).all())

    callers = [threading.Thread(target=search, args=(shift,)) for shift in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert found == [True] * 40


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_fork_between_calls_leaves_a_child_with_helpers_of_its_own(problem):
    q, x, expected = problem
    for _ in range(3):
        salience.topk(q, x, 10, threads=3)  # whose helpers the child is without
        assert holds_in_child(lambda: np.array_equal(salience.topk(q, x, 10, threads=3)[0], expected[0]))


@pytest.mark.fork_amid_calls
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_fork_amid_calls_leaves_a_child_with_helpers_of_its_own(problem):
    q, x, expected = problem
    stop = threading.Event()

    def search():
        while not stop.is_set():
            salience.topk(q, x, 10, threads=3)

    caller = threading.Thread(target=search)
    caller.start()
    try:
        for _ in range(10):
            assert holds_in_child(
                lambda: all(np.array_equal(salience.topk(q, x, 10, threads=3)[0], expected[0]) for _ in range(3))
            )
    finally:
        stop.set()
        caller.join()
    assert np.array_equal(salience.topk(q, x, 10, threads=3)[0], expected[0])
