"""A dask worker whose heartbeat comes every ten seconds, not twice a second.

A scheduler needs a thousandth of a second for each such sign of life. For tasks of minutes, whose
driver shares a login node with others, that is all that it does; and a lost worker is noticed by
its connection, not by its silence.
"""

from __future__ import annotations

from distributed import Worker

from .no_http import NoHttp

SECONDS = 10.0


class QuietWorker(NoHttp, Worker):
    """A worker with few signs of life, and one open port, which asks for keys."""

    async def heartbeat(self) -> None:
        """Tell the scheduler of this worker, and not again for a while."""
        await super().heartbeat()
        # The scheduler's answer has just set dask's own pace.
        self.periodic_callbacks["heartbeat"].callback_time = SECONDS * 1000
