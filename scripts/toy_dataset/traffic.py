"""Poles, people, two-wheelers and vehicles on the road and the sidewalks of the toy dataset."""

from dataclasses import dataclass

import numpy as np

from .scene import (
    BICYCLE,
    BUS,
    CAR,
    DYNAMIC,
    LIGHT,
    MOTORCYCLE,
    PERSON,
    POLE,
    RIDER,
    SIGN,
    STATIC,
    TRAIN,
    TRUCK,
    Canvas,
    City,
    Street,
    hsv,
    mirrored,
    rectangle,
)


def draw_post(canvas: Canvas, city: City, x: float, z: float) -> None:
    """Draws a thin pole, bare or bearing a street lamp, traffic sign or traffic light."""
    rng, across, least = canvas.rng, canvas.across(x, z), canvas.least(z)
    kind = rng.choice(["lamp", "sign", "light", "bare"], p=[0.25, 0.35, 0.25, 0.15])
    half, metal = max(rng.uniform(0.05, 0.09), 1.1 * least), city.metal * rng.uniform(0.8, 1.2)
    height = rng.uniform(5, 8) if kind == "lamp" else rng.uniform(2.4, 3.4)
    across(rectangle(-half, 0, half, height), metal, POLE)
    if kind == "lamp":
        tip = -np.sign(x) * rng.uniform(0.8, 1.8)
        across(rectangle(0, height - 2 * half, tip, height), metal, POLE)
    elif kind == "sign":
        size, shape = max(rng.uniform(0.3, 0.45), 2 * least), rng.choice(["disc", "triangle", "square", "diamond"])
        half_outline = {"triangle": [(size, -size), (0, size)], "diamond": [(0, -size), (size, 0), (0, size)]}
        outline = np.array(mirrored(half_outline.get(shape, [(size, -size), (size, size)])))
        rim = hsv(rng.choice([0.0, 0.6, 0.14, 0.37]), 0.85, rng.uniform(0.6, 0.9))
        across(outline + (0, height), rim, SIGN, ellipse=shape == "disc")
        across(outline * 0.6 + (0, height), np.full(3, rng.choice([0.95, 0.1])), SIGN, ellipse=shape == "disc")
    elif kind == "light":
        wide, tall = max(0.18, 1.6 * least), max(0.5, 3.2 * least)
        across(rectangle(-wide, height - tall, wide, height + tall), hsv(0.3, 0.3, 0.1), LIGHT)
        place, hue = ((-0.6, 0.38), (0.0, 0.12), (0.6, 0.0))[rng.integers(3)]
        lamp = rectangle(-0.8 * wide, height + (place - 0.3) * tall, 0.8 * wide, height + (place + 0.3) * tall)
        across(lamp, 1.3 * hsv(hue, 0.9, 1), LIGHT, ellipse=True)


def draw_person(canvas: Canvas, x: float, z: float, label: int = PERSON) -> None:
    """Draws someone on foot (person), or on a two-wheeler (rider)."""
    rng, rider = canvas.rng, label == RIDER
    size = 1.0 if rider else rng.choice([1.0, 1.0, 0.65]) * rng.uniform(0.92, 1.08)
    across = canvas.across(x, z, y=0.1 if rider else 0.0, zoom=size)
    skin, hair = hsv(0.06, rng.uniform(0.3, 0.6), rng.uniform(0.3, 0.85)), hsv(0.07, 0.5, rng.uniform(0.05, 0.5))
    shirt, trousers = (hsv(rng.uniform(), rng.uniform(0.1, 0.8), rng.uniform(0.12, 0.85)) for _ in range(2))
    step, lean = rng.uniform(0.05, 0.3), rng.uniform(-0.06, 0.06)
    if rider:
        across([(-0.2, 0.55), (0.0, 0.5), (0.2, 0.9), (-0.1, 0.95)], trousers, label)
    else:
        across([(-step - 0.09, 0), (-step + 0.08, 0), (0.08, 0.85), (-0.17, 0.85)], trousers, label)
        across([(step - 0.08, 0), (step + 0.09, 0), (0.17, 0.85), (-0.08, 0.85)], trousers * 0.85, label)
    across([(-0.19, 0.8), (0.19, 0.8), *mirrored([(0.25 + lean, 1.4), (0.14 + lean, 1.5)], lean)], shirt, label)
    across([(lean - 0.3, 0.85), (lean - 0.2, 0.85), (lean - 0.15, 1.42), (lean - 0.25, 1.42)], shirt * 0.8, label)
    across(rectangle(lean - 0.12, 1.48, lean + 0.12, 1.76), skin, label, ellipse=True)
    across(rectangle(lean - 0.12, 1.64, lean + 0.12, 1.78), hair, label, ellipse=True)


def draw_two_wheeler(canvas: Canvas, x: float, z: float, label: int, ridden: bool) -> None:
    """Draws a bicycle or motorcycle, from the side or slanted; a wheel's label covers what is between its spokes."""
    rng, across = canvas.rng, canvas.across(x, z)
    color, rubber = hsv(rng.uniform(), rng.uniform(0.3, 0.9), rng.uniform(0.2, 0.8)), np.full(3, 0.09)
    slant = rng.uniform(0.45, 1.0)
    radius, base = (0.3, 0.65 * slant) if label == MOTORCYCLE else (0.34, 0.52 * slant)
    for hub in (-base, base):
        for size, paint in ((1.0, rubber), (0.7, np.full(3, 0.3))):
            wide, tall = size * radius * slant, size * radius
            across(rectangle(hub - wide, radius - tall, hub + wide, radius + tall), paint, label, ellipse=True)
    if label == MOTORCYCLE:
        body = np.array([(-1.3, 0.75), (-0.5, 0.3), (0.6, 0.3), (0.9, 0.9), (0.4, 1.0), (-0.1, 0.78)])
        across(body * (base, 1), color, label)
        across(rectangle(-base * 1.2, 0.72, 0.0, 0.85), rubber, label)
    else:
        thick = max(0.05, 1.2 * canvas.least(z))
        frame = np.array(
            [[(-1, 0.34), (0, 0.75)], [(0, 0.75), (0.8, 0.75)], [(1, 0.34), (0.7, 1)], [(0.5, 1), (1, 1)]]
        )
        for start, end in frame * (base, 1):
            across([start, end, end + (0, thick), start + (0, thick)], color, label)
    if ridden:
        draw_person(canvas, x, z, RIDER)


@dataclass
class Vehicle:
    """Ranges in meters; where the windows begin as a share of the height; the cabin's ends as shares of the length."""

    label: int
    width: tuple[float, float]
    height: tuple[float, float]
    length: tuple[float, float]
    waist: float
    cabin: tuple[float, float] = (0.0, 1.0)


VEHICLES = {
    "saloon": Vehicle(CAR, (1.7, 1.85), (1.38, 1.5), (4.2, 4.8), 0.6, (0.12, 0.7)),
    "hatchback": Vehicle(CAR, (1.6, 1.8), (1.45, 1.6), (3.5, 4.2), 0.58, (0.0, 0.68)),
    "van": Vehicle(CAR, (1.8, 2.0), (1.8, 2.1), (4.4, 5.2), 0.55, (0.0, 0.82)),
    "truck": Vehicle(TRUCK, (2.2, 2.5), (2.8, 3.7), (6, 9), 0.3),
    "bus": Vehicle(BUS, (2.4, 2.55), (2.9, 3.3), (9, 13), 0.42),
    "train": Vehicle(TRAIN, (2.4, 2.6), (3.3, 3.8), (20, 30), 0.4),
}


def draw_vehicle(canvas: Canvas, kind: str, x: float, z: float, oncoming: bool) -> None:
    """Draws a vehicle along the street, its nearer end at `z`: shadow, visible side, top, then the nearer end."""
    rng, form, label = canvas.rng, VEHICLES[kind], VEHICLES[kind].label
    width, height, length = rng.uniform(*form.width), rng.uniform(*form.height), rng.uniform(*form.length)
    half, waist, low = width / 2, form.waist * height, 0.16 * min(height, 2)
    gray = rng.uniform() < 0.45
    body = hsv(rng.uniform(), rng.uniform(0, 0.1) if gray else rng.uniform(0.4, 0.9), rng.uniform(0.08, 0.9))
    second = hsv(rng.uniform(), rng.uniform(0, 0.8), rng.uniform(0.3, 0.9))  # of the load of a truck, of stripes
    glass, rubber = hsv(0.58, 0.2, rng.uniform(0.08, 0.4)), np.full(3, 0.07)
    start, end = (1 - form.cabin[1], 1 - form.cabin[0]) if oncoming else form.cabin
    slope = 0.12 if label == CAR else 0.0
    roof = (z + (start + slope * (start > 0)) * length, z + (end - slope * (end < 1)) * length)
    screen, glazing = z + start * length, (z + start * length + roof[0]) / 2

    shadow = [(x - half - 0.2, z - 0.3), (x + half + 0.2, z - 0.3), (x + half, z + length), (x - half, z + length)]
    canvas.draw([canvas.project(a, 0, b) for a, b in shadow], np.zeros(3), None, depth=z, alpha=0.45)

    def side(distance: np.ndarray, y: np.ndarray) -> np.ndarray:
        share = (distance - z) / length
        cab = (share < 0.22 if oncoming else share > 0.78) | (label != TRUCK)
        pillar = (distance - z) % (1.1 if label == CAR else 1.5) < 0.15
        pane = cab & ~pillar & (y > max(waist + 0.04 * height, 0.45 * height)) & (y < 0.93 * height)
        stripe = ~cab | ((y < 0.25 * height) & (label in (BUS, TRAIN)))
        paint = np.where(stripe[:, None], second, body) * (0.72 + 0.2 * y / height)[:, None]
        return np.where(pane[:, None], glass, paint)

    if abs(canvas.eye[0] - x) > half:
        along = canvas.along(x - half if canvas.eye[0] < x else x + half)
        profile = [(z, low), (z, waist), (screen, waist), (roof[0], height), (roof[1], height)]
        along([*profile, (z + end * length, waist), (z + length, waist), (z + length, low)], side, label, depth=z)
        wheel = 0.32 if label == CAR else 0.45
        for hub in () if label == TRAIN else (z + 0.8 * length, z + 0.18 * length):
            rim = [(hub + wheel * np.cos(a), wheel + wheel * np.sin(a)) for a in np.linspace(0, 2 * np.pi, 12)]
            along(rim, rubber, label, depth=z)
    if start > 0:  # the hood or trunk, seen from above
        lid = [(x - half, z), (x + half, z), (x + half, glazing), (x - half, glazing)]
        canvas.draw([canvas.project(a, waist, b) for a, b in lid], body * 1.1, label, depth=z)

    top = (0.8 if label == CAR else 0.7 if label == TRAIN else 0.97) * half
    behind, front = canvas.across(x, glazing), canvas.across(x, z)
    behind(mirrored([(half, waist), (half, 0.85 * height), (top, height)][:: 2 if label == CAR else 1]), body, label)
    if label == TRUCK and not oncoming:  # doors of the load
        front(rectangle(-half, waist, half, height), second, label)
        front(rectangle(-0.04, waist, 0.04, height), second * 0.5, label)
    else:
        base = max(waist + 0.08 * height, 0.45 * height)
        behind(mirrored([(0.88 * half, base), (0.9 * top, 0.9 * height)]), glass, label)
    if label in (BUS, TRAIN):
        front(rectangle(-0.7 * half, 0.9 * height, 0.7 * half, 0.96 * height), np.array([1.0, 0.7, 0.1]), label)
    for tyre in () if label == TRAIN else (-0.8 * half, 0.55 * half):
        front(rectangle(tyre, 0, tyre + 0.25 * half, low + 0.1), rubber, label)
    front(mirrored([(0.96 * half, low), (half, 0.6 * waist), (0.97 * half, waist)]), body, label)
    if label == TRAIN:
        front(rectangle(-half, 0.05, half, low + 0.1), body * 0.4, label)
        front(rectangle(-half, 0.7 * waist, half, waist), second, label)
    lamp, level = hsv(0.14, 0.2, 1.2) if oncoming else np.array([0.8, 0.06, 0.05]), 0.7 * min(waist, 1.1)
    for edge in (-0.92 * half, 0.66 * half):
        front(rectangle(edge, level, edge + 0.26 * half, level + 0.14), lamp, label)
    front(rectangle(-0.28 * half, level - 0.25, 0.28 * half, level - 0.1), np.full(3, 0.8), label)


def draw_bin(canvas: Canvas, x: float, z: float) -> None:
    """Draws a bin or box on the sidewalk: a thing that no class is trained on."""
    rng, across = canvas.rng, canvas.across(x, z)
    wide, tall, label = rng.uniform(0.2, 0.5), rng.uniform(0.5, 1.2), int(rng.choice([STATIC, DYNAMIC]))
    color = hsv(rng.uniform(), rng.uniform(0.1, 0.7), rng.uniform(0.15, 0.6))
    across(rectangle(-wide, 0, wide, tall), color, label)
    across(rectangle(-1.1 * wide, 0.85 * tall, 1.1 * wide, tall), color * 0.6, label)


def draw_traffic(canvas: Canvas, city: City, street: Street, rare: str | None) -> None:
    """Draws everything between the lots, far to near, and the `rare` thing of this image among it."""
    rng, things = canvas.rng, []

    def add(z: float, function, *where) -> None:
        things.append((z, lambda: function(canvas, *where)))

    def add_car(x: float, z: float, oncoming: bool) -> None:
        add(z, draw_vehicle, rng.choice(["saloon", "hatchback", "van"]), x, z, oncoming)

    parking = street.road > 5
    lane = (0.38 if parking else 0.5) * street.road
    if rare in VEHICLES:
        z, oncoming = rng.uniform(6, 14), rng.uniform() < 0.6
        add(z, draw_vehicle, rare, -lane if oncoming else lane, z, oncoming)
    for x in (-lane, lane):
        z = rng.uniform(35, 45) if rare in VEHICLES else rng.uniform(7, 25)
        while z < 60:
            add_car(x, z, x < 0)
            z += rng.uniform(8, 40)
    for side in (-1, 1):
        kerb, edge = side * street.road, side * street.sidewalk[int(side > 0)]
        z = rng.uniform(3.5, 12) if parking and rng.uniform() < 0.7 else 60
        while z < 55:
            add_car(kerb - side, z, side < 0)
            z += rng.uniform(5.5, 14)
        z = rng.uniform(4, 9)
        while z < 45:
            add(z, lambda canvas, *where: draw_post(canvas, city, *where), kerb + side * rng.uniform(0.3, 0.7), z)
            z += rng.uniform(4, 14)
        for _ in range(rng.poisson(1.8)):
            z, crosses = rng.uniform(5, 28), rng.uniform() < 0.15
            x = kerb * rng.uniform(-1, 1) if crosses else kerb + (edge - kerb) * rng.uniform(0.2, 1)
            add(z, draw_person, x, z)
        for _ in range(rng.poisson(0.5)):
            z = rng.uniform(5, 18)
            add(z, draw_two_wheeler, edge - side * rng.uniform(0.3, 1), z, BICYCLE, False)
        if rng.uniform() < 0.3:
            z = rng.uniform(5, 18)
            add(z, draw_bin, edge - side * 0.5, z)
    if rare in ("motorcycle", "rider"):
        label = MOTORCYCLE if rare == "motorcycle" else BICYCLE
        for _ in range(rng.integers(1, 3)):
            x, z, ridden = street.road * rng.uniform(-0.9, 0.9), rng.uniform(4.5, 11), rng.uniform() < 0.5
            add(z, draw_two_wheeler, x, z, label, ridden or rare == "rider")
    for _, draw in sorted(things, key=lambda thing: -thing[0]):
        draw()
