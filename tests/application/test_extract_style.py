"""The queue of styles to read."""

from __future__ import annotations

from service.application.extract_style import MAX_STYLES_IN_TURN, ExtractionInput, extraction_batcher
from service.batching.model_thread import ModelThread
from service.metrics import Metrics
from service.settings import Settings
from service.stage_timer import RequestTrace
from service.styles.record import StyleText
from tests.support.specs import SQUARE
from tests.support.tiny import tiny_generator


async def test_several_styles_are_read_between_two_batches_of_images() -> None:
    """Else the last of a full queue would wait for as many batches as there are styles before it."""
    thread, generator = ModelThread(), tiny_generator()
    batcher = extraction_batcher(generator, thread, Settings(), Metrics(), RequestTrace().clock)
    await batcher.start()
    inputs = [ExtractionInput(StyleText("a star", seed), SQUARE) for seed in range(MAX_STYLES_IN_TURN + 1)]
    async with thread.turn:  # as a batch of images has it
        jobs = batcher.submit(inputs)
    read = [await job.future for job in jobs]
    assert [job.num_jobs_in_batch for job in jobs] == [*[MAX_STYLES_IN_TURN] * MAX_STYLES_IN_TURN, 1]
    alone = await batcher.submit(inputs[3:4])[0].future
    assert read[3].feature.tokens == alone.feature.tokens != read[4].feature.tokens
    await batcher.stop()
    thread.shutdown()
