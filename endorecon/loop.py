"""The loop: Field -> StereoPair -> Disparity -> DepthMap -> real frames -> Field, until still.

`rounds` is a generator of small frozen events; closing it cancels the run. A round folder is the
checkpoint: it holds the field *before* the depths of the round were fed back, so that resume and an
undisturbed run do the same arithmetic. Round 0 is the coarse field, and its sisters of
other seeds, with sparse SfM depths.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from endorecon import refine
from endorecon.config import Config
from endorecon.errors import InputRefused, NotEnoughInformation
from endorecon.field import open_field
from endorecon.field.batches import training_camera
from endorecon.field.fit import DenseTargets, StepDone, fit_field
from endorecon.io.rundir import RunDir
from endorecon.refine import Maps
from endorecon.refine.score import photo_score
from endorecon.scene import Camera, DepthMap, Views
from endorecon.stereo import open_matcher
from endorecon.stereo.round import agrees_with_field, measure_views, read_field

NO_GAIN = 0.002  # of held-out NCC: what lies nearer together is one score
JUDGED_VIEWS = 12  # so many views, spread over the video, tell whether a round is better

Array = NDArray[Any]
Status = Literal["converged", "stopped", "diverged"]


@dataclass(frozen=True)
class RoundStarted:
    """Round `round` begins; the field is trained for `steps` steps first."""

    round: int
    steps: int


@dataclass(frozen=True)
class ViewsMeasured:
    """So many views of a round are read in stereo, or refined."""

    round: int
    what: str
    done: int
    total: int


@dataclass(frozen=True)
class RoundFinished:
    """change: median relative change of depth since the last round (None in round 0)."""

    round: int
    change: float | None
    held_out_ncc: float  # in real frames that the view was not matched with
    trusted: float  # share of the content area with trust >= 0.5
    seconds: float


@dataclass(frozen=True)
class Warned:
    """A degradation the reader of the report must know."""

    sentence: str


@dataclass(frozen=True)
class RoundsFinished:
    """Why it ended, and which round is the result."""

    status: Status
    best: int
    why: str


Event = RoundStarted | StepDone | ViewsMeasured | RoundFinished | Warned | RoundsFinished


def rounds(views: Views, config: Config, run: RunDir, seed: int, device: str) -> Iterator[Event]:
    """Run rounds until the depth maps stop moving; each is saved in `run` as it ends."""
    config = replace(config, refine=replace(config.refine, machine=device))
    bench = Bench(views, config)
    field = open_field(config.field, views, seed, device)
    history = yield from _resume(run, field)
    depths = untaught = None  # of the last round, and of round 0
    if history:
        untaught = bench.maps(run.round_depths(0))
        bench.choose_neighbours(untaught)
        last = run.round_depths(history[-1]["round"])
        depths = bench.maps(last)
        bench.move(np.stack([d.world_from_camera for d in last]))
    while (verdict := judge(history, config)) is None:
        k = len(history)
        begun = time.monotonic()
        steps = config.field.steps_first if k == 0 else config.field.steps_round
        if k == 1:
            steps = 0  # the first pair is read in the field as round 0 left it
        yield RoundStarted(k, steps)
        targets = None if depths is None or k == 1 else bench.targets(depths)
        if k == 0:
            fresh, agreement = (yield from bench.coarse(field, steps)), 1.0
            if not np.isfinite(fresh.z).any():
                raise NotEnoughInformation(
                    "After the first training the field shows no surface in any view",
                    "film nearer and slower, or train longer (field.steps_first)",
                )
            untaught = fresh
            bench.choose_neighbours(untaught)
        else:
            assert untaught is not None
            if steps:
                yield from fit_field(field, bench.views, targets, config.field, steps)
            fresh, agreement = yield from bench.measure(field, k, depths, untaught)
        # Of the measurement itself: a mean with what it is compared with would always look stiller.
        change = None if depths is None else median_change(depths.z, fresh.z)
        if k > 1:
            assert depths is not None
            fresh = refine.pooled(depths, fresh)
        score = bench.held_out(fresh)
        trusted = float((fresh.trust >= 0.5)[bench.content].mean())
        metrics = {
            "round": k,
            "change": change,
            "held_out_ncc": score,
            "trusted": trusted,
            "stereo_agreement": agreement,
            "kernels": field.kernels,
        }
        if k == 1 and bench.settled is not None:
            s = bench.settled
            told = {"before_px": s.before, "after_px": s.after}  # NaN: no link could tell
            found = {k: v if np.isfinite(v) else None for k, v in told.items()}
            metrics["settled"] = {**found, "taken": s.credible}
        history.append(metrics)
        run.save_round(k, field.state(), bench.depth_maps(fresh), metrics)
        if k > 1:
            run.forget_field(k - 2)
        depths = fresh
        yield RoundFinished(k, change, score, trusted, time.monotonic() - begun)
    yield verdict


def judge(history: list[dict[str, Any]], config: Config) -> RoundsFinished | None:
    """Go on (None), or why to stop and which round is best. A pure function of the metrics."""
    if not history:
        return None
    last = history[-1]
    k = int(last["round"])
    scores = [float(m["held_out_ncc"]) for m in history]
    best = int(np.argmax(scores))
    if config.stereo.enabled and k > 0 and last["stereo_agreement"] < config.loop.min_agreement:
        share = 100 * last["stereo_agreement"]
        why = f"the stereo matcher agrees with the field on {share:.0f} % of the pixels only"
        return RoundsFinished("diverged", int(np.argmax(scores[:-1])), why)
    if k == 0:
        return None if config.loop.max_rounds > 0 else RoundsFinished("stopped", 0, "round limit")
    change = float(last["change"])
    previous = history[-2]["change"]
    grew = previous is not None and change > max(2 * previous, config.loop.diverging)
    if grew or scores[-1] < max(scores) - config.loop.score_drop:
        why = f"round {k} moved the depths by {100 * change:.1f} % and fits held-out frames worse"
        return RoundsFinished("diverged", best, why)
    if k >= 2 and change < config.loop.tolerance:
        why = f"the depths moved by {100 * change:.2f} % only"
        # Round 0 holds the field alone, confirmed by no real frame: it is never the result here.
        if best == 0 or scores[best] < scores[k] + NO_GAIN:
            return RoundsFinished("converged", k, why)
        why += f"; round {best} fits held-out frames best and is kept"
        return RoundsFinished("converged", best, why)
    if k >= 3 and scores[-1] < max(scores[:-1]) - NO_GAIN:
        return RoundsFinished("stopped", best, "held-out real frames show no further gain")
    if k >= config.loop.max_rounds:
        return RoundsFinished("stopped", k, f"the limit of {k} rounds is reached")
    return None


def median_change(before: Array, after: Array) -> float:
    """Median of |after / before - 1| over pixels known in both; 1 when there are none."""
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = np.abs(after / before - 1)
    ratio = ratio[np.isfinite(ratio)]
    return float(np.median(ratio)) if ratio.size else 1.0


def _resume(run: RunDir, field: Any) -> Generator[Event, None, list[dict[str, Any]]]:
    """Metrics of the finished rounds; the field goes on from the last. Damaged rounds fall."""
    history: list[dict[str, Any]] = []
    for k in run.rounds():
        if k != len(history):
            run.forget_round(k)
            break
        try:
            run.check_round(k)
        except InputRefused as error:
            run.forget_round(k)
            yield Warned(f"{error.what}; it is computed again")
            break
        history.append(run.load_round_metrics(k))
    while history:
        k = len(history) - 1
        try:
            state, _, _ = run.load_round(k)
            field.load(state)
            break
        except InputRefused:
            run.forget_round(k)
            history.pop()
    return history


class Bench:
    """What all rounds share: photos at each level, neighbours, cameras, held-out frames."""

    def __init__(self, views: Views, config: Config) -> None:
        self.views, self.config = views, config
        self.passes = refine.Passes(views, config.refine)
        self.photos = self.passes.photos
        self.judging = refine.prepare(views, max(160, self.photos.camera.width // 2))
        self.camera: Camera = self.photos.camera
        train = training_camera(views.camera, config.field.width)
        self.train = train
        self.eye = train.scaled(min(config.stereo.supersample, views.camera.width / train.width))
        self.content = np.broadcast_to(self.photos.content, self.photos.weight.shape)
        self.judged = np.unique(np.linspace(0, len(views) - 1, JUDGED_VIEWS).astype(int)).tolist()
        self.neighbours: list[list[int]] = []
        self.judges: dict[int, list[int]] = {}
        self.settled: refine.Settled | None = None

    def choose_neighbours(self, maps: Maps) -> None:
        """Which frames each is compared with from now on, at the rough depths of round 0.

        Two of the best ranked frames of each judged view are kept out of its matching.
        """
        count = self.config.refine.neighbours
        ranked = refine.choose_neighbours(
            maps.z, self.camera, self.views.world_from_camera, count + 2
        )
        self.judges = {i: ranked[i][2:6:3] for i in self.judged if len(ranked[i]) > 4}
        self.neighbours = [
            [j for j in r if j not in self.judges.get(i, [])][:count] for i, r in enumerate(ranked)
        ]

    def coarse(self, field: Any, steps: int) -> Generator[Event, None, Maps]:
        """Round 0: `field` and its sisters are trained; what they say of every depth together.

        A sister is the same field from another seed. What one training has by chance, a patch of
        fog or a wall drawn near, its sister has not: their mean is better than any of them, and
        what they dispute is not sure. Only `field` goes on.
        """
        c, fields = self.config.field, [field]
        for k in range(1, c.sisters):
            fields.append(open_field(c, self.views, field.seed + (k << 20), field.device))
        for k, one in enumerate(fields):
            for done in fit_field(one, self.views, None, c, steps):
                yield replace(done, step=done.step + k * steps, steps=len(fields) * steps)
        # View by view: the maps of all fields at once are gigabytes, the fields are not.
        readers = [read_field(one, self.views, self.eye) for one in fields]
        out = []
        for told in zip(*readers, strict=True):
            out.append(refine.field_map(*refine.together(told)))
            yield ViewsMeasured(0, "field", len(out), len(self.views))
        return self.stacked(out)

    def measure(
        self, field: Any, round_: int, before: Maps | None, untaught: Maps
    ) -> Generator[Event, None, tuple[Maps, float]]:
        """A later round: virtual pairs, then real frames. Returns maps and stereo agreement.

        `before`, the maps of the last round, take part in the prior where they are surer than the
        field; the real frames then measure anew. `untaught`, the maps of round 0, judge how sure.
        """
        config, prior, agreement = self.config, [], []
        # Before it is taught, the field and its sisters know more than the field alone.
        first = untaught.resized(self.eye.width, self.eye.height) if round_ == 1 else None
        if config.stereo.enabled:
            matcher = open_matcher(config.stereo)
            measured = measure_views(
                field, self.views, self.neighbours, self.eye, matcher, config.stereo, round_
            )
            for i, (depth, z, spread) in enumerate(measured):
                agreement.append(agrees_with_field(depth, z, 0.2))
                own = refine.field_map(z, spread) if first is None else first.of(i)
                prior.append(refine.merged(depth, own))
                yield ViewsMeasured(round_, "stereo", i + 1, len(self.views))
        elif first is not None:
            prior = [first.of(i) for i in range(len(self.views))]
        else:
            for i, (z, spread) in enumerate(read_field(field, self.views, self.eye)):
                prior.append(refine.field_map(z, spread))
                yield ViewsMeasured(round_, "field", i + 1, len(self.views))
        maps = self.stacked(prior)
        share = float(np.mean(agreement)) if agreement else 1.0
        if not config.refine.enabled:
            return maps, share
        if round_ > 1 and before is not None:
            maps = refine.surer(maps, before)
        yield ViewsMeasured(round_, "real frames", 0, len(self.views))
        out, _ = self.refined(round_, maps, untaught)
        yield ViewsMeasured(round_, "real frames", len(self.views), len(self.views))
        return out, share

    def refined(self, round_: int, prior: Maps, untaught: Maps) -> tuple[Maps, refine.Evidence]:
        """What the real frames make of the prior of a round, and the evidence for its sigma."""
        c = self.config.refine
        if round_ <= 1 and c.wide_band > 0:
            prior = refine.corrected(self.passes.wide(), self.neighbours, prior, c)
        settling = round_ == 1 and c.settle
        if settling:
            first = self.passes.of_round(round_)[:1]
            prior, _ = refine.refine_depths(first, self.neighbours, prior, c, untaught)
            self._settle(prior)
        passes = self.passes.of_round(round_)[1 if settling else 0 :]
        return refine.refine_depths(passes, self.neighbours, prior, c, untaught, seen=settling)

    def _settle(self, maps: Maps) -> None:
        """Poses adjusted to all pictures, unless the links that took no part speak against it."""
        maps = maps.resized(self.camera.width, self.camera.height)
        links = refine.choose_sources(self.neighbours, self.config.refine.settle_links)
        found = refine.settle(self.photos, links, maps, self.config.refine)
        self.settled = found
        if found.credible:
            self.move(found.world_from_camera)

    def move(self, world_from_camera: Array) -> None:
        """Go on with other poses (n, 4, 4)."""
        self.views = self.views.with_poses(world_from_camera)
        self.passes.move(self.views)
        self.photos = self.passes.photos
        self.judging = replace(self.judging, world_from_camera=self.views.world_from_camera)

    def stacked(self, parts: list[tuple[Array, Array, Array]]) -> Maps:
        z, sigma, trust = (np.stack(a).astype(np.float32) for a in zip(*parts, strict=True))
        maps = Maps(z, sigma, trust).resized(self.camera.width, self.camera.height)
        z = np.where(self.content, maps.z, np.nan).astype(np.float32)
        return Maps(z, maps.sigma, maps.trust)

    def targets(self, maps: Maps) -> DenseTargets:
        """Depths of a round at the training size, for the field."""
        small = maps.resized(self.train.width, self.train.height)
        z = np.where(small.trust > 0, small.z, np.nan).astype(np.float32)
        return DenseTargets(z, small.trust, np.nan_to_num(small.sigma, nan=1.0))

    def held_out(self, maps: Maps) -> float:
        """Mean NCC of the judged views against two real frames that each was not matched with.

        Held out of the matching of that view only: the field has seen every frame, and the map of a
        judging frame may take part in the fusion.
        """
        photos = self.judging
        small = maps.resized(photos.camera.width, photos.camera.height)
        pairs = [(i, j) for i, judges in self.judges.items() for j in judges]
        return photo_score(photos, pairs, small.z, self.config.refine)

    def depth_maps(self, maps: Maps) -> list[DepthMap]:
        """The maps as nouns."""
        return [
            DepthMap(
                maps.z[i], maps.sigma[i], maps.trust[i], self.camera.K,
                self.views.world_from_camera[i], int(self.views.frame_index[i]),
            )
            for i in range(len(self.views))
        ]  # fmt: skip

    def maps(self, depths: list[DepthMap]) -> Maps:
        """The nouns as maps."""
        parts = [(d.z, d.sigma, d.trust) for d in depths]
        return Maps(*(np.stack(a) for a in zip(*parts, strict=True)))
