"""dask's scheduler and worker without the HTTP server that each would open.

TLS leaves those servers open: they ask nobody for a certificate, and tell what runs here. dask has
no setting that keeps them closed.
"""

from __future__ import annotations

from typing import Any

from distributed import Scheduler


class NoHttp:
    """A part of a dask server's class that keeps its HTTP port closed."""

    def start_http_server(self, *args: Any, **kwargs: Any) -> None:
        """Start none."""


class ClosedScheduler(NoHttp, Scheduler):
    """A scheduler that listens to its workers and clients alone."""
