"""Edits as nano draws them: what more structure and more strength do, to the judge's eye."""

from __future__ import annotations

import numpy as np
import pytest

from service.evaluation.edits import EditSetting, draw_edits, edge_similarity, edit_pairs
from tests.support.nano import nano, nano_judge

pytestmark = pytest.mark.slow


def test_edge_similarity_is_of_edges_alone() -> None:
    _, pictures = edit_pairs(3, 4)
    assert edge_similarity(pictures, pictures) == pytest.approx(1.0)
    assert edge_similarity(pictures, 255 - pictures) == pytest.approx(1.0)
    assert edge_similarity(pictures, pictures[::-1]).max() < 0.5


def test_edges_and_objects_stay_with_more_structure_and_go_with_more_strength() -> None:
    pairs, pictures = edit_pairs(3, 10)
    assert all(pair.object != pair.reference.object for pair in pairs)

    def drawn(setting: EditSetting) -> np.ndarray:
        return draw_edits(nano(), pairs, pictures, setting)

    by_structure = [drawn(EditSetting(structure, 1.0)) for structure in (0.0, 0.5, 1.0)]
    edges = [edge_similarity(images, pictures).mean() for images in by_structure]
    assert edges == sorted(edges)
    assert edges[2] > edges[0] + 0.05
    weak = drawn(EditSetting(1.0, 0.25))
    assert edge_similarity(weak, pictures).mean() > edges[2] + 0.2
    projected = drawn(EditSetting(0.0, 1.0, eta=1.0))
    assert edge_similarity(projected, pictures).mean() > edges[0]
    seen = nano_judge().judge(weak).scenes
    assert np.mean([scene.object == pair.object for scene, pair in zip(seen, pairs, strict=True)]) > 0.8
