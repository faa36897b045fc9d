"""Training on a made tube: depths right, masks and resume kept, blow-ups caught."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from field_cases import make_case
from tube_world import World, make_world

from endorecon.config import FieldConfig
from endorecon.errors import Diverged, NotEnoughInformation, UsageError
from endorecon.field import open_field, twin
from endorecon.field.batches import DenseTargets, draw_batch, make_training_set
from endorecon.field.fit import fit_field
from endorecon.field.nerf import brightest
from endorecon.field.rendering import render
from endorecon.scene import SparsePoints

SMALL = dataclasses.replace(
    FieldConfig(), rays=512, samples=24, log2_table=14, finest=64, proposal=32, width=64
)


@pytest.fixture(scope="module")
def world() -> World:
    return make_world(frames=12, width=64, height=48, points=600)


def error(field: object, world: World, step: int = 3) -> float:
    """Median relative depth error."""
    misses = []
    for k in range(0, len(world.views), step):
        v = world.views
        out = render(field, v.camera.K, v.world_from_camera[k], 64, 48, frame=k)  # type: ignore
        misses.append(np.abs(out.z - world.z[k]) / world.z[k])
    return float(np.nanmedian(np.stack(misses)))


@pytest.mark.slow
def test_a_tube_is_learnt_from_pixels_and_sparse_points(world: World) -> None:
    field = open_field(SMALL, world.views, 0, "cpu")
    if field.library is None:
        pytest.skip("too slow without the kernel")
    events = list(fit_field(field, world.views, None, SMALL, 250))
    assert [e.step for e in events] == [*range(20, 250, 20), 250]
    assert events[-1].loss < 0.2 * events[0].loss and events[-1].psnr > 20
    assert error(field, world) < 0.03


@pytest.mark.slow
def test_dense_depths_improve_it_and_lies_of_little_trust_do_not_spoil_it(world: World) -> None:
    # Without the ceiling, which by itself makes the start as good as the depths can make it here.
    plain = dataclasses.replace(SMALL, ceiling=0.0)
    field = open_field(plain, world.views, 0, "cpu")
    if field.library is None:
        pytest.skip("too slow without the kernel")
    list(fit_field(field, world.views, None, plain, 120))
    start, state = error(field, world), field.state()
    z = world.z.astype(np.float32)
    lies = np.random.default_rng(1).random(z.shape) < 0.2
    z = np.where(lies, 0.5 * z, z)
    weight = np.where(lies, 0.02, 1.0).astype(np.float32)
    targets = DenseTargets(z, weight, 0.01 * z)
    list(fit_field(field, world.views, targets, plain, 120))
    with_depths = error(field, world)
    field.load(state)
    list(fit_field(field, world.views, None, plain, 120))
    assert with_depths < 0.7 * start and with_depths < 0.8 * error(field, world)


def test_a_resumed_fit_gives_the_same_bits(world: World) -> None:
    one = open_field(SMALL, world.views, 3, "cpu")
    list(fit_field(one, world.views, None, SMALL, 25))
    two = open_field(SMALL, world.views, 99, "cpu")
    two.load(one.state())
    for field in (one, two):
        list(fit_field(field, world.views, None, SMALL, 25))
    a, b = one.state(), two.state()
    assert one.step == 50 and all(np.array_equal(a[k], b[k]) for k in a)


def test_masked_pixels_are_never_drawn_and_sparse_rays_have_their_depth(world: World) -> None:
    masks = world.views.masks.copy()
    masks[:, :, :40] = False
    views = dataclasses.replace(world.views, masks=masks)
    field = open_field(SMALL, views, 0, "cpu")
    data = make_training_set(views, None, SMALL)
    batch = draw_batch(field, data, SMALL, 0.5)
    seen = batch.colour_weight.numpy() > 0
    n_sparse = round(SMALL.sparse_share * SMALL.rays)
    assert seen.sum() == SMALL.rays - n_sparse and not seen[-n_sparse:].any()
    pose = views.world_from_camera[batch.frame.numpy()]
    local = np.einsum("rij,ri->rj", pose[:, :3, :3], batch.direction.numpy())
    u = local[:, 0] / local[:, 2] * views.camera.fx + views.camera.cx
    assert u[seen].min() >= 40.4
    # a sparse ray passes its point at the target depth
    z = batch.target.numpy()[-n_sparse:, None]
    x = batch.origin.numpy()[-n_sparse:] + z * batch.direction.numpy()[-n_sparse:]
    x = x * field.edge + field.corner
    gap = np.linalg.norm(x[:, None] - views.points.xyz[None], axis=2).min(1)
    assert np.median(gap) < 0.3


def test_larger_images_are_reduced_with_their_masks(world: World) -> None:
    config = dataclasses.replace(SMALL, width=32)
    masks = world.views.masks.copy()
    masks[0, 10, 10] = False
    data = make_training_set(dataclasses.replace(world.views, masks=masks), None, config)
    assert data.images.shape == (12, 24, 32, 3)
    want = world.views.images[2].reshape(24, 2, 32, 2, 3).mean((1, 3))
    assert np.abs(data.images[2] - want).max() <= 1.0
    assert not data.mask[0, 5, 5]
    assert np.allclose(data.K[0], world.views.camera.K[0] / 2)


def test_training_that_blows_up_twice_is_stopped_and_named(world: World) -> None:
    field = open_field(SMALL, world.views, 0, "cpu")
    z = np.full(world.z.shape, 5.0, np.float32)
    bad = DenseTargets(z, np.ones_like(z), np.full_like(z, np.inf))
    bad.sigma[:] = np.nan
    with pytest.raises(Diverged, match="step 1 in the term"):
        list(fit_field(field, world.views, bad, SMALL, 40))


def test_one_bad_step_is_survived(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    field = open_field(SMALL, world.views, 0, "cpu")
    learn, calls = field.learn, []

    def stumble(batch: object, rates: object) -> tuple[bool, dict[str, float]]:
        calls.append(rates)
        return (False, {"colour": float("nan")}) if len(calls) == 7 else learn(batch, rates)

    monkeypatch.setattr(field, "learn", stumble)
    events = list(fit_field(field, world.views, None, SMALL, 20))
    assert events[-1].step == 20 and len(calls) > 20
    assert np.isfinite(field.state()["table"]).all()


def test_scenes_without_points_and_unknown_fields_are_refused(world: World) -> None:
    none = np.zeros(0, int)
    points = SparsePoints(np.zeros((0, 3)), np.zeros(0), none, none, np.zeros((0, 2)))
    with pytest.raises(NotEnoughInformation, match="sparse points"):
        open_field(SMALL, dataclasses.replace(world.views, points=points), 0, "cpu")
    with pytest.raises(UsageError, match="choose nerf"):
        open_field(dataclasses.replace(SMALL, kind="cloud"), world.views, 0, "cpu")


def test_without_kernels_the_twin_trains(world: World) -> None:
    config = dataclasses.replace(SMALL, rays=128, samples=12)
    field = open_field(config, world.views, 0, "cpu")
    field.library = None
    events = list(fit_field(field, world.views, None, config, 40))
    assert events[-1].loss < events[0].loss


def test_the_ceiling_is_the_brightest_tissue_at_its_distance_from_the_light(world: World) -> None:
    """Half the light is half the radiance; it is that at the field's unit of depth."""
    response = SMALL.response
    views = world.views
    one = brightest(SMALL, views, 10.0)
    assert one is not None
    far = brightest(SMALL, views, 20.0)
    assert far is not None and np.allclose(np.array(one) / np.array(far), 4.0)
    dark = np.clip(views.images * 0.5**response, 0, 255)
    half = brightest(
        SMALL, dataclasses.replace(views, images=np.round(dark).astype(np.uint8)), 10.0
    )
    assert half is not None and np.allclose(np.array(half) / np.array(one), 0.5, rtol=0.05)
    nothing = dataclasses.replace(views, masks=np.zeros_like(views.masks))
    assert brightest(SMALL, nothing, 10.0) is None


def test_no_surface_of_a_field_outshines_its_ceiling() -> None:
    p, b = make_case(64, 16, seed=2)
    p.weights *= 3.0
    p.extras.zero_()
    ceiling = np.array([2.5, 0.8, 5.0])
    p.inverse_ceiling = (1 / 2.5, 1 / 0.8, 1 / 5.0)
    t2 = ((0.5 * (b.edges[:, 1:] + b.edges[:, :-1])) * b.norm[:, None]) ** 2
    most = ceiling / t2.clamp(min=twin.NEAREST_LIGHT2).amin(1, keepdim=True).numpy()
    shown = twin.composite(p, b).shown.numpy()
    assert (shown <= (most + twin.DISPLAY_EPS) ** p.response * (1 + 1e-5)).all()
    p.inverse_ceiling = (0.0, 0.0, 0.0)
    free = twin.composite(p, b).shown.numpy()
    assert (free > (most + twin.DISPLAY_EPS) ** p.response).mean() > 0.02
