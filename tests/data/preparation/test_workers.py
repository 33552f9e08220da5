import operator
import os
import threading
import time
from concurrent.futures.process import BrokenProcessPool

import pytest

from data.preparation import workers


@pytest.mark.parametrize("processes", [1, 2])
def test_results_come_in_order(processes):
    assert list(workers.map_in_order(operator.neg, range(30), processes)) == [-number for number in range(30)]


def test_input_is_not_read_far_ahead():
    taken = []
    results = workers.map_in_order(operator.neg, (taken.append(number) or number for number in range(1000)), 2)
    next(results)
    assert len(taken) <= 2 * workers._AHEAD
    results.close()


def test_dead_process_raises_instead_of_hanging():
    with pytest.raises(BrokenProcessPool):
        list(workers.map_in_order(os._exit, [1], 2))


def test_worker_errors_are_raised():
    with pytest.raises(TypeError):
        list(workers.map_in_order(operator.neg, [1, "a", 2], 2))


def test_closing_leaves_no_thread():
    threads = threading.active_count()
    results = workers.map_in_order(operator.neg, range(100), 2)
    next(results)
    results.close()
    deadline = time.monotonic() + 5
    while threading.active_count() > threads and time.monotonic() < deadline:
        time.sleep(0.05)
    assert threading.active_count() == threads
