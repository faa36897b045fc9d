"""The errors a user can meet: what happened, what to do, and the exit code (ecosystem.md, 6.3).

Every message is one clear sentence that says what is wrong and what to do; a path comes last, so
that the first half can be shared without giving a file name away. Anything that is not an
`EndoreconError` is a bug: the command line prints a traceback and exits with 70.
"""

from __future__ import annotations


class EndoreconError(Exception):
    """A fault the user can do something about. `exit_code` is what the process ends with."""

    exit_code = 1

    def __init__(self, what: str, remedy: str = "", path: object = None) -> None:
        self.what, self.remedy, self.path = what, remedy, path
        sentence = what if not remedy else f"{what}; {remedy}"
        super().__init__(sentence if path is None else f"{sentence}: {path}")


class UsageError(EndoreconError):
    """The command or the configuration cannot mean anything."""

    exit_code = 2


class InputRefused(EndoreconError):
    """The input is not what it should be: damaged, foreign, contradictory, mirrored."""

    exit_code = 3


class NotEnoughInformation(EndoreconError):
    """The input is sound but does not determine the answer: no parallax, too little overlap."""

    exit_code = 4


class Diverged(EndoreconError):
    """The optimisation blew up twice and was stopped."""

    exit_code = 5


class OutOfResources(EndoreconError):
    """Memory, disk or time ran out; what was finished is kept."""

    exit_code = 6


class EnvironmentFault(EndoreconError):
    """Something is missing on this machine: a library, a compiler, a GPU."""

    exit_code = 7


BUG_EXIT_CODE = 70
