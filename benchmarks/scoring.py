"""Depth of a run against truth as tables: the scoring itself is endorecon/batch_scoring.py."""

from __future__ import annotations

from endorecon.batch_scoring import Errors, figures, lens_of, score, similarity

__all__ = ["HEADER", "Errors", "figures", "lens_of", "line", "score", "similarity"]

HEADER = f"{'row':34s} {'cover':>6s} {'MAE':>7s} {'median':>7s} {'RMSE':>7s} {'P95':>7s} {'bias':>7s} {'in95':>6s} {'sigma':>6s}"


def line(name: str, f: dict[str, float]) -> str:
    """One row of a table, mm."""
    if not f.get("covered"):
        return f"{name:34s}  no pixel covered"
    return (
        f"{name:34s} {100 * f['covered']:5.1f}% {f['mae']:7.3f} {f['median']:7.3f} {f['rmse']:7.3f} "
        f"{f['p95']:7.3f} {f['bias']:+7.3f} {100 * f['in95']:5.1f}% {f['sigma']:6.3f}"
    )
