"""Grids: every image in its place, at the style's size."""

import numpy as np
from PIL import Image

from distill.evaluation.grids import GAP, GridRow, GridStyle, labelled_grid, stacked

RED, BLUE = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (40, 40), "blue")


def cell(grid: Image.Image, row: int, column: int, style: GridStyle) -> np.ndarray:
    left = style.names_width + column * (style.cell + GAP)
    top = 22 + row * (style.cell + style.caption_height + GAP)
    return np.asarray(grid.crop((left, top, left + style.cell, top + style.cell)))


def test_images_fit_their_cells_and_empty_ones_stay_white() -> None:
    style = GridStyle(cell=16, names_width=60)
    rows = [GridRow("one", [RED, BLUE], ["a", "b"]), GridRow("two", [None, RED])]
    grid = labelled_grid(["left", "right"], rows, style)
    assert grid.size == (60 + 2 * 22, 22 + 2 * (16 + 18 + GAP))
    assert (cell(grid, 0, 0, style) == (255, 0, 0)).all() and (cell(grid, 0, 1, style) == (0, 0, 255)).all()
    assert (cell(grid, 1, 0, style) == 255).all() and (cell(grid, 1, 1, style) == (255, 0, 0)).all()


def test_a_long_title_stays_in_its_column() -> None:
    style = GridStyle(cell=40)
    grid = np.asarray(labelled_grid(["a title that is much too long", ""], [GridRow("", [None, None])], style))
    assert (grid[:22, style.names_width :] < 255).any()
    assert (grid[:22, style.names_width + style.cell + GAP :] == 255).all()


def test_stacked_images_keep_their_widths() -> None:
    page = stacked([RED, BLUE])
    assert page.size == (40, 48)
    assert page.getpixel((20, 4)) == (255, 255, 255) and page.getpixel((20, 20)) == (0, 0, 255)
