"""An oracle for the layers: rows run one at a time through ``tl.step``, without scan, mask or batch."""

import jax
import numpy as np
import pytest

import tlstm_jax as tl
from tests.core.variants import normal

R, M, T = 2, 3, 6
CFG = tl.TLSTMConfig(features=M, tensor_shape=(3,))  # depth 3
SQUARE = tl.TLSTMConfig(features=M, tensor_shape=(2, 2))  # depth 2
RNN = tl.TLSTMConfig(features=M, tensor_shape=(3,), kernel_size=2, cell="rnn", norm=None)
each_model = pytest.mark.parametrize("cfg", [CFG, SQUARE, RNN], ids=["vector", "square", "rnn"])
BATCH = (2, 2)
LENGTHS = np.array([[6, 0], [4, 1]])
RESET = np.array(
    [
        [[0, 0, 1, 0, 0, 0], [1, 1, 0, 0, 0, 0]],
        [[1, 0, 0, 1, 1, 0], [0, 0, 1, 0, 0, 0]],  # [1, 0, 4] and all of [1, 1] are on padding
    ],
    dtype=bool,
)


def random_state(cfg, batch, seed=50):
    zeros = tl.init_state(cfg, batch)
    return jax.tree.map(lambda leaf: np.asarray(normal(seed + leaf.size, leaf.shape)), zeros)


def row_by_hand(params, row, length, reset, initial, cfg, *, reverse, keep_order, aligned):
    """One unpadded row through ``tl.step``, with a flush after each of its sequences: no scan, no mask, no batch."""
    starts = [t for t in range(length) if reset[t]]
    pieces = np.split(np.arange(length), starts)
    if reverse:
        pieces = [piece[::-1] for piece in reversed(pieces) if piece.size]
    final, answers, order = initial, [], []
    for i, piece in enumerate(pieces):
        state, corners = (initial if i == 0 else tl.init_state(cfg)), []
        for t in piece:
            state, y = tl.step(params, state, row[t], cfg)
            corners.append(y)
        final = state
        if aligned:
            for _ in range(cfg.depth - 1):
                state, y = tl.step(params, state, np.zeros_like(row[0]), cfg)
                corners.append(y)
            corners = corners[cfg.depth - 1 :]
            if i < len(pieces) - 1:  # a reset before the last outputs arrived
                lost = max(0, len(corners) - (cfg.depth - 1))
                corners[lost:] = [np.zeros_like(y) for y in corners[lost:]]
        answers += corners
        order += list(piece)
    ys = np.zeros((len(row), cfg.features), np.float32)  # padding, too
    for place, (t, y) in enumerate(zip(order, answers, strict=True)):
        ys[t if keep_order else place] = y
    return final, ys


def by_hand(params, xs, cfg, *, lengths=None, reset=None, initial=None, reverse=False, keep_order=False, aligned=True):
    """``(carry, ys)`` for batch-major ``xs`` with any number of batch dimensions."""
    xs, batch = np.asarray(xs), xs.shape[:-2]
    lengths = np.full(batch, xs.shape[-2]) if lengths is None else lengths
    reset = np.zeros(xs.shape[:-1], bool) if reset is None else reset
    initial = tl.init_state(cfg, batch) if initial is None else initial
    options = {"reverse": reverse, "keep_order": reverse and keep_order, "aligned": aligned}
    rows = [
        row_by_hand(
            params,
            xs[i],
            int(lengths[i]),
            np.asarray(reset[i]),
            jax.tree.map(lambda s, i=i: np.asarray(s)[i], initial),
            cfg,
            **options,
        )
        for i in np.ndindex(*batch)
    ]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *rows)
    return jax.tree.map(lambda leaf: leaf.reshape(*batch, *leaf.shape[1:]), stacked)


XS = np.asarray(normal(1, (*BATCH, T, R)))

CALLS = {
    "plain": {},
    "lengths": {"lengths": LENGTHS},
    "reset": {"reset": RESET},
    "reverse": {"reverse": True},
    "initial": {"initial": True},
    "corner": {"aligned": False, "reset": RESET, "lengths": LENGTHS, "initial": True},
    "everything": {"lengths": LENGTHS, "reset": RESET, "initial": True},
    "reverse_lengths": {"reverse": True, "lengths": LENGTHS, "initial": True},
    "reverse_kept_everything": {
        "reverse": True,
        "keep_order": True,
        "lengths": LENGTHS,
        "reset": RESET,
        "initial": True,
    },
    "reverse_corner_reset": {"reverse": True, "keep_order": True, "reset": RESET, "aligned": False},
    "keep_order_alone": {"keep_order": True},
}
