"""What the console may do to the nodes of a cluster on this machine, if changes are allowed.

    kill      SIGKILL: the process ends at once; what it wrote stays, durable or not
    pause     SIGSTOP: as if its network, or a garbage collection, hung
    resume    SIGCONT
    start     the process again, as `walrus.cluster` started it (`cluster.json` beside the data)
    leave     LEAVE: the member is removed once its data is elsewhere, and its process ends

The console finds a process by the lock in its data directory, which has pid, start time and boot: after a
restart of the machine another process with the same pid is never signalled (`storage/processes.py`).
"""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Final

from walrus.client import Client, WalrusError
from walrus.cluster import ClusterError, LocalCluster, running_nodes
from walrus.storage.processes import signal_holder

SIGNALS: Final = {"kill": signal.SIGKILL, "pause": signal.SIGSTOP, "resume": signal.SIGCONT}
ACTIONS: Final = (*SIGNALS, "start", "leave")

LEAVE_PATIENCE = 30.0
"""Seconds that a LEAVE may take: the data of the node is copied first."""


class ActionError(Exception):
    """The action was not carried out; the message is one line."""


class Actions:
    """Actions on the nodes below one data directory."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir

    def act(self, action: str, node_id: int) -> str:
        """Carry out an action and return what was done, in a line. Blocks. Raises ActionError."""
        match action:
            case "start":
                return self._start(node_id)
            case "leave":
                return self._leave(node_id)
            case "kill" | "pause" | "resume":
                holder = running_nodes(self._data_dir).get(node_id)
                if holder is None or not signal_holder(holder, SIGNALS[action]):
                    raise ActionError(f"node {node_id} does not run on this machine below {self._data_dir}")
                return f"{SIGNALS[action].name} to node {node_id}"
            case _:
                raise ActionError(f"there is no action {action!r}; there are {', '.join(ACTIONS)}")

    def _cluster(self, node_id: int) -> LocalCluster:
        try:
            cluster = LocalCluster.remembered(self._data_dir)
        except ClusterError as error:
            raise ActionError(str(error)) from error
        if node_id not in cluster.ids:
            raise ActionError(f"there is no node {node_id} below {self._data_dir}")
        return cluster

    def _start(self, node_id: int) -> str:
        try:
            self._cluster(node_id).start(node_id)
        except ClusterError as error:
            raise ActionError(str(error)) from error
        return f"node {node_id} is starting"

    def _leave(self, node_id: int) -> str:
        cluster = self._cluster(node_id)
        try:
            with Client(cluster.addresses, timeout=LEAVE_PATIENCE) as client:
                client.leave(node_id)
        except (WalrusError, OSError) as error:
            raise ActionError(f"LEAVE {node_id}: {error}") from error
        return f"node {node_id} has left"
