"""The report's pictures as PNG bytes: charts by matplotlib, surfaces by PyVista off screen.

matplotlib's object interface is used, so no state and no display is needed. Colours: reconstruction
blue, CT grey, doubtful orange; signed distances on a diverging scale that ends at a round number.
Everything in LPS mm (x to the patient's left, y to the back, z up).
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from endorecon.errors import EndoreconError
from endorecon.evaluate.icp import Target
from endorecon.evaluate.statistics import surface_distance
from endorecon.io.rundir import RunDir
from endorecon.scene import OBSERVED, Measurement, Surface

Array = NDArray[Any]
_BLUE, _ORANGE, _GREY, _INK = "#1f6f9f", "#d1742a", "#8a9299", "#22303a"
_VIEWS = (
    ("from the front", (0, -1, 0), (0, 0, 1)),
    ("from the patient's left", (1, 0, 0), (0, 0, 1)),
    ("from above", (0, 0, 1), (0, -1, 0)),
    ("from behind", (0, 1, 0), (0, 0, 1)),
)


def _figure(width: float, height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    axes = figure.subplots()
    _plain(axes)
    return figure, axes


def _plain(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=_INK, labelsize=8)
    axes.xaxis.label.set_size(9)
    axes.yaxis.label.set_size(9)


def _png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def bland_altman(rows: list[Measurement], found: dict[str, Any]) -> bytes:
    """Differences against means, with bias, limits of agreement and their intervals."""
    figure, axes = _figure(6.2, 3.3)
    ct, recon = (np.array([getattr(m, k) for m in rows]) for k in ("ct", "recon"))
    for key, ci, color in (
        ("bias", "bias_ci", _BLUE),
        ("lower", "lower_ci", _ORANGE),
        ("upper", "upper_ci", _ORANGE),
    ):
        axes.axhspan(*found[ci], color=color, alpha=0.13, lw=0)
        axes.axhline(found[key], color=color, lw=1.2, ls="-" if key == "bias" else "--")
        label = {"bias": "bias", "lower": "lower limit", "upper": "upper limit"}[key]
        axes.annotate(
            f"{label} {found[key]:+.2f}", (1.01, found[key]), xycoords=("axes fraction", "data"),
            fontsize=8, va="center", color=color, annotation_clip=False,
        )  # fmt: skip
    axes.axhline(0, color=_GREY, lw=0.6)
    for k, name in enumerate(sorted({m.observer for m in rows})):
        mine = np.array([m.observer == name for m in rows])
        axes.plot(
            (ct + recon)[mine] / 2, (recon - ct)[mine], "os^Dv"[k % 5], ms=4, alpha=0.65,
            color=_INK, mec="none", label=f"observer {name}" if name else None,
        )  # fmt: skip
    axes.set_xlabel("mean of CT and reconstruction (mm)")
    axes.set_ylabel("reconstruction − CT (mm)")
    if len({m.observer for m in rows}) > 1:
        axes.legend(fontsize=8, frameon=False, loc="upper left", ncols=3)
        low, high = axes.get_ylim()
        axes.set_ylim(low, high + 0.15 * (high - low))
    return _png(figure)


def residuals(signed: Array) -> bytes:
    """Histogram of signed distances of the observed surface to the CT."""
    figure, axes = _figure(6.2, 2.4)
    values = signed[np.isfinite(signed)]
    reach = float(np.clip(np.percentile(np.abs(values), 99), 0.1, 5.0)) if len(values) else 1.0
    axes.hist(values, np.linspace(-reach, reach, 81), color=_BLUE, alpha=0.85)
    axes.axvline(0, color=_INK, lw=0.8)
    if len(values):
        mean = float(values.mean())
        axes.axvline(mean, color=_ORANGE, lw=1.4, ls="--", label=f"mean {mean:+.3f} mm")
        axes.legend(fontsize=8, frameon=False)
    axes.set_xlabel("signed distance to the CT (mm), positive on the air side")
    axes.set_ylabel("vertices")
    return _png(figure)


def convergence(events: list[dict[str, Any]]) -> bytes | None:
    """Change of depth a round, from the run's events; None when there are no rounds."""
    found = [
        (int(e["round"]), float(e["change"]))
        for e in events
        if e.get("kind") == "RoundFinished"
        and isinstance(e.get("change"), int | float)
        and np.isfinite(e["change"])
        and e["change"] > 0
    ]
    if not found:
        return None
    figure, axes = _figure(3.4, 2.4)
    rounds, change = zip(*found, strict=True)
    axes.semilogy(rounds, 100 * np.array(change), "o-", color=_BLUE, ms=4)
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("")
    axes.set_xticks(sorted(set(rounds)))
    axes.set_xlabel("round")
    axes.set_ylabel("median change of depth (%)")
    return _png(figure)


def path(centres: Array, surface: Surface) -> bytes:
    """The camera's path (k, 3) over the surface, seen from the patient's left, LPS mm."""
    figure, axes = _figure(3.4, 2.4)
    v = surface.vertices[:: max(1, len(surface.vertices) // 4000)]
    axes.plot(v[:, 1], v[:, 2], ",", color=_GREY, alpha=0.5)
    axes.plot(centres[:, 1], centres[:, 2], "-", lw=0.8, color=_ORANGE)
    axes.plot(centres[:, 1], centres[:, 2], "o", ms=2.5, color=_ORANGE)
    axes.set_aspect("equal")
    axes.set_xlabel("to the back, y (mm)")
    axes.set_ylabel("up, z (mm)")
    return _png(figure)


def frames(run: RunDir, count: int = 3) -> bytes | None:
    """Example frames beside their depth maps; None when the run has no frames."""
    from matplotlib.figure import Figure
    from PIL import Image

    chosen: list[tuple[int, Path]] = []
    indices = run.depth_indices()
    for k in np.linspace(0, max(len(indices) - 1, 0), count).round().astype(int):
        try:
            chosen.append((indices[k], run.frame_image(indices[k])))
        except (IndexError, EndoreconError):
            continue
    if not chosen:
        return None
    figure = Figure(figsize=(6.6, 3.4), dpi=150, layout="constrained")
    axes = figure.subplots(2, len(chosen), squeeze=False)
    depths = [run.depth(index) for index, _ in chosen]
    low, high = np.nanpercentile(np.concatenate([d.z.ravel() for d in depths]), [2, 98])
    for column, ((index, file), depth) in enumerate(zip(chosen, depths, strict=True)):
        with Image.open(file) as image:
            axes[0, column].imshow(np.asarray(image.convert("RGB")))
        axes[0, column].set_title(f"frame {index}", fontsize=8, color=_INK)
        shown = axes[1, column].imshow(depth.z, cmap="viridis_r", vmin=low, vmax=high)
        axes[1, column].set_facecolor("#d9d9d9")
    for ax in axes.ravel():
        ax.set_xticks([])
        ax.set_yticks([])
    bar = figure.colorbar(shown, ax=axes[1, :].tolist(), shrink=0.9, pad=0.01)
    bar.set_label("depth (run's unit)", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    return _png(figure)


def colour_span(signed: Array) -> float:
    """The colour scale in mm: the smallest round number that holds 95 % of the distances."""
    values = np.abs(signed[np.isfinite(signed)])
    need = float(np.percentile(values, 95)) if len(values) else 1.0
    return next((s for s in (0.1, 0.2, 0.5, 1.0, 2.0) if s >= need), 5.0)


def surfaces(
    surface: Surface, ct: Surface, target: Target, landmarks: dict[str, Array], size: int = 560
) -> bytes:
    """The registered surface coloured by its signed distance to the CT, from four sides.

    Grey is the CT; orange the weak surface, which is not coloured because it is not trusted.
    Landmarks carry their number, in the order of `landmarks` from 1.
    """
    import pyvista as pv
    from PIL import Image
    from vtkmodules.vtkCommonCore import vtkLogger

    vtkLogger.SetStderrVerbosity(vtkLogger.VERBOSITY_OFF)  # it warns of the X server it can spare
    _, signed = surface_distance(surface.vertices, target, 5.0)
    mesh = pv.PolyData.from_regular_faces(surface.vertices, surface.faces)
    mesh["distance"] = np.nan_to_num(signed)
    span = colour_span(signed[surface.status == OBSERVED])
    certain = (surface.status[surface.faces] == OBSERVED).all(1) & np.isfinite(
        signed[surface.faces]
    ).all(1)
    plotter: Any = pv.Plotter(
        shape=(2, 2), off_screen=True, window_size=[2 * size, 3 * size // 2], border=False
    )
    used = surface.vertices[np.unique(surface.faces)]
    centre = (used.min(0) + used.max(0)) / 2
    reach = float(np.ptp(used, axis=0).max())
    near = np.abs(ct.vertices - centre).max(1) < 0.75 * reach + 5.0
    ct_mesh = pv.PolyData.from_regular_faces(ct.vertices, ct.faces[near[ct.faces].all(1)])
    for k, (title, eye, up) in enumerate(_VIEWS):
        plotter.subplot(k // 2, k % 2)
        plotter.set_background("white")
        if ct_mesh.n_cells:
            plotter.add_mesh(ct_mesh, color="#c8cdd2", opacity=0.16, specular=0.0)
        if certain.any():
            plotter.add_mesh(
                mesh.extract_cells(certain), scalars="distance", cmap="RdBu", clim=(-span, span),
                show_scalar_bar=k == 0, smooth_shading=False,
                scalar_bar_args={
                    "title": "to CT (mm)", "vertical": True, "height": 0.5, "width": 0.07,
                    "position_x": 0.88, "position_y": 0.25, "color": _INK, "n_labels": 5,
                    "label_font_size": 15, "title_font_size": 15, "fmt": "%+.2f",
                },
            )  # fmt: skip
        if (~certain).any():
            plotter.add_mesh(mesh.extract_cells(~certain), color=_ORANGE, opacity=0.35)
        if landmarks:
            points: Any = pv.PolyData(np.array(list(landmarks.values())))
            points["number"] = [str(n + 1) for n in range(len(landmarks))]
            plotter.add_point_labels(
                points, "number", font_size=20, text_color=_INK, point_color="black", point_size=9,
                shape_opacity=0.75, shape_color="white", always_visible=True, margin=1,
                render_points_as_spheres=True,
            )  # fmt: skip
        plotter.add_text(title, font_size=10, color=_INK, position="upper_left")
        plotter.camera_position = [
            tuple(centre + 2.2 * reach * np.array(eye)), tuple(centre), up
        ]  # fmt: skip
        plotter.camera.parallel_projection = True
        side = np.cross(eye, up)
        height, width = (float(np.ptp(used @ np.array(v))) for v in (up, side))
        plotter.camera.parallel_scale = 0.56 * max(height, width * 3 / 4)
        plotter.enable_anti_aliasing("ssaa")
    image = plotter.screenshot(None, return_img=True)
    plotter.close()
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(image)).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
