"""A way over a row of triangles pulled straight: faces laid flat, and a string drawn tight.

Exact for the given row (Lee, Preparata 1984; the funnel is Hershberger, Snoeyink 1994). A way is a
list of nodes: a point that stays, or an edge that is crossed somewhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Flat = tuple[float, float]


@dataclass(frozen=True)
class Node:
    """A vertex (i == j), an edge between two vertices, or (i == j == -1) a point inside a face."""

    i: int
    j: int
    xyz: Array  # (3,) where the way crosses it now

    @property
    def stays(self) -> bool:
        return self.i == self.j


def pull_straight(nodes: list[Node], vertices: Array) -> Array:
    """The shortest polyline (k, 3) through the same edges in the same order."""
    stops = [k for k, node in enumerate(nodes) if node.stays]
    out = [nodes[0].xyz[None]]
    for a, b in pairwise(stops):
        out.append(_between(nodes[a], nodes[a + 1 : b], nodes[b], vertices))
        out.append(nodes[b].xyz[None])
    line = np.concatenate(out)
    moved = np.linalg.norm(np.diff(line, axis=0), axis=1) > 0
    return line[np.concatenate([[True], moved])]


def _between(start: Node, row: list[Node], end: Node, vertices: Array) -> Array:
    """Where the string between two points that stay crosses the edges of a row (n, 3)."""
    while row and start.i >= 0 and start.i in (row[0].i, row[0].j):
        row = row[1:]
    while row and end.i >= 0 and end.i in (row[-1].i, row[-1].j):
        row = row[:-1]
    if not row:
        return np.zeros((0, 3))
    laid = _lay_flat(start, row, end, vertices)
    if laid is None:
        return np.array([node.xyz for node in row])
    left, right, ids, first, last = laid
    t = _funnel(left, right, first, last)
    A, B = vertices[[i for i, _ in ids]], vertices[[j for _, j in ids]]
    return np.asarray(A + np.array(t)[:, None] * (B - A))


def _lay_flat(
    start: Node, row: list[Node], end: Node, vertices: Array
) -> tuple[list[Flat], list[Flat], list[tuple[int, int]], Flat, Flat] | None:
    """The edges' left and right ends in the plane, their vertices, and both ends of the string."""
    ids = [(row[0].i, row[0].j)]
    for node in row[1:]:
        i, j = ids[-1]
        if i in (node.i, node.j):
            ids.append((i, node.j if node.i == i else node.i))
        elif j in (node.i, node.j):
            ids.append((node.j if node.i == j else node.i, j))
        else:
            return None  # two edges without a common corner: not a row of triangles
    wide = float(np.linalg.norm(vertices[ids[0][1]] - vertices[ids[0][0]]))
    left: list[Flat] = [(0.0, 0.0)]
    right: list[Flat] = [(wide, 0.0)]
    first = _beside(left[0], right[0], start.xyz, vertices[list(ids[0])], -1.0)
    for (i, j), (k, m) in pairwise(ids):
        new = k if m == j else m
        flat = _beside(left[-1], right[-1], vertices[new], vertices[[i, j]], 1.0)
        left.append(flat if m == j else left[-1])
        right.append(right[-1] if m == j else flat)
    last = _beside(left[-1], right[-1], end.xyz, vertices[list(ids[-1])], 1.0)
    return left, right, ids, first, last


def _beside(left: Flat, right: Flat, p: Array, ends: Array, side: float) -> Flat:
    """A point in the plane from its distances to both ends of an edge; side 1 is ahead of it."""
    ux, uy = right[0] - left[0], right[1] - left[1]
    wide = max(float(np.hypot(ux, uy)), 1e-300)
    ux, uy = ux / wide, uy / wide
    a2 = float(((p - ends[0]) ** 2).sum())
    b2 = float(((p - ends[1]) ** 2).sum())
    along = (a2 - b2 + wide * wide) / (2 * wide)
    high = side * float(np.sqrt(max(a2 - along * along, 0.0)))
    return left[0] + along * ux - high * uy, left[1] + along * uy + high * ux


def _turn(a: Flat, b: Flat, c: Flat) -> float:
    """Twice the area of a triangle, positive when c lies to the left of the way from a to b."""
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])


def _funnel(left: list[Flat], right: list[Flat], first: Flat, last: Flat) -> list[float]:
    """Where (0 left, 1 right) the tight string from first to last crosses each edge."""
    L, R = [*left, last], [*right, last]
    n = len(left)
    corners: list[tuple[Flat, int]] = [(first, -1)]  # each with the edge it lies on
    apex, at_left, at_right, k = first, 0, 0, 1
    low, high = L[0], R[0]  # the funnel's left and right side
    while k <= n:
        if _turn(apex, high, R[k]) >= 0:  # the right side moves in
            if apex == high or _turn(apex, low, R[k]) < 0:
                high, at_right = R[k], k
            else:  # it has crossed the left side: a corner there
                corners.append((low, at_left))
                apex, k = low, at_left
                high, at_right = apex, at_left
                low, at_left = apex, at_left
                k += 1
                continue
        if _turn(apex, low, L[k]) <= 0:
            if apex == low or _turn(apex, high, L[k]) > 0:
                low, at_left = L[k], k
            else:
                corners.append((high, at_right))
                apex, k = high, at_right
                low, at_left = apex, at_right
                high, at_right = apex, at_right
                k += 1
                continue
        k += 1
    corners.append((last, n))
    t = [0.0] * n
    for (p, a), (q, b) in pairwise(corners):
        for k in range(max(a, 0), min(b + 1, n)):
            over = _turn(p, q, left[k])
            under = _turn(p, q, right[k])
            if p in (left[k], right[k]):  # the string turns round this corner
                t[k] = 0.0 if left[k] == p else 1.0
            elif over != under:
                t[k] = min(max(over / (over - under), 0.0), 1.0)
    return t
