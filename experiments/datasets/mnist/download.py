"""Getting the idx files of MNIST from the mirror that tensorflow-datasets uses.

With no network tensorflow-datasets retries for minutes, and a name server that never answers can
hold any download longer than its timeout. So the mirror is probed first, against the clock.
"""

from __future__ import annotations

import http.client
import queue
import threading
import urllib.request
from pathlib import Path

from experiments.datasets.base import DataError, DataUnavailable
from experiments.datasets.mnist import idx

MIRROR = "https://storage.googleapis.com/cvdf-datasets/mnist/"
PROBE_SECONDS = 5.0
STALL_SECONDS = 30.0
WAYS = "give --data-dir FOLDER with its four idx files, or take --data digits, which needs no download"


def fetch(folder: Path) -> None:
    """Download the four files into ``folder``, each checked before it is written.

    Proxies are taken from the environment, as urllib does.

    Raises:
        DataUnavailable: the mirror does not answer within ``PROBE_SECONDS``, a transfer fails or
            stalls for ``STALL_SECONDS``, or what arrives is not the official file.
    """
    problem = probe()
    if problem is not None:
        raise DataUnavailable(f"MNIST is not on this machine and cannot be downloaded ({problem}): {WAYS}")
    for file in idx.FILES.values():
        name = f"{file.stem}.gz"
        try:
            packed = _get(MIRROR + name, STALL_SECONDS)
            idx.decode(packed, file, origin=MIRROR + name)
        except (OSError, http.client.HTTPException, DataError) as error:
            raise DataUnavailable(f"the download of {name} failed ({error}): try again, or {WAYS}") from error
        (folder / name).write_bytes(packed)


def probe() -> str | None:
    """Ask the mirror for its smallest file.

    Returns:
        None where it answers, or else why not; in either case within ``PROBE_SECONDS``.
    """
    answer: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    threading.Thread(target=lambda: answer.put(_try_mirror()), daemon=True, name="mnist-probe").start()
    try:
        return answer.get(timeout=PROBE_SECONDS)
    except queue.Empty:
        return f"no answer from {MIRROR} within {PROBE_SECONDS:g} s"


def _try_mirror() -> str | None:
    url = f"{MIRROR}{idx.FILES['test_labels'].stem}.gz"
    try:
        _get(url, PROBE_SECONDS)
    except (OSError, http.client.HTTPException, ValueError) as error:
        return f"{url}: {error}"
    return None


def _get(url: str, timeout: float) -> bytes:
    with urllib.request.urlopen(url, timeout=timeout) as response:
        contents: bytes = response.read()
    return contents
