"""The models that the Tensorized LSTM is compared with: one file for each model or family.

A model is added with a file and a line in :data:`RIVALS`.
"""

from experiments.rivals.hot_rnn import HOTRNN
from experiments.rivals.layer import Rival
from experiments.rivals.lstm import LSTM
from experiments.rivals.tt_rnn import TTGRU, TTLSTM

RIVALS: dict[str, type[Rival]] = {
    "lstm": LSTM,
    "tt-lstm": TTLSTM,
    "tt-gru": TTGRU,
    "hot-rnn": HOTRNN,
}
"""Every rival by the name that ``--model`` has for it."""

__all__ = ["RIVALS", "Rival"]
