"""Depths sharpened and judged in real neighbour frames, so that the loop cannot confirm itself."""

from endorecon.refine.certainty import Evidence
from endorecon.refine.consensus import choose_sources
from endorecon.refine.neighbours import choose_neighbours
from endorecon.refine.photos import Photos, bilateral_high_pass, grey, high_pass, prepare
from endorecon.refine.pooling import field_map, merged, pooled, surer, together
from endorecon.refine.prior import condition
from endorecon.refine.rounds import Maps, Pass, Passes, refine_depths
from endorecon.refine.settle import Settled, settle
from endorecon.refine.sweep import Sweep, fuse, sweep
from endorecon.refine.wide import corrected

__all__ = [
    "Evidence", "Maps", "Pass", "Passes", "Photos", "Settled", "Sweep", "bilateral_high_pass",
    "choose_neighbours", "choose_sources", "condition", "corrected", "field_map", "fuse", "grey",
    "high_pass", "merged", "pooled", "prepare", "refine_depths", "settle", "surer", "sweep",
    "together",
]  # fmt: skip
