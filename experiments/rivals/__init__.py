"""The models that the Tensorized LSTM is compared with: one file for each model or family.

A model is added with a file and a line in :data:`RIVALS`.
"""

from experiments.rivals.bnlstm import BNLSTM
from experiments.rivals.hmlstm import HMLSTM
from experiments.rivals.hyperlstm import HyperLSTM
from experiments.rivals.layer import Rival
from experiments.rivals.lstm import LSTM
from experiments.rivals.neuralgpu import NeuralGPU

RIVALS: dict[str, type[Rival]] = {
    "lstm": LSTM,
    "hyperlstm": HyperLSTM,
    "hmlstm": HMLSTM,
    "bnlstm": BNLSTM,
    "neuralgpu": NeuralGPU,
}
"""Every rival by the name that ``--model`` has for it."""

__all__ = ["RIVALS", "Rival"]
