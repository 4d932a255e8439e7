"""The rasteriser: vertices in camera space -> visible triangle per pixel -> geometry buffers or a finished picture.

Pixel (i, j) has its centre at (j + .5, i + .5); u = f x / z + size / 2. Compiled with numba; every function is
pure, releases the interpreter lock and gives the same result whatever runs beside it.
Numba's cache notices changes of this file only: after editing paint.py or noise.py, empty `__pycache__`.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from instag.data.layout import Label
from instag.synthetic import materials, paint
from instag.synthetic.materials import MATERIAL_LABEL
from instag.synthetic.noise import FINE, grain, sample

FAR = np.float32(1e9)  # depth where nothing was hit
BAND = 64  # output rows shaded at a time, so that the buffers stay small
KEY, FILL = 0.78, 0.20  # strengths of the two lights
GRAIN = 1.2  # grey levels
# Screen-space occlusion, darker where a sample lies behind its surroundings: radii in cm.
NEAR_RADIUS, NEAR_STRENGTH, WIDE_RADIUS, WIDE_STRENGTH = 0.35, 0.55, 1.1, 0.55
OCCLUSION_LIMIT, OCCLUSION_FLOOR = 0.6, 0.35
INNER_LIP_DEPTH = 0.5  # cm: beyond it the inner lip counts as the inside of the mouth

SKIN, LIP_INNER, LID_EDGE, EYE = materials.SKIN, materials.LIP_INNER, materials.LID_EDGE, materials.EYE
CAVITY, TEETH, TONGUE, EAR = materials.CAVITY, materials.TEETH, materials.TONGUE, materials.EAR
NECK, TORSO, HAIR, GLASSES = materials.NECK, materials.TORSO, materials.HAIR, materials.GLASSES
LABEL_NECK, LABEL_MOUTH = int(Label.NECK), int(Label.MOUTH)


@njit(cache=True, nogil=True, fastmath=True)
def _corners(triangles, k):
    """The three vertices of a triangle as numbers: a view of the row would be reference-counted for every pixel."""
    return triangles[k, 0], triangles[k, 1], triangles[k, 2]


@njit(cache=True, nogil=True, fastmath=True)
def vertex_normals(vertices, triangles):
    """Return unit normals [V, 3] float32, area-weighted over the triangles of each vertex."""
    normals = np.zeros(vertices.shape, np.float32)
    for k in range(triangles.shape[0]):
        a, b, c = _corners(triangles, k)
        ux, uy, uz = vertices[b, 0] - vertices[a, 0], vertices[b, 1] - vertices[a, 1], vertices[b, 2] - vertices[a, 2]
        vx, vy, vz = vertices[c, 0] - vertices[a, 0], vertices[c, 1] - vertices[a, 1], vertices[c, 2] - vertices[a, 2]
        nx, ny, nz = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
        for i in (a, b, c):
            normals[i, 0] += nx
            normals[i, 1] += ny
            normals[i, 2] += nz
    for i in range(len(normals)):
        length = math.sqrt(normals[i, 0] ** 2 + normals[i, 1] ** 2 + normals[i, 2] ** 2) + 1e-9
        for c in range(3):
            normals[i, c] /= length
    return normals


@njit(cache=True, nogil=True, fastmath=True)
def project(vertices, focal, size):
    """Return pixel coordinates [V, 2] float32 of camera-space vertices."""
    pixels = np.empty((len(vertices), 2), np.float32)
    for i in range(len(vertices)):
        pixels[i, 0] = focal * vertices[i, 0] / vertices[i, 2] + size * 0.5
        pixels[i, 1] = focal * vertices[i, 1] / vertices[i, 2] + size * 0.5
    return pixels


@njit(cache=True, nogil=True, fastmath=True)
def _cut_by_hairline(angle, height, above):
    """Whether the hair shell is absent here: below a ragged hairline."""
    if above >= 3:
        return False
    return above < 1.4 * (sample(FINE, height * 2 + 900, angle * 220 + 900) - 0.5)


@njit(cache=True, nogil=True, fastmath=True)
def visible(vertices, pixels, triangles, material, attribute, first_row, depth, hit, weights):
    """Fill depth [h, w] (FAR where nothing), hit [h, w] (triangle or -1), weights [h, w, 2] for rows from first_row."""
    height, width = depth.shape
    depth[:] = FAR
    hit[:] = -1
    for k in range(triangles.shape[0]):
        i, j, l = _corners(triangles, k)  # noqa: E741
        y0, y1, y2 = pixels[i, 1] - first_row, pixels[j, 1] - first_row, pixels[l, 1] - first_row
        top, bottom = max(0, math.ceil(min(y0, y1, y2) - 0.5)), min(height - 1, math.floor(max(y0, y1, y2) - 0.5))
        if top > bottom:
            continue
        x0, x1, x2 = pixels[i, 0], pixels[j, 0], pixels[l, 0]
        left, right = max(0, math.ceil(min(x0, x1, x2) - 0.5)), min(width - 1, math.floor(max(x0, x1, x2) - 0.5))
        area = (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)
        if left > right or abs(area) < 1e-9:
            continue
        scale = 1 / area
        w0, w1, w2 = 1 / vertices[i, 2], 1 / vertices[j, 2], 1 / vertices[l, 2]
        for y in range(top, bottom + 1):
            dy = y + 0.5 - y0
            for x in range(left, right + 1):
                dx = x + 0.5 - x0
                b1 = (dx * (y2 - y0) - (x2 - x0) * dy) * scale
                b2 = ((x1 - x0) * dy - dx * (y1 - y0)) * scale
                b0 = 1 - b1 - b2
                if b0 < 0 or b1 < 0 or b2 < 0:
                    continue
                z = 1 / (b0 * w0 + b1 * w1 + b2 * w2)
                if z >= depth[y, x]:
                    continue
                p0, p1 = b0 * w0 * z, b1 * w1 * z
                if material[k] == HAIR:
                    p2 = 1 - p0 - p1
                    angle = p0 * attribute[i, 0] + p1 * attribute[j, 0] + p2 * attribute[l, 0]
                    tall = p0 * attribute[i, 1] + p1 * attribute[j, 1] + p2 * attribute[l, 1]
                    above = p0 * attribute[i, 2] + p1 * attribute[j, 2] + p2 * attribute[l, 2]
                    if _cut_by_hairline(angle, tall, above):
                        continue
                depth[y, x], hit[y, x], weights[y, x, 0], weights[y, x, 1] = z, k, p0, p1


@njit(cache=True, nogil=True, fastmath=True)
def _interpolate(values, triangle, p0, p1):
    i, j, l = triangle  # noqa: E741
    p2 = 1 - p0 - p1
    return (
        p0 * values[i, 0] + p1 * values[j, 0] + p2 * values[l, 0],
        p0 * values[i, 1] + p1 * values[j, 1] + p2 * values[l, 1],
        p0 * values[i, 2] + p1 * values[j, 2] + p2 * values[l, 2],
    )


@njit(cache=True, nogil=True, fastmath=True)
def _facing_normal(normals, triangle, p0, p1, vx, vy, vz):
    """Unit normal, turned over only where it clearly looks away: nearer to grazing a turn would draw white seams."""
    nx, ny, nz = _interpolate(normals, triangle, p0, p1)
    scale = 1 / math.sqrt(nx * nx + ny * ny + nz * nz + 1e-12)
    if (nx * vx + ny * vy + nz * vz) * scale < -0.3:
        scale = -scale
    return nx * scale, ny * scale, nz * scale


@njit(cache=True, nogil=True, fastmath=True)
def _view(vertices, triangle, p0, p1):
    """Unit vector from the surface to the camera."""
    x, y, z = _interpolate(vertices, triangle, p0, p1)
    scale = -1 / math.sqrt(x * x + y * y + z * z)
    return x * scale, y * scale, z * scale


@njit(cache=True, nogil=True, fastmath=True)
def geometry(vertices, normals, triangles, material, attribute, focal, size, look):
    """Return depth [S, S] (FAR: nothing), labels [S, S], unit normals [S, S, 3] and their validity at pixel centres."""
    depth = np.empty((size, size), np.float32)
    hit, weights = np.empty((size, size), np.int32), np.empty((size, size, 2), np.float32)
    visible(vertices, project(vertices, focal, size), triangles, material, attribute, 0, depth, hit, weights)
    labels, normal = np.zeros((size, size), np.uint8), np.zeros((size, size, 3), np.float32)
    valid = np.zeros((size, size), np.bool_)
    for y in range(size):
        for x in range(size):
            k = hit[y, x]
            if k < 0:
                continue
            p0, p1 = weights[y, x, 0], weights[y, x, 1]
            triangle = _corners(triangles, k)
            vx, vy, vz = _view(vertices, triangle, p0, p1)
            nx, ny, nz = _facing_normal(normals, triangle, p0, p1, vx, vy, vz)
            outer = material[k] == SKIN or material[k] == EAR or material[k] == NECK or material[k] == TORSO
            if outer and nx * vx + ny * vy + nz * vz > 0:
                normal[y, x, 0], normal[y, x, 1], normal[y, x, 2] = nx, ny, nz
                valid[y, x] = True
            labels[y, x] = MATERIAL_LABEL[material[k]]
            if material[k] == LIP_INNER or material[k] == TORSO:  # these two change class within
                u, v, w = _interpolate(attribute, triangle, p0, p1)
                if material[k] == LIP_INNER and w > INNER_LIP_DEPTH:
                    labels[y, x] = LABEL_MOUTH
                elif material[k] == TORSO and paint.above_collar(u, v, look):
                    labels[y, x] = LABEL_NECK
    return depth, labels, normal, valid


@njit(cache=True, nogil=True, fastmath=True)
def _paint(material, u, v, w, look):
    if material == SKIN:
        return paint.skin(u, v, w, look)
    if material == HAIR:
        return paint.hair(u, v, w, look)
    if material == TORSO:
        return paint.torso(u, v, look)
    if material == NECK:
        return paint.neck(u, v, look)
    if material == EYE:
        return paint.eyeball(u, v, look)
    if material == TEETH:
        return paint.tooth(u, v)
    if material == LIP_INNER:
        return paint.inner_lip(w, look)
    if material == LID_EDGE:
        return paint.lid_edge(look)
    if material == EAR:
        return look.skin[0] * 1.02, look.skin[1] * 0.90, look.skin[2] * 0.88, 1 - 0.55 * w, 0.10, 18.0
    if material == GLASSES:
        return 0.03, 0.03, 0.035, 1.0, 0.35, 30.0
    if material == TONGUE:
        return 0.55, 0.26, 0.25, 0.35 + 0.4 * min(1.0, max(0.0, (w - 6.0) / 2.2)), 0.12, 18.0
    return 0.07, 0.02, 0.02, 0.5, 0.0, 18.0  # cavity


@njit(cache=True, nogil=True, fastmath=True)
def _light(surface, nx, ny, nz, vx, vy, vz, look):
    """Key light that wraps round skin (more in red), fill from the other side, sky above, highlight."""
    r, g, b, ao, gloss, exponent = surface
    lx, ly, lz = look.light[0], look.light[1], look.light[2]
    towards = nx * lx + ny * ly + nz * lz
    warm, cool = max(0.0, (towards + 0.35) / 1.35), max(0.0, towards * 0.8 + 0.2)
    around = FILL * max(0.0, -0.8 * nx * lx - 0.2 * ny - 0.55 * nz) + 0.20 + 0.14 * (0.5 - 0.5 * ny)
    ao = max(0.12, ao)
    shine = 0.0
    if towards > 0 and gloss > 0:
        hx, hy, hz = lx + vx, ly + vy, lz + vz
        facing = max(0.0, (nx * hx + ny * hy + nz * hz) / math.sqrt(hx * hx + hy * hy + hz * hz))
        if facing > 0.5:  # below, the power is nothing
            shine = gloss * facing**exponent * (0.5 + 0.5 * ao)
    red = r * ao * (KEY * warm + around) + shine
    green = g * ao * (KEY * 0.5 * (warm + cool) + around) + shine
    return red, green, b * ao * (KEY * cool + around) + shine


@njit(cache=True, nogil=True, fastmath=True)
def _shade(k, p0, p1, light, vertices, normals, triangles, material, attribute, look):
    """Linear colour of a sample, of which the surroundings let the share `light` through."""
    triangle = _corners(triangles, k)
    vx, vy, vz = _view(vertices, triangle, p0, p1)
    nx, ny, nz = _facing_normal(normals, triangle, p0, p1, vx, vy, vz)
    u, v, w = _interpolate(attribute, triangle, p0, p1)
    r, g, b = _light(_paint(material[k], u, v, w, look), nx, ny, nz, vx, vy, vz, look)
    return r * light, g * light, b * light


@njit(cache=True, nogil=True, fastmath=True)
def _unoccluded(z, near, wide):
    """Share of light at depth z, given the mean depths of its nearer and wider surroundings: darker in hollows."""
    light = 1.0 - NEAR_STRENGTH * min(max((z - near) / NEAR_RADIUS, 0.0), OCCLUSION_LIMIT)
    light -= WIDE_STRENGTH * min(max((z - wide) / WIDE_RADIUS, 0.0), OCCLUSION_LIMIT)
    return max(light, OCCLUSION_FLOOR)


@njit(cache=True, nogil=True, fastmath=True)
def picture(vertices, normals, triangles, material, attribute, focal, around, supersampling, tone, frame, look):
    """Return the picture, uint8 [S, S, 3]: each pixel the mean of supersampling^2 samples.

    around [2, S, S] are the mean depths within NEAR_RADIUS and WIDE_RADIUS of each pixel; tone is the curve from linear
    [0, TONE_LIMIT] to grey levels; frame seeds the grain.
    """
    size, n = around.shape[1], supersampling
    pixels = project(vertices, focal * n, size * n)
    image = np.empty((size, size, 3), np.uint8)
    depth = np.empty((BAND * n, size * n), np.float32)
    hit, weights = np.empty(depth.shape, np.int32), np.empty((*depth.shape, 2), np.float32)
    for first in range(0, size, BAND):
        rows = min(BAND, size - first)
        visible(vertices, pixels, triangles, material, attribute, first * n, depth, hit, weights)
        for y in range(rows):
            for x in range(size):
                red, green, blue, missed = 0.0, 0.0, 0.0, 0
                for sy in range(y * n, y * n + n):
                    for sx in range(x * n, x * n + n):
                        if hit[sy, sx] < 0:
                            missed += 1
                            continue
                        light = _unoccluded(depth[sy, sx], around[0, first + y, x], around[1, first + y, x])
                        p0, p1, k = weights[sy, sx, 0], weights[sy, sx, 1], hit[sy, sx]
                        r, g, b = _shade(k, p0, p1, light, vertices, normals, triangles, material, attribute, look)
                        red, green, blue = red + r, green + g, blue + b
                if missed > 0:
                    r, g, b = paint.backdrop((x + 0.5) / size, (first + y + 0.5) / size, look)
                    red, green, blue = red + missed * r, green + missed * g, blue + missed * b
                share = 1.0 / (n * n)
                image[first + y, x, 0] = develop(red * share, tone, x, first + y, 0, frame)
                image[first + y, x, 1] = develop(green * share, tone, x, first + y, 1, frame)
                image[first + y, x, 2] = develop(blue * share, tone, x, first + y, 2, frame)
    return image


TONE_LIMIT, TONE_STEPS = 1.2, 4096


def tone_curve() -> np.ndarray:
    """Return grey levels [TONE_STEPS + 2] for linear light 0 .. TONE_LIMIT."""
    light = np.minimum(np.arange(TONE_STEPS + 2) / TONE_STEPS, 1) * TONE_LIMIT
    return (255 * np.clip(1.08 * light / (1 + 0.12 * light), 0, 1) ** (1 / 1.5)).astype(np.float32)


@njit(cache=True, nogil=True, fastmath=True)
def develop(light, tone, x, y, channel, frame):
    """Return the grey level of linear light, with grain; frame < 0 means none."""
    at = min(max(light, 0.0), TONE_LIMIT) * (TONE_STEPS / TONE_LIMIT)
    i = int(at)
    level = tone[i] + (at - i) * (tone[i + 1] - tone[i])
    if frame >= 0:
        level += GRAIN * grain(x, y, channel, frame)
    return np.uint8(min(255.0, max(0.0, level)) + 0.5)


@njit(cache=True, nogil=True, fastmath=True)
def backdrop_picture(size, tone, look):
    """Return the empty room, uint8 [S, S, 3], without grain."""
    image = np.empty((size, size, 3), np.uint8)
    for y in range(size):
        for x in range(size):
            r, g, b = paint.backdrop((x + 0.5) / size, (y + 0.5) / size, look)
            image[y, x, 0] = develop(r, tone, x, y, 0, -1)
            image[y, x, 1] = develop(g, tone, x, y, 1, -1)
            image[y, x, 2] = develop(b, tone, x, y, 2, -1)
    return image
