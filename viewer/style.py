"""Colours and sizes, made for a theatre screen seen from two metres: few, bright, on near-black.

The three states of a surface differ in lightness as well as in hue, so that colour-blind eyes
tell them apart; guessed surface is hatched besides.
"""

from __future__ import annotations

from pathlib import Path

BACKGROUND = "#101418"
WHITE = "#f4f6f8"
GREY = "#8a949e"
YELLOW = "#ffd23f"
AMBER = "#ff9f1c"
RED = "#ff5d5d"
CYAN = "#4cc9f0"
MAGENTA = "#ff5fd2"
GREEN = "#7ae582"
PLAIN = "#d9b8a8"  # tissue-like, for shape alone
BONE = "#f1e6c8"
CT_SURFACE = "#8ecae6"
OBSERVED, WEAK, GUESSED = "#35c4b5", "#e0a030", "#b0b6bc"
COLORMAP = "viridis"


def _font() -> str:
    import matplotlib

    return str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf")


def hex_color(text: str) -> tuple[int, int, int]:
    """#rrggbb as three numbers 0..255."""
    return int(text[1:3], 16), int(text[3:5], 16), int(text[5:7], 16)


def unit_color(text: str) -> tuple[float, float, float]:
    """#rrggbb as three numbers 0..1."""
    r, g, b = hex_color(text)
    return r / 255, g / 255, b / 255


FONT = _font()
