"""Downloads that fail within seconds if there is no network.

Without a network tensorflow-datasets retries for minutes, and a name server that does not answer can block a download
for longer than its timeout. So the server is probed first, in a thread with a time limit.
"""

from __future__ import annotations

import http.client
import queue
import threading
import urllib.request

PROBE_SECONDS = 5.0
STALL_SECONDS = 30.0


def probe(url: str) -> str | None:
    """Requests the first byte of ``url``.

    Returns:
        None if the server answers, or else the reason, within ``PROBE_SECONDS``.
    """
    answer: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    threading.Thread(target=lambda: answer.put(_try(url)), daemon=True, name="probe").start()
    try:
        return answer.get(timeout=PROBE_SECONDS)
    except queue.Empty:
        return f"no answer from {url} within {PROBE_SECONDS:g} s"


def get(url: str) -> bytes:
    """Downloads ``url``, through the proxies in the environment variables that urllib reads.

    Raises:
        OSError: the download fails, ends early, or stalls for ``STALL_SECONDS``.
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
    except (http.client.HTTPException, ValueError) as error:  # an invalid response, or an invalid address of a proxy
        raise OSError(" ".join(str(error).split()) or repr(error)) from error
    return contents
