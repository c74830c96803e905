"""The paper's numbers, typed in here and nowhere else, and the grid of its figures.

Source: He, Gao, Xiao, Liu, He, Barber, "Wider and Deeper, Cheaper and Faster: Tensorized LSTMs for Sequence Learning",
NIPS 2017, arXiv:1711.01577, tables 1 to 3; models other than the tLSTMs are there quoted from the literature.
"""

from __future__ import annotations

from typing import NamedTuple

DEPTHS = {"wikipedia": (1, 2, 3, 4), "addition": (1, 4, 7, 10), "memorization": (1, 4, 7, 10), "mnist": (1, 3, 5)}
"""L in figures 3 to 5."""


class Table(NamedTuple):
    """A table of the paper.

    Args:
        title: what it shows.
        task: the task of each column.
        settings: what each column is, as the titles of our runs call it.
        rows: each model's numbers, one for each column; models that we have are called as in our titles, with their L.
    """

    title: str
    tasks: tuple[str, ...]
    settings: tuple[str, ...]
    rows: dict[str, tuple[str, ...]]


TABLES = {
    1: Table(
        "bits per character on the test data of Wikipedia (Hutter prize)",
        ("wikipedia",),
        ("enwik8",),
        {
            "MI-LSTM": ("1.44 (17M parameters)",),
            "mLSTM": ("1.42 (20M parameters)",),
            "HyperLSTM+LN": ("1.34 (26.5M parameters)",),
            "HM-LSTM+LN": ("1.32 (35M parameters)",),
            "Large RHN": ("1.27 (46M parameters)",),
            "Large FS-LSTM-4": ("1.245 (47M parameters)",),
            "3D tLSTM+CN L=6": ("1.264 (50.1M parameters)",),
        },
    ),
    2: Table(
        "test accuracy and training samples of the algorithmic tasks",
        ("addition", "memorization"),
        ("addition n=15", "memorization n=20"),
        {
            "Stacked LSTM": ("51% after 5M", ">50% after 900K"),
            "Grid LSTM": (">99% after 550K", ">99% after 150K"),
            "3D tLSTM+CN L=7": (">99% after 298K", ">99% after 115K"),
            "3D tLSTM+CN L=10": (">99% after 317K", ">99% after 54K"),
        },
    ),
    3: Table(
        "test accuracy on sequential MNIST and permuted MNIST",
        ("mnist", "mnist"),
        ("mnist", "mnist permuted"),
        {
            "iRNN": ("97.0%", "82.0%"),
            "LSTM": ("98.2%", "88.0%"),
            "BN-LSTM": ("99.0%", "95.4%"),
            "Dilated GRU": ("99.2%", "94.6%"),
            "Dilated CNN": ("98.3%", "96.7%"),
            "3D tLSTM+CN L=3": ("99.2%", "94.9%"),
            "3D tLSTM+CN L=5": ("99.0%", "95.7%"),
        },
    ),
}
