"""`bench flops`: the operations of drawing, counted, beside the least that the exact method needs."""

from __future__ import annotations

from collections.abc import Sequence

from service.bench.report import Findings, Row, Table, Value
from service.bench.subject import Subject
from service.evaluation.flops import Batch, Counts, Floor, count, floor, operations
from service.evaluation.plain_form import PlainForm
from service.model.engine.types import ImageSpec
from service.model.infinity.backbone import Infinity

NUM_STYLES = (1, 4)


def measure_flops(subject: Subject) -> Findings:
    """One stylised image by step, several styles of one prompt, and the plain two-run form.

    ValueError for a model of which the least is not known.
    """
    infinity = subject.backbone
    if not isinstance(infinity, Infinity):
        raise ValueError(f"bench flops knows the least that an Infinity needs, and {infinity.name} is none")
    tables = []
    for num in NUM_STYLES:
        specs = [subject.spec(0, style=style) for style in range(num)]
        least = _floor(infinity, subject, specs)
        title = "one stylised image" if num == 1 else f"{num} styles of one prompt"
        tables.append(_table(title, count(subject.generator, specs), least))
    if subject.plain_form:
        plain, least = (
            _plain_flops(subject.plain_form, subject),
            _floor(infinity, subject, [subject.spec(0, style=0)]),
        )
        tables.append(
            Table(
                "plain two-run form of one, without the decoder",
                (Row("in all", _values(plain, least.total - least.decode.total)),),
            )
        )
    note = (
        "Operations are multiplications and additions of matrix products, attention and convolutions. The "
        "least knows no padding. Encoding the prompt is left out on both sides; what follows is in step 1."
    )
    return Findings(tuple(tables), (note,))


def _floor(backbone: Infinity, subject: Subject, specs: Sequence[ImageSpec]) -> Floor:
    prompt = backbone.encode_text(specs[0].posed(backbone.vocabulary).prompt or "")
    batch = Batch(num_corrected=len(specs), num_text_tokens=prompt.num_tokens)
    return floor(backbone.config, backbone.schedules[subject.size], batch)


def _table(title: str, counts: Counts, least: Floor) -> Table:
    floors = [step.total for step in least.steps]
    floors[0] += least.texts.total
    rows = [
        Row(f"step {step}", _values(counted.flops, needed))
        for step, (counted, needed) in enumerate(zip(counts.steps, floors, strict=True), start=1)
    ]
    counted = sum(step.flops for step in counts.steps)
    rows.append(Row("decode", _values(counts.decode.flops, least.decode.total)))
    rows.append(Row("in all", _values(counted + counts.decode.flops, least.total)))
    return Table(title, tuple(rows))


def _plain_flops(plain_form: PlainForm[Infinity], subject: Subject) -> int:
    spec = subject.spec(0, style=0)
    with operations() as counter:
        plain_form.draw(spec)
    flops: int = counter.get_total_flops()
    return flops


def _values(counted: int, least: int) -> dict[str, Value]:
    return {"counted_flops": counted, "least_flops": least, "median_ratio": counted / least}
