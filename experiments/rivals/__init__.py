"""The models that the Tensorized LSTM is compared with: one file for each model or family.

A model is added with a file and a line in :data:`RIVALS`.
"""

from experiments.rivals import arguments
from experiments.rivals.bnlstm import BNLSTM
from experiments.rivals.convolutional import TCN, DilatedCNN
from experiments.rivals.dilated import DilatedGRU, DilatedLSTM, DilatedRNN
from experiments.rivals.fslstm import FSLSTM
from experiments.rivals.gflstm import GFLSTM
from experiments.rivals.grid import GridLSTM
from experiments.rivals.hmlstm import HMLSTM
from experiments.rivals.hot_rnn import HOTRNN
from experiments.rivals.hyperlstm import HyperLSTM
from experiments.rivals.irnn import IRNN
from experiments.rivals.layer import Rival
from experiments.rivals.linear import QRNN, SRU
from experiments.rivals.lstm import LSTM
from experiments.rivals.milstm import MILSTM
from experiments.rivals.mingru import MinGRU
from experiments.rivals.multiplicative import MultiplicativeLSTM, MultiplicativeRNN
from experiments.rivals.neuralgpu import NeuralGPU
from experiments.rivals.rhn import RHN
from experiments.rivals.stanh import STanh
from experiments.rivals.tt_rnn import TTGRU, TTLSTM
from experiments.rivals.unitary import URNN, FullURNN

RIVALS: dict[str, type[Rival]] = {
    "lstm": LSTM,
    "grid": GridLSTM,
    "milstm": MILSTM,
    "mlstm": MultiplicativeLSTM,
    "mrnn": MultiplicativeRNN,
    "hyperlstm": HyperLSTM,
    "hmlstm": HMLSTM,
    "rhn": RHN,
    "fslstm": FSLSTM,
    "irnn": IRNN,
    "urnn": URNN,
    "full-urnn": FullURNN,
    "stanh": STanh,
    "bnlstm": BNLSTM,
    "dilated-rnn": DilatedRNN,
    "dilated-gru": DilatedGRU,
    "dilated-lstm": DilatedLSTM,
    "dilated-cnn": DilatedCNN,
    "tcn": TCN,
    "qrnn": QRNN,
    "sru": SRU,
    "tt-lstm": TTLSTM,
    "tt-gru": TTGRU,
    "hot-rnn": HOTRNN,
    "gflstm": GFLSTM,
    "neuralgpu": NeuralGPU,
    "mingru": MinGRU,
}
"""Every rival by its name in ``--model``."""

__all__ = ["RIVALS", "Rival", "arguments"]
