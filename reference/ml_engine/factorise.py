"""Implicit-feedback matrix factorisation (iALS): what a tenant's users and items have in common, as vectors.

Hu, Koren and Volinsky (2008): every pair has a preference of 1 (seen) or 0, and a confidence that grows with its weight. Each half-step
solves one small system a row, batched over rows of like length so that BLAS does the work; a row with more interactions is regularised more.
"""

from collections.abc import Iterator

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

F32 = NDArray[np.float32]
_CHUNK = 4_000_000
"""Floats gathered at a time: bounds memory whatever the size of the tenant."""


def factorise(seen: sp.csr_matrix, factors: int, epochs: int, *, alpha: float = 0.5, ridge: float = 0.3, seed: int = 7) -> tuple[F32, F32, float]:
    """User vectors, item vectors and the loss per interaction, from a users x items matrix of weights."""
    confidence = sp.csr_matrix(seen, dtype=np.float32)
    confidence.data = alpha * np.log1p(confidence.data)
    by_user, by_item = confidence, sp.csr_matrix(confidence.T)
    random = np.random.default_rng(seed)
    items = random.normal(0, 0.1 / np.sqrt(factors), (seen.shape[1], factors)).astype(np.float32)
    users = np.zeros((seen.shape[0], factors), np.float32)
    for _ in range(epochs):
        _solve(by_user, items, users, ridge)
        _solve(by_item, users, items, ridge)
    return users, items, _loss(by_user, users, items)


def _solve(rows: sp.csr_matrix, fixed: F32, out: F32, ridge: float) -> None:
    """Set each row of `out` to the minimum of its squared error, given the `fixed` vectors of the other side."""
    gram = fixed.T @ fixed
    eye = np.eye(fixed.shape[1], dtype=np.float32)
    for chosen, width in _batches(np.diff(rows.indptr), fixed.shape[1]):
        columns, extra = _padded(rows, chosen, width)
        near = fixed[columns]
        strength = (ridge * (extra > 0).sum(1) + ridge)[:, None, None].astype(np.float32)
        left = gram + np.matmul((near * extra[:, :, None]).transpose(0, 2, 1), near) + strength * eye
        right = np.einsum("bmf,bm->bf", near, np.where(extra > 0, 1 + extra, 0), optimize=True)
        out[chosen] = np.linalg.solve(left, right[:, :, None])[:, :, 0]


def _batches(lengths: NDArray[np.int32], factors: int) -> Iterator[tuple[NDArray[np.int64], int]]:
    """Rows in chunks of like length, and each chunk's greatest length; rows without entries stay as they are."""
    order = np.argsort(-lengths, kind="stable")
    order = order[lengths[order] > 0]
    start = 0
    while start < len(order):
        width = int(lengths[order[start]])
        size = max(1, _CHUNK // (factors * max(width, factors)))
        chunk = order[start : start + size]
        chunk = chunk[lengths[chunk] >= width // 2]  # never more than half padding
        yield chunk, width
        start += len(chunk)


def _padded(rows: sp.csr_matrix, chosen: NDArray[np.int64], width: int) -> tuple[NDArray[np.int64], F32]:
    """Columns and values of the chosen rows, filled up to `width` with column 0 at value 0."""
    starts, lengths = rows.indptr[chosen], np.diff(rows.indptr)[chosen]
    inside = np.arange(width) < lengths[:, None]
    at = np.where(inside, starts[:, None] + np.arange(width), 0)
    return np.where(inside, rows.indices[at], 0), np.where(inside, rows.data[at], 0).astype(np.float32)


def _loss(rows: sp.csr_matrix, users: F32, items: F32) -> float:
    """The weighted squared error over all pairs, seen or not, per interaction; the unseen ones come from the two Gram matrices."""
    entries = rows.tocoo()
    guess = np.einsum("nf,nf->n", users[entries.row], items[entries.col])
    seen = ((1 + entries.data) * (1 - guess) ** 2 - guess**2).sum()
    everything = ((users.T @ users) * (items.T @ items)).sum()
    return float((seen + everything) / max(1, rows.nnz))
