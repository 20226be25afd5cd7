"""Captions as people would write them: several phrasings, more or less complete."""

import random
from collections.abc import Sequence

from synth.seeds import derive_seed
from synth.world.scenes import WorldScene

_PREFIXES = (
    "",
    "",
    "",
    "",
    "a photo of ",
    "a photo of ",
    "a picture of ",
    "an illustration of ",
    "a drawing of ",
)
_FLOORS = {"wooden": "a wooden floor", "tiled": "a tiled floor", "carpeted": "a carpeted floor"}
_WEATHER = {
    "clear": ("on a clear day", "under a blue sky", "in clear weather"),
    "snowing": ("in the snow", "while it is snowing", "snowing"),
    "sunset": ("at sunset", "sunset", "under a sunset sky"),
    "rainbow": ("with a rainbow in the background", "under a rainbow", "rainbow at background"),
}


def captions(scene: WorldScene, num: int, seed: int = 0) -> list[str]:
    """`num` captions of a scene, pure in (scene, seed). Each names some or all of the factors, never a wrong one."""
    rng = random.Random(derive_seed("captions", scene.seed, seed))
    write = {"room": _room, "plant": _plant, "portrait": _portrait}[scene.kind]
    return [write(scene, rng) for _ in range(num)]


def full_caption(scene: WorldScene) -> tuple[str, dict[str, str]]:
    """A caption, and the factors that it names."""
    f = dict(scene.factors)
    if scene.kind == "room":
        sofa = with_article(f"{f['color']} {f['material']} sofa")
        rug = "" if f["rug"] == "none" else f" and a {f['rug']} rug"
        named = ["color", "material", "wall", "floor"] + (["rug"] if rug else [])
        return f"{sofa} in a living room with {f['wall']} walls, {_FLOORS[f['floor']]}{rug}", {k: f[k] for k in named}
    if scene.kind == "plant":
        subject = f"a potted plant in {with_article(f['pot'] + ' pot')}"
        if f["flower"] != "none":
            subject = f"{f['flower']} in {with_article(f['pot'] + ' pot')}"
        weather = f" {_WEATHER[f['weather']][0]}" if "weather" in f else ""
        named = ["flower", "pot", "place"] + (["weather"] if weather else [])
        return f"a photo of {subject} in a {f['place']}{weather}", {k: f[k] for k in named}
    glasses = " and glasses" if f["glasses"] == "glasses" else ""
    hair = f"{f['hair_style']} hair" if f["character"] == "sculpture" else f"{f['hair_style']} {f['hair_color']} hair"
    named = ["character", "hair_style"] + ([] if f["character"] == "sculpture" else ["hair_color"])
    caption = f"a photo of {with_article(f['character'])} with {hair}{glasses}"
    return caption, {k: f[k] for k in named + (["glasses"] if glasses else [])}


def paraphrase(scene: WorldScene) -> tuple[str, dict[str, str]]:
    """A caption phrased as no training caption is, and the factors that it names."""
    f = scene.factors
    if scene.kind == "room":
        caption = f"interior: the couch is {f['color']}, made of {f['material']}, the walls are {f['wall']}"
        return caption.replace("made of striped", "striped"), {k: f[k] for k in ("color", "material", "wall")}
    if scene.kind == "plant":
        what = "green leaves" if f["flower"] == "none" else f["flower"]
        return f"{f['place']} scene, {f['pot']} pot full of {what}", {k: f[k] for k in ("flower", "pot", "place")}
    return f"{f['character']}, close-up, {f['hair_style']} haircut", {k: f[k] for k in ("character", "hair_style")}


def with_article(phrase: str) -> str:
    """The phrase behind "a" or "an"."""
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def _prefixed(rng: random.Random, caption: str) -> str:
    return rng.choice(_PREFIXES) + caption


def _maybe(rng: random.Random, probability: float, phrase: str) -> list[str]:
    return [phrase] if rng.random() < probability else []


def _listed(phrases: Sequence[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return phrases[0] if len(phrases) == 1 else f"{', '.join(phrases[:-1])} and {phrases[-1]}"


def _room(scene: WorldScene, rng: random.Random) -> str:
    factors = scene.factors
    noun = rng.choice(("sofa", "sofa", "sofa", "couch"))
    words = _maybe(rng, 0.94, factors["color"]) + _maybe(rng, 0.90, factors["material"]) + [noun]
    sofa = with_article(" ".join(words))
    surroundings = _maybe(rng, 0.75, f"{factors['wall']} walls") + _maybe(rng, 0.75, _FLOORS[factors["floor"]])
    extras = []
    if factors["rug"] != "none":
        extras += _maybe(rng, 0.7, f"a {factors['rug']} rug")
    for thing, phrase in (
        ("lamp", "a floor lamp"),
        ("window", "a window"),
        ("picture", "a picture on the wall"),
    ):
        if factors[thing] == thing:
            extras += _maybe(rng, 0.6, phrase)
    rng.shuffle(extras)
    evening = factors["light"] == "evening" and rng.random() < 0.85
    room = "living room in the evening" if evening else "living room"
    if factors["light"] == "day" and rng.random() < 0.15:
        room = "living room by day"
    form = rng.random()
    if form < 0.40:
        rest = surroundings + extras
        caption = f"{sofa} in a {room}" + (f" with {_listed(rest)}" if rest else "")
    elif form < 0.70:
        caption = f"a {room} with {_listed([sofa, *surroundings, *extras])}"
    elif form < 0.90:
        caption = f"a {rng.choice(('cosy ', 'modern ', ''))}{room}, " + ", ".join([sofa, *surroundings, *extras])
    else:
        caption = sofa
    return _prefixed(rng, caption)


def _plant(scene: WorldScene, rng: random.Random) -> str:
    factors = scene.factors
    flower = factors["flower"]
    pot = f"{with_article(factors['pot'] + ' pot')}" if rng.random() < 0.75 else "a pot"
    if flower == "none":
        subject = rng.choice((f"a potted plant in {pot}", f"a leafy plant in {pot}", "a potted plant"))
    else:
        subject = rng.choice(
            (
                f"{flower} in {pot}",
                f"{flower} in {pot}",
                f"potted {flower}",
                f"a potted plant with {flower} in {pot}",
            )
        )
    place = rng.choice(
        (
            f"in a {factors['place']}",
            f"in a {factors['place']}",
            "on a city street" if factors["place"] == "city street" else f"in the {factors['place']}",
        )
    )
    weather = rng.choice(_WEATHER[factors["weather"]]) if "weather" in factors else ""
    if weather and rng.random() < 0.12:
        return weather
    phrases = [subject, *_maybe(rng, 0.88, place)]
    if weather and rng.random() < (0.5 if factors["weather"] == "clear" else 0.88):
        phrases.append(weather)
    return _prefixed(rng, " ".join(phrases))


def _portrait(scene: WorldScene, rng: random.Random) -> str:
    factors = scene.factors
    character = factors["character"]
    if character == "person" and factors["age"] == "elderly" and rng.random() < 0.7:
        subject = "an elderly person"
    else:
        subject = with_article(character)
    hair = [factors["hair_style"]]
    if character != "sculpture":
        hair += _maybe(rng, 0.85, factors["hair_color"])
    features = _maybe(rng, 0.65, " ".join(hair) + " hair")
    if factors["glasses"] == "glasses":
        features += _maybe(rng, 0.75, "glasses")
    phrases = [subject]
    if features:
        phrases.append(f"with {_listed(features)}")
    if character != "sculpture":
        phrases += _maybe(rng, 0.55, f"in {with_article(factors['clothes'] + ' shirt')}")
    phrases += _maybe(rng, 0.45, f"in front of {with_article(factors['background'] + ' background')}")
    prefix = rng.choice(("a photo of ", "a photo of ", "a portrait of ", "a picture of ", ""))
    return prefix + " ".join(phrases)
