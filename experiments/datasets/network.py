"""Asking the network for a file, and knowing within seconds when there is none.

With no network tensorflow-datasets retries for minutes, and a name server that never answers can
hold any download longer than its timeout. So a server is probed first, against the clock.
"""

from __future__ import annotations

import http.client
import queue
import threading
import urllib.request

PROBE_SECONDS = 5.0
STALL_SECONDS = 30.0


def probe(url: str) -> str | None:
    """Ask for ``url``, and for no more than its beginning.

    Returns:
        None where it answers, or else why not; in either case within ``PROBE_SECONDS``.
    """
    answer: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    threading.Thread(target=lambda: answer.put(_try(url)), daemon=True, name="probe").start()
    try:
        return answer.get(timeout=PROBE_SECONDS)
    except queue.Empty:
        return f"no answer from {url} within {PROBE_SECONDS:g} s"


def get(url: str) -> bytes:
    """Download ``url``. Proxies are taken from the environment, as urllib does.

    Raises:
        OSError: it cannot be had, breaks off, or stalls for ``STALL_SECONDS``.
    """
    return _get(url, STALL_SECONDS)


def _try(url: str) -> str | None:
    try:
        _get(url, PROBE_SECONDS, size=1)
    except OSError as error:
        return f"{url}: {error}"
    return None


def _get(url: str, timeout: float, size: int | None = None) -> bytes:
    try:
        with urllib.request.urlopen(url, timeout=timeout) as response:
            contents: bytes = response.read(size)
    except (http.client.HTTPException, ValueError) as error:  # a broken answer, a broken address of a proxy
        raise OSError(" ".join(str(error).split()) or repr(error)) from error
    return contents
