"""The canvas of the toy dataset and all beside the road: sky, ground, houses, walls, fences, vegetation, light."""

import colorsys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

UNLABELED, EGO, STATIC, DYNAMIC, GROUND = 0, 1, 4, 5, 6  # label ids that no model is trained on
ROAD, SIDEWALK, BUILDING, WALL, FENCE, POLE, LIGHT, SIGN = 7, 8, 11, 12, 13, 17, 19, 20
VEGETATION, TERRAIN, SKY, PERSON, RIDER = 21, 22, 23, 24, 25
CAR, TRUCK, BUS, TRAIN, MOTORCYCLE, BICYCLE = 26, 27, 28, 31, 32, 33

SUPERSAMPLING = 2
FAR = 75.0  # meters to where the street ends

Color = np.ndarray
Points = Sequence[tuple[float, float]]


def hsv(hue: float, saturation: float, value: float) -> Color:
    return np.array(colorsys.hsv_to_rgb(hue % 1, np.clip(saturation, 0, 1), np.clip(value, 0, 1)), np.float32)


def rectangle(left: float, bottom: float, right: float, top: float) -> Points:
    return [(left, bottom), (right, bottom), (right, top), (left, top)]


def mirrored(half: Points, middle: float = 0.0) -> Points:
    """Returns the outline of something symmetric, from its right half, bottom to top."""
    return [*half, *((2 * middle - a, b) for a, b in reversed(half))]


@dataclass
class City:
    """Properties that the images of one city share."""

    facade_hue: float
    facade_saturation: float
    leaf_hue: float
    leaf_value: float
    grass_hue: float
    road: Color
    sidewalk: Color
    metal: Color
    floors: float
    lots: np.ndarray  # how often a lot holds a house at the street, a house behind a fence, a wall, a park
    tint: Color
    bonnet: float  # its height in the image, 0 where the camera does not see it

    @classmethod
    def sample(cls, rng: np.random.Generator) -> "City":
        return cls(
            facade_hue=rng.uniform(),
            facade_saturation=rng.uniform(0.05, 0.4),
            leaf_hue=rng.choice([0.32, 0.28, 0.24, 0.20, 0.10]) + rng.normal(0, 0.015),
            leaf_value=rng.uniform(0.25, 0.5),
            grass_hue=rng.uniform(0.12, 0.3),
            road=hsv(rng.uniform(), rng.uniform(0, 0.12), rng.uniform(0.3, 0.5)),
            sidewalk=hsv(rng.choice([0.05, 0.1, 0.6]), rng.uniform(0, 0.3), rng.uniform(0.45, 0.68)),
            metal=hsv(rng.uniform(), rng.uniform(0, 0.3), rng.uniform(0.2, 0.65)),
            floors=rng.uniform(2, 4.5),
            lots=0.3 * np.array([0.4, 0.2, 0.2, 0.2]) + 0.7 * rng.dirichlet((4.0, 2.0, 2.0, 2.0)),
            tint=1 + rng.normal(0, 0.04, 3).astype(np.float32),
            bonnet=rng.uniform(0.05, 0.11) if rng.uniform() < 0.6 else 0.0,
        )

    def facade(self, rng: np.random.Generator) -> Color:
        hue = rng.uniform() if rng.uniform() < 0.35 else self.facade_hue + rng.normal(0, 0.06)
        return hsv(hue, self.facade_saturation * rng.uniform(0.3, 1.5), rng.uniform(0.3, 0.85))


@dataclass
class Street:
    """The cross-section: meters from the middle of the road, where two numbers stand for the left and right side."""

    road: float
    sidewalk: np.ndarray
    front: np.ndarray  # where the lots begin
    verge: np.ndarray  # label id between sidewalk and lots
    crossing: float  # how far ahead a side street and a zebra crossing are
    zebra: float

    @classmethod
    def sample(cls, rng: np.random.Generator) -> "Street":
        road = rng.uniform(3.6, 6.5)
        sidewalk = road + rng.uniform(1.5, 3.5, 2)
        front = sidewalk + rng.uniform(1, 5, 2) * (rng.uniform(size=2) < 0.55)
        crossing = rng.uniform(9, 30) if rng.uniform() < 0.4 else 10 * FAR
        zebra = crossing - 4 if rng.uniform() < 0.6 else rng.uniform(6, 200)
        return cls(road, sidewalk, front, rng.choice([TERRAIN, TERRAIN, TERRAIN, TERRAIN, GROUND], 2), crossing, zebra)


class Canvas:
    """
    An image, its label ids and its depth, `SUPERSAMPLING` times the final size. Screen coordinates (u, v) are in units
    of the image's height, to the right and down. Street coordinates (x, y, z) are in meters: to the right of the
    road's middle, above the ground, ahead of the camera.
    """

    def __init__(self, rng: np.random.Generator, width: int, height: int):
        self.rng = rng
        self.aspect, self.scale = width / height, height * SUPERSAMPLING
        self.rgb = np.zeros((height * SUPERSAMPLING, width * SUPERSAMPLING, 3), np.float32)
        self.label = np.zeros(self.rgb.shape[:2], np.uint8)
        self.depth = np.full(self.rgb.shape[:2], 4 * FAR, np.float32)
        self.grain = 0.6 * self.noise(110) + 0.6 * self.noise(40) + 0.5 * self.noise(10)
        self.focal = rng.uniform(1.15, 1.5)
        self.horizon, self.vanish = rng.uniform(0.38, 0.5), self.aspect / 2 + rng.uniform(-0.25, 0.25)
        self.eye = (rng.uniform(1.0, 2.5), rng.uniform(1.4, 1.9))

    def noise(self, cells: int) -> np.ndarray:
        """Returns a smooth random field over the canvas with `cells` values along its height."""
        field = self.rng.standard_normal((cells, int(cells * self.aspect) + 1), dtype=np.float32)
        return np.asarray(Image.fromarray(field).resize(self.label.shape[::-1], Image.Resampling.BICUBIC))

    def project(self, x: float, y: float, z: float) -> tuple[float, float]:
        zoom = self.focal / z
        return self.vanish + (x - self.eye[0]) * zoom, self.horizon + (self.eye[1] - y) * zoom

    def least(self, z: float) -> float:
        """Returns half a pixel of the final image in meters at the depth `z`: the least half width of thin things."""
        return 0.5 * SUPERSAMPLING / self.scale * z / self.focal

    def draw(
        self,
        points: Points,
        paint: Color | Callable,
        label: int | None,
        depth: float | None = None,
        grain: float = 0.06,
        alpha: float | Callable = 1.0,
        ellipse: bool = False,
        local: Callable | None = None,
    ) -> None:
        """
        Fills a polygon, or the ellipse in its bounding box, in image, labels and depth alike; without `label` only in
        the image. `paint` and `alpha` may be functions of the coordinates that `local` makes of the screen's; without
        `depth` the first of these is the depth.
        """
        points = np.asarray(points, np.float64) * self.scale
        left, top = np.maximum(np.floor(points.min(0)).astype(int), 0)
        right, bottom = np.minimum(np.ceil(points.max(0)).astype(int) + 1, self.label.shape[::-1])
        if left >= right or top >= bottom:
            return
        mask, points = Image.new("L", (right - left, bottom - top)), points - (left, top)
        if ellipse:
            ImageDraw.Draw(mask).ellipse((*points.min(0), *points.max(0)), fill=1)
        else:
            ImageDraw.Draw(mask).polygon(points.ravel().tolist(), fill=1)
        rows, columns = np.nonzero(np.asarray(mask))
        rows, columns = rows + top, columns + left
        u, v = (columns + 0.5) / self.scale, (rows + 0.5) / self.scale
        u, v = local(u, v) if local else (u, v)
        color = paint(u, v) if callable(paint) else paint
        # Each shape takes its texture from another offset, so that no two share one.
        shift = self.rng.integers(0, 10_000, 2)
        rough = self.grain[(rows + shift[0]) % self.label.shape[0], (columns + shift[1]) % self.label.shape[1]]
        color = color * (1 + grain * rough)[:, None]
        opacity = alpha(u, v)[:, None] if callable(alpha) else alpha
        self.rgb[rows, columns] += opacity * (color - self.rgb[rows, columns])
        if label is not None:
            self.label[rows, columns] = label
            self.depth[rows, columns] = u if depth is None else depth

    def across(self, x: float, z: float, y: float = 0.0, zoom: float = 1.0) -> Callable:
        """Draws as `draw` on the upright plane across the street, in meters around the point (x, y, z)."""
        foot_u, foot_v = self.project(x, y, z)
        zoom = zoom * self.focal / z
        local = lambda u, v: ((u - foot_u) / zoom, (foot_v - v) / zoom)  # noqa: E731
        return lambda points, *args, **options: self.draw(
            [(foot_u + a * zoom, foot_v - b * zoom) for a, b in points], *args, depth=z, local=local, **options
        )

    def along(self, x: float) -> Callable:
        """Draws as `draw` on the upright plane along the street at `x`, in (z, y)."""
        offset = x - self.eye[0]

        def local(u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            away = np.where(np.abs(u - self.vanish) < 1e-3, np.copysign(1e-3, offset), u - self.vanish)
            z = self.focal * offset / away
            return z, self.eye[1] - (v - self.horizon) * z / self.focal

        return lambda points, *args, **options: self.draw(
            [self.project(x, y, z) for z, y in points], *args, local=local, **options
        )


def draw_sky(canvas: Canvas, top: Color, bottom: Color, clouds: float) -> None:
    rows = np.linspace(0, 1, len(canvas.label), dtype=np.float32)[:, None, None]
    canvas.rgb[:] = top + (bottom - top) * np.minimum(rows / canvas.horizon, 1)
    cover = np.clip(canvas.noise(4) + 0.5 * canvas.noise(12) + 0.2 * canvas.noise(30) + clouds, 0, 1)[..., None]
    canvas.rgb += 0.8 * cover * (bottom * 0.4 + 0.6 * bottom.max() - canvas.rgb)
    canvas.label[:] = SKY


def draw_skyline(canvas: Canvas, city: City) -> None:
    """Draws the end of the street: far houses and trees."""
    rng = canvas.rng
    for _ in range(14):
        u, width, height = rng.uniform(0, canvas.aspect), rng.uniform(0.05, 0.3), rng.uniform(0.02, 0.16)
        if rng.uniform() < 0.5:
            box = rectangle(u - width / 2, canvas.horizon + 0.01, u + width / 2, canvas.horizon - height)
            canvas.draw(box, city.facade(rng) * 0.9, BUILDING, depth=1.5 * FAR)
        else:
            draw_leaves(canvas, city, (u, canvas.horizon - 0.2 * height), width / 2, 0.8 * height, 1.5 * FAR)


def draw_ground(canvas: Canvas, city: City, street: Street, shadow: float, rails: bool) -> None:
    """Draws the road with marks, sidewalks with flags and curb, verges; `shadow` darkens one side."""
    rng = canvas.rng
    top = int(canvas.scale * canvas.horizon) + 1
    v, u = (np.mgrid[top : len(canvas.label), 0 : canvas.label.shape[1]].astype(np.float32) + 0.5) / canvas.scale
    z = canvas.focal * canvas.eye[1] / (v - canvas.horizon)
    x = (u - canvas.vanish) * z / canvas.focal + canvas.eye[0]
    side, out = (x > 0).astype(int), np.abs(x)
    junction = (z > street.crossing) & (z < street.crossing + 8)
    label = np.where(
        out < street.sidewalk[side], SIDEWALK, np.where(out < street.front[side], street.verge[side], TERRAIN)
    )
    label[(out < street.road) | junction] = ROAD

    rgb = np.empty((*z.shape, 3), np.float32)
    rgb[:] = city.road * rng.uniform(0.8, 1.2)
    rgb[canvas.noise(6)[top:] > 1.2] *= rng.uniform(0.75, 1.15)
    walk, flag = label == SIDEWALK, rng.uniform(0.6, 1.6)
    rgb[walk] = city.sidewalk
    rgb[walk & ((z % flag < 0.12 * flag) | (x % flag < 0.08 * flag))] *= 0.85
    rgb[walk & (out < street.road + 0.22)] = hsv(0.1, 0.05, rng.uniform(0.55, 0.8))
    rgb[label == GROUND] = city.sidewalk * rng.uniform(0.6, 0.9)
    for index in (0, 1):
        grass = hsv(city.grass_hue + rng.normal(0, 0.02), rng.uniform(0.25, 0.65), rng.uniform(0.3, 0.5))
        rgb[(label == TERRAIN) & (side == index)] = grass
    paved = (label == ROAD) & ~junction
    lanes, dashed = np.arange(-2, 3) * street.road / (2 if street.road > 5 else 1), rng.uniform() < 0.7
    mark = rng.uniform(0.7, 0.95)
    rgb[paved & (np.abs(x[..., None] - lanes).min(-1) < 0.09) & ((z % 6 < 3) | (not dashed))] = mark
    rgb[paved & (z > street.zebra) & (z < street.zebra + 3) & (x % 1.1 < 0.55)] = mark
    if rails:
        rgb[paved & (np.abs(np.abs(out - 0.5 * street.road) - 0.72) < 0.1)] *= 0.45
    edge = rng.uniform(-1.5, 1.2) * street.road
    rgb[x > edge if rng.uniform() < 0.5 else x < edge] *= shadow
    rough = np.where(label == TERRAIN, 0.16, 0.05)
    canvas.rgb[top:] = rgb * (1 + rough * canvas.grain[top:])[..., None]
    canvas.label[top:], canvas.depth[top:] = label, z


def draw_house(canvas: Canvas, city: City, x: float, near: float, far: float, night: bool) -> None:
    """Draws a house with its face along the street at `x`: gable end, roof, face, with rows of windows."""
    rng = canvas.rng
    storey, bay, window = rng.uniform(2.8, 3.6), rng.uniform(1.6, 3.2), rng.uniform(0.3, 0.75, 2)
    height = storey * max(1, round(city.floors + rng.normal(0, 1))) + 0.4
    plaster, glass = city.facade(rng), hsv(0.58, rng.uniform(0, 0.3), rng.uniform(0.12, 0.6))
    trim = plaster * rng.choice([0.7, 1.25])
    shop = hsv(rng.uniform(), 0.4, 0.4) if rng.uniform() < 0.35 else plaster * 0.9
    lit, salt = rng.uniform(0.2, 0.6) if night else 0.0, rng.integers(1, 1000)

    def face(distance: np.ndarray, y: np.ndarray, light: float = 1.0) -> np.ndarray:
        a, b = np.abs(distance / bay % 1 - 0.5), np.abs(y / storey % 1 - 0.55)
        inside = (a < window[0] / 2) & (b < window[1] / 2)
        framed = ((a < window[0] / 2 + 0.05) & (b < window[1] / 2 + 0.06)) | (y > height - 0.35)
        number = (distance // bay).astype(int) * 31 + (y // storey).astype(int) * 17 + salt
        chance = (number * 7919 % 101)[:, None] / 101
        pane = np.where(chance < lit, np.array([1.6, 1.3, 0.7]), glass * (0.7 + 0.6 * chance))
        rgb = np.where(framed[:, None], trim, np.where((y < storey)[:, None], shop, plaster)) * light
        return np.where(inside[:, None], pane, rgb)

    outward, roof = np.sign(x) * rng.uniform(6, 10), rng.uniform(1.5, 3.5) * (rng.uniform() < 0.6)
    gable = [(0, 0), (0, height), (outward / 2, height + roof), (outward, height), (outward, 0)]
    canvas.across(x, near)(gable, lambda a, b: face(a, b, 0.75), BUILDING)
    if roof:
        slope = [(x, height, near), (x, height, far)]
        slope += [(x + outward / 2, height + roof, far), (x + outward / 2, height + roof, near)]
        tiles = hsv(rng.choice([0.02, 0.05, 0.6]), rng.uniform(0.1, 0.6), rng.uniform(0.2, 0.5))
        canvas.draw([canvas.project(*point) for point in slope], tiles, BUILDING, depth=near, grain=0.12)
    canvas.along(x)(rectangle(near, 0, far, height), face, BUILDING)


def draw_wall(canvas: Canvas, city: City, x: float, near: float, far: float) -> None:
    """Draws a wall of bricks or concrete along the street, in the colors of the houses."""
    rng = canvas.rng
    height, color = rng.uniform(1.2, 2.6), city.facade(rng) * 0.85
    course, bricks = rng.uniform(0.2, 0.5), rng.uniform() < 0.6

    def stone(z: np.ndarray, y: np.ndarray) -> np.ndarray:
        joint = (y % course < 0.2 * course) | ((z + y // course % 2 * course) % (2 * course) < 0.12 * course)
        return color * np.where((y > height - 0.15) | (bricks & joint), 0.75, 1.0)[:, None]

    canvas.along(x)(rectangle(near, 0, far, height), stone, WALL)


def draw_fence(canvas: Canvas, city: City, x: float, near: float, far: float) -> None:
    """Draws a fence along the street: bars, rails and what is seen between them; all of it is labeled as fence."""
    rng = canvas.rng
    height, gap = rng.uniform(0.8, 1.7), rng.uniform(0.3, 0.8)

    def bars(z: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.where((z % gap < 0.35 * gap) | (y > height - 0.15) | (np.abs(y - 0.25) < 0.08), 1.0, 0.3)

    color = hsv(rng.uniform(), 0.3, rng.uniform(0.15, 0.8))
    canvas.along(x)(rectangle(near, 0, far, height), color, FENCE, alpha=bars)


def draw_leaves(canvas: Canvas, city: City, center: tuple, width: float, height: float, depth: float) -> None:
    """Draws a crown or bush: overlapping blobs, lit from above. `width` and `height` are half-axes on the screen."""
    rng, size = canvas.rng, np.array([width, height])
    leaf = hsv(city.leaf_hue + rng.normal(0, 0.025), rng.uniform(0.35, 0.75), city.leaf_value * rng.uniform(0.6, 1.4))
    for index in range(int(np.clip(60 * height, 2, 9))):
        offset = np.clip(rng.normal(0, 0.45, 2), -0.7, 0.7)
        middle, blob = center + offset * size, rng.uniform(0.45, 0.75) * size
        light = 1.0 - 0.35 * offset[1] + 0.03 * index
        canvas.draw([middle - blob, middle + blob], leaf * light, VEGETATION, depth=depth, grain=0.25, ellipse=True)


def draw_tree(canvas: Canvas, city: City, x: float, z: float) -> None:
    rng, across, zoom = canvas.rng, canvas.across(x, z), canvas.focal / z
    height, trunk = rng.uniform(3.5, 8), max(rng.uniform(0.1, 0.25), canvas.least(z))
    bark = hsv(0.07, rng.uniform(0.1, 0.5), rng.uniform(0.15, 0.35))
    across(rectangle(-trunk, 0, trunk, height * 0.6), bark, VEGETATION, grain=0.15)
    if rng.uniform() < 0.2:
        for foot in (0.15, 0.4, 0.65):
            tier = mirrored([(0.3 * height * (1 - foot), foot * height), (0, min(foot + 0.45, 1) * height)])
            across(tier, hsv(0.35, 0.4, city.leaf_value * rng.uniform(0.6, 1)), VEGETATION, grain=0.25)
    else:
        width = height * rng.uniform(0.25, 0.4)
        draw_leaves(canvas, city, canvas.project(x, height * 0.68, z), width * zoom, 0.38 * height * zoom, z)


def draw_lot(canvas: Canvas, city: City, x: float, near: float, far: float, night: bool) -> None:
    """Draws one lot beside the street: a house at the street, a house behind a fence or hedge, a wall, a park."""
    rng, outward = canvas.rng, np.sign(x)
    kind = rng.choice(["house", "garden", "wall", "park"], p=city.lots)
    if kind == "house":
        return draw_house(canvas, city, x, near, far, night)
    if kind == "garden" or (kind == "wall" and rng.uniform() < 0.5):
        draw_house(canvas, city, x + outward * rng.uniform(4, 8), near + 1, far - 1, night)
    for z in np.linspace(far, near, 4)[1:]:
        if rng.uniform() < {"garden": 0.35, "wall": 0.6, "park": 0.85}[kind]:
            draw_tree(canvas, city, x + outward * rng.uniform(1.5, 5), max(z, 3))
    choice = rng.uniform()
    if kind == "wall":
        draw_wall(canvas, city, x, near, far)
    elif choice < 0.45:
        draw_fence(canvas, city, x, near, far)
    elif choice < 0.75:
        for z in np.linspace(far, near, 7):
            zoom = canvas.focal / z
            middle = canvas.project(x + outward, 0.5, z)
            draw_leaves(canvas, city, middle, zoom * (far - near) / 12, 0.6 * zoom, z)


def draw_ego(canvas: Canvas, city: City) -> None:
    """Draws the hood of the car that carries the camera."""
    middle, half = canvas.aspect / 2, canvas.aspect * 0.48
    arc = [(middle + half * a, 1.02 - city.bonnet * np.sqrt(1 - a * a)) for a in np.linspace(-1, 1, 30)]

    def shine(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        return city.metal * (0.5 + 0.5 * np.abs(np.sin(5 * u)) * (1.05 - v) / city.bonnet)[:, None]

    canvas.draw(arc, shine, EGO, depth=1.0)


def expose(canvas: Canvas, city: City, gain: Color, fog: float, fog_color: Color) -> Image.Image:
    """Returns the camera's image of the scene: fog, light, blur, noise, 8 bits at the final size."""
    rng = canvas.rng
    clear = np.exp(-fog * canvas.depth)[..., None]
    rgb = canvas.rgb * clear + fog_color * (1 - clear)
    rgb = np.clip(rgb * gain * city.tint, 0, 1) ** rng.uniform(0.85, 1.2)
    image = Image.fromarray((255 * rgb + 0.5).astype(np.uint8))
    image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.1, 0.8) * canvas.scale / 192)).reduce(SUPERSAMPLING)
    noise = rng.uniform(1, 7) * rng.standard_normal((*image.size[::-1], 3), np.float32)
    return Image.fromarray(np.clip(np.asarray(image) + noise + 0.5, 0, 255).astype(np.uint8))
