"""Which engine samples a prompt group: the one that has the fewest, and keeps the ones it had.

As verl's own, and in verl's place (`rollout.router_config_path`) for one reason: the process of
that one imports all of verl for a dictionary. This imports nothing.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

REMEMBERED = 10_000  # groups whose engine is remembered, as it may still hold their prompt


class Router:
    """Runs as a Ray actor; asked before each request to an engine, and told after it."""

    def __init__(self, servers: dict[str, Any], _: dict[str, Any]):
        self.servers = dict(servers)
        self.busy = dict.fromkeys(servers, 0)  # requests that each has not answered yet
        self.had: OrderedDict[str, str] = OrderedDict()

    def acquire_server(self, request_id: str) -> tuple[str, Any]:
        """Name and handle of the engine for a request.

        Of engines with equally few requests the first one, so that the choice is the same in
        every run.
        """
        name = self.had.pop(request_id, None) or min(self.busy, key=self.busy.get)
        self.had[request_id] = name
        if len(self.had) > REMEMBERED:
            self.had.popitem(last=False)
        self.busy[name] += 1
        return name, self.servers[name]

    def release_server(self, server_id: str) -> None:
        """A request was answered."""
        self.busy[server_id] -= 1

    def acquire_servers(self, request_ids: Sequence[str]) -> list[tuple[str, Any]]:
        """As `acquire_server`, of many requests."""
        return [self.acquire_server(request_id) for request_id in request_ids]

    def release_servers(self, server_ids: Sequence[str]) -> None:
        """As `release_server`, of many requests."""
        for server_id in server_ids:
            self.release_server(server_id)

    def require_acquire_fields(self) -> list[str]:
        """What it wants to know of a request beside its id."""
        return []

    require_release_fields = require_acquire_fields
