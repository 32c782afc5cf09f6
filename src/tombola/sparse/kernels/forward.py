"""Forward: a channel's links, its normalisation, what is added to it, and its cut."""

import numpy as np

from tombola.core.compiling import kernel
from tombola.sparse.kernels.base import (
    DH,
    DW,
    FLAGS,
    H0,
    H1,
    OTHER,
    PASS,
    PIECE,
    TOGETHER,
    W0,
    W1,
    ZERO,
    called,
    inlined,
)

# How a unit walks its links: it has none, row by row of the output, or one number a sample, where each link counts.
NO_WALK, ROWS, FEATURES = range(3)


@inlined
def _multiply_add(target, source, weight):  # type: ignore[no-untyped-def]
    for i in range(target.shape[0]):
        target[i] += weight * source[i]


@inlined
def _link_row(target, row, link, weight, w_stride, samples):  # type: ignore[no-untyped-def]
    """Add one link's share of one output row."""
    if w_stride == 1:
        first, last, shift = link[W0] * samples, link[W1] * samples, link[DW] * samples
        _multiply_add(target[first:last], row[first + shift : last + shift], weight)
    else:
        for w in range(link[W0], link[W1]):
            at = (w * w_stride + link[DW]) * samples
            _multiply_add(target[w * samples : (w + 1) * samples], row[at : at + samples], weight)


@inlined
def _add(target, number):  # type: ignore[no-untyped-def]
    for i in range(target.shape[0]):
        target[i] += number


@called
def _multiply_add_four(target, first, second, third, fourth, weights):  # type: ignore[no-untyped-def]
    one, two, three, four = weights[0], weights[1], weights[2], weights[3]
    for i in range(target.shape[0]):
        target[i] += one * first[i] + two * second[i] + three * third[i] + four * fourth[i]


@inlined
def _four_links_row(target, x, h, links, weights, samples):  # type: ignore[no-untyped-def]
    """Add the share of four links of one window in one output row; h: the row of x that they read."""
    link = links[0]
    first, last, shift = link[W0] * samples, link[W1] * samples, link[DW] * samples
    since, until = first + shift, last + shift
    _multiply_add_four(
        target[first:last],
        x[link[OTHER], h, since:until],
        x[links[1, OTHER], h, since:until],
        x[links[2, OTHER], h, since:until],
        x[links[3, OTHER], h, since:until],
        weights,
    )


@inlined
def _are_planes(links, folded):  # type: ignore[no-untyped-def]
    """Whether none of the channels of four links is one number."""
    return not (
        folded[links[0, OTHER]] or folded[links[1, OTHER]] or folded[links[2, OTHER]] or folded[links[3, OTHER]]
    )


@inlined
def _links_rows(  # type: ignore[no-untyped-def]
    plane, top, bottom, x, folded, constants, first, last, links, values, bias, strides, samples
):
    """Write the rows from top to bottom of an output channel: the sums of its links, and a bias."""
    plane[top:bottom] = bias
    j = first
    while j < last:
        link = links[j]
        source, since, until = link[OTHER], max(top, link[H0]), min(bottom, link[H1])
        if link[TOGETHER] == PASS and _are_planes(links[j : j + PASS], folded):
            for h in range(since, until):
                at = h * strides[0] + link[DH]
                _four_links_row(plane[h], x, at, links[j : j + PASS], values[j : j + PASS], samples)
            j += PASS
            continue
        for h in range(since, until):
            if folded[source]:
                _add(plane[h, link[W0] * samples : link[W1] * samples], values[j] * constants[source])
            else:
                _link_row(plane[h], x[source, h * strides[0] + link[DH]], link, values[j], strides[1], samples)
        j += 1


@inlined
def _features(row, x, folded, constants, first, last, links, values, bias):  # type: ignore[no-untyped-def]
    """Write one output feature of a linear layer, (N,): what `_links_rows` does, with less to decide a link."""
    row[:] = bias
    j = first
    while j < last:
        source, weight = links[j, OTHER], values[j]
        if links[j, TOGETHER] == PASS and _are_planes(links[j : j + PASS], folded):
            _multiply_add_four(
                row,
                x[source, 0],
                x[links[j + 1, OTHER], 0],
                x[links[j + 2, OTHER], 0],
                x[links[j + 3, OTHER], 0],
                values[j : j + PASS],
            )
            j += PASS
            continue
        if folded[source]:
            _add(row, weight * constants[source])
        else:
            _multiply_add(row, x[source, 0], weight)
        j += 1


@inlined
def _moments(row, near):  # type: ignore[no-untyped-def]
    """Return the mean of numbers, and their squared distances from it; exact where all of them equal `near`."""
    total = ZERO
    for i in range(row.shape[0]):
        total += row[i] - near
    mean = near + total / np.float32(row.shape[0])
    squares = ZERO
    for i in range(row.shape[0]):
        squares += (row[i] - mean) * (row[i] - mean)
    return mean, squares


@inlined
def _affine(target, source, centre, scale, shift, residual, adds, low):  # type: ignore[no-untyped-def]
    """Write scale * (source - centre) + shift, plus the residual if it `adds`, not below `low`; no overlapping rows."""
    if adds:
        for i in range(target.shape[0]):
            value = scale * (source[i] - centre) + shift + residual[i]
            target[i] = low if value < low else value
    else:
        for i in range(target.shape[0]):
            value = scale * (source[i] - centre) + shift
            target[i] = low if value < low else value


@inlined
def _affine_in_place(row, centre, scale, shift, residual, adds, low):  # type: ignore[no-untyped-def]
    """Do what `_affine` does within one row: told that rows may overlap, the compiler would not vectorise either."""
    if adds:
        for i in range(row.shape[0]):
            value = scale * (row[i] - centre) + shift + residual[i]
            row[i] = low if value < low else value
    else:
        for i in range(row.shape[0]):
            value = scale * (row[i] - centre) + shift
            row[i] = low if value < low else value


@inlined
def _finish(out, before, residual, in_place, centre, scale, shift, adds, low):  # type: ignore[no-untyped-def]
    if in_place:
        _affine_in_place(out, centre, scale, shift, residual, adds, low)
    else:
        _affine(out, before, centre, scale, shift, residual, adds, low)


@kernel(*FLAGS)
def unit_forward(  # type: ignore[no-untyped-def]
    channels,
    out,
    before,
    in_place,
    x,
    folded,
    constants,
    walks,
    pointers,
    links,
    values,
    bias,
    strides,
    samples,
    normalises,
    moves,
    norm,
    gamma,
    beta,
    epsilon,
    residual,
    adds,
    cuts,
):
    """before = links(x) + bias if it walks; out = cut(normalised before + residual); by channel.

    in_place: whether before and out are one array. moves: whether mean and variance are those of the batch, and put
    into norm (3, C: mean, variance, 1/deviation), or are read from there. folded, constants: which channels of x are
    one number everywhere, and which number; nothing need lie in x there.
    """
    low = ZERO if cuts else np.float32(-np.inf)
    height, length = out.shape[1], out.shape[2]
    rows = max(1, PIECE // length)
    changes = normalises or adds or cuts
    for c in channels:
        to, plane, other = out[c].reshape(-1), before[c].reshape(-1), residual[c if adds else 0].reshape(-1)
        centre, scale, shift = ZERO, np.float32(1), ZERO
        if normalises and not moves:
            centre, scale, shift = norm[0, c], norm[2, c] * gamma[c], beta[c]
        mean = squares = 0.0
        for top in range(0, height, rows):
            bottom = min(top + rows, height)
            since, until = top * length, bottom * length
            first, last = (pointers[c], pointers[c + 1]) if walks != NO_WALK else (0, 0)
            if walks == FEATURES:
                _features(plane, x, folded, constants, first, last, links, values, bias[c])
            elif walks == ROWS:
                _links_rows(
                    before[c],
                    top,
                    bottom,
                    x,
                    folded,
                    constants,
                    first,
                    last,
                    links,
                    values,
                    bias[c],
                    strides,
                    samples,
                )
            if moves:
                # Chan, Golub and LeVeque's merging of samples, piece by piece while it is in the nearest cache.
                of_piece, squares_of_piece = _moments(plane[since:until], plane[0])
                distance = of_piece - mean
                mean += distance * (until - since) / until
                squares += squares_of_piece + distance * distance * since * (until - since) / until
            elif changes:
                rest = other[since:until] if adds else other
                _finish(to[since:until], plane[since:until], rest, in_place, centre, scale, shift, adds, low)
        if moves:
            variance = squares / (height * length)
            norm[0, c], norm[1, c], norm[2, c] = mean, variance, 1 / np.sqrt(variance + epsilon)
            _finish(to, plane, other, in_place, norm[0, c], norm[2, c] * gamma[c], beta[c], adds, low)
