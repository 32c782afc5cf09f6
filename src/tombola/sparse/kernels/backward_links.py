"""Backward through links: the gradients of a layer's input and of its kept weights."""

from tombola.core.compiling import kernel
from tombola.sparse.kernels.base import (
    DH,
    DW,
    FLAGS,
    H0,
    H1,
    OTHER,
    PASS,
    TOGETHER,
    W0,
    W1,
    ZERO,
    called,
    inlined,
)


@inlined
def _dot(left, right):  # type: ignore[no-untyped-def]
    total = ZERO
    for i in range(left.shape[0]):
        total += left[i] * right[i]
    return total


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


@called
def _four_dots(source, first, second, third, fourth):  # type: ignore[no-untyped-def]
    one = two = three = four = ZERO
    for i in range(source.shape[0]):
        value = source[i]
        one += first[i] * value
        two += second[i] * value
        three += third[i] * value
        four += fourth[i] * value
    return one, two, three, four


@called
def _four_both(target, source, first, second, third, fourth, values, places):  # type: ignore[no-untyped-def]
    """Add to the input's gradient, and return the shares of the weights' gradients, over one contiguous piece."""
    a, b, c, d = values[places[0]], values[places[1]], values[places[2]], values[places[3]]
    one = two = three = four = ZERO
    for i in range(source.shape[0]):
        value = source[i]
        one += first[i] * value
        two += second[i] * value
        three += third[i] * value
        four += fourth[i] * value
        target[i] += a * first[i] + b * second[i] + c * third[i] + d * fourth[i]
    return one, two, three, four


@inlined
def _four_row(target, x, gradient, at, links, values, places, value_gradients, wanted, samples):  # type: ignore[no-untyped-def]
    """Do for four links of one window, in one row, what `_both_row` or `_weight_row` does for one.

    gradient: (C_out, H, W*N), of which they read row `at`.
    """
    link = links[0]
    since, last, shift = link[W0] * samples, link[W1] * samples, link[DW] * samples
    to, until = since + shift, last + shift
    first, second = gradient[link[OTHER], at, since:last], gradient[links[1, OTHER], at, since:last]
    third, fourth = gradient[links[2, OTHER], at, since:last], gradient[links[3, OTHER], at, since:last]
    if wanted:
        sums = _four_both(target[to:until], x[to:until], first, second, third, fourth, values, places)
    else:
        sums = _four_dots(x[to:until], first, second, third, fourth)
    for k in range(PASS):
        value_gradients[places[k]] += sums[k]


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
            j = first
            while j < last:
                link = links[j]
                taken = link[TOGETHER]
                at = h - link[DH]
                if at % strides[0] == 0 and link[H0] <= at // strides[0] and at // strides[0] < link[H1]:
                    at //= strides[0]
                    if taken == PASS:
                        _four_row(
                            target[c if wanted else 0, h if wanted else 0],
                            x[c, h],
                            gradient,
                            at,
                            links[j : j + PASS],
                            values,
                            order[j : j + PASS],
                            value_gradients,
                            wanted,
                            samples,
                        )
                    elif wanted:
                        value_gradients[order[j]] += _both_row(
                            target[c, h],
                            x[c, h],
                            gradient[link[OTHER], at],
                            link,
                            values[order[j]],
                            strides[1],
                            samples,
                        )
                    else:
                        value_gradients[order[j]] += _weight_row(
                            x[c, h], gradient[link[OTHER], at], link, strides[1], samples
                        )
                j += taken
