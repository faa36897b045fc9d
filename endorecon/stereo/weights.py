"""A learned matcher from a local TorchScript file (RAFT-Stereo class). Nothing is downloaded.

The file holds a module `f(left, right) -> disparity` for (1, 3, h, w) float32 images in 0..255
with sizes that are multiples of 32, and (1, 1, h, w) disparities of the left eye, positive.
"""

from __future__ import annotations

import numpy as np

from endorecon.config import StereoConfig
from endorecon.errors import InputRefused, UsageError
from endorecon.scene import Disparity, StereoPair
from endorecon.stereo.checks import left_right, stretched


class WeightsMatcher:
    """Runs the module on both eyes (the right one mirrored) and checks left against right."""

    def __init__(self, config: StereoConfig) -> None:
        import torch

        if not config.weights:
            raise UsageError(
                "The matcher 'weights' needs a file", "give a TorchScript file: --stereo.weights F"
            )
        try:
            self._module = torch.jit.load(config.weights, map_location="cpu").eval()
        except (RuntimeError, ValueError, OSError) as error:
            raise InputRefused(
                "The stereo weights are not a TorchScript file",
                "export the network with torch.jit.script or trace",
                config.weights,
            ) from error
        self._config = config

    def match(self, pair: StereoPair) -> Disparity:
        """Disparity of the left eye; NaN where left and right disagree or nothing has texture."""
        d = self._run(pair.left, pair.right)
        back = self._run(pair.right[:, ::-1], pair.left[:, ::-1])[:, ::-1]
        return left_right(d, back, stretched(pair.left), self._config)

    def _run(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        import torch

        h, w = left.shape[:2]
        pad = ((0, -h % 32), (0, -w % 32), (0, 0))

        def tensor(image: np.ndarray) -> torch.Tensor:
            padded = np.pad(image, pad, mode="edge").astype(np.float32)
            return torch.from_numpy(padded).permute(2, 0, 1)[None]

        with torch.inference_mode():
            out = self._module(tensor(left), tensor(right))
        return out[0, 0, :h, :w].numpy()
