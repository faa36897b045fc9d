"""The viewer's core, off-screen: honesty, layers, the endoscope's eye, picking, files, rounds."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from viewer_run import (
    CENTRE,
    LENGTH,
    cavity,
    make_ct,
    make_run,
    radius,
    write_registration,
)

from endorecon import geometry
from endorecon.errors import InputRefused, UsageError
from endorecon.viewer.app import view
from endorecon.viewer.case import open_case
from endorecon.viewer.headless import view_pixels
from endorecon.viewer.keys import ACTIONS, press, text
from endorecon.viewer.session import Session, make_plotter
from endorecon.viewer.surface_layer import COLOURINGS

pytest.importorskip("pyvista")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "made", n=4).path


@pytest.fixture(scope="module")
def loose(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "loose"
    return make_run(folder, n=3, width=80, height=64, registered=False, density=(70, 60)).path


@pytest.fixture(scope="module")
def ct(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_ct(tmp_path_factory.mktemp("ct") / "ct.nrrd", 1.0)


@pytest.fixture
def session(run: Path, ct: Path):
    made = Session(make_plotter((420, 320)), open_case(run), ct)
    made.on_render = lambda: None  # drawn where a test looks: rendering in software takes long
    yield made
    made.plotter.close()


def wall(theta: float, s: float) -> np.ndarray:
    """A point of the analytic cavity in LPS mm: the truth, not the mesh."""
    r = float(radius(np.array(theta), np.array(s)))
    return CENTRE + np.array([r * np.cos(theta), s - LENGTH / 2, r * np.sin(theta)])


def on_screen(session: Session, p: np.ndarray) -> tuple[float, float]:
    session.renderer.SetWorldPoint(*p, 1.0)
    session.renderer.WorldToDisplay()
    x, y, _ = session.renderer.GetDisplayPoint()
    return x, y


def draw(session: Session) -> None:
    session.draw_now()


def words_of(session: Session) -> str:
    """All that is written on the screen and in the table."""
    tools, written = session.hands.tools, []
    actors = session.renderer.GetViewProps()
    for k in range(actors.GetNumberOfItems()):
        actor = actors.GetItemAsObject(k)
        if actor.IsA("vtkTextActor") and actor.GetVisibility():
            written.append(actor.GetInput())
    written.append(str(session.legend.bar.GetTitle()) if session.legend.bar.GetVisibility() else "")
    written += [tools.value_text(t) + tools.along_text(t) for t in tools.taken]
    return "\n".join([*written, tools.csv(), session.message])


def test_importing_every_module_of_the_viewer_loads_neither_torch_nor_cv2() -> None:
    modules = sorted(f.stem for f in Path("viewer").glob("*.py") if f.stem != "__init__")
    qt = [m for m in modules if m not in ("panels", "web_page")]
    code = (
        "import sys, importlib\n"
        f"for m in {qt!r}: importlib.import_module('endorecon.viewer.' + m)\n"
        "for m in ('panels', 'web_page'):\n"
        "    try: importlib.import_module('endorecon.viewer.' + m)\n"
        "    except ImportError as e: print('absent', e.name)\n"
        "bad = {'torch', 'cv2', 'pycolmap', 'open3d'} & set(sys.modules)\n"
        "assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_a_whole_screenshot_loads_neither_torch_nor_cv2(run: Path, tmp_path: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom endorecon.viewer.app import view\n"
        f"view(Path({str(run)!r}), screenshot=Path({str(tmp_path / 'a.png')!r}), size=(200, 150))\n"
        "bad = {'torch', 'cv2', 'pycolmap', 'open3d'} & set(sys.modules)\n"
        "assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
    assert (tmp_path / "a.png").stat().st_size > 2000


def test_a_registered_run_is_shown_in_lps_millimetres_where_the_truth_is(run: Path) -> None:
    case = open_case(run)
    assert case.mm and case.surface is not None
    np.testing.assert_allclose(case.surface.vertices, cavity().vertices, atol=1e-6)
    np.testing.assert_allclose(case.surface.sigma, cavity().sigma, rtol=1e-4)
    assert case.state == "LPS, registered, TRE 1.1 mm"
    assert "NOT FOR CLINICAL USE" in case.title and "2026-11-23" in case.title


@pytest.mark.parametrize("spoil", ["absent", "ambiguous", "damaged", "rigid", "mirrored"])
def test_without_a_sound_registration_no_millimetre_is_written_anywhere(
    loose: Path, tmp_path: Path, ct: Path, spoil: str
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(loose, folder)
    file = folder / "evaluation" / "registration.json"
    if spoil == "ambiguous":
        write_registration(folder, ambiguous=True)
    elif spoil == "rigid":  # a rigid registration gives a unitless run no scale
        write_registration(folder, ct_from_recon=np.eye(4).tolist(), kind="rigid", scale=1.0)
    elif spoil == "damaged":
        file.parent.mkdir()
        file.write_text('{"ct_from_recon": [[1, 0')
    elif spoil == "mirrored":
        write_registration(folder, ct_from_recon=np.diag([-1.0, 1, 1, 1]).tolist())
    session = Session(make_plotter((420, 320)), open_case(folder), ct)
    session.on_render = lambda: None
    assert not session.case.mm
    tools, mesh = session.hands.tools, session.hands.mesh
    assert mesh is not None
    v = mesh.surface.vertices
    seen = np.flatnonzero(mesh.surface.status == 0)
    for kind, n in (("point", 1), ("distance", 2), ("angle", 3), ("area", 3)):
        session.hands.use(kind)  # type: ignore[arg-type]
        for k in range(n):
            session.hands.place(mesh.nearest(v[seen[300 * k + 50]]))
        if kind == "area":
            session.hands.close_outline()
    for colouring in ("sigma", "depth", "ct"):
        session.colour(colouring)
        draw(session)
        found = " ".join(words_of(session).split())
        allowed = found.replace("no millimetres", "")
        assert "mm" not in allowed and "millimet" not in allowed.lower(), found
    assert {r["unit"] for r in tools.rows()} == {"unitless", "deg"}
    assert {r["space"] for r in tools.rows()} == {"reconstruction"}
    letters = [session.overlay._texts[n][0].GetInput() for n in ("left", "right", "top", "bottom")]
    assert letters == [""] * 4  # no anatomical letters either
    session.show("CT slices", True)
    assert session.bad and not session.layers.all["CT slices"].visible
    assert session.slice_picture("axial") is None
    saved = session.hands.save(tmp_path / "m.mrk.json")
    assert saved is not None
    units = {m["coordinateUnits"] for m in json.loads(saved.read_text())["markups"]}
    assert units == {"unitless"}
    session.plotter.close()


def test_the_frames_camera_sees_the_spots_where_the_video_shows_them(session: Session) -> None:
    """The rendering through frame k agrees with the ray-cast video, pixel by pixel."""
    session.scope.step(0)
    session.scope.fly()
    cameras = session.case.cameras
    assert cameras is not None
    pose, K = cameras.world_from_camera[session.scope.k], cameras.K
    draw(session)
    W, H = session.renderer.GetSize()
    s = min(W / cameras.width, H / cameras.height)
    for theta in (0.0, np.pi / 2):
        p = wall(theta, 16.0)
        (u, v), z = geometry.project(p, pose, K)
        assert z > 0 and 0 < u < cameras.width and 0 < v < cameras.height
        x, y = on_screen(session, p)
        expected = W / 2 + s * (u - cameras.width / 2), H / 2 - s * (v - cameras.height / 2)
        np.testing.assert_allclose((x, y), expected, atol=1e-6)
    video = session.scope.image()
    assert video is not None
    image = view_pixels(session).astype(int)
    for name, channel, others in (("green", 1, (0, 2)), ("blue", 2, (0, 1))):

        def mass(a: np.ndarray, c: int = channel, o: tuple[int, int] = others) -> np.ndarray:
            found = np.argwhere((a[..., c] > 60) & (a[..., c] > 1.6 * a[..., o[0]])
                                & (a[..., c] > 1.6 * a[..., o[1]]))  # fmt: skip
            return np.median(found + 0.5, 0)

        left, top = (W - s * cameras.width) / 2, (H - s * cameras.height) / 2
        inside = image[round(top) : round(H - top), round(left) : round(W - left)]
        drawn = mass(inside) / s
        assert np.abs(drawn - mass(video.astype(int))).max() < 2.0, name


def test_a_click_on_the_screen_finds_the_analytic_wall(session: Session) -> None:
    session.scope.step(0)
    session.scope.fly()
    session.hands.use("distance")
    a, b = wall(0.0, 16.0), wall(np.pi / 2, 16.0)
    for p in (a, b):
        session.hands.click(*on_screen(session, p))
    (taken,) = session.hands.tools.taken
    assert abs(taken.value - float(np.linalg.norm(a - b))) < 0.02
    sigma = np.hypot(np.hypot(*[s.sigma for s in taken.spots]), 1e-3 * taken.value)
    assert taken.half == pytest.approx(1.959964 * sigma)  # of the ends and of the scale
    assert np.abs(taken.points - np.stack([a, b])).max() < 0.03
    assert taken.along > taken.value
    assert "mm" in session.message and "TRE 1.1 mm" in session.message


def test_a_click_in_the_video_frame_is_the_same_place_in_space(session: Session) -> None:
    cameras = session.case.cameras
    assert cameras is not None
    session.scope.to_frame(18)
    p = wall(0.0, 16.0)
    (u, v), _ = geometry.project(p, cameras.world_from_camera[session.scope.k], cameras.K)
    session.hands.click_frame(u, v)
    (taken,) = session.hands.tools.taken
    assert np.abs(taken.points[0] - p).max() < 0.03
    assert taken.frame == 18 and taken.kind == "point"


def test_clipped_and_hidden_walls_are_not_picked(session: Session) -> None:
    session.reset_view("L")  # from the patient's left, towards -x
    x, y = on_screen(session, CENTRE + np.array([0, -5, 0]))
    near = session.hands.pick(x, y)
    assert near is not None and near.xyz[0] > CENTRE[0]
    session.set_clip("x", 0.5)  # the kept half is +x: what lies behind is gone
    assert session.hands.pick(x, y) == near
    session.set_clip("off")
    session.look_inside(True)  # the near wall shows its outside: hidden
    far = session.hands.pick(x, y)
    assert far is not None and far.xyz[0] < CENTRE[0]


def test_a_wall_behind_a_ct_slice_is_not_measured(session: Session) -> None:
    session.reset_view("L")
    session.set_cursor(CENTRE + np.array([16.0, 0, 0]))
    session.show("CT slices", True)
    session.hands.use("point")
    session.hands.click(*on_screen(session, wall(0.0, 12.0)))
    assert session.bad and "CT slice hides" in session.message
    session.show("CT slices", False)
    session.hands.click(*on_screen(session, wall(0.0, 12.0)))
    assert len(session.hands.tools.taken) == 1


def test_measuring_guessed_surface_is_refused_in_a_sentence(session: Session) -> None:
    mesh = session.hands.mesh
    assert mesh is not None
    session.hands.use("distance")
    session.hands.place(mesh.nearest(wall(0.0, 10.0)))
    session.hands.place(mesh.nearest(wall(0.0, 38.0)))
    assert session.bad and "no frame has seen" in session.message
    assert not session.hands.tools.taken
    assert len(session.hands.tools.pending) == 0


def test_every_colouring_differs_and_guessed_surface_is_hatched(session: Session) -> None:
    session.reset_view("L")
    pictures = {}
    for colouring in COLOURINGS:
        session.colour(colouring)
        assert session.colouring == colouring, session.message
        pictures[colouring] = view_pixels(session).astype(int)
    names = list(pictures)
    for i, a in enumerate(names):
        for b in names[:i]:
            assert np.abs(pictures[a] - pictures[b]).mean() > 0.5, (a, b)
    x, y = on_screen(session, wall(0.3, 37.0))
    h = pictures["photo"].shape[0]
    for name, picture in pictures.items():
        strip = picture[h - int(y), int(x) - 20 : int(x) + 20].sum(-1)
        assert np.ptp(strip) > 100, f"no hatching in {name}"


def test_the_patients_left_is_where_the_letter_says(session: Session) -> None:
    session.reset_view("A")  # the viewer faces the patient: his left is on our right
    draw(session)
    written = {n: session.overlay._texts[n][0].GetInput() for n in ("left", "right", "top")}
    assert written == {"left": "R", "right": "L", "top": "S"}
    x_left, _ = on_screen(session, CENTRE + np.array([5, 0, 0]))
    x_right, _ = on_screen(session, CENTRE - [5, 0, 0])
    assert x_left > x_right


def test_the_scale_bar_is_true_at_the_focus(session: Session) -> None:
    session.reset_view("A")
    draw(session)
    length, pixels = session.overlay.scale
    focus = np.array(session.camera.GetFocalPoint())
    (x0, _), (x1, _) = (
        on_screen(session, focus),
        on_screen(session, focus + np.array([length, 0, 0])),
    )
    assert abs(abs(x1 - x0) - pixels) < 0.01 * pixels


def test_slices_go_through_the_cursor_and_right_is_on_the_left(session: Session) -> None:
    from endorecon.viewer.slices import PLANES, point_in, sample

    session.set_cursor(wall(0.0, 16.0))
    image = session.slice_picture("axial", 200)
    assert image is not None and image.shape == (200, 200, 3)
    assert session.ct is not None and session.ct.volume is not None
    hu, first, last = sample(session.ct.volume, PLANES["axial"], float(CENTRE[2]), 1.0)
    assert first[0] < last[0] and first[1] < last[1]  # right of the patient left, anterior on top
    assert hu[len(hu) // 2, hu.shape[1] // 2] < -900  # air in the middle
    p = point_in(session.ct.volume, "axial", CENTRE, 100.5, 100.5, 200)
    assert np.abs(p - CENTRE)[:2].max() < 1.0
    session.cursor_from_slice("coronal", 60.0, 90.0, 200)
    q = session.cursor.copy()
    assert q[1] == pytest.approx(wall(0.0, 16.0)[1])  # the coronal's own depth stays


def test_the_distance_to_ct_is_that_of_the_made_ct(session: Session) -> None:
    session.colour("ct")
    assert session._ct_distance is not None
    status = cavity().status
    inner = (status == 0) & (cavity().vertices[:, 1] > CENTRE[1] - LENGTH / 2 + 2)
    assert np.median(session._ct_distance[inner]) < 0.25  # a quarter of its voxels


def test_measurements_saved_and_loaded_are_the_same(session: Session, tmp_path: Path) -> None:
    mesh = session.hands.mesh
    assert mesh is not None
    for kind, n in (("point", 1), ("note", 1), ("distance", 2), ("angle", 3), ("area", 4)):
        session.hands.use(kind)  # type: ignore[arg-type]
        for k in range(n):
            session.hands.place(mesh.nearest(wall(0.5 * k - 1.0, 6.0 + 4 * (k % 2))), text="ostium")
        if kind == "area":
            session.hands.close_outline()
    before = sorted(session.hands.tools.taken, key=lambda t: t.name)
    assert [t.kind for t in before] == ["angle", "distance", "note", "area", "point"]
    file = session.hands.save(tmp_path / "m.mrk.json")
    assert file is not None
    while session.hands.tools.taken:
        session.hands.undo()
    session.hands.load(file)
    after = sorted(session.hands.tools.taken, key=lambda t: t.name)
    assert [(t.name, t.kind) for t in after] == [(t.name, t.kind) for t in before]
    for a, b in zip(before, after, strict=True):
        np.testing.assert_allclose(b.points, a.points, atol=1e-9)
        np.testing.assert_allclose([b.value, b.along], [a.value, a.along], atol=1e-6)
    from endorecon.io.slicer import read_landmarks

    marks = read_landmarks(file)  # others read the file too, in LPS mm
    np.testing.assert_allclose(marks["P1"], before[-1].points[0])


def test_points_of_an_unregistered_run_find_their_place_once_it_is_registered(
    loose: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(loose, folder)
    first = Session(make_plotter((200, 160)), open_case(folder))
    assert first.hands.mesh is not None
    first.hands.use("point")
    first.hands.place(first.hands.mesh.spot(first.hands.mesh.surface.vertices[200], 0))
    file = first.hands.save(tmp_path / "m.mrk.json")
    first.plotter.close()
    write_registration(folder)
    second = Session(make_plotter((200, 160)), open_case(folder))
    second.hands.load(file)
    np.testing.assert_allclose(
        second.hands.tools.taken[0].points[0], cavity(70, 60).vertices[200], atol=1e-6
    )
    # and the other way round: millimetres are of no use to a run without a registration
    lps = second.hands.save(tmp_path / "lps.mrk.json")
    second.plotter.close()
    third = Session(make_plotter((200, 160)), open_case(loose))
    third.hands.load(lps)
    assert third.bad and "not registered" in third.message and not third.hands.tools.taken
    third.plotter.close()


def test_the_table_is_csv_with_unit_state_and_date_in_every_row(session: Session) -> None:
    import csv

    mesh = session.hands.mesh
    assert mesh is not None
    session.hands.use("note")
    session.hands.place(mesh.nearest(wall(0.0, 8.0)), text="=HYPERLINK(1)")
    session.hands.use("distance")
    session.hands.place(mesh.nearest(wall(0.0, 8.0)))
    session.hands.place(mesh.nearest(wall(1.0, 8.0)))
    rows = list(csv.DictReader(session.hands.tools.csv().splitlines()))
    assert [r["kind"] for r in rows] == ["note", "distance"]
    assert rows[0]["note"].startswith("'=")  # no formula for the spreadsheet
    assert float(rows[1]["low"]) < float(rows[1]["value"]) < float(rows[1]["high"])
    for row in rows:
        assert (row["unit"], row["space"], row["tre"]) == ("mm", "LPS", "1.1000")
        assert (row["run_date"], row["use"]) == ("2026-11-23", "not for clinical use")


def test_undo_takes_back_one_step_at_a_time(session: Session) -> None:
    mesh = session.hands.mesh
    assert mesh is not None
    session.hands.use("distance")
    for theta in (0.0, 1.0, 2.0):
        session.hands.place(mesh.nearest(wall(theta, 8.0)))
    tools = session.hands.tools
    assert (len(tools.taken), len(tools.pending)) == (1, 1)
    session.hands.undo()
    assert (len(tools.taken), len(tools.pending)) == (1, 0)
    session.hands.undo()
    assert (len(tools.taken), len(tools.pending)) == (0, 1)
    session.hands.undo()
    assert (len(tools.taken), len(tools.pending)) == (0, 0)


def test_every_key_does_something_and_the_help_names_it(session: Session) -> None:
    shown = text()
    for keys, what, _ in ACTIONS:
        assert what in shown
        if keys[0] not in ("q", "s", "x"):  # those write files: tested elsewhere
            assert press(session, keys[0]), keys
    assert not press(session, "f13")


def test_rounds_are_played_and_measurements_wait_for_the_surface(session: Session) -> None:
    mesh = session.hands.mesh
    assert mesh is not None
    session.hands.use("distance")
    session.hands.place(mesh.nearest(wall(0.0, 8.0)))
    session.hands.place(mesh.nearest(wall(1.0, 8.0)))
    before = session.hands.tools.taken
    sources = []
    for _ in range(4):
        session.rounds.step(1)
        sources.append(session.case.source)
        if session.case.source != "surface":
            session.hands.use("distance")
            assert session.bad and session.hands.tools.kind is None
    assert sources == ["round 0", "round 1", "round 2", "surface"]
    assert session.hands.tools.taken == before


def test_following_shows_the_surface_growing_and_the_curve(run: Path, tmp_path: Path) -> None:
    from endorecon.viewer.rounds import changes, curve

    folder = tmp_path / "grows"
    shutil.copytree(run, folder)
    events = (folder / "events.jsonl").read_text().splitlines(True)
    (folder / "events.jsonl").unlink()
    (folder / "surface.ply").unlink()
    shutil.move(folder / "rounds", tmp_path / "later")
    with pytest.raises(InputRefused, match="no surface yet"):
        open_case(folder)
    session = Session(make_plotter((300, 200)), open_case(folder, waiting=True))
    session.on_render = lambda: None
    session.rounds.following = True
    assert session.case.surface is None and "Waiting" in session.message
    draw(session)
    for k in range(3):
        (folder / "rounds").mkdir(exist_ok=True)
        shutil.move(tmp_path / "later" / f"{k:02d}", folder / "rounds" / f"{k:02d}")
        with open(folder / "events.jsonl", "a") as file:
            file.write(events[k])
            file.write('{"event": "Rou')  # a line cut in the writing
        session.rounds._next = 0.0
        session.rounds.tick()
        assert session.case.source == f"round {k}"
        with open(folder / "events.jsonl", "a") as file:
            file.write("\n")
    assert changes(session.case.run) == [(1, 0.04), (2, pytest.approx(0.04 / 3))]
    assert curve(session.case.run).shape == (240, 420, 3)
    shutil.copy(run / "surface.ply", folder / "surface.ply")
    session.rounds._next = 0.0
    session.rounds.tick()
    assert session.case.source == "surface"
    session.plotter.close()


def test_two_rounds_or_runs_stand_side_by_side(session: Session, loose: Path) -> None:
    session.toggle_compare()
    assert session.compared is not None and session.compared.source == "round 0"
    assert session.other.GetActiveCamera() is session.camera  # one run: one eye
    image = view_pixels(session).astype(int)
    background = image[5, 5]
    half = image.shape[1] // 2
    for side in (image[80:-80, :half], image[80:-80, half:]):
        assert (np.abs(side - background).sum(-1) > 60).mean() > 0.05
    session.compare(open_case(loose))
    assert session.other.GetActiveCamera() is not session.camera  # no shared space
    session.toggle_compare()
    assert session.compared is None


def test_damaged_and_half_written_runs_open_with_a_sentence(run: Path, tmp_path: Path) -> None:
    def spoiled(name: str) -> Path:
        folder = tmp_path / name
        shutil.copytree(run, folder)
        return folder

    with pytest.raises(InputRefused, match="not a run folder"):
        open_case(tmp_path / "absent")
    folder = spoiled("json")
    (folder / "run.json").write_text('{"status": "conv')
    with pytest.raises(InputRefused, match="damaged"):
        open_case(folder)
    folder = spoiled("cut")
    data = (folder / "surface.ply").read_bytes()
    (folder / "surface.ply").write_bytes(data[: len(data) // 2])
    case = open_case(folder)  # the last round is shown instead, and it is said
    assert case.source == "round 2" and "cut short" in case.notes[0]
    folder = spoiled("poses")
    (folder / "transforms.json").write_text("{}")
    case = open_case(folder)
    assert case.cameras is None and case.surface is not None and case.notes
    session = Session(make_plotter((200, 150)), case)
    session.on_render = lambda: None
    for key in ("f", "n", "b", "h", "6"):  # nothing of the endoscope falls over
        press(session, key)
    session.plotter.close()
    folder = spoiled("frames")
    shutil.rmtree(folder / "frames")
    session = Session(make_plotter((200, 150)), open_case(folder))
    press(session, "b")
    assert session.scope.image() is None
    session.plotter.close()


def test_no_display_gives_a_picture_and_says_so(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    said: list[str] = []
    view(folder, size=(240, 180), say=said.append)
    assert any("no display" in s for s in said)
    assert (folder / "viewer" / "view.png").is_file()
    with pytest.raises(UsageError, match="colouring"):
        view(folder, colour="pink", screenshot=tmp_path / "b.png")


def test_the_turntable_is_a_video_that_turns_once(session: Session, tmp_path: Path) -> None:
    import av

    from endorecon.viewer.headless import write_turntable

    start = np.array(session.camera.GetPosition())
    write_turntable(session, tmp_path / "t.mp4", frames=12)
    np.testing.assert_allclose(session.camera.GetPosition(), start, atol=1e-6)
    with av.open(str(tmp_path / "t.mp4")) as file:
        pictures = [f.to_ndarray(format="rgb24").astype(int) for f in file.decode(video=0)]
    assert len(pictures) == 12 and pictures[0].shape == (320, 420, 3)
    assert np.abs(pictures[6] - pictures[0]).mean() > 3
    assert not list(tmp_path.glob(".*"))


def test_a_slow_scene_is_light_while_the_hand_moves_and_full_when_it_rests(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    from endorecon.viewer import motion

    window, surface = session.plotter.render_window, session.surface_layer
    assert surface is not None
    draw(session)
    smooth = window.GetMultiSamples()
    assert session.motion.last_s > 0 and smooth > 0
    monkeypatch.setattr(motion, "SLOW_S", 1e9)  # a fast machine: nothing is given up
    session.motion.start()
    session.motion.stop()
    assert not session.motion.light
    monkeypatch.setattr(motion, "SLOW_S", 0.0)
    monkeypatch.setattr(motion, "LIGHT_FACES", 100)
    monkeypatch.setattr(motion, "REST_S", 0.0)
    session.motion.start()
    session.changed()  # a message while the hand turns leaves it light
    assert session.motion.light and window.GetMultiSamples() == 0
    assert not any(a.GetVisibility() for a in surface.actors)
    assert all(a.GetVisibility() for a in surface.twin().actors)
    session.motion.stop()
    session.tick()
    assert not session.motion.light and window.GetMultiSamples() == smooth
    assert all(a.GetVisibility() for a in surface.actors)
    assert not any(a.GetVisibility() for a in surface.twin().actors)


def test_labels_of_crowded_places_do_not_lie_over_one_another(session: Session) -> None:
    mesh = session.hands.mesh
    assert mesh is not None
    session.hands.use("point")
    for k in range(5):
        session.hands.place(mesh.nearest(wall(0.0, 12.0 + 0.4 * k)))
    session.reset_view("L")
    draw(session)
    boxes = []
    for actor in session.labels.labels():
        bounds, (x, y) = [0.0] * 4, actor.GetPosition()
        actor.GetBoundingBox(session.renderer, bounds)
        boxes.append((x + bounds[0], y + bounds[2], x + bounds[1], y + bounds[3]))
    assert len(boxes) == 5
    W, H = session.renderer.GetSize()
    for k, (left, low, right, high) in enumerate(boxes):
        assert 0 <= left < right <= W and 0 <= low < high <= H
        for a, b, c, d in boxes[:k]:
            assert right <= a or c <= left or high <= b or d <= low


def test_colour_bars_bear_round_numbers() -> None:
    from endorecon.viewer.surface_layer import limits, ticks

    known = ((0.04, 1.79, (0, 2, 5)), (2.2, 48.8, (0, 50, 6)), (9, 103, (0, 120, 7)))
    for low, high, wanted in known:
        found = limits(np.linspace(low, high, 1000))
        assert found == pytest.approx(wanted[:2]) and ticks(*found) == wanted[2]


def test_a_window_that_cannot_open_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    from endorecon.viewer.display import why_no_window

    monkeypatch.delenv("QT_QPA_PLATFORM", raising=False)
    monkeypatch.setenv("DISPLAY", ":9876")
    assert "does not answer" in why_no_window() or "is missing" in why_no_window()
    monkeypatch.delenv("DISPLAY")
    assert "no display" in why_no_window()
