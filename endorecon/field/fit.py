"""Training a field: the schedule, the guard against blow-ups, and the events.

A fit is a generator of `StepDone`; closing it is the cancel button. Each step is a function of the
field's state and its step number, so that a fit resumed from a saved state repeats the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from endorecon.config import FieldConfig
from endorecon.errors import Diverged
from endorecon.field.batches import DenseTargets, draw_batch, make_training_set
from endorecon.field.nerf import NerfField
from endorecon.field.twin import Rates
from endorecon.scene import Views

__all__ = ["DenseTargets", "StepDone", "fit_field"]

EVENT_STEPS = 20
SNAPSHOT_STEPS = 100
RISE = 3.0  # a colour loss this many times the best one so far is a blow-up


@dataclass(frozen=True)
class StepDone:
    """`step` of `steps` of this fit are done; loss and terms are means since the last event."""

    step: int
    steps: int
    loss: float
    psnr: float  # dB of display values on the rays drawn
    terms: dict[str, float]


def fit_field(
    field: NerfField, views: Views, targets: DenseTargets | None, config: FieldConfig, steps: int
) -> Iterator[StepDone]:
    """Train `field` in place for `steps` steps, one event every 20.

    A field that has not learnt yet starts with round 0: coarse levels first, samples spread evenly,
    full learning rate. A number that is not finite, or a colour loss that trebles, is met once by
    going back to the last good state at half the rate; the second time raises Diverged with the
    step and the term.
    """
    data = make_training_set(views, targets, config)
    first_round = field.step == 0
    if first_round:
        field.grid.fill_(1.0)  # fog, until the field has been asked
    else:
        field.open_levels(float(config.levels))
    rate = config.learning_rate * (1.0 if first_round else config.rate_later)
    good, faults, best = field.state(), 0, math.inf
    since: list[dict[str, float]] = []  # terms of the steps since the last event
    k = 0
    while k < steps:
        done = k / max(steps, 1)
        even = config.uniform_last
        if first_round:
            even += (config.uniform_first - config.uniform_last) * max(0.0, 1.0 - 2.0 * done)
            field.open_levels(_open_levels(field, config, done))
        batch = draw_batch(field, data, config, even)
        warm = min(1.0, (k + 1) / max(config.warm_up, 1))
        now = rate * warm * config.rate_last**done
        rates = Rates(now, 0.2 * now, 0.2 * now, field.step + 1, clip=config.clip, anchor=1e-3)
        finite, terms = field.learn(batch, rates)
        bad = ""
        if finite:
            field.step += 1
            k += 1
            if field.step % config.refresh == 0 or k == 1:
                field.distil(keep=0.6)
            since.append({**terms, "drawn": float((batch.colour_weight > 0).sum())})
            if k % EVENT_STEPS == 0 or k == steps:
                event = _event(k, steps, since)
                since = []
                if event.terms["colour"] > RISE * best:
                    bad = "colour"
                best = min(best, event.terms["colour"])
                yield event
        else:
            bad = next((t for t, v in terms.items() if not math.isfinite(v)), "gradient")
        if bad:
            faults += 1
            if faults > 1:
                raise Diverged(
                    f"training blew up twice, at step {k + int(not finite)} in the term {bad!r}",
                    "lower field.learning_rate or field.dense_depth",
                )
            step = field.step
            field.load(good)
            field.step = step + int(not finite)  # another batch than the one that failed
            rate *= 0.5
        elif k % SNAPSHOT_STEPS == 0:
            good = field.state()


def _event(k: int, steps: int, since: list[dict[str, float]]) -> StepDone:
    mean = {name: sum(t[name] for t in since) / len(since) for name in since[0]}
    square = mean.pop("square") / max(mean.pop("drawn"), 1.0)
    loss = mean["colour"] + mean["depth"] + mean["spread"]
    return StepDone(k, steps, loss, -10.0 * math.log10(max(square, 1e-10)), mean)


def _open_levels(field: NerfField, config: FieldConfig, done: float) -> float:
    """Open levels of round 0: those up to `open_first` cells at once, all at `open_until`."""
    res = field.parameters.levels.res
    first = float(sum(r <= config.open_first for r in res))
    return first + (len(res) - first) * min(1.0, done / max(config.open_until, 1e-6))
