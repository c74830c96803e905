"""The models that the Tensorized LSTM is compared with: one file for each model or family.

A model is added with a file and a line in :data:`RIVALS`.
"""

from experiments.rivals.fslstm import FSLSTM
from experiments.rivals.gflstm import GFLSTM
from experiments.rivals.irnn import IRNN
from experiments.rivals.layer import Rival
from experiments.rivals.lstm import LSTM
from experiments.rivals.milstm import MILSTM
from experiments.rivals.mingru import MinGRU
from experiments.rivals.multiplicative import MultiplicativeLSTM, MultiplicativeRNN

RIVALS: dict[str, type[Rival]] = {
    "lstm": LSTM,
    "milstm": MILSTM,
    "mlstm": MultiplicativeLSTM,
    "mrnn": MultiplicativeRNN,
    "fslstm": FSLSTM,
    "irnn": IRNN,
    "gflstm": GFLSTM,
    "mingru": MinGRU,
}
"""Every rival by the name that ``--model`` has for it."""

__all__ = ["RIVALS", "Rival"]
