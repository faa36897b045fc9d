"""The default field: a hash grid with two small nets, and all that must be kept to go on training.

Space: `world` is the space of the poses, in their unit. Inside, positions are (world - corner) /
edge of a cube round the scene, and z is in reference depths (the median sparse depth). Both are
undone at every door of this class: what goes in and comes out is in world units.
"""

from __future__ import annotations

import ctypes
import dataclasses

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from endorecon import kernels
from endorecon.config import FieldConfig
from endorecon.errors import EnvironmentFault, InputRefused, NotEnoughInformation, UsageError
from endorecon.field import native, tcnn, twin
from endorecon.field.hashgrid import level_scales, make_levels
from endorecon.field.twin import Parameters, Rates, RayBatch
from endorecon.geometry import rays
from endorecon.scene import Views

Array = NDArray[np.float64]
BACKENDS = ("auto", "kernels", "tinycudann", "torch")


class NerfField:
    """Density and colour in a box. `step` counts optimisation steps since it was opened."""

    def __init__(
        self, config: FieldConfig, corner: Array, edge: float, depth: float, near: float,
        views: int, seed: int, device: str, ceiling: tuple[float, float, float] | None = None,
    ) -> None:  # fmt: skip
        self.config, self.seed, self.device = config, seed, device
        self.corner, self.edge = np.asarray(corner, float), float(edge)
        self.depth, self.near = float(depth), float(near)
        self.step = 0
        levels = make_levels(config.levels, config.log2_table, config.coarsest, config.finest)
        rng = np.random.default_rng([seed, 0, 0])
        table = rng.uniform(-1e-4, 1e-4, (levels.count, levels.rows, 2)).astype(np.float32)
        weights = []
        for rows, columns in twin.SHAPES:  # He-uniform; biases are not needed
            bound = np.sqrt(6.0 / columns)
            weights.append(rng.uniform(-bound, bound, rows * columns))
        weights[-1] *= 0.3  # start near a uniform grey
        weights[-1][3 * twin.HID :] = 0.0  # row of padding
        self.parameters = Parameters(
            self._tensor(table),
            self._tensor(np.concatenate(weights).astype(np.float32)),
            self._tensor(np.zeros(views + 1, np.float32)),
            levels,
            config.near_light,
            config.response,
            level_scales(levels.count, float(levels.count)),
        )
        if ceiling is not None:
            red, green, blue = ceiling
            self.parameters.inverse_ceiling = (1 / red, 1 / green, 1 / blue)
        p = self.parameters
        self.library, p.nets, self._backend = self._choose()
        if p.nets is not None:
            p.table, p.weights = p.nets.table, p.nets.weights
        self.moments = native.Moments(
            *(torch.zeros_like(t) for t in (p.table, p.table, p.weights, p.weights)),
            *(torch.zeros_like(t) for t in (p.extras, p.extras)),
        )
        self.grid = torch.zeros((config.proposal,) * 3, device=device)

    def _tensor(self, a: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(a)).to(self.device)

    @property
    def kernels(self) -> str:
        """One sentence on what does the arithmetic, and why that."""
        return self._backend

    def _choose(self) -> tuple[ctypes.CDLL | None, tcnn.TinyCuda | None, str]:
        """Who does the arithmetic (config.backend), and one sentence on it.

        auto: our kernels, which fuse the whole step; where they cannot be had, tiny-cuda-nn on a
        GPU, else plain torch. Whoever is asked for by name serves or raises EnvironmentFault.
        """
        word, cuda = self.config.backend, self.device.startswith("cuda")
        if word not in BACKENDS:
            raise UsageError(f"there is no backend {word!r}", f"choose {', '.join(BACKENDS)}")
        if word == "torch":
            return None, None, "plain torch, as asked for by field.backend"
        library, reason = None, "the kernels do not serve this shape of the field"
        if word != "tinycudann":
            if native.fits(self.parameters.levels, self.config.samples):
                library = native.library(self.device)
                reason = kernels.why("field", "cuda" if cuda else "cpu")
            if library is not None:
                return library, None, reason
            if word == "kernels":
                raise EnvironmentFault(
                    f"kernels are asked for but {reason}", "mend that or set field.backend to auto"
                )
        serves = self.device.split(":")[0] in tcnn.DEVICES
        found = tcnn.find() if serves else "it runs on CUDA devices only"
        if not isinstance(found, str):
            nets = tcnn.TinyCuda(found, self.config, self.seed, self.device)
            extra = "" if word == "tinycudann" else f" ({reason})"
            return None, nets, f"tiny-cuda-nn does the nets, torch the rest{extra}"
        if word == "tinycudann":
            raise EnvironmentFault(
                f"tinycudann is asked for but cannot be used: {found}",
                f"install it: {tcnn.INSTALL}",
            )
        return None, None, f"plain torch: {reason}"

    def open_levels(self, count: float) -> None:
        """Let the `count` coarsest levels (a fraction opens one in part) speak and learn."""
        self.parameters.scales = level_scales(self.parameters.levels.count, count)

    # -- keeping and going on ---------------------------------------------------------------

    def _tensors(self) -> dict[str, Tensor]:
        p = self.parameters
        named = {"table": p.table, "weights": p.weights, "extras": p.extras, "grid": self.grid}
        return named | {f"adam.{k}": v for k, v in vars(self.moments).items()}

    def state(self) -> dict[str, np.ndarray]:
        """Everything that training goes on from, as copies; `load` of it gives the same bits."""
        out = {k: v.detach().cpu().numpy().copy() for k, v in self._tensors().items()}
        box = np.array([*self.corner, self.edge, self.depth, self.near])
        light = np.array(self.parameters.inverse_ceiling)
        return (
            out
            | {"box": box, "counters": np.array([self.step, self.seed], np.int64)}
            | {"scales": np.array(self.parameters.scales), "inverse_ceiling": light}
        )

    def load(self, state: dict[str, np.ndarray]) -> None:
        """Take over a state of a field of the same shape; InputRefused if it does not fit."""
        mine = self._tensors()
        if set(state) != {*mine, "box", "counters", "scales", "inverse_ceiling"}:
            raise InputRefused("a saved field lacks arrays or has foreign ones", "start afresh")
        for k, v in mine.items():
            if tuple(v.shape) != state[k].shape:
                raise InputRefused(
                    f"saved field of another shape ({k}: {state[k].shape}, need {tuple(v.shape)})",
                    "use the configuration it was made with",
                )
        for k, v in mine.items():
            v.copy_(self._tensor(state[k]))
        box = state["box"]
        self.corner, self.edge = box[:3].copy(), float(box[3])
        self.depth, self.near = float(box[4]), float(box[5])
        self.parameters.scales = tuple(float(v) for v in state["scales"])
        a, b, c = (float(v) for v in state["inverse_ceiling"])
        self.parameters.inverse_ceiling = (a, b, c)
        self.step, self.seed = (int(v) for v in state["counters"])

    # -- rays and points --------------------------------------------------------------------

    def rays(
        self, uv: Array, K: Array, world_from_camera: Array
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Origin, direction, view (R, 3) and norm (R,) of pixels (R, 2), as RayBatch has them.

        `world_from_camera` is one pose (4, 4) or one a ray (R, 4, 4).
        """
        d = np.ones((len(uv), 3))
        d[:, :2] = (uv - K[:2, 2]) / (K[0, 0], K[1, 1])
        pose = np.broadcast_to(world_from_camera, (len(uv), 4, 4))
        world = np.einsum("rij,rj->ri", pose[:, :3, :3], d)
        norm = np.linalg.norm(world, axis=1)
        origin = (pose[:, :3, 3] - self.corner) / self.edge
        out = (origin, world * (self.depth / self.edge), world / norm[:, None], norm)
        a, b, c, e = (self._tensor(x.astype(np.float32)) for x in out)
        return a, b, c, e

    @torch.no_grad()
    def density(self, points: Array) -> np.ndarray:
        """Density (n,) per world unit at world points (n, 3); 0 outside the box."""
        x = ((np.asarray(points) - self.corner) / self.edge).astype(np.float32)
        sigma = self._density(self._tensor(x)).cpu().numpy() / self.depth
        sigma[~((x >= 0) & (x <= 1)).all(1)] = 0.0
        return sigma

    @torch.no_grad()
    def _density(self, x: Tensor) -> Tensor:
        if self.library is not None:
            return native.density(self.library, self.parameters, x)
        parts = [twin.density_net(self.parameters, part)[0] for part in x.split(65536)]
        return torch.cat(parts).exp() if parts else x[:, 0]

    @torch.no_grad()
    def distil(self, keep: float) -> None:
        """Refresh the proposal grid: the larger of `keep` x old and the density met now."""
        G = self.config.proposal
        rng = np.random.default_rng([self.seed, self.step, 1])
        axis = np.arange(G, dtype=np.float32)
        cells = rng.random((G, G, G, 3), dtype=np.float32)  # a place in each cell
        for k, shape in enumerate(((G, 1, 1), (1, G, 1), (1, 1, G))):
            cells[..., k] += axis.reshape(shape)
        cells /= np.float32(G)
        fresh = self._density(self._tensor(cells.reshape(-1, 3))).view(G, G, G)
        self.grid = torch.maximum(self.grid * keep, fresh)

    @torch.no_grad()
    def edges(
        self, origin: Tensor, direction: Tensor, norm: Tensor, band: Tensor | None, jitter: Tensor,
        samples: int, uniform_share: float,
    ) -> Tensor:  # fmt: skip
        """Sample boundaries (R, samples + 1) by the proposal grid and the bands."""
        c = self.config
        shape = (samples, c.march, self.near / self.depth, uniform_share, c.band_share)
        if self.library is not None:
            return native.sample(
                self.library, self.grid, origin, direction, norm, band, jitter, *shape
            )
        return twin.sample_edges(self.grid, origin, direction, norm, band, jitter, *shape)

    # -- learning ---------------------------------------------------------------------------

    def learn(self, batch: RayBatch, rates: Rates) -> tuple[bool, dict[str, float]]:
        """One optimisation step in place; (False, terms), nothing touched, if it is not finite."""
        if self.library is not None:
            return native.step(self.library, self.parameters, batch, self.moments, rates)
        p = self.parameters
        leaves = (p.table, p.weights, p.extras)
        for t in leaves:
            t.requires_grad_(True)
        terms = twin.losses(batch, twin.composite(p, batch))
        total = terms["colour"] + terms["depth"] + terms["spread"]
        grads = torch.autograd.grad(total, leaves)
        for t in leaves:
            t.requires_grad_(False)
        norm = torch.sqrt((grads[1].double() ** 2).sum() + (grads[2].double() ** 2).sum())
        told = {k: v.item() for k, v in terms.items()} | {"norm": norm.item()}
        if not np.isfinite(list(told.values())).all():
            return False, told
        scale = min(1.0, rates.clip / told["norm"]) if rates.clip > 0 and told["norm"] > 0 else 1.0
        m = self.moments
        g = [x * scale for x in grads]
        twin.adam(p.table, g[0], m.table_m, m.table_v, rates.table, rates, True)
        twin.adam(p.weights, g[1], m.weights_m, m.weights_v, rates.weights, rates, False)
        g[2] = g[2] + rates.anchor * p.extras
        twin.adam(p.extras, g[2], m.extras_m, m.extras_v, rates.extras, rates, False)
        return True, told

    def ray_gradients(self, batch: RayBatch) -> tuple[Tensor, Tensor]:
        """Gradient of the loss at origin and direction (R, 3) of each ray, for pose refinement.

        Sample depths and viewing directions count as constants: only where the samples lie moves.
        """
        z = 0.5 * (batch.edges[:, 1:] + batch.edges[:, :-1])
        if self.library is not None:
            _, g = native.gradients(self.library, self.parameters, batch, with_position=True)
            assert g.position is not None
            return g.position.sum(2).T.contiguous(), (g.position * z).sum(2).T.contiguous()
        moved = dataclasses.replace(
            batch,
            origin=batch.origin.detach().requires_grad_(True),
            direction=batch.direction.detach().requires_grad_(True),
        )
        terms = twin.losses(moved, twin.composite(self.parameters, moved))
        total = terms["colour"] + terms["depth"] + terms["spread"]
        a, b = torch.autograd.grad(total, (moved.origin, moved.direction))
        return a, b

    @torch.no_grad()
    def look(
        self, batch: RayBatch, quantiles: tuple[float, float, float]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Display colour (R, 3), z at the quantiles (R, 3, reference depths), opacity (R,)."""
        if self.library is not None:
            return native.render(self.library, self.parameters, batch, quantiles)
        c = twin.composite(self.parameters, batch)
        depth = twin.quantile_depths(batch.edges, c.tau, quantiles)
        return c.shown, depth, 1.0 - c.weight[:, -1]


def open_nerf(config: FieldConfig, views: Views, seed: int, device: str) -> NerfField:
    """A fresh field round the sparse points and cameras of `views`.

    Raises NotEnoughInformation when there are too few sparse points to know the scene's size.
    """
    xyz = views.points.xyz
    z = views.points.depths(views.world_from_camera)
    z = z[np.isfinite(z) & (z > 0)]
    if len(xyz) < 10 or len(z) < 10:
        raise NotEnoughInformation(
            f"only {len(xyz)} sparse points tell how large the scene is",
            "give poses with points, or film with more parallax",
        )
    centres = views.world_from_camera[:, :3, 3]
    low, high = np.quantile(xyz, 0.005, axis=0), np.quantile(xyz, 0.995, axis=0)
    low, high = np.minimum(low, centres.min(0)), np.maximum(high, centres.max(0))
    edge = float((high - low).max()) * (1.0 + 2.0 * config.box_margin)
    corner = 0.5 * (low + high) - 0.5 * edge
    near = config.near * float(np.quantile(z, 0.01))
    depth = float(np.median(z))
    ceiling = brightest(config, views, depth) if config.near_light and config.ceiling > 0 else None
    return NerfField(config, corner, edge, depth, near, len(views), seed, device, ceiling)


def brightest(config: FieldConfig, views: Views, depth: float) -> tuple[float, float, float] | None:
    """The radiance (r, g, b) at `depth` from the light that no surface of the scene exceeds.

    The light falls off with 1/t^2, so a pixel and its distance t tell how bright its surface is,
    and sparse points tell t: `config.ceiling` times the 95th percentile over all their
    observations. Without it a near wall that few frames see can be explained by a far one that is
    brighter than any tissue. None when too few observations are usable.
    """
    points, K = views.points, views.camera.K
    z = points.depths(views.world_from_camera)
    column, row = np.floor(points.uv).astype(int).T
    h, w = views.masks.shape[1:]
    inside = (column >= 0) & (row >= 0) & (column < w) & (row < h) & np.isfinite(z) & (z > 0)
    view, column, row, z = points.view_of[inside], column[inside], row[inside], z[inside]
    seen = views.masks[view, row, column]
    if seen.sum() < 100:
        return None
    shown = views.images[view, row, column][seen] / 255.0
    t2 = (z[seen] / depth) ** 2 * (rays(points.uv[inside][seen], K) ** 2).sum(1)
    radiance = shown ** (1.0 / config.response) * t2[:, None]
    r, g, b = config.ceiling * np.maximum(np.quantile(radiance, 0.95, axis=0), 1e-4)
    return float(r), float(g), float(b)
