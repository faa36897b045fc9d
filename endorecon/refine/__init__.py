"""Depths sharpened and judged in real neighbour frames, so that the loop cannot confirm itself."""

from endorecon.refine.photos import Photos, choose_neighbours, grey, high_pass, prepare
from endorecon.refine.prior import condition
from endorecon.refine.rounds import refine_depths
from endorecon.refine.sweep import Sweep, fuse, sweep

__all__ = [
    "Photos", "Sweep", "choose_neighbours", "condition", "fuse", "grey", "high_pass", "prepare",
    "refine_depths", "sweep",
]  # fmt: skip
