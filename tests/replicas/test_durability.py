"""What is said once something is durable, and in which order."""

from __future__ import annotations

import pytest

from tests.broker.world import batch
from walrus.replicas.durability import Durable
from walrus.sim.memory import MemoryEngine
from walrus.storage.errors import DiskFull


def test_each_write_is_reported_in_order_and_once():
    durable, said = Durable(MemoryEngine()), []
    for number in range(4):
        durable.write("t", batch("x"), lambda number=number: said.append(number))
    durable.on_durable(2)
    assert said == [0, 1], "AckedDurable"
    durable.on_durable(1)  # an older sync that is reported late
    assert said == [0, 1], "AckedDurable"
    durable.on_durable(4)
    assert said == [0, 1, 2, 3], "AckedDurable"


def test_barrier_waits_for_everything_before_it():
    durable, said = Durable(MemoryEngine()), []
    durable.barrier(lambda: said.append("at once"))
    durable.write("t", batch("x"))
    durable.barrier(lambda: said.append("later"))
    assert said == ["at once"], "AckedDurable: a barrier does not wait for what was written before it"
    durable.on_durable(1)
    assert said == ["at once", "later"], "AckedDurable: a barrier waits for what came after it"


def test_what_is_said_may_write_and_wait_in_turn():
    durable, said = Durable(MemoryEngine()), []
    durable.write("t", batch("x"), lambda: durable.write("t", batch("y"), lambda: said.append("second")))
    durable.on_durable(1)
    assert said == [] and durable.written == 2, "AckedDurable"
    durable.on_durable(2)
    assert said == ["second"], "AckedDurable"


def test_a_report_that_comes_late_takes_nothing_back():
    durable = Durable(MemoryEngine())
    for payload in ("a", "b"):
        durable.write("t", batch(payload))
    durable.on_durable(2)
    durable.on_durable(1)
    ran: list[bool] = []
    durable.barrier(lambda: ran.append(True))
    assert ran == [True], "RolloverProgress: all is durable, and a late report makes an answer wait"


def test_failed_write_is_no_write():
    memory = MemoryEngine()
    memory.full = True
    durable = Durable(memory)
    with pytest.raises(DiskFull):
        durable.write("t", batch("x"), lambda: pytest.fail("never durable"))
    assert durable.written == 0, "AckedDurable"
    durable.on_durable(0)
