"""The models that the Tensorized LSTM is compared with: one file for each model or family.

A model is added with a file and a line in :data:`RIVALS`.
"""

from experiments.rivals.layer import Rival
from experiments.rivals.linear import QRNN, SRU
from experiments.rivals.lstm import LSTM
from experiments.rivals.unitary import URNN, FullURNN

RIVALS: dict[str, type[Rival]] = {
    "lstm": LSTM,
    "urnn": URNN,
    "full-urnn": FullURNN,
    "qrnn": QRNN,
    "sru": SRU,
}
"""Every rival by the name that ``--model`` has for it."""

__all__ = ["RIVALS", "Rival"]
