"""The paper's numbers.

Source: He, Gao, Xiao, Liu, He, Barber, "Wider and Deeper, Cheaper and Faster: Tensorized LSTMs for Sequence Learning",
NIPS 2017, arXiv:1711.01577, tables 1 to 3. Models other than the tLSTMs are quoted there from other work.
"""

from __future__ import annotations

from typing import NamedTuple


class Number(NamedTuple):
    """A number of the paper's own models.

    Args:
        text: the number as printed.
        score: what our runs are compared with: bits per character, an accuracy in 0..1, or the number of training
            samples until the task was solved.
        precision: the unit of the last printed digit of ``score``.
    """

    text: str
    score: float
    precision: float


class Column(NamedTuple):
    """A column of a table: the setting and task of our runs that it is compared with."""

    setting: str
    task: str


class Table(NamedTuple):
    """A table of the paper.

    Args:
        title: the caption.
        columns: the task with its size of each column.
        quoted: the rows of models that the paper quotes, with the text of each column.
        own: the rows of the paper's models, by name and depth L.
    """

    title: str
    columns: tuple[Column, ...]
    quoted: dict[str, tuple[str, ...]]
    own: dict[tuple[str, int], tuple[Number, ...]]


def bits(value: float, parameters: str) -> Number:
    """Bits per character, and the model's size."""
    return Number(f"{value} ({parameters} parameters)", value, 0.001)


def solved(thousands: int) -> Number:
    """More than 99% accuracy after so many thousand training samples."""
    return Number(f">99% after {thousands}K", 1000 * thousands, 1000)


def accuracy(percent: float) -> Number:
    """An accuracy in percent."""
    return Number(f"{percent}%", percent / 100, 0.001)


TABLES = {
    1: Table(
        title="bits per character on the test data of Wikipedia (Hutter prize)",
        columns=(Column("enwik8", "language"),),
        quoted={
            "MI-LSTM": ("1.44 (17M parameters)",),
            "mLSTM": ("1.42 (20M parameters)",),
            "HyperLSTM+LN": ("1.34 (26.5M parameters)",),
            "HM-LSTM+LN": ("1.32 (35M parameters)",),
            "Large RHN": ("1.27 (46M parameters)",),
            "Large FS-LSTM-4": ("1.245 (47M parameters)",),
        },
        own={("3D tLSTM+CN", 6): (bits(1.264, "50.1M"),)},
    ),
    2: Table(
        title="test accuracy and training samples of the algorithmic tasks",
        columns=(Column("addition n=15", "addition"), Column("memorization n=20", "memorization")),
        quoted={
            "Stacked LSTM": ("51% after 5M", ">50% after 900K"),
            "Grid LSTM": (">99% after 550K", ">99% after 150K"),
        },
        own={
            ("3D tLSTM+CN", 7): (solved(298), solved(115)),
            ("3D tLSTM+CN", 10): (solved(317), solved(54)),
        },
    ),
    3: Table(
        title="test accuracy on sequential MNIST and permuted MNIST",
        columns=(Column("mnist", "mnist"), Column("mnist permuted", "mnist")),
        quoted={
            "iRNN": ("97.0%", "82.0%"),
            "LSTM": ("98.2%", "88.0%"),
            "BN-LSTM": ("99.0%", "95.4%"),
            "Dilated GRU": ("99.2%", "94.6%"),
            "Dilated CNN": ("98.3%", "96.7%"),
        },
        own={
            ("3D tLSTM+CN", 3): (accuracy(99.2), accuracy(94.9)),
            ("3D tLSTM+CN", 5): (accuracy(99.0), accuracy(95.7)),
        },
    ),
}
