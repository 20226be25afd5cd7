"""Potted plants, with flowers or without, in four places and, outdoors, in four kinds of weather."""

import math
import random
from collections.abc import Mapping

from synth.world import rooms
from synth.world.canvas import Canvas, Color, mix, shade

FLOWERS = ("none", "tulips", "roses", "daisies", "dahlias")
PLACES = ("living room", "kitchen", "garden", "city street")
OUTDOORS = ("garden", "city street")
WEATHERS = ("clear", "snowing", "sunset", "rainbow")
POTS: dict[str, Color] = {
    "terracotta": (204, 112, 72),
    "blue": (66, 108, 176),
    "white": (238, 236, 230),
    "black": (58, 58, 64),
}
FACTORS: dict[str, tuple[str, ...]] = {
    "flower": FLOWERS,
    "place": PLACES,
    "pot": tuple(POTS),
    "weather": WEATHERS,  # only outdoors
}
LEAF: Color = (72, 140, 80)
_RAINBOW: tuple[Color, ...] = (
    (226, 84, 84), (240, 156, 76), (246, 218, 104), (112, 190, 116), (92, 152, 220), (146, 110, 196),
)  # fmt: skip


def draw(canvas: Canvas, factors: Mapping[str, str], rng: random.Random) -> None:
    """Paint the place, then the pot and the plant. As in `rooms.draw`, what varies freely comes first."""
    x, foot = rng.uniform(0.40, 0.60), rng.uniform(0.88, 0.94)
    pot_width, pot_height, round_pot = rng.uniform(0.27, 0.35), rng.uniform(0.23, 0.28), rng.random() < 0.4
    crown = rng.uniform(0.27, 0.33)  # how far the blooms stand from the pot's rim
    petal, leaf_width = rng.uniform(0.072, 0.088), rng.uniform(0.05, 0.085)
    num_blooms, tilt = rng.choice((5, 6, 7)), rng.uniform(-8, 8)
    jitter = [(rng.uniform(-5, 5), rng.uniform(0.86, 1.08)) for _ in range(12)]
    backdrop = random.Random(rng.getrandbits(32))

    weather = factors.get("weather", "clear")
    if factors["place"] == "living room":
        _living_room(canvas, backdrop)
    elif factors["place"] == "kitchen":
        _kitchen(canvas, backdrop)
    elif factors["place"] == "garden":
        _garden(canvas, weather, backdrop)
    else:
        _street(canvas, weather, backdrop)
    if weather == "snowing":
        _snow(canvas, backdrop)
    canvas.glaze((x - pot_width * 0.52, foot - 0.035, x + pot_width * 0.72, foot + 0.035), (40, 30, 40), 0.36)

    rim = foot - pot_height
    with canvas.part("foreground"):
        with canvas.part("flower"):
            _plant(canvas, factors["flower"], x, rim, crown, petal, leaf_width, num_blooms, tilt, jitter)
        _pot(canvas, POTS[factors["pot"]], x, rim, foot, pot_width, round_pot)


def _pot(canvas: Canvas, color: Color, x: float, rim: float, foot: float, width: float, round_pot: bool) -> None:
    edge, half = shade(color, 0.66), width / 2
    if round_pot:
        canvas.rounded((x - half * 0.94, rim + 0.01, x + half * 0.94, foot), 0.085, color, edge)
        canvas.glaze((x - half * 0.72, rim + 0.06, x - half * 0.36, foot - 0.07), (255, 255, 255), 0.30)
    else:
        body = [
            (x - half * 0.90, rim),
            (x + half * 0.90, rim),
            (x + half * 0.64, foot),
            (x - half * 0.64, foot),
        ]
        canvas.polygon(body, color, edge)
        canvas.glaze(
            [
                (x - half * 0.66, rim + 0.06),
                (x - half * 0.42, rim + 0.06),
                (x - half * 0.36, foot - 0.03),
                (x - half * 0.5, foot - 0.03),
            ],
            (255, 255, 255),
            0.26,
        )
    canvas.rounded((x - half, rim - 0.012, x + half, rim + 0.042), 0.012, shade(color, 1.1), edge)


def _plant(
    canvas: Canvas,
    flower: str,
    x: float,
    rim: float,
    crown: float,
    petal: float,
    leaf_width: float,
    num_blooms: int,
    tilt: float,
    jitter: list[tuple[float, float]],
) -> None:
    """Stems and leaves out of the pot; the blooms on a fan of stems, two rows deep."""
    dark, light = shade(LEAF, 0.78), shade(LEAF, 1.12)
    tall = crown * (1.06 if flower == "none" else 0.74)
    for index in range(9):
        angle = 18 + index * 18 + tilt * 0.5 + jitter[index][0]
        reach = tall * jitter[index][1] * (0.86 + 0.22 * math.sin(math.radians(angle)))
        canvas.leaf(
            x,
            rim + 0.01,
            angle,
            reach,
            leaf_width * (1.5 if flower == "none" else 1.0),
            (dark, LEAF, light)[index % 3],
        )
    if flower == "none":
        for index in range(4):
            canvas.leaf(
                x, rim + 0.01, 48 + index * 28 + tilt, tall * 0.74, leaf_width * 1.3, (light, LEAF)[index % 2]
            )
        return
    blooms = []
    for index in range(num_blooms):
        back = index % 2 == 1
        angle = 90 + tilt + (index - (num_blooms - 1) / 2) * (132 / num_blooms) + jitter[index][0] * 0.5
        reach = crown * (1.10 if back else 0.80) * (0.92 + 0.08 * jitter[index][1])
        end = (x + math.cos(math.radians(angle)) * reach * 1.05, rim - math.sin(math.radians(angle)) * reach)
        blooms.append((end, back, index))
    for (bloom_x, bloom_y), _, _ in blooms:
        canvas.line([(x, rim), ((x + bloom_x) / 2 + 0.01, (rim + bloom_y) / 2), (bloom_x, bloom_y)], dark, 0.012)
    for (bloom_x, bloom_y), _, index in sorted(blooms, key=lambda bloom: not bloom[1]):
        tone = 0.94 + 0.12 * ((index * 5) % 3) / 2
        _BLOOMS[flower](canvas, bloom_x, bloom_y, petal, tone)


def _tulip(canvas: Canvas, x: float, y: float, r: float, tone: float) -> None:
    color = shade((222, 50, 52), tone)
    edge = shade(color, 0.66)
    cup = [
        (-0.74, -0.92),
        (-0.36, -0.36),
        (0, -1.08),
        (0.36, -0.36),
        (0.74, -0.92),
        (0.80, 0.10),
        (0.42, 0.80),
        (-0.42, 0.80),
        (-0.80, 0.10),
    ]
    canvas.polygon([(x + u * r, y + v * r) for u, v in cup], color, edge)
    middle = [(0, -1.0), (0.36, -0.1), (0.22, 0.76), (-0.22, 0.76), (-0.36, -0.1)]
    canvas.polygon([(x + u * r, y + v * r) for u, v in middle], shade(color, 1.2))


def _rose(canvas: Canvas, x: float, y: float, r: float, tone: float) -> None:
    color = shade((240, 140, 168), tone)
    edge = shade(color, 0.68)
    canvas.disc(x, y, r * 0.98, color, edge)
    canvas.arc((x - r * 0.74, y - r * 0.70, x + r * 0.78, y + r * 0.82), 150, 400, edge)
    canvas.disc(x - r * 0.04, y - r * 0.06, r * 0.52, shade(color, 0.86))
    canvas.arc((x - r * 0.40, y - r * 0.42, x + r * 0.36, y + r * 0.34), 20, 290, shade(edge, 0.9))


def _daisy(canvas: Canvas, x: float, y: float, r: float, tone: float) -> None:
    petal = shade((252, 252, 248), min(1.0, tone))
    canvas.disc(x, y, r * 0.62, shade(petal, 0.80))
    for index in range(10):
        canvas.leaf(x, y, index * 36 + 10, r * 1.12, r * 0.50, petal)
    canvas.disc(x, y, r * 0.36, (244, 196, 48), (204, 150, 30))


def _dahlia(canvas: Canvas, x: float, y: float, r: float, tone: float) -> None:
    color = shade((150, 62, 168), tone)
    for count, reach, paint, turn in (
        (12, 1.12, shade(color, 0.78), 0),
        (10, 0.84, color, 15),
        (8, 0.52, shade(color, 1.32), 0),
    ):
        for index in range(count):
            canvas.leaf(x, y, turn + index * 360 / count, r * reach, r * 0.46, paint)
    canvas.disc(x, y, r * 0.16, shade(color, 0.62))


_BLOOMS = {"tulips": _tulip, "roses": _rose, "daisies": _daisy, "dahlias": _dahlia}


def _living_room(canvas: Canvas, rng: random.Random) -> None:
    wall, floor = rng.choice(tuple(rooms.WALLS.values())), rng.choice(tuple(rooms.FLOORS))
    horizon, side, low = rng.uniform(0.64, 0.70), rng.choice((-1, 1)), rng.uniform(0.08, 0.14)
    shown = rng.random()
    rooms.shell(canvas, wall, floor, horizon, evening=False)
    if shown < 0.7:
        rooms.window(canvas, (0.5 - side * 0.34 - 0.12, low, 0.5 - side * 0.34 + 0.12, low + 0.24), evening=False)
    if shown > 0.4:
        art = rng.choice(((232, 150, 92), (120, 164, 176), (206, 108, 118)))
        rooms.picture(canvas, (0.5 + side * 0.34 - 0.08, low, 0.5 + side * 0.34 + 0.08, low + 0.13), art)


def _kitchen(canvas: Canvas, rng: random.Random) -> None:
    front = rng.choice(((120, 160, 168), (206, 150, 120), (150, 170, 130), (196, 186, 170)))
    counter, shelf = rng.uniform(0.72, 0.77), rng.uniform(0.20, 0.25)
    tile: Color = (240, 238, 232)
    canvas.rectangle((0, 0, 1, counter), tile)
    for row in range(1, 12):
        y = row * 0.07
        canvas.line([(0, y), (1, y)], shade(tile, 0.90))
        for column in range(9):
            x = column * 0.14 + (row % 2) * 0.07
            canvas.line([(x, y - 0.07), (x, y)], shade(tile, 0.90))
    for column in range(3):
        box = (column / 3 + 0.008, -0.02, (column + 1) / 3 - 0.008, shelf)
        canvas.rectangle(box, front, shade(front, 0.7))
        canvas.disc(column / 3 + (0.29 if column < 2 else 0.05), shelf - 0.045, 0.012, (236, 226, 206))
    canvas.gradient((0, counter, 1, 1), (188, 152, 114), (168, 130, 94))
    canvas.rectangle((0, counter, 1, counter + 0.025), (206, 172, 134))


def _sky(canvas: Canvas, weather: str, horizon: float, sun_x: float) -> None:
    top, bottom = {
        "clear": ((104, 176, 232), (206, 232, 246)),
        "snowing": ((166, 178, 194), (216, 222, 230)),
        "sunset": ((112, 84, 148), (250, 164, 96)),
        "rainbow": ((128, 180, 222), (214, 232, 240)),
    }[weather]
    canvas.gradient((0, 0, 1, horizon), top, bottom)
    if weather == "clear":
        for u, v, r in (
            (0.16, 0.14, 0.05),
            (0.22, 0.125, 0.065),
            (0.29, 0.145, 0.05),
            (0.76, 0.20, 0.045),
            (0.82, 0.19, 0.055),
        ):
            canvas.disc((u + sun_x * 0.4) % 1.0, v, r, (255, 255, 255))
    elif weather == "sunset":
        canvas.glaze((sun_x - 0.24, horizon - 0.34, sun_x + 0.24, horizon + 0.14), (255, 214, 130), 0.45)
        canvas.disc(sun_x, horizon - 0.10, 0.10, (255, 226, 130))
    elif weather == "rainbow":
        for ring, color in enumerate(_RAINBOW):
            reach = 0.62 - ring * 0.032
            canvas.arc((0.5 - reach, 0.62 - reach, 0.5 + reach, 0.62 + reach), 180, 360, color, 0.034)


def _tint(color: Color, weather: str) -> Color:
    """How the weather colours what stands on the ground."""
    if weather == "sunset":
        return mix(color, (150, 70, 80), 0.40)
    return mix(color, (190, 198, 212), 0.35) if weather == "snowing" else color


def _garden(canvas: Canvas, weather: str, rng: random.Random) -> None:
    horizon, sun_x, fence = rng.uniform(0.60, 0.66), rng.uniform(0.2, 0.8), rng.random() < 0.5
    bushes = [(rng.uniform(-0.05, 0.1) + index * 0.2, rng.uniform(0.09, 0.15)) for index in range(6)]
    _sky(canvas, weather, horizon, sun_x)
    snow: Color = (244, 247, 252)
    for x, r in bushes:
        canvas.disc(x, horizon - r * 0.35, r, _tint((62, 122, 76), weather))
        if weather == "snowing":
            canvas.ellipse((x - r * 0.74, horizon - r * 1.38, x + r * 0.74, horizon - r * 0.62), snow)
    if fence:
        wood = _tint((214, 188, 152), weather)
        canvas.rectangle((0, horizon - 0.07, 1, horizon - 0.045), shade(wood, 0.9))
        for post in range(10):
            x = 0.02 + post * 0.105
            canvas.polygon(
                [
                    (x, horizon + 0.02),
                    (x, horizon - 0.11),
                    (x + 0.026, horizon - 0.14),
                    (x + 0.052, horizon - 0.11),
                    (x + 0.052, horizon + 0.02),
                ],
                wood,
                shade(wood, 0.78),
            )
    grass = snow if weather == "snowing" else _tint((116, 178, 96), weather)
    canvas.gradient((0, horizon, 1, 1), shade(grass, 0.94), grass)
    for u, v in ((0.1, 0.30), (0.3, 0.62), (0.72, 0.42), (0.88, 0.76), (0.52, 0.20), (0.16, 0.86)):
        y = horizon + (1 - horizon) * v
        canvas.line([(u - 0.03, y), (u + 0.03, y)], shade(grass, 0.84), 0.010)


def _street(canvas: Canvas, weather: str, rng: random.Random) -> None:
    horizon, sun_x = rng.uniform(0.66, 0.72), rng.uniform(0.2, 0.8)
    walls = [
        rng.choice(((214, 136, 108), (226, 192, 142), (142, 164, 186), (186, 150, 160), (156, 176, 150)))
        for _ in range(4)
    ]
    tops = [rng.uniform(0.16, 0.40) for _ in range(4)]
    offset = rng.uniform(-0.16, 0.0)
    _sky(canvas, weather, horizon, sun_x)
    snow: Color = (244, 247, 252)
    for index, (wall, top) in enumerate(zip(walls, tops, strict=True)):
        left = offset + index * 0.30
        wall = _tint(wall, weather)
        canvas.rectangle((left, top, left + 0.27, horizon), wall, shade(wall, 0.74))
        if weather == "snowing":
            canvas.rounded((left - 0.012, top - 0.026, left + 0.282, top + 0.014), 0.018, snow)
        glass: Color = (255, 216, 120) if weather == "sunset" else shade(wall, 0.62)
        y = top + 0.05
        while y + 0.07 < horizon - 0.04:
            for u in (0.04, 0.155):
                canvas.rectangle((left + u, y, left + u + 0.068, y + 0.06), glass)
            y += 0.10
    road = shade(snow, 0.93) if weather == "snowing" else _tint((150, 152, 158), weather)
    canvas.gradient((0, horizon, 1, 1), shade(road, 0.94), shade(road, 1.04))
    canvas.rectangle((0, horizon, 1, horizon + 0.035), shade(road, 1.3))
    canvas.line([(0, horizon + 0.038), (1, horizon + 0.038)], shade(road, 0.74))


def _snow(canvas: Canvas, rng: random.Random) -> None:
    for _ in range(38):
        x, y, r = rng.random(), rng.random(), rng.uniform(0.008, 0.016)
        canvas.disc(x, y, r, (255, 255, 255))
