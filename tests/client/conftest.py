"""The fixture that runs a test once for each client."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.client.faces import Awaited, MakeClient
from tests.client.fake import FakeNode
from walrus.client import Client


@pytest.fixture(params=[Client, Awaited], ids=["blocking", "async"])
def connect(request: pytest.FixtureRequest) -> Iterator[MakeClient]:
    made: list[Any] = []

    def make(*nodes: FakeNode | str, timeout: float = 30.0) -> Any:
        client = request.param([getattr(node, "address", node) for node in nodes], timeout=timeout)
        made.append(client)
        return client

    yield make
    for client in made:
        client.__exit__(None, None, None)
