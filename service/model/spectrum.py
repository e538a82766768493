"""What the singular values and the bits of a style feature say about the reference it came from."""

from __future__ import annotations

from service.model.style import StyleFeature


def dominance(style: StyleFeature) -> float:
    """The first component's share of the feature's energy, 0 to 1: sigma_0^2 over the sum of sigma_i^2.

    High where one look fills the picture; lower where a picture holds several (a collage, a page of samples).
    """
    energies = style.singular_values.astype(float) ** 2
    return float(energies[0] / energies.sum()) if len(energies) else 0.0


def agreement(style: StyleFeature) -> float | None:
    """How alike the pictures of the style are: the mean cosine of the codes of two of them; None for one.

    1 for equal pictures, about 0 for unrelated ones, however many they are; each scale counts the same. Four
    pictures of nano's own are at 0.30 to 0.61 when they share a style, at -0.03 to 0.38 when they are of two
    styles, and at -0.09 to 0.12 when they share none (5 to 95 %). Dominance does not tell these apart:
    unrelated features average to something faint whose spectrum looks like any other's (median 0.67, of
    single pictures 0.64).
    """
    count = style.num_images
    if count == 1:
        return None
    means = style.bits.astype(float) / count * 2 - 1
    total, start = 0.0, 0
    for grid in style.grids:
        rows = means[start : start + grid.num_tokens]
        start += grid.num_tokens
        # Of the count^2 pairs in the square of a mean, `count` pair a picture with itself: their cosine is 1.
        total += (count * float((rows**2).mean()) - 1) / (count - 1)
    return total / len(style.grids)
