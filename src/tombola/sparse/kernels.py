"""The inner loops, compiled for the processor at hand by numba.

Activations lie as channels x height x (width x samples): float32 of shape (C, H, W*N), without padding. A kept weight
is a link, a row of int64 (other channel, dh, dw, h0, h1, w0, w1): output rows h0 to h1 and columns w0 to w1 get the
weight times the input at row h*sh + dh and column w*sw + dw, so that for sw = 1 one row is one multiply-add over a
contiguous piece. Each channel is the work of one thread, its sums run in a fixed order: the same bits every time, on
any number of threads. Sums over a plane are of rows in float32, then of their sums in float64.
"""

from typing import Any

import numpy as np
from numba import njit

from tombola.core.compiling import kernel

# Sums may be reordered, by the compiler, once and for all; what is no number must stay one's to see.
FLAGS = ("contract", "reassoc", "nsz")
inlined: Any = njit(inline="always", fastmath=set(FLAGS), error_model="numpy")

ZERO = np.float32(0)
# Numbers that are worked on together: they stay in the nearest cache, and loops over them are worth their beginning.
PIECE = 1024
OTHER, DH, DW, H0, H1, W0, W1 = range(7)
# What a unit does with the gradient of what was added to its output.
NO_RESIDUAL, WRITE, ADD = range(3)
# How a unit walks its links: it has none, row by row of the output, or one number a sample, where each link counts.
NO_WALK, ROWS, FEATURES = range(3)


@inlined
def _multiply_add(target, source, weight):  # type: ignore[no-untyped-def]
    for i in range(target.shape[0]):
        target[i] += weight * source[i]


@inlined
def _dot(left, right):  # type: ignore[no-untyped-def]
    total = ZERO
    for i in range(left.shape[0]):
        total += left[i] * right[i]
    return total


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


@inlined
def _links_rows(  # type: ignore[no-untyped-def]
    plane, top, bottom, x, folded, constants, first, last, links, values, bias, strides, samples
):
    """Write the rows from top to bottom of an output channel: the sums of its links, and a bias."""
    plane[top:bottom] = bias
    for j in range(first, last):
        link = links[j]
        source = link[OTHER]
        for h in range(max(top, link[H0]), min(bottom, link[H1])):
            if folded[source]:
                _add(plane[h, link[W0] * samples : link[W1] * samples], values[j] * constants[source])
            else:
                _link_row(plane[h], x[source, h * strides[0] + link[DH]], link, values[j], strides[1], samples)


@inlined
def _features(row, x, folded, constants, first, last, links, values, bias):  # type: ignore[no-untyped-def]
    """Write one output feature of a linear layer, (N,): what `_links_rows` does, with less to decide a link."""
    row[:] = bias
    for j in range(first, last):
        source, weight = links[j, OTHER], values[j]
        if folded[source]:
            _add(row, weight * constants[source])
        else:
            _multiply_add(row, x[source, 0], weight)


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


@inlined
def _pass_on(target, gradient, mode):  # type: ignore[no-untyped-def]
    if mode == WRITE:
        target[:] = gradient
    else:
        for i in range(target.shape[0]):
            target[i] += gradient[i]


@inlined
def _cut_sums(gradient, source, mean, scale, shift):  # type: ignore[no-untyped-def]
    """Return what `_sums` does of a row that is cut where scale * (source - mean) + shift is not above zero."""
    total = product = ZERO
    for i in range(gradient.shape[0]):
        value = gradient[i] if scale * (source[i] - mean) + shift > 0 else ZERO
        total += value
        product += value * (source[i] - mean)
    return total, product


@inlined
def _cut(gradient, deciding):  # type: ignore[no-untyped-def]
    for i in range(gradient.shape[0]):
        gradient[i] = gradient[i] if deciding[i] > 0 else ZERO


@inlined
def _sums(gradient, source, mean):  # type: ignore[no-untyped-def]
    """Return a row's sum, and that of it * (source - mean)."""
    total = product = ZERO
    for i in range(gradient.shape[0]):
        total += gradient[i]
        product += gradient[i] * (source[i] - mean)
    return total, product


@kernel(*FLAGS)
def unit_backward(  # type: ignore[no-untyped-def]
    channels, gradient, out, before, normalises, moves, norm, gamma, beta, residual, mode, adds, cuts, sums
):
    """Turn the gradient of a unit's output into that of what was normalised; by channel, in place.

    sums (2, C): gets the gradients of gamma and of beta (or of the bias where nothing is normalised).
    """
    height, length = gradient.shape[1], gradient.shape[2]
    for c in channels:
        mean, inverse, weight = (norm[0, c], norm[2, c], gamma[c]) if normalises else (ZERO, ZERO, ZERO)
        scale, shift = weight * inverse, beta[c] if normalises else ZERO
        # Whether the output was cut is read from what was normalised, which is read anyway, where nothing was added;
        # then the gradient need not be written twice.
        later = cuts and normalises and not adds
        total = moment = 0.0
        for h in range(height):
            row, source = gradient[c, h], before[c, h]
            if later:
                part, product = _cut_sums(row, source, mean, scale, shift)
            else:
                if cuts:
                    _cut(row, out[c, h])
                part, product = _sums(row, source, mean)
            total += part
            moment += product
            if mode != NO_RESIDUAL:
                _pass_on(residual[c, h], row, mode)
        sums[0, c], sums[1, c] = moment * inverse, total
        if not normalises:
            continue
        slope = np.float32(moment * inverse * inverse / (height * length)) * scale if moves else ZERO
        level = mean * slope - (scale * np.float32(total / (height * length)) if moves else ZERO)
        for h in range(height):
            row, source = gradient[c, h], before[c, h]
            if later:
                for i in range(length):
                    value = row[i] if scale * (source[i] - mean) + shift > 0 else ZERO
                    row[i] = scale * value - slope * source[i] + level
            else:
                for i in range(length):
                    row[i] = scale * row[i] - slope * source[i] + level


@inlined
def _weight_row(x, gradient, link, w_stride, samples):  # type: ignore[no-untyped-def]
    """Return one row's share of the gradient of one weight."""
    if w_stride == 1:
        first, last, shift = link[W0] * samples, link[W1] * samples, link[DW] * samples
        return _dot(gradient[first:last], x[first + shift : last + shift])
    total = ZERO
    for w in range(link[W0], link[W1]):
        at = (w * w_stride + link[DW]) * samples
        total += _dot(gradient[w * samples : (w + 1) * samples], x[at : at + samples])
    return total


@inlined
def _both_row(target, x, gradient, link, weight, w_stride, samples):  # type: ignore[no-untyped-def]
    """Add one link's share of one row of the input's gradient, and return its share of the weight's."""
    total = ZERO
    if w_stride == 1:
        first, last, shift = link[W0] * samples, link[W1] * samples, link[DW] * samples
        to, source, from_ = target[first + shift : last + shift], x[first + shift : last + shift], gradient[first:last]
        for i in range(from_.shape[0]):
            total += from_[i] * source[i]
            to[i] += weight * from_[i]
    else:
        for w in range(link[W0], link[W1]):
            at = (w * w_stride + link[DW]) * samples
            to, source, from_ = (
                target[at : at + samples],
                x[at : at + samples],
                gradient[w * samples : (w + 1) * samples],
            )
            for i in range(samples):
                total += from_[i] * source[i]
                to[i] += weight * from_[i]
    return total


@inlined
def _reached_sum(gradient, link, samples):  # type: ignore[no-untyped-def]
    """Return the sum of an output channel's gradient, (H, W*N), over the places that a link reaches."""
    total = 0.0
    for h in range(link[H0], link[H1]):
        of_row = ZERO
        for i in range(link[W0] * samples, link[W1] * samples):
            of_row += gradient[h, i]
        total += float(of_row)
    return total


@kernel(*FLAGS)
def links_backward(  # type: ignore[no-untyped-def]
    channels,
    target,
    wanted,
    adds,
    x,
    folded,
    constants,
    constant_gradients,
    gradient,
    pointers,
    order,
    links,
    values,
    value_gradients,
    strides,
    samples,
):
    """Gradients of a layer's input and kept weights, by channel of the input.

    links: by the input's channel, `OTHER` the output's. order: of each link, the place of its weight. wanted: whether
    the input's gradient is; it is added to what lies in target if it `adds`. value_gradients: zeros. folded, constants:
    channels of x that are one number, whose gradients are added to constant_gradients.
    """
    for c in channels:
        first, last = pointers[c], pointers[c + 1]
        if folded[c]:
            for j in range(first, last):
                total = _reached_sum(gradient[links[j, OTHER]], links[j], samples)
                value_gradients[order[j]] += constants[c] * total
                constant_gradients[c] += values[order[j]] * total
            continue
        for h in range(x.shape[1]):
            if wanted and not adds:
                target[c, h] = ZERO
            for j in range(first, last):
                link = links[j]
                at = h - link[DH]
                if at % strides[0] != 0:
                    continue
                at //= strides[0]
                if link[H0] <= at and at < link[H1]:
                    row = gradient[link[OTHER], at]
                    if wanted:
                        value_gradients[order[j]] += _both_row(
                            target[c, h], x[c, h], row, link, values[order[j]], strides[1], samples
                        )
                    else:
                        value_gradients[order[j]] += _weight_row(x[c, h], row, link, strides[1], samples)
