"""The CT in the scene: three slices, a volume, bone and the border of air and tissue.

Only with a registration: a CT beside a reconstruction that does not share its space would lie.
What is costly is cropped to the neighbourhood of the reconstruction, and thinned for the eye.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from endorecon.io.ct import CtVolume, ct_surface, read_ct_surface
from endorecon.scene import Surface

from .mesh import polydata
from .slices import PLANES, bounds, grey, sample
from .style import BONE, CT_SURFACE

Array = NDArray[Any]
AIR_HU, BONE_HU = -400.0, 300.0
MARGIN_MM = 12.0  # round the reconstruction, for surfaces and the volume
VOLUME_VOXELS = 160  # along the longest edge, enough for the eye


class CtLayers:
    """The CT of a case: surfaces and pictures of it, made when asked for."""

    def __init__(self, path: Path, around: Surface | None) -> None:
        roi = None
        if around is not None and len(around.vertices):
            low, high = around.vertices.min(0), around.vertices.max(0)
            roi = (low - MARGIN_MM, high + MARGIN_MM)
        self.air, volume, self.notes = read_ct_surface(path, AIR_HU, roi=roi)
        self.volume: CtVolume | None = volume
        self._roi = roi

    def add_air(self, plotter: Any) -> list[Any]:
        return [_add_surface(plotter, self.air, CT_SURFACE, "ct-air")]

    def add_bone(self, plotter: Any) -> list[Any]:
        if self.volume is None:
            return []
        surface, _ = ct_surface(self.volume, BONE_HU, self._roi)
        return [_add_surface(plotter, surface, BONE, "ct-bone")]

    def add_slices(self, plotter: Any, point: Array, window: str) -> list[Any]:
        """Three textured rectangles through a point in LPS mm."""
        import pyvista as pv

        if self.volume is None:
            return []
        actors = []
        low, high = bounds(self.volume)
        step = max(float(self.volume.spacing.min()), float((high - low).max()) / 400)
        for name, plane in PLANES.items():
            hu, first, last = sample(self.volume, plane, float(point[plane.normal]), step)
            right, down = np.zeros(3), np.zeros(3)
            right[plane.right] = last[plane.right] - first[plane.right] + step
            down[plane.down] = last[plane.down] - first[plane.down] + plane.down_sign * step
            corner = first - (right / hu.shape[1] + down / hu.shape[0]) / 2
            quad = pv.PolyData(
                np.stack([corner, corner + right, corner + right + down, corner + down]),
                faces=[4, 0, 1, 2, 3],
            )
            quad.active_texture_coordinates = np.array([[0, 1], [1, 1], [1, 0], [0, 0]], float)
            texture = pv.Texture(np.repeat(grey(hu, window)[..., None], 3, 2))
            texture.interpolate = True
            actors.append(plotter.add_mesh(
                quad, texture=texture, name=f"ct-{name}", lighting=False, reset_camera=False,
                render=False, pickable=False,
            ))  # fmt: skip
        return actors

    def add_volume(self, plotter: Any, window: str) -> list[Any]:
        """The neighbourhood as a volume: air clear, tissue faint, bone solid."""
        import pyvista as pv

        if self.volume is None:
            return []
        hu, affine = self._cropped()
        grid = pv.ImageData(dimensions=hu.shape[::-1])
        # One voxel a step: the grid's own place and obliqueness come by the matrix.
        grid.point_data["hu"] = np.clip(hu, -1000, 2000).astype(np.float32).ravel()
        x = np.array([-1000.0, -500, -350, 150, 300, 1200, 2000])
        tissue = 0.0 if window == "bone" else 0.006  # more is fog: it adds up over centimetres
        y = np.array([0, 0, tissue, tissue, 0.35, 0.8, 0.9])
        opacity = 255 * np.interp(np.linspace(-1000, 2000, 256), x, y)
        # The fixed-point caster runs on the processor: fit for machines without a graphics card.
        volume = plotter.add_volume(
            grid, scalars="hu", clim=(-1000, 2000), cmap="bone", opacity=opacity.astype(np.uint8),
            name="ct-volume", show_scalar_bar=False, reset_camera=False, render=False,
            mapper="fixed_point", shade=False, user_matrix=affine, pickable=False,
        )  # fmt: skip
        volume.GetProperty().SetInterpolationTypeToLinear()
        volume.GetMapper().SetAutoAdjustSampleDistances(False)
        volume.GetMapper().SetSampleDistance(0.5 * float(np.linalg.norm(affine[:3, 0])))
        return [volume]

    def _cropped(self) -> tuple[Array, Array]:
        from endorecon.geometry import apply, invert

        assert self.volume is not None
        hu, affine = self.volume.hu, self.volume.lps_from_index.copy()
        if self._roi is not None:
            corners = np.array(np.meshgrid(*zip(*self._roi))).reshape(3, -1).T
            index = apply(invert(affine), corners)
            top = np.array(hu.shape[::-1])
            a = np.clip(np.floor(index.min(0)).astype(int), 0, top - 2)
            b = np.clip(np.ceil(index.max(0)).astype(int) + 1, a + 2, top)
            hu = hu[a[2] : b[2], a[1] : b[1], a[0] : b[0]]
            affine[:3, 3] = apply(affine, a.astype(float))
        stride = max(1, int(np.ceil(max(hu.shape) / VOLUME_VOXELS)))
        affine[:3, :3] *= stride
        return np.ascontiguousarray(hu[::stride, ::stride, ::stride]), affine

    def distance(self, points: Array) -> Array:
        """Unsigned distance (n,) in mm of points to the border of air and tissue."""
        import pyvista as pv

        cloud = pv.PolyData(np.asarray(points, float))
        found = cloud.compute_implicit_distance(polydata(self.air))
        return np.abs(np.asarray(found.point_data["implicit_distance"]))


def _add_surface(plotter: Any, surface: Surface, color: str, name: str) -> Any:
    import pyvista as pv

    mesh = pv.PolyData.from_regular_faces(np.asarray(surface.vertices, float), surface.faces)
    return plotter.add_mesh(
        mesh, color=color, name=name, smooth_shading=True, ambient=0.2, specular=0.1,
        reset_camera=False, render=False, pickable=False,
    )  # fmt: skip
