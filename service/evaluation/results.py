"""The report of `atelier evaluate nano` as Markdown, and the files that a run writes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from service import __version__
from service.evaluation.evaluate import BASE, Evaluation
from service.evaluation.fidelity import Fidelity
from service.evaluation.hardware import describe
from service.evaluation.intervals import Estimate
from service.evaluation.sheet import contact_sheet
from service.evaluation.shortcuts import table as shortcuts_table
from service.evaluation.stylisation import Configuration, Score
from service.model.engine.generator import Generator

_COLUMNS = {
    "kept": "object kept",
    "leaked": "leaked",
    "background": "background",
    "medium": "medium",
    "colour": "colour",
    "style": "style",
    "harmonic": "harmonic",
    "vanished": "vanished",
}

_STYLE = """The prompt names an object; the reference shows another one.
Kept: the prompt's object is drawn. Leaked: the reference's object is drawn.
Background and medium: as the reference's; style: their mean; harmonic: of style and object kept.
Colour: as the reference's, where its object has a colour of the palette and not its own.
Vanished: nothing stands out from the background."""

_READ = ("object", "object, of five", "background", "medium", "colour", "all")
_PROMPTS = """From captions that name everything: how many are drawn as asked. Of five: the object is among
the judge's five likeliest. Colour: where the caption names the object's. Held-out pairs: of an object and a
medium that no training picture showed together."""
_NUM_SEEN_LEAST = 12

_SEEDS = (
    """The same caption with eight seeds: the standard deviation of a pixel over the seeds, in the mean."""
)

_PALETTES = """Gradients, textures, landscapes and collages as style images: how far the palette of what is
drawn is from theirs, in levels of 0 to 255 (sliced Wasserstein distance)."""


_SHORTCUTS = """The shortcuts of `quality`, against the exact image of the same pair and seed.
Operations and CPU time, of one stylised image with its decoding: in % of the exact one's. Kept to vanished:
in the first row as above, in the others the difference in points. Bits and pixels: how many are the same."""


_EDIT_COLUMNS = ("edges", "kept", "leaked", "background", "medium", "style", "harmonic")
_EDITS = """Pictures of an object, restyled without a prompt in the style of a reference that shows another.
Edges: the correlation of the edges with the picture's. Kept: the picture's object is still seen; the others
are as above. Eta: the share of the style's change along the content's directions that is taken out."""


def report(found: Evaluation, *, model: str, about: str) -> str:
    """Every table, with what the columns mean."""
    head = (
        f"# {model}\n\n{about}\n"
        f"Seed {found.seed}, {found.num_images} captions, {found.num_pairs} pairs of prompt and style image. "
        "Shares in %, intervals of 95 % in brackets. The judge is a classifier trained on renders."
    )
    sections = [
        head,
        *_fidelity_sections(found.fidelity),
        *_style_sections(found),
        *_analysis_sections(found),
    ]
    return "\n\n".join(sections) + "\n"


def _fidelity_sections(fidelity: Fidelity) -> list[str]:
    seeds = fidelity.seeds
    return [
        "## Image tokenizer\n\nPSNR in dB over held-out pictures.\n\n"
        + _table(
            ["pictures", "PSNR"],
            [
                [name, f"{estimate.value:.2f} ({estimate.low:.2f} - {estimate.high:.2f})"]
                for name, estimate in fidelity.psnr.items()
            ],
        ),
        f"## Prompts\n\n{_PROMPTS}\n\n"
        + _table(
            ["pictures", *_READ],
            [
                _read("renders", fidelity.renders),
                _read("renders, through the image tokenizer", fidelity.reconstructions),
                _read("drawn from captions", fidelity.prompts),
                _read("the same without articles", fidelity.without_articles),
                _read("drawn from captions, held-out pairs", fidelity.held_out),
            ],
        )
        + "\n\nDrawn from captions, by medium:\n\n"
        + _table(["medium", *_READ], [_read(name, shares) for name, shares in fidelity.by_medium.items()])
        + f"\n\nSeen least, of how many images: {_seen_least(fidelity)}."
        + f"\n\n## Seeds\n\n{_SEEDS}\n\n"
        + _table(
            ["captions", "deviation, % of the range", "object seen"],
            [[str(seeds.num_captions), seeds.deviation.percent(), seeds.kept.percent()]],
        ),
    ]


def _style_sections(found: Evaluation) -> list[str]:
    return [f"## Style\n\n{_STYLE}\n\n" + _scores(found.headline)]


def _analysis_sections(found: Evaluation) -> list[str]:
    palettes = found.palettes
    return [
        f"## Style images from elsewhere\n\n{_PALETTES}\n\n"
        + _table(
            ["plain", "in the style", "nearer than plain, %"],
            [[_levels(palettes.plain), _levels(palettes.styled), palettes.nearer.percent()]],
        ),
        f"## Shortcuts\n\n{_SHORTCUTS}\n\nOn {len(found.trials[0].score.kept)} pairs of the first seed.\n\n"
        + _table(*shortcuts_table(found.trials)),
        f"## Edits\n\n{_EDITS}\n\n"
        + _table(
            ["setting", *_EDIT_COLUMNS],
            [
                [str(setting), *(_brief(score.estimates()[name]) for name in _EDIT_COLUMNS)]
                for setting, score in found.edits.items()
            ],
        ),
    ]


def _scores(scores: Mapping[Configuration, Score]) -> str:
    return _table(
        ["method", "key step", *_COLUMNS.values()],
        [
            [str(used), "" if used == BASE else str(used.key_step), *_cells(score)]
            for used, score in sorted(scores.items(), key=lambda entry: entry[0].key_step or 0)
        ],
    )


def _cells(score: Score) -> list[str]:
    estimates = score.estimates()
    return [estimates[name].percent() if name in estimates else "" for name in _COLUMNS]


def _read(name: str, estimates: Mapping[str, Estimate]) -> list[str]:
    return [name, *(estimates[column].percent() if column in estimates else "" for column in _READ)]


def _seen_least(fidelity: Fidelity) -> str:
    by_share = sorted(fidelity.by_object.items(), key=lambda entry: entry[1][0] / entry[1][1])
    return ", ".join(f"{name} {seen} of {num}" for name, (seen, num) in by_share[:_NUM_SEEN_LEAST])


def _brief(estimate: Estimate) -> str:
    return f"{100 * estimate.value:.1f}"


def _levels(estimate: Estimate) -> str:
    return f"{estimate.value:.1f} ({estimate.low:.1f} - {estimate.high:.1f})"


def _table(head: list[str], rows: Iterable[list[str]]) -> str:
    lines = [head, ["-"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def save_results(found: Evaluation, generator: Generator, folder: Path) -> str:
    """Writes report.md, numbers.json and the sheet; returns the report."""
    about = (
        f"atelier {__version__}, weights {generator.fingerprint}, {describe(generator.backbone.device)}; "
        f"{found.seconds / 60:.1f} minutes."
    )
    text = report(found, model=generator.name, about=about)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.md").write_text(text)
    (folder / "numbers.json").write_text(json.dumps(_numbers(found), indent=1) + "\n")
    contact_sheet(found).save(folder / "sheet.png")
    return text


def _numbers(found: Evaluation) -> dict[str, Any]:
    fidelity = asdict(found.fidelity)
    styles = {
        "headline": [
            {
                "method": configuration.method,
                "key_step": configuration.key_step,
                "alpha": configuration.alpha,
                **{name: asdict(estimate) for name, estimate in score.estimates().items()},
            }
            for configuration, score in found.headline.items()
        ]
    }
    palettes = {"palettes": asdict(found.palettes)}
    edits = {
        "edits": [
            {**asdict(setting), **{name: asdict(value) for name, value in score.estimates().items()}}
            for setting, score in found.edits.items()
        ]
    }
    shortcuts = {"shortcuts": [trial.numbers(found.trials[0].score) for trial in found.trials]}
    return {
        "seed": found.seed,
        "num_images": found.num_images,
        "num_pairs": found.num_pairs,
        **fidelity,
        **styles,
        **palettes,
        **shortcuts,
        **edits,
    }
