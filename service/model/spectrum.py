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

    1 for equal pictures, about 0 for unrelated ones, however many they are; each scale counts the same. Rendered
    by nano's recipe, pictures of one style are at 0.4 to 0.7, two styles in equal parts at 0 to 0.5, pictures at
    random within 0.2 of 0. Dominance does not tell them apart: unrelated features average to something faint
    whose spectrum looks like any other's (median 0.75 against 0.76 of single pictures).
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
