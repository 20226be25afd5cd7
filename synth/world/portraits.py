"""Portraits: a person, and the paper's four characters in the same pose."""

import math
import random
from collections.abc import Mapping

from synth.world.canvas import Canvas, Color, mix, shade

CHARACTERS = ("person", "claymation character", "sculpture", "3D Pixar character", "zombie")
HAIR_COLORS: dict[str, Color] = {
    "black": (46, 40, 44),
    "brown": (110, 70, 46),
    "blond": (226, 186, 104),
    "red": (186, 78, 44),
    "grey": (168, 168, 172),
}
HAIR_STYLES = ("short", "long", "curly")
CLOTHES: dict[str, Color] = {
    "red": (196, 72, 70),
    "blue": (74, 112, 176),
    "green": (92, 146, 100),
    "yellow": (232, 196, 96),
    "black": (62, 62, 70),
    "white": (240, 238, 232),
}
BACKGROUNDS: dict[str, Color] = {
    "blue": (158, 190, 216),
    "green": (166, 200, 168),
    "pink": (234, 194, 196),
    "beige": (230, 212, 182),
    "grey": (192, 196, 204),
}
_SKINS: tuple[Color, ...] = ((250, 218, 192), (234, 188, 150), (190, 132, 96), (128, 84, 62))
FACTORS: dict[str, tuple[str, ...]] = {
    "character": CHARACTERS,
    "hair_color": tuple(HAIR_COLORS),
    "hair_style": HAIR_STYLES,
    "clothes": tuple(CLOTHES),
    "background": tuple(BACKGROUNDS),
    "glasses": ("none", "glasses"),
    "age": ("adult", "elderly"),
}
_MARBLE: Color = (222, 220, 214)
_GREEN: Color = (138, 166, 106)


def draw(canvas: Canvas, factors: Mapping[str, str], rng: random.Random) -> None:
    """Paint the backdrop, then the person. As in `rooms.draw`, what varies freely comes first."""
    x, y = rng.uniform(0.46, 0.54), rng.uniform(0.40, 0.46)
    half, skin = rng.uniform(0.175, 0.205), rng.choice(_SKINS)
    shoulders, iris = rng.uniform(0.31, 0.37), rng.choice(((78, 120, 168), (96, 70, 50), (84, 130, 92)))
    halo_x, halo_y, halo_r = rng.uniform(0.2, 0.8), rng.uniform(0.2, 0.5), rng.uniform(0.26, 0.4)
    smile = rng.uniform(0.6, 1.2)

    backdrop = BACKGROUNDS[factors["background"]]
    canvas.gradient((0, 0, 1, 1), shade(backdrop, 1.16), shade(backdrop, 0.92))
    canvas.disc(halo_x, halo_y, halo_r, shade(backdrop, 1.24))
    character = factors["character"]
    hair, cloth = HAIR_COLORS[factors["hair_color"]], CLOTHES[factors["clothes"]]
    if character == "sculpture":
        skin, hair, cloth = _MARBLE, shade(_MARBLE, 0.84), shade(_MARBLE, 0.92)
    elif character == "zombie":
        skin, hair, cloth = _GREEN, mix(hair, (70, 86, 62), 0.5), mix(cloth, (88, 84, 66), 0.45)
    elif character == "claymation character":
        skin = mix(skin, (236, 138, 78), 0.55)
    elif character == "3D Pixar character":
        skin, half = mix(skin, (252, 190, 160), 0.35), half * 1.08
    tall = half * 1.24
    with canvas.part("person"):
        _hair_behind(canvas, factors["hair_style"], hair, x, y, half, tall)
        _body(canvas, character, skin, cloth, x, y + tall, shoulders)
        edge = shade(skin, 0.70)
        for side in (-1, 1):
            canvas.ellipse((x + side * half - 0.035, y - 0.045, x + side * half + 0.035, y + 0.045), skin, edge)
        canvas.ellipse((x - half, y - tall, x + half, y + tall), skin, edge)
        _shading(canvas, character, skin, x, y, half, tall)
        if factors["age"] == "elderly":
            for lift in (0.48, 0.60):
                canvas.arc(
                    (x - half * 0.42, y - tall * (lift + 0.06), x + half * 0.42, y - tall * (lift - 0.10)),
                    200,
                    340,
                    shade(skin, 0.78),
                )
            for side in (-1, 1):
                canvas.line(
                    [(x + side * half * 0.30, y + tall * 0.26), (x + side * half * 0.48, y + tall * 0.50)],
                    shade(skin, 0.78),
                )
        _face(canvas, character, skin, hair, iris, smile, x, y, half, tall)
        _hair_front(canvas, factors["hair_style"], hair, x, y, half, tall)
        if factors["glasses"] == "glasses":
            _glasses(canvas, shade(_MARBLE, 0.6) if character == "sculpture" else (52, 48, 56), x, y, half)


def _body(canvas: Canvas, character: str, skin: Color, cloth: Color, x: float, chin: float, shoulders: float) -> None:
    edge = shade(cloth, 0.68)
    top = chin + 0.05
    canvas.rectangle((x - 0.068, chin - 0.08, x + 0.068, top + 0.06), shade(skin, 0.86))
    canvas.rounded((x - shoulders, top, x + shoulders, 1.2), 0.15, cloth, edge)
    canvas.polygon([(x - 0.075, top - 0.004), (x + 0.075, top - 0.004), (x, top + 0.10)], shade(skin, 0.92), edge)
    if character == "zombie":
        for u, v in ((-0.55, 0.10), (0.42, 0.16), (0.70, 0.08)):
            cx, cy = x + u * shoulders, top + v
            canvas.polygon(
                [(cx, cy), (cx + 0.05, cy + 0.03), (cx + 0.02, cy + 0.09), (cx - 0.03, cy + 0.05)],
                shade(skin, 0.74),
            )
    elif character == "claymation character":
        for u in (-0.5, 0.5):
            canvas.disc(x + u * shoulders, top + 0.13, 0.022, shade(cloth, 1.35), edge)
    elif character == "sculpture":
        for u in (-0.6, -0.25, 0.25, 0.6):
            canvas.line([(x + u * shoulders, top + 0.05), (x + u * shoulders * 0.72, 1.0)], shade(cloth, 0.80), 0.010)


def _hair_behind(canvas: Canvas, style: str, hair: Color, x: float, y: float, half: float, tall: float) -> None:
    edge = shade(hair, 0.70)
    if style == "long":
        canvas.rounded(
            (x - half * 1.26, y - tall * 1.06, x + half * 1.26, y + tall * 1.34),
            half * 1.1,
            shade(hair, 0.86),
            edge,
        )
    elif style == "curly":
        for index in range(9):
            angle = math.radians(-20 + index * 27.5)
            canvas.disc(
                x + math.cos(angle) * half * 1.08,
                y - math.sin(angle) * tall * 0.86 - 0.02,
                half * 0.46,
                shade(hair, 0.88),
                edge,
            )


def _hair_front(canvas: Canvas, style: str, hair: Color, x: float, y: float, half: float, tall: float) -> None:
    edge = shade(hair, 0.70)
    if style == "curly":
        for index in range(6):
            u = -0.80 + index * 0.32
            canvas.disc(x + u * half, y - tall * (0.98 - 0.34 * u * u), half * 0.32, hair, edge)
        return
    fringe = [
        (-1.03, -0.12),
        (-1.06, -0.56),
        (-0.74, -1.02),
        (0.0, -1.20),
        (0.74, -1.02),
        (1.06, -0.56),
        (1.03, -0.12),
    ]
    line = [(0.84, -0.44), (0.46, -0.66), (-0.10, -0.58), (-0.62, -0.70), (-0.86, -0.40)]
    canvas.polygon([(x + u * half, y + v * tall) for u, v in fringe + line], hair, edge)
    canvas.glaze(
        [
            (x - half * 0.66, y - tall * 0.92),
            (x - half * 0.10, y - tall * 1.06),
            (x - half * 0.16, y - tall * 0.90),
            (x - half * 0.60, y - tall * 0.78),
        ],
        (255, 255, 255),
        0.22,
    )


def _shading(canvas: Canvas, character: str, skin: Color, x: float, y: float, half: float, tall: float) -> None:
    """Light from the upper left: flat for the person, a gradient for Pixar, thumb marks on clay, chisel on stone."""
    if character == "3D Pixar character":
        for step in range(4):
            r = 0.82 - step * 0.17
            canvas.glaze(
                (x - half * (r + 0.16), y - tall * (r + 0.20), x + half * (r - 0.16), y + tall * (r - 0.20)),
                (255, 244, 230),
                0.16,
            )
        for side in (-1, 1):
            canvas.glaze(
                (
                    x + side * half * 0.58 - 0.05,
                    y + tall * 0.22,
                    x + side * half * 0.58 + 0.05,
                    y + tall * 0.50,
                ),
                (240, 110, 110),
                0.40,
            )
    elif character == "claymation character":
        for u, v in ((-0.62, 0.34), (0.62, 0.40), (-0.30, -0.50), (0.46, -0.40), (-0.1, 0.80)):
            canvas.glaze(
                (x + u * half - 0.034, y + v * tall - 0.026, x + u * half + 0.034, y + v * tall + 0.026),
                shade(skin, 0.72),
                0.55,
            )
            canvas.glaze(
                (x + u * half - 0.026, y + v * tall - 0.024, x + u * half + 0.022, y + v * tall + 0.012),
                shade(skin, 1.3),
                0.60,
            )
    elif character == "sculpture":
        canvas.glaze(
            [
                (x + half * 0.30, y - tall * 0.90),
                (x + half * 0.90, y - tall * 0.36),
                (x + half * 0.92, y + tall * 0.30),
                (x + half * 0.40, y + tall * 0.86),
                (x + half * 0.62, y),
            ],
            shade(skin, 0.66),
            0.55,
        )
    elif character == "zombie":
        canvas.glaze((x - half * 0.86, y + tall * 0.10, x - half * 0.30, y + tall * 0.62), shade(skin, 0.60), 0.50)
        canvas.glaze((x + half * 0.34, y + tall * 0.12, x + half * 0.86, y + tall * 0.60), shade(skin, 0.60), 0.50)
    else:
        canvas.glaze((x - half * 0.84, y + tall * 0.14, x - half * 0.36, y + tall * 0.44), (236, 120, 110), 0.22)
        canvas.glaze((x + half * 0.36, y + tall * 0.14, x + half * 0.84, y + tall * 0.44), (236, 120, 110), 0.22)


def _face(
    canvas: Canvas,
    character: str,
    skin: Color,
    hair: Color,
    iris: Color,
    smile: float,
    x: float,
    y: float,
    half: float,
    tall: float,
) -> None:
    dark: Color = (50, 40, 44)
    gap, eye_y, mouth_y = half * 0.44, y - tall * 0.06, y + tall * 0.52
    for side in (-1, 1):
        eye_x = x + side * gap
        if character == "claymation character":
            eye_x = x + side * gap * 0.84
            canvas.disc(eye_x, eye_y, half * 0.34, (252, 252, 248), shade(skin, 0.62))
            canvas.disc(eye_x + 0.008, eye_y + 0.006, half * 0.12, dark)
            canvas.rounded(
                (eye_x - half * 0.30, eye_y - tall * 0.44, eye_x + half * 0.30, eye_y - tall * 0.34),
                0.012,
                shade(hair, 0.8),
            )
        elif character == "3D Pixar character":
            canvas.ellipse(
                (eye_x - half * 0.33, eye_y - tall * 0.30, eye_x + half * 0.33, eye_y + tall * 0.26),
                (255, 255, 255),
                shade(skin, 0.55),
            )
            canvas.disc(eye_x, eye_y, half * 0.23, iris)
            canvas.disc(eye_x, eye_y, half * 0.12, dark)
            canvas.disc(eye_x - half * 0.08, eye_y - half * 0.10, half * 0.07, (255, 255, 255))
            canvas.arc(
                (eye_x - half * 0.34, eye_y - tall * 0.56, eye_x + half * 0.34, eye_y - tall * 0.16),
                200,
                340,
                shade(hair, 0.8),
                0.016,
            )
        elif character == "sculpture":
            canvas.ellipse(
                (eye_x - half * 0.24, eye_y - tall * 0.10, eye_x + half * 0.24, eye_y + tall * 0.10),
                shade(skin, 0.90),
                shade(skin, 0.55),
            )
            canvas.arc(
                (eye_x - half * 0.32, eye_y - tall * 0.34, eye_x + half * 0.32, eye_y + tall * 0.02),
                200,
                340,
                shade(skin, 0.62),
                0.014,
            )
        elif character == "zombie":
            canvas.disc(eye_x, eye_y, half * 0.31, shade(skin, 0.46))
            canvas.disc(eye_x, eye_y, half * 0.19, (236, 226, 170))
            canvas.disc(eye_x, eye_y, half * 0.085, (190, 40, 40))
        else:
            canvas.ellipse(
                (eye_x - half * 0.22, eye_y - tall * 0.11, eye_x + half * 0.22, eye_y + tall * 0.11),
                (255, 255, 255),
                shade(skin, 0.62),
            )
            canvas.disc(eye_x, eye_y, half * 0.115, iris)
            canvas.disc(eye_x, eye_y, half * 0.055, dark)
            canvas.line(
                [(eye_x - half * 0.26, eye_y - tall * 0.25), (eye_x + half * 0.26, eye_y - tall * 0.27)],
                shade(hair, 0.8),
                0.014,
            )
    nose = shade(skin, 0.74)
    if character in ("claymation character", "3D Pixar character"):
        canvas.disc(
            x,
            y + tall * 0.22,
            half * (0.17 if character == "claymation character" else 0.12),
            shade(skin, 0.90),
            nose,
        )
    else:
        canvas.line(
            [(x, y + tall * 0.02), (x - half * 0.12, y + tall * 0.26), (x + half * 0.08, y + tall * 0.28)],
            nose,
            0.012,
        )
    wide = half * 0.40
    if character == "zombie":
        canvas.polygon(
            [
                (x - wide, mouth_y - 0.006),
                (x + wide, mouth_y + 0.012),
                (x + wide * 0.7, mouth_y + 0.046),
                (x - wide * 0.7, mouth_y + 0.034),
            ],
            (70, 34, 40),
        )
        for u in (-0.5, 0.1, 0.6):
            canvas.rectangle((x + u * wide, mouth_y, x + u * wide + 0.020, mouth_y + 0.022), (224, 216, 170))
        canvas.line([(x + half * 0.20, y - tall * 0.52), (x + half * 0.64, y - tall * 0.34)], (128, 52, 52), 0.012)
        for u in (0.30, 0.44, 0.56):
            canvas.line(
                [
                    (x + half * u, y - tall * (0.60 - 0.28 * (u - 0.2))),
                    (x + half * (u - 0.03), y - tall * (0.40 - 0.30 * (u - 0.2))),
                ],
                (128, 52, 52),
                0.009,
            )
    elif character == "claymation character":
        canvas.rounded((x - wide, mouth_y - 0.014, x + wide, mouth_y + 0.048), 0.028, (120, 44, 48), shade(skin, 0.6))
        canvas.rectangle((x - wide * 0.66, mouth_y - 0.008, x + wide * 0.66, mouth_y + 0.012), (252, 250, 240))
    elif character == "sculpture":
        canvas.line(
            [(x - wide * 0.7, mouth_y), (x, mouth_y + 0.008), (x + wide * 0.7, mouth_y)],
            shade(skin, 0.60),
            0.013,
        )
    else:
        lift = 0.05 * smile
        color: Color = (176, 70, 76) if character == "person" else (190, 66, 76)
        canvas.arc((x - wide, mouth_y - lift, x + wide, mouth_y + lift), 15, 165, color, 0.016)


def _glasses(canvas: Canvas, color: Color, x: float, y: float, half: float) -> None:
    eye_y, r = y - half * 0.075, half * 0.36
    for side in (-1, 1):
        cx = x + side * half * 0.46
        canvas.arc((cx - r, eye_y - r, cx + r, eye_y + r), 0, 360, color, 0.015)
    canvas.line([(x - half * 0.11, eye_y), (x + half * 0.11, eye_y)], color, 0.015)
