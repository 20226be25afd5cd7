"""Living rooms with a sofa: the drawn counterpart of the paper's sofa network."""

import itertools
import random
from collections.abc import Mapping

from synth.world.canvas import Box, Canvas, Color, mix, shade

COLORS: dict[str, Color] = {
    "red": (198, 40, 44),
    "blue": (48, 92, 178),
    "green": (66, 136, 78),
    "yellow": (240, 198, 58),
    "purple": (116, 62, 160),
    "orange": (232, 120, 36),
    "grey": (142, 146, 152),
    "black": (44, 44, 50),
    "brown": (120, 76, 46),
    "white": (240, 238, 232),
    "pink": (234, 138, 172),
}
MATERIALS = ("fabric", "leather", "velvet", "striped")
WALLS: dict[str, Color] = {
    "white": (238, 234, 226),
    "grey": (194, 196, 202),
    "beige": (228, 208, 176),
    "green": (174, 202, 172),
    "blue": (166, 194, 218),
    "pink": (236, 200, 196),
}
FLOORS: dict[str, Color] = {"wooden": (190, 138, 92), "tiled": (216, 212, 206), "carpeted": (136, 148, 160)}
RUGS: dict[str, Color] = {
    "red": (190, 84, 78),
    "blue": (98, 132, 182),
    "green": (128, 164, 122),
    "yellow": (226, 196, 112),
}
WOOD: Color = (112, 76, 52)
SKY: Color = (150, 200, 236)
NIGHT: Color = (48, 60, 104)

FACTORS: dict[str, tuple[str, ...]] = {
    "color": tuple(COLORS),
    "material": MATERIALS,
    "wall": tuple(WALLS),
    "floor": tuple(FLOORS),
    "rug": ("none", *RUGS),
    "lamp": ("none", "lamp"),
    "window": ("none", "window"),
    "picture": ("none", "picture"),
    "light": ("day", "evening"),
}


def draw(canvas: Canvas, factors: Mapping[str, str], rng: random.Random) -> None:
    """Paint the room, then the sofa. All that varies freely is drawn from `rng` first, in a fixed order,
    so that it never depends on a factor's value."""
    horizon = rng.uniform(0.60, 0.68)
    sofa_x, sofa_width = rng.uniform(0.40, 0.60), rng.uniform(0.52, 0.68)
    sofa_foot, seats = rng.uniform(0.82, 0.90), rng.choice((2, 3))
    sofa_height = sofa_width * rng.uniform(0.50, 0.58)
    side = rng.choice((-1, 1))  # the lamp stands on one side, the window hangs towards the other
    window_x, window_y, window_width = (
        rng.uniform(0.24, 0.34),
        rng.uniform(0.08, 0.13),
        rng.uniform(0.20, 0.27),
    )
    picture_x, picture_y, picture_width = (
        rng.uniform(0.24, 0.32),
        rng.uniform(0.10, 0.18),
        rng.uniform(0.14, 0.20),
    )
    art = rng.choice(((232, 150, 92), (120, 164, 176), (206, 108, 118), (150, 172, 110)))
    rug_width, lamp_height = rng.uniform(0.74, 0.96), rng.uniform(0.50, 0.58)

    evening = factors["light"] == "evening"
    shell(canvas, WALLS[factors["wall"]], factors["floor"], horizon, evening)
    if factors["window"] == "window":
        x = 0.5 - side * window_x
        window(canvas, (x - window_width / 2, window_y, x + window_width / 2, window_y + window_width), evening)
    if factors["picture"] == "picture":
        x = 0.5 + side * (picture_x - 0.08)
        picture(
            canvas,
            (x - picture_width / 2, picture_y, x + picture_width / 2, picture_y + picture_width * 0.8),
            art,
        )
    if factors["rug"] != "none":
        rug(canvas, RUGS[factors["rug"]], sofa_x, min(0.94, sofa_foot + 0.03), rug_width)
    if factors["lamp"] == "lamp":
        foot = (horizon + sofa_foot) / 2
        lamp(canvas, 0.5 + side * 0.41, foot, foot - lamp_height, evening)
    with canvas.part("sofa"):
        box = (sofa_x - sofa_width / 2, sofa_foot - sofa_height, sofa_x + sofa_width / 2, sofa_foot)
        sofa(canvas, box, COLORS[factors["color"]], factors["material"], seats)


def shell(canvas: Canvas, wall: Color, floor: str, horizon: float, evening: bool) -> None:
    """Wall, skirting board and floor."""
    wall = mix(wall, (92, 84, 120), 0.30) if evening else wall
    canvas.gradient((0, 0, 1, horizon), shade(wall, 1.12), shade(wall, 0.94))
    ground = mix(FLOORS[floor], (70, 60, 90), 0.28) if evening else FLOORS[floor]
    canvas.gradient((0, horizon, 1, 1), shade(ground, 0.94), shade(ground, 1.08))
    seam = shade(ground, 0.84)
    if floor == "wooden":
        rows = [horizon + (1 - horizon) * depth for depth in (0.0, 0.14, 0.32, 0.54, 0.80, 1.2)]
        for row, (upper, lower) in enumerate(itertools.pairwise(rows)):
            canvas.line([(0, lower), (1, lower)], seam)
            for joint in range(4):
                x = (joint * 0.3 + row * 0.17) % 1.1
                canvas.line([(x, upper), (x, lower)], seam)
    elif floor == "tiled":
        for step in range(-6, 7):
            canvas.line([(0.5 + step * 0.10, horizon), (0.5 + step * 0.24, 1)], seam)
        for depth in (0.16, 0.40, 0.74):
            y = horizon + (1 - horizon) * depth
            canvas.line([(0, y), (1, y)], seam)
    board = mix((246, 243, 238), (92, 84, 120), 0.30) if evening else (246, 243, 238)
    canvas.rectangle((0, horizon - 0.025, 1, horizon), board)
    canvas.line([(0, horizon), (1, horizon)], shade(ground, 0.7))


def window(canvas: Canvas, box: Box, evening: bool) -> None:
    """A window with four panes: a pale sky by day, a moon in the evening."""
    left, top, right, bottom = box
    frame: Color = (250, 248, 244)
    canvas.rectangle((left - 0.016, top - 0.016, right + 0.016, bottom + 0.016), frame, shade(frame, 0.76))
    canvas.gradient(box, shade(NIGHT, 0.8) if evening else SKY, shade(NIGHT, 1.2) if evening else shade(SKY, 1.6))
    width = right - left
    if evening:
        canvas.disc(left + width * 0.74, top + width * 0.24, width * 0.10, (250, 240, 200))
    else:
        canvas.ellipse(
            (left + width * 0.1, top + width * 0.60, left + width * 0.62, top + width * 0.82), (255, 255, 255)
        )
    for x0, y0, x1, y1 in ((0.47, 0, 0.53, 1), (0, 0.47, 1, 0.53)):
        canvas.rectangle((left + x0 * width, top + y0 * width, left + x1 * width, top + y1 * width), frame)
    canvas.rectangle((left - 0.03, bottom + 0.014, right + 0.03, bottom + 0.036), frame, shade(frame, 0.76))


def picture(canvas: Canvas, box: Box, art: Color) -> None:
    """A framed landscape in one family of colours."""
    left, top, right, bottom = box
    width, height = right - left, bottom - top
    canvas.rectangle((left - 0.018, top - 0.018, right + 0.018, bottom + 0.018), WOOD, shade(WOOD, 0.7))
    canvas.rectangle(box, shade(art, 1.65))
    canvas.disc(left + width * 0.70, top + height * 0.34, width * 0.12, shade(art, 1.2))
    canvas.polygon([(left, bottom), (left + width * 0.36, top + height * 0.44), (left + width * 0.76, bottom)], art)
    canvas.polygon(
        [(left + width * 0.4, bottom), (left + width * 0.74, top + height * 0.6), (right, bottom)],
        shade(art, 0.75),
    )


def rug(canvas: Canvas, color: Color, x: float, y: float, width: float) -> None:
    """An oval rug with a pale ring."""
    for size, tone in ((1.0, shade(color, 0.86)), (0.94, color), (0.78, shade(color, 1.45)), (0.72, color)):
        half, high = width * size / 2, width * size * 0.115
        canvas.ellipse((x - half, y - high, x + half, y + high), tone)


def lamp(canvas: Canvas, x: float, foot: float, top: float, evening: bool) -> None:
    """A floor lamp, lit in the evening."""
    if evening:
        canvas.glaze((x - 0.20, top - 0.14, x + 0.20, top + 0.26), (255, 224, 150), 0.35)
    canvas.ellipse((x - 0.055, foot - 0.014, x + 0.055, foot + 0.014), (74, 66, 64))
    canvas.line([(x, foot), (x, top + 0.1)], (74, 66, 64), 0.014)
    cloth: Color = (255, 232, 160) if evening else (244, 226, 184)
    canvas.polygon(
        [(x - 0.05, top), (x + 0.05, top), (x + 0.085, top + 0.13), (x - 0.085, top + 0.13)],
        cloth,
        shade(cloth, 0.76),
    )


def sofa(canvas: Canvas, box: Box, color: Color, material: str, seats: int) -> None:
    """A sofa that fills `box`, feet included, lit from the upper left."""
    left, top, right, foot = box
    width, height = right - left, foot - top
    arm = width * 0.13
    edge = shade(color, 0.62) if sum(color) > 200 else shade(color, 1.28)
    canvas.glaze((left - 0.03, foot - 0.035, right + 0.05, foot + 0.035), (40, 30, 40), 0.38)
    for x in (left + arm * 0.4, right - arm * 0.4 - 0.03):
        canvas.polygon(
            [(x, foot - 0.05), (x + 0.03, foot - 0.05), (x + 0.024, foot), (x + 0.006, foot)],
            shade(WOOD, 0.7),
        )
    base = foot - 0.028
    seat_top, seat_mid = top + height * 0.50, top + height * 0.70
    canvas.rounded((left + arm * 0.4, top, right - arm * 0.4, base), 0.035, shade(color, 0.9), edge)
    inner = (right - left - 2 * arm) / seats
    for seat in range(seats):
        x0, x1 = left + arm + seat * inner, left + arm + (seat + 1) * inner
        _upholster(canvas, (x0, top + height * 0.07, x1, seat_top + 0.02), 0.024, color, material, edge, upright=True)
    for seat in range(seats):
        x0, x1 = left + arm + seat * inner, left + arm + (seat + 1) * inner
        _upholster(canvas, (x0, seat_top, x1, seat_mid), 0.018, shade(color, 1.06), material, edge, upright=False)
    _upholster(
        canvas,
        (left + arm * 0.8, seat_mid, right - arm * 0.8, base),
        0.01,
        shade(color, 0.88),
        material,
        edge,
        upright=False,
    )
    for x0, x1 in ((left, left + arm), (right - arm, right)):
        arm_box = (x0, top + height * 0.30, x1, base)
        _upholster(canvas, arm_box, arm * 0.45, shade(color, 0.96), material, edge, upright=False)
        if material == "leather":
            y = top + height * 0.36
            canvas.glaze(
                [
                    (x0 + arm * 0.24, y),
                    (x0 + arm * 0.46, y),
                    (x0 + arm * 0.40, base - 0.03),
                    (x0 + arm * 0.24, base - 0.03),
                ],
                (255, 255, 255),
                0.36,
            )


def _upholster(
    canvas: Canvas, box: Box, radius: float, color: Color, material: str, edge: Color, upright: bool
) -> None:
    """One cushion or panel: plain fabric, glossy buttoned leather, channelled velvet, or stripes."""
    left, top, right, bottom = box
    width, height = right - left, bottom - top
    canvas.rounded(box, radius, color, edge)
    inside = (left + LINE_INSET, top + LINE_INSET, right - LINE_INSET, bottom - LINE_INSET)
    if material == "striped":
        contrast: Color = (250, 244, 226) if min(color) < 190 else (176, 170, 164)
        count = max(3, 2 * round(width / 0.044 / 2) + 1)
        edges = [(index + 1) / count for index in range(count)]
        canvas.bands(inside, radius * 0.8, [color if index % 2 == 0 else contrast for index in range(count)], edges)
    elif material == "velvet":
        # Deep channels with a soft sheen: dark folds, a lit ridge left of the middle of each.
        count = max(2, round(width / 0.05))
        tones = ((0.62, 0.14), (0.84, 0.30), (1.22, 0.55), (0.96, 0.80), (0.70, 1.0))
        colors = [shade(color, tone) for _ in range(count) for tone, _ in tones]
        edges = [(index + until) / count for index in range(count) for _, until in tones]
        if upright:
            canvas.bands(inside, radius * 0.8, colors, edges)
        else:
            canvas.glaze((left + width * 0.02, top, right - width * 0.02, top + height * 0.55), (255, 255, 255), 0.20)
            canvas.glaze((left, bottom - height * 0.3, right, bottom), (0, 0, 0), 0.16)
    elif material == "leather":
        gloss = (255, 255, 255)
        canvas.glaze(
            [
                (left + width * 0.10, top + height * 0.12),
                (left + width * 0.86, top + height * 0.12),
                (left + width * 0.74, top + height * 0.26),
                (left + width * 0.16, top + height * 0.30),
            ],
            gloss,
            0.46,
        )
        if upright:
            for u, v in ((0.28, 0.46), (0.72, 0.46), (0.5, 0.70)):
                canvas.disc(left + width * u, top + height * v, 0.014, shade(edge, 0.72))
                canvas.disc(left + width * u - 0.004, top + height * v - 0.004, 0.005, shade(color, 1.5))


LINE_INSET = 0.007
