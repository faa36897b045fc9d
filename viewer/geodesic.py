"""The shortest way along a surface between two points on it.

Dijkstra over vertices and points inserted on the edges (Lanthier, Maheshwari, Sack: Approximating
shortest paths on weighted polyhedral surfaces, 2001), then the way is pulled straight across the
edges it crosses (`funnel`). No face farther than the ellipsoid |x-p| + |x-q| <= L can be part of
a way of length L: so the search looks at a neighbourhood first and the answer still holds for the
whole mesh.
"""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

from .funnel import Array, Node, pull_straight

WHOLE = 60_000  # faces up to which the first search has a point on each edge
LOOKS = ((1, 24_000), (3, 12_000), (6, 3_000))  # points on an edge, faces searched beside a way
SETTLED = 3e-4  # relative gain below which a look is not repeated
REPEATS = 6  # of one look, at most


def surface_path(
    vertices: Array, faces: Array, start: Array, start_face: int, end: Array, end_face: int
) -> Array | None:
    """Polyline (k, 3) from start to end along the faces, None when no way leads there."""
    straight = float(np.linalg.norm(end - start))
    if start_face == end_face or straight == 0.0:
        return np.stack([start, end])
    ends = (start, faces[start_face], end, faces[end_face])
    reach = np.linalg.norm(vertices - start, axis=1) + np.linalg.norm(vertices - end, axis=1)
    bound = max(1.6 * straight, 1.02 * float(reach[[*ends[1], *ends[3]]].max()))
    widest = float(reach.max())
    while True:
        near = faces[(reach <= bound)[faces].any(1)]
        path = _search(vertices, near, ends, int(len(near) <= WHOLE))
        length = float("inf") if path is None else path_length(path)
        if length <= bound or bound >= widest:
            break
        bound = min(length, 2 * bound)
    return None if path is None else _refined(path, vertices, near, ends)


def path_length(path: Array) -> float:
    """Length of a polyline (k, 3)."""
    return float(np.linalg.norm(np.diff(path, axis=0), axis=1).sum())


def _refined(path: Array, vertices: Array, faces: Array, ends: tuple[Array, ...]) -> Array:
    """The way searched again ever finer beside itself, each look until it gains no more.

    A way over few points zigzags, so its neighbourhood may miss the shortest one: hence again.
    """
    near = faces
    for m, budget in LOOKS:
        near = _beside(path, vertices, near, 4 * budget)
        for _ in range(REPEATS):
            found = _search(vertices, _beside(path, vertices, near, budget), ends, m)
            before = path_length(path)
            if found is not None and path_length(found) < before:
                path = found
            if path_length(path) > (1 - SETTLED) * before:
                break
    return path


def _beside(path: Array, vertices: Array, faces: Array, budget: int) -> Array:
    """The faces nearest to a way, at least so many as it touches."""
    if len(faces) <= budget:
        return faces
    used, local = np.unique(faces, return_inverse=True)
    step = np.linalg.norm(np.diff(path, axis=0), axis=1)
    s = np.concatenate([[0.0], np.cumsum(step)])
    at = np.linspace(0, s[-1], 4 * len(path))
    dense = np.stack([np.interp(at, s, path[:, k]) for k in range(3)], 1)
    away = cKDTree(dense).query(vertices[used])[0][local.reshape(-1, 3)].min(1)
    return faces[away <= np.partition(away, budget)[budget]]


def _search(vertices: Array, faces: Array, ends: tuple[Array, ...], m: int) -> Array | None:
    """Dijkstra over vertices and m points on each edge, pulled straight; None without a way."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import dijkstra

    start, first, end, last = ends
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
    fine = m > 3  # past the corners, which the string cannot leave once the way goes through them
    links = [] if fine else [np.stack([row[:, :-1].ravel(), row[:, 1:].ravel()], 1)]
    for k in range(3) if m else ():
        side, beside = on_edge[:, k], on_edge[:, (k + 1) % 3]
        across = (side[:, :, None], beside[:, None])
        for i, j in (across,) if fine else (across, (f[:, (k + 2) % 3, None], side)):
            i, j = np.broadcast_arrays(i, j)
            links.append(np.stack([i.ravel(), j.ravel()], 1))
    s, e = len(points) - 2, len(points) - 1
    for own, corners in ((s, first), (e, last)):
        where = np.searchsorted(used, corners)
        if (where >= n).any() or (used[np.minimum(where, n - 1)] != corners).any():
            return None
        here = (f == where).all(1)
        ring = np.unique(np.concatenate([on_edge[here].ravel(), where[: 0 if fine else 3]]))
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
    return pull_straight([_node(k, used, edges, points, m) for k in way[::-1]], vertices)


def _node(k: int, used: Array, edges: Array, points: Array, m: int) -> Node:
    """Node k of the graph as a vertex, a crossed edge, or an end of the way."""
    n = len(used)
    if k < n:
        return Node(int(used[k]), int(used[k]), points[k])
    if k >= len(points) - 2:
        return Node(-1, -1, points[k])
    i, j = used[edges[(k - n) // m]]
    return Node(int(i), int(j), points[k])
