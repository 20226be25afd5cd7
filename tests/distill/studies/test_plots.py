"""The maps of norms."""

from distill.studies.plots import heat_map


def test_a_heat_map_runs_from_its_color_to_red() -> None:
    colors = heat_map([0.0, 1.0, 2.0, 4.0], (2, 2), (40, 160, 70), 2.0)
    assert colors.shape == (2, 2, 3)
    assert colors[0, 0].tolist() == [40, 160, 70]
    assert colors[1, 0].tolist() == colors[1, 1].tolist() == [220, 30, 30]
