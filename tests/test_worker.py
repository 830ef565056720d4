"""A thread for calls that block."""

import asyncio
import subprocess
import sys
import textwrap
import threading

import pytest

from flowagent.worker import Worker


@pytest.fixture
def worker():
    made = Worker("test")
    yield made
    made.stop()


async def test_results_and_errors_come_back(worker):
    assert await worker.run(lambda: threading.current_thread().name) == "test"
    with pytest.raises(ZeroDivisionError):
        await worker.run(lambda: 1 // 0)
    assert await worker.run(lambda: 2) == 2


async def test_calls_are_made_one_after_the_other(worker):
    seen, gate = [], threading.Event()
    first = worker.start(lambda: (gate.wait(5), seen.append(1)))
    second = worker.start(lambda: seen.append(2))
    await asyncio.sleep(0)
    assert seen == []
    gate.set()
    await asyncio.gather(first, second)
    assert seen == [1, 2]


async def test_the_loop_goes_on_while_a_call_blocks(worker):
    gate = threading.Event()
    blocked = worker.start(lambda: gate.wait(5))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await asyncio.shield(blocked)
    gate.set()
    assert await blocked is True


async def test_a_result_nobody_waits_for_is_dropped(worker):
    gate = threading.Event()
    blocked = worker.start(lambda: gate.wait(5))
    blocked.cancel()
    gate.set()
    assert await worker.run(lambda: 1) == 1


async def test_it_can_be_stopped_and_used_again(worker):
    worker.stop()
    assert await worker.run(lambda: 1) == 1
    worker.stop()
    assert await worker.run(lambda: 2) == 2


def test_a_call_that_blocks_for_good_does_not_keep_the_process():
    program = """
        import asyncio, threading
        from flowagent.worker import Worker
        async def main():
            Worker("stuck").start(lambda: threading.Event().wait())
            await asyncio.sleep(0.05)
        asyncio.run(main())
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True, timeout=10)
