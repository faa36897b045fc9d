"""The shortest way along a surface between two points on it.

Dijkstra over vertices and points inserted on the edges (Lanthier, Maheshwari, Sack: Approximating
shortest paths on weighted polyhedral surfaces, 2001), then the way is pulled straight across
the edges it crosses: over a fixed row of edges the length is convex in the crossing points.
No face farther than the ellipsoid |x-p| + |x-q| <= L can be part of a way of length L: so the
search looks at a neighbourhood first and the answer still holds for the whole mesh.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
WHOLE = 40_000  # faces up to which the first search has a point on each edge
CORRIDOR = 5_000  # faces that are searched finely beside a way
ROUNDS = 6  # times a way is improved, at most


def surface_path(
    vertices: Array, faces: Array, start: Array, start_face: int, end: Array, end_face: int
) -> Array | None:
    """Polyline (k, 3) from start to end along the faces, None when no way leads there."""
    straight = float(np.linalg.norm(end - start))
    if start_face == end_face or straight == 0.0:
        return np.stack([start, end])
    reach = np.linalg.norm(vertices - start, axis=1) + np.linalg.norm(vertices - end, axis=1)
    corners = np.concatenate([faces[start_face], faces[end_face]])
    bound = max(1.6 * straight, 1.02 * float(reach[corners].max()))
    widest = float(reach.max())
    while True:
        near = (reach <= bound)[faces].any(1)
        path = _within(vertices, faces[near], start, faces[start_face], end, faces[end_face])
        length = float("inf") if path is None else path_length(path)
        if length <= bound or bound >= widest:
            return path
        bound = min(length, 2 * bound)


def path_length(path: Array) -> float:
    """Length of a polyline (k, 3)."""
    return float(np.linalg.norm(np.diff(path, axis=0), axis=1).sum())


def _within(
    vertices: Array, faces: Array, start: Array, first: Array, end: Array, last: Array
) -> Array | None:
    """The way inside a set of faces: coarse over all of them, then ever finer beside itself.

    A way over few points zigzags, so its neighbourhood may miss the shortest one: it is searched
    again round each better way until that shortens it no more.
    """
    found = _search(vertices, faces, start, first, end, last, int(len(faces) <= WHOLE))
    if found is None:
        return None
    path, touched = _straighten(*found[0]), found[1]
    for m, budget in [(3, CORRIDOR)] * ROUNDS + [(10, CORRIDOR // 5)]:
        near = _corridor(faces, touched, np.concatenate([first, last]), len(vertices), budget)
        found = _search(vertices, near, start, first, end, last, m)
        if found is None:  # the corridor is broken: the coarser way stands
            return path
        better, before = _straighten(*found[0]), path_length(path)
        if path_length(better) < before:
            path, touched = better, found[1]
        if m == 3 and path_length(path) > (1 - 3e-4) * before:
            m = 0  # settled: one last, finest look
            near = _corridor(
                faces, touched, np.concatenate([first, last]), len(vertices), CORRIDOR // 5
            )
            found = _search(vertices, near, start, first, end, last, 10)
            better = path if found is None else _straighten(*found[0])
            return min(path, better, key=path_length)
    return path


def _corridor(faces: Array, touched: Array, ends: Array, n: int, budget: int) -> Array:
    """The faces round the touched vertices, as many rings as the budget of faces allows."""
    keep = np.zeros(n, bool)
    keep[touched] = keep[ends] = True
    near = faces[keep[faces].any(1)]
    for _ in range(60):
        keep[near.ravel()] = True
        wider = faces[keep[faces].any(1)]
        if len(wider) > max(budget, 20 * len(touched)) or len(wider) == len(near):
            break
        near = wider
    return near


def _search(
    vertices: Array, faces: Array, start: Array, first: Array, end: Array, last: Array, m: int
) -> tuple[tuple[Array, Array, Array, Array], Array] | None:
    """Dijkstra. Returns (A, B, t, fixed), crossing k at A + t (B - A), and the vertices touched."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import dijkstra

    used, local = np.unique(faces, return_inverse=True)
    f = local.reshape(-1, 3)
    n = len(used)
    pairs = np.sort(f[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2), 1)
    key, edge_of = np.unique(pairs[:, 0] * n + pairs[:, 1], return_inverse=True)
    edges = np.stack([key // n, key % n], 1)
    edge_of = edge_of.reshape(-1, 3)  # edges 01, 12, 20 of each face
    V = vertices[used]
    t = (np.arange(m) + 1.0) / (m + 1.0)
    A, B = V[edges[:, 0]], V[edges[:, 1]]
    inserted = (A[:, None] + t[None, :, None] * (B - A)[:, None]).reshape(-1, 3)
    points = np.concatenate([V, inserted, start[None], end[None]])
    on_edge = n + edge_of[..., None] * m + np.arange(m)  # (faces, 3, m)
    # Every link once: along each edge, across each face, from a corner to the side facing it.
    row = np.concatenate(
        [edges[:, :1], n + np.arange(len(edges) * m).reshape(len(edges), m), edges[:, 1:]], 1
    )
    links = [np.stack([row[:, :-1].ravel(), row[:, 1:].ravel()], 1)]
    for k in range(3) if m else ():
        side, beside = on_edge[:, k], on_edge[:, (k + 1) % 3]
        for i, j in ((side[:, :, None], beside[:, None]), (f[:, (k + 2) % 3, None], side)):
            i, j = np.broadcast_arrays(i, j)
            links.append(np.stack([i.ravel(), j.ravel()], 1))
    s, e = len(points) - 2, len(points) - 1
    for own, corners in ((s, first), (e, last)):
        where = np.searchsorted(used, corners)
        if (where >= n).any() or (used[np.minimum(where, n - 1)] != corners).any():
            return None
        here = (f == where).all(1)
        ring = np.unique(np.concatenate([on_edge[here].ravel(), where]))
        links.append(np.stack([np.full(len(ring), own), ring], 1))
    link = np.concatenate(links)
    weight = np.linalg.norm(points[link[:, 0]] - points[link[:, 1]], axis=1)
    # A zero would be no link at all to a sparse matrix.
    graph = coo_matrix((np.maximum(weight, 1e-12), (link[:, 0], link[:, 1])), (e + 1, e + 1))
    distance, before = dijkstra(graph.tocsr(), directed=False, indices=s, return_predecessors=True)
    if not np.isfinite(distance[e]):
        return None
    way = [e]
    while way[-1] != s:
        way.append(int(before[way[-1]]))
    node = np.array(way[::-1])
    is_edge = (node >= n) & (node < s)
    edge = np.where(is_edge, (node - n) // max(m, 1), 0)
    a = np.where(is_edge[:, None], A[edge], points[node])
    b = np.where(is_edge[:, None], B[edge], points[node])
    at = np.where(is_edge, t[(node - n) % max(m, 1)] if m else 0.0, 0.0)
    touched = np.concatenate([node[node < n], edges[edge[is_edge]].ravel()])
    return (a, b, at, ~is_edge), used[touched]


def _straighten(A: Array, B: Array, t: Array, fixed: Array) -> Array:
    """Pull the way straight over the edges it crosses (convex: L-BFGS-B over t in 0..1)."""
    from scipy.optimize import minimize

    free = ~fixed
    D = B - A
    if not free.any():
        return A + t[:, None] * D

    def cost(x: Array) -> tuple[float, Array]:
        at = t.copy()
        at[free] = x
        step = np.diff(A + at[:, None] * D, axis=0)
        length = np.maximum(np.linalg.norm(step, axis=1), 1e-15)
        unit = step / length[:, None]
        pull = np.zeros_like(A)
        pull[1:] += unit
        pull[:-1] -= unit
        return float(length.sum()), (pull * D).sum(1)[free]

    best = minimize(cost, t[free], jac=True, method="L-BFGS-B", bounds=[(0.0, 1.0)] * free.sum())
    at = t.copy()
    at[free] = best.x
    return A + at[:, None] * D
