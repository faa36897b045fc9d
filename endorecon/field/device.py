"""Where a field is trained: what the user asked for against what torch finds."""

from __future__ import annotations

from typing import Literal

from endorecon.errors import EnvironmentFault

Device = Literal["auto", "cpu", "cuda"]


def choose_device(word: Device) -> str:
    """ "cuda" or "cpu". Raises EnvironmentFault when CUDA is asked for and absent."""
    if word == "cpu":
        return "cpu"
    import torch

    if torch.cuda.is_available():
        return "cuda"
    if word == "cuda":
        raise EnvironmentFault(
            "There is no CUDA device that torch can use", "run `endorecon doctor`, or --device cpu"
        )
    return "cpu"
