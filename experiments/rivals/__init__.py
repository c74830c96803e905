"""The models that the Tensorized LSTM is compared with: one file for each model or family.

A model is added with a file and a line in :data:`RIVALS`.
"""

from experiments.rivals.convolutional import TCN, DilatedCNN
from experiments.rivals.dilated import DilatedGRU, DilatedLSTM, DilatedRNN
from experiments.rivals.grid import GridLSTM
from experiments.rivals.layer import Rival
from experiments.rivals.lstm import LSTM
from experiments.rivals.rhn import RHN
from experiments.rivals.stanh import STanh

RIVALS: dict[str, type[Rival]] = {
    "lstm": LSTM,
    "grid": GridLSTM,
    "rhn": RHN,
    "stanh": STanh,
    "dilated-rnn": DilatedRNN,
    "dilated-gru": DilatedGRU,
    "dilated-lstm": DilatedLSTM,
    "dilated-cnn": DilatedCNN,
    "tcn": TCN,
}
"""Every rival by the name that ``--model`` has for it."""

__all__ = ["RIVALS", "Rival"]
