"""The paper's numbers.

Source: He, Gao, Xiao, Liu, He, Barber, "Wider and Deeper, Cheaper and Faster: Tensorized LSTMs for Sequence Learning",
NIPS 2017, arXiv:1711.01577, tables 1 to 3. The numbers of models other than tLSTMs are quoted there from other work.
Their sizes, and the row of the TCN, are from the models' own papers and code; UNVERIFIED marks what we could not find.
docs/rivals.md has more about each.
"""

from __future__ import annotations

from typing import NamedTuple


class Number(NamedTuple):
    """A number in a table of the paper.

    Args:
        text: the number as printed.
        score: the number to compare our runs with: bits per character, an accuracy in 0..1, or the number of training
            samples until the task was solved, which is above 1.
        precision: the unit of the last printed digit of ``score``.
    """

    text: str
    score: float
    precision: float


class Quoted(NamedTuple):
    """A row that the paper quotes from other work.

    Args:
        numbers: the number in each column.
        model: the model's name in :data:`experiments.rivals.RIVALS`.
        options: the model's options with which it is the published one.
        size: the known facts about the published model's size and protocol.
    """

    numbers: tuple[Number, ...]
    model: str
    options: tuple[str, ...] = ()
    size: str = ""


class Column(NamedTuple):
    """A column of a table: the setting and task of our runs that it is compared with."""

    setting: str
    task: str


class Table(NamedTuple):
    """A table of the paper.

    Args:
        title: the caption.
        columns: the task, with its size, of each column.
        quoted: the rows of models that the paper quotes, by name.
        own: the rows of the paper's models, by name and depth L.
    """

    title: str
    columns: tuple[Column, ...]
    quoted: dict[str, Quoted]
    own: dict[tuple[str, int], tuple[Number, ...]]


def bits(value: float, parameters: str) -> Number:
    """Bits per character, and the model's size."""
    return Number(f"{value} ({parameters} parameters)", value, 0.001)


def solved(thousands: int) -> Number:
    """More than 99% accuracy after this many thousands of training samples."""
    return Number(f">99% after {thousands}K", 1000 * thousands, 1000)


def accuracy(percent: float) -> Number:
    """An accuracy in percent."""
    return Number(f"{percent}%", percent / 100, 0.001)


def images(mnist: float, permuted: float) -> tuple[Number, Number]:
    """The accuracies in percent on sequential MNIST and on permuted MNIST."""
    return accuracy(mnist), accuracy(permuted)


TABLES = {
    1: Table(
        title="bits per character on the test data of Wikipedia (Hutter prize)",
        columns=(Column("enwik8", "language"),),
        quoted={
            "MI-LSTM": Quoted((bits(1.44, "17M"),), "milstm"),
            "mLSTM": Quoted((bits(1.42, "20M"),), "mlstm", size="M=1900"),
            "HyperLSTM+LN": Quoted((bits(1.34, "26.5M"),), "hyperlstm", size="M=2048"),
            "HM-LSTM+LN": Quoted((bits(1.32, "35M"),), "hmlstm", size="3 layers of M=1024"),
            "Large RHN": Quoted((bits(1.27, "46M"),), "rhn", size="D=10, M=1500"),
            "Large FS-LSTM-4": Quoted((bits(1.245, "47M"),), "fslstm", size="M=1200, slow 1500"),
        },
        own={("3D tLSTM+CN", 6): (bits(1.264, "50.1M"),)},
    ),
    2: Table(
        title="test accuracy and training samples of the algorithmic tasks",
        columns=(Column("addition n=15", "addition"), Column("memorization n=20", "memorization")),
        quoted={
            "Stacked LSTM": Quoted(
                (Number("51% after 5M", 0.51, 0.01), Number(">50% after 900K", 0.5, 0.01)),
                "lstm",
                size="M=400, 100; 1 and 29 layers UNVERIFIED",
            ),
            "Grid LSTM": Quoted(
                (solved(550), solved(150)), "grid", size="M=400, 100, tied; 18 and 43 layers UNVERIFIED"
            ),
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
            "iRNN": Quoted(images(97.0, 82.0), "irnn", size="M=100 UNVERIFIED"),
            "LSTM": Quoted(images(98.2, 88.0), "lstm", ("output_peephole=true",), "M=128, 84.5K parameters"),
            "uRNN": Quoted(images(95.1, 91.4), "urnn", size="M=512, 16.4K parameters"),
            "Full-capacity uRNN": Quoted(
                images(96.9, 94.1),
                "full-urnn",
                size="M=512, 270K parameters; another source has 97.5% UNVERIFIED",
            ),
            "sTANH": Quoted(images(98.1, 94.0), "stanh", size="s=21, 11 and about 95 units UNVERIFIED"),
            "BN-LSTM": Quoted(
                images(99.0, 95.4),
                "bnlstm",
                size="M=100; its permuted pixels were drawn with replacement",
            ),
            "Dilated GRU": Quoted(images(99.2, 94.6), "dilated-gru", size="9 levels of M=50, 129K core parameters"),
            "Dilated CNN": Quoted(images(98.3, 96.7), "dilated-cnn", size="10 levels of M=50, 46K UNVERIFIED"),
            "TCN, not in the paper": Quoted(
                images(99.0, 97.2),
                "tcn",
                size="8 levels of M=25, 66.9K parameters; unseeded order of the pixels",
            ),
        },
        own={
            ("3D tLSTM+CN", 3): images(99.2, 94.9),
            ("3D tLSTM+CN", 5): images(99.0, 95.7),
        },
    ),
}
