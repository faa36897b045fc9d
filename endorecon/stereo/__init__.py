"""Matchers: a word in the config becomes a Matcher here, and nowhere else.

To add one: a class in stereo/yours.py with `__init__(self, config: StereoConfig)` and
`match(self, pair: StereoPair) -> Disparity`, and one line below. The contract test runs over it.
"""

from __future__ import annotations

from importlib import import_module
from typing import Protocol

from endorecon.config import StereoConfig
from endorecon.errors import UsageError
from endorecon.scene import Disparity, StereoPair


class Matcher(Protocol):
    """Finds the disparity of each pixel of the left eye."""

    def match(self, pair: StereoPair) -> Disparity:
        """Disparity (h, w), NaN where unknown, with one standard deviation in pixels."""
        ...


MATCHERS = {"sgbm": "SgbmMatcher", "sweep": "SweepMatcher", "weights": "WeightsMatcher"}


def open_matcher(config: StereoConfig) -> Matcher:
    """The matcher that `config.matcher` names. Raises UsageError for an unknown word."""
    if config.matcher not in MATCHERS:
        raise UsageError(
            f"There is no stereo matcher {config.matcher!r}", f"choose one of {', '.join(MATCHERS)}"
        )
    module = import_module(f"endorecon.stereo.{config.matcher}")
    matcher: Matcher = getattr(module, MATCHERS[config.matcher])(config)
    return matcher
