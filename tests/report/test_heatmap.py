"""Heat maps of data-scaling matrices: one scale, numbers that can be read, cells that failed, a dial, the CSV."""

import io

import numpy as np
import pytest
from PIL import Image

from valex.report import heatmap
from valex.report.figures import draw, draw_panel, plate_rows
from valex.report.heatmap import cell_text, scale_of, text_colour
from valex.studies.base import Matrix, Panel, Plate

LABELS = ("10k", "100k", "1M")


def panel(values, **fields):
    matrix = Matrix(np.asarray(values, float), LABELS[: len(values)], LABELS, "success rate", **fields)
    return Panel(
        "IQL + AWR", "value data (transitions)", "policy data (transitions)", [], note="both\n45°", matrix=matrix
    )


LOW = panel([[0.1, 0.2, 0.3], [0.2, np.nan, 0.4]], n=8, arrow=(45.0, 30.0, 60.0))
HIGH = panel([[0.5, 0.6, 0.7], [0.6, 0.7, 0.9]], arrow=(90.0, np.nan, np.nan))


@pytest.fixture
def axes():
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots()
    yield axes
    plt.close(figure)


def test_a_plate_has_one_scale_over_what_is_known():
    scale = scale_of([LOW, HIGH])
    assert scale == (0.1, 0.9, "success rate", 2)
    assert scale_of([HIGH._replace(matrix=None)]) is None
    empty = scale_of([panel(np.full((2, 3), np.nan))])
    assert empty is not None and (empty.low, empty.high) == (0.0, 1.0)
    equal = scale_of([panel(np.full((2, 3), 4.0))])
    assert equal is not None and equal.low < 4.0 < equal.high
    other = HIGH._replace(matrix=HIGH.matrix._replace(unit="return"))
    with pytest.raises(ValueError, match="one colour scale"):
        scale_of([LOW, other])


@pytest.mark.parametrize("largest, decimals", [(0.9, 2), (1.0, 2), (73.0, 1), (3021.0, 0), (0.003, 4), (0.0, 2)])
def test_three_digits_or_so_in_a_cell(largest, decimals):
    scale = scale_of([panel([[0.0, 0.0, -largest]])])
    assert scale is not None and scale.decimals == decimals


def test_numbers_of_cells():
    assert [cell_text(v, 2) for v in (0.456, -0.456, -0.001, np.nan)] == ["0.46", "−0.46", "0.00", "–"]


def test_text_contrasts_with_every_colour_of_the_map():
    import matplotlib

    def luminance(rgb):
        return np.dot(
            [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb], (0.2126, 0.7152, 0.0722)
        )

    for place in np.linspace(0.0, 1.0, 50):
        tint = matplotlib.colormaps[heatmap.COLOURS](place)
        light = 1.0 if text_colour(tint) == "#ffffff" else 0.0
        bright, dark = sorted((luminance(tint[:3]), light), reverse=True)
        assert (bright + 0.05) / (dark + 0.05) > 4.5  # what WCAG 2.2 asks of text


def test_rows_run_upwards_and_a_failed_cell_is_hatched(axes):
    draw_panel(axes, LOW, 3.4, scale_of([LOW]))
    places = {text.get_position(): text.get_text() for text in axes.texts}
    assert places[0, 0] == "0.10" and places[2, 1] == "0.40" and places[1, 1] == "–"
    assert axes.get_ylim() == (-0.5, 1.5)
    assert [patch.get_xy() for patch in axes.patches if patch.get_hatch()] == [(0.5, 0.5)]
    assert [text.get_text() for text in axes.get_xticklabels()] == list(LABELS)
    assert (axes.get_xlabel(), axes.get_ylabel()) == (LOW.xlabel, LOW.ylabel)


def test_one_colour_means_one_number_in_every_panel(axes):
    scale = scale_of([LOW, HIGH])
    for shown, value in ((LOW, 0.4), (HIGH, 0.6)):
        axes.clear()
        draw_panel(axes, shown, 3.4, scale)
        tints = {text.get_text(): axes.patches[k].get_facecolor() for k, text in enumerate(axes.texts[:6])}
        import matplotlib

        expected = matplotlib.colormaps[heatmap.COLOURS]((value - 0.1) / 0.8)
        np.testing.assert_allclose(tints[f"{value:.2f}"], expected, atol=0.01)


@pytest.mark.parametrize(
    "arrow", [(0.0, -10.0, 10.0), (90.0, 80.0, 100.0), (200.0, 20.0, 390.0), (-45.0, np.nan, np.nan)]
)
def test_the_arrow_points_where_the_angle_says(axes, arrow):
    heatmap.draw_dial(axes, arrow)
    (box,) = axes.artists
    *rest, shape = box.offsetbox.get_children()
    corners = shape.get_xy()
    ahead = corners[np.argmax(np.linalg.norm(corners - heatmap.DIAL_SIDE / 2, axis=1))] - heatmap.DIAL_SIDE / 2
    angle = np.degrees(np.arctan2(ahead[1], ahead[0]))
    assert abs((angle - arrow[0] + 180.0) % 360.0 - 180.0) < 1.0
    assert len(rest) == (2 if np.isfinite(arrow[1]) else 1)  # ring, and the arc of the interval


def test_a_plate_of_six_has_the_width_of_a_page():
    picture = draw("Matrices", Plate([LOW, HIGH] * 3, 3, "note", []))
    image = np.asarray(Image.open(io.BytesIO(picture.png)))
    assert picture.width < 11.2 and image.shape[1] == pytest.approx(160 * picture.width, abs=1)
    assert len(np.unique(image.reshape(-1, 3), axis=0)) > 100


def test_labels_that_do_not_fit_the_values_are_refused():
    wrong = LOW._replace(matrix=LOW.matrix._replace(column_labels=LABELS[:2]))
    with pytest.raises(ValueError, match="2 rows and 2 columns"):
        draw("Matrices", Plate([wrong], 1, "note", []))


def test_every_cell_is_in_the_csv():
    ends = LOW.matrix.values - 0.05, LOW.matrix.values + 0.05
    rows = plate_rows(Plate([LOW._replace(matrix=LOW.matrix._replace(low=ends[0], high=ends[1])), HIGH], 2, "", []))
    assert len(rows) == 12
    assert {"panel", "series", "x", "y", "low", "high", "n", "x_label", "y_label"} == set(rows[0])
    last = rows[5]
    assert (last["series"], last["x"], last["n"]) == ("policy data (transitions): 100k", "1M", 8)
    assert (last["y"], last["low"], last["high"], last["y_label"]) == (0.4, pytest.approx(0.35), 0.45, "success rate")
