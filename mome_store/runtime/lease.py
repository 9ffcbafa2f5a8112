"""A lease: the experts of one route, as the kernels take them, pinned until it is released."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from mome_store.errors import ClosedError, DeviceError

if TYPE_CHECKING:
    from mome_store import _core


class Lease:
    """The experts of a batch of `s` sequences with `e` entries in all; use it as a context manager.

    The arrays share the lease's memory. `torch.from_numpy` of one is free, and keeps the records pinned for as long as
    it lives; but once the lease is released, asking it for an array raises `ClosedError`. A lease that was acquired
    without waiting waits when it is first asked for an array, and raises then what `wait` would.

    On a CUDA device the records stay until what torch's current stream holds at the release is done; the arrays don't
    keep them any longer.
    """

    def __init__(self, core: _core.Lease, device: str = "cpu", current_stream: Callable[[], int] | None = None) -> None:
        """current_stream: on a device that runs later what it is told, the handle of the stream it is told in."""
        self.device = device
        self._core: _core.Lease | None = core
        self._current_stream = current_stream

    @property
    def ready(self) -> bool:
        """Whether every record is there, so that nothing below would wait."""
        return self._held().ready

    def wait(self) -> None:
        """Returns once every record is there.

        Raises `DamagedStoreError` or `ReadError` for a record that is not what was committed, can't be read, or did not
        come within the cache's timeout.
        """
        self._held().wait()

    @property
    def expert_indptr(self) -> NDArray[np.int32]:
        """int32 [s + 1]: the entries of sequence i are `expert_indptr[i] : expert_indptr[i + 1]`."""
        return self._arrived().expert_indptr

    @property
    def expert_base(self) -> NDArray[np.int64]:
        """int64 [e]: address of each entry's record."""
        return self._arrived().expert_base

    @property
    def expert_rank(self) -> NDArray[np.int32]:
        """int32 [e]: rank of each entry's expert."""
        return self._arrived().expert_rank

    @property
    def expert_weight(self) -> NDArray[np.float32]:
        """float32 [e]: the router's weight of each entry."""
        return self._arrived().expert_weight

    @property
    def released(self) -> bool:
        return self._core is None

    def release(self) -> None:
        """Unpins the experts; a second call does nothing.

        Raises `DeviceError`, and the lease is held as before, while torch's current stream is captured into a graph.
        """
        if self._core is not None and self._current_stream is not None:
            self._core.release(self._current_stream())
        self._core = None

    def __del__(self) -> None:
        with suppress(DeviceError):  # it was lost, and what used the records with it
            self.release()

    def __enter__(self) -> Self:
        self._held()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def _arrived(self) -> _core.Lease:
        core = self._held()
        core.wait()
        return core

    def _held(self) -> _core.Lease:
        if self._core is None:
            raise ClosedError("the lease was released; acquire the route again")
        return self._core
