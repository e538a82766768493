"""Steps against full recomputation, corrected attention, and rows that do not disturb each other."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from service.model.attention import StepAttention, attend_fused
from service.model.kv_cache import KeyValues
from service.model.layers import ReadText, rotate
from service.model.shared_attention import attend
from service.model.style.resize import pool
from service.model.switti.config import TransformerConfig
from service.model.switti.noise import StepNoise
from service.model.switti.presets import PRESETS
from service.model.switti.rope import rotations
from service.model.switti.sampling import draw_codes, scaled
from service.model.switti.schedules import square_scales
from service.model.switti.text_conditioning import TextConditioning
from service.model.switti.text_encoders import TextFeatures
from service.model.switti.tokenizer import Tokenizer, as_planes, as_tokens
from service.model.switti.transformer import Block, Transformer
from service.model.text_layers import LayerTexts
from tests.support.tiny_switti import Networks, random_text, tiny_config, tiny_networks

CPU = torch.device("cpu")
VARIANTS = pytest.mark.parametrize("is_causal", [False, True], ids=["scale by scale", "causal"])


def empty_cache(
    config: TransformerConfig,
    *,
    num_own: int,
    num_rows: int,
    num_tokens: int,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
) -> KeyValues:
    """As the backbone makes it: no layers where a scale attends to itself alone."""
    return KeyValues.empty(
        num_layers=config.depth if config.is_causal else 0,
        num_heads=config.num_heads,
        head_width=config.head_width,
        num_own=num_own,
        num_rows=num_rows,
        num_tokens=num_tokens,
        device=device,
        dtype=dtype,
    )


def reader(block: nn.Module, texts: LayerTexts) -> ReadText:
    assert isinstance(block, Block)
    return partial(texts.read, block.text_attention)


def rotation_of(networks: Networks) -> Tensor:
    config = networks.transformer.config
    return rotations(networks.grids, config.head_width, config.rope_extent, CPU)


def step_inputs(networks: Networks, num_rows: int, seed: int = 1) -> list[Tensor]:
    """Arbitrary inputs of every step, [rows, tokens, channels]."""
    generator = torch.Generator().manual_seed(seed)
    width = networks.transformer.config.width
    return [torch.randn(num_rows, grid.num_tokens, width, generator=generator) for grid in networks.grids]


def run_steps(
    networks: Networks,
    inputs: Sequence[Tensor],
    texts: Sequence[int],
    *,
    sources: tuple[int, ...] | None = None,
    is_fused: bool = False,
    kept_at_last: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
) -> list[Tensor]:
    """What the last block leaves at every step; `sources` says which rows are corrected by which."""
    transformer, rotation = networks.transformer, rotation_of(networks)
    of_rows = tuple(range(len(texts))) if sources is None else sources
    num_own = len(set(of_rows))
    both = TextConditioning(transformer, [random_text(5, 0), random_text(3, 1)])
    conditioning = both.of_rows(texts)
    cache = empty_cache(
        transformer.config,
        num_own=num_own,
        num_rows=len(texts),
        num_tokens=rotation.shape[1],
        device=CPU,
        dtype=dtype,
    )
    outputs, start = [], 0
    for step, x in enumerate(inputs, start=1):
        end = start + x.shape[1]
        for layer, block in enumerate(transformer.blocks):
            is_end = step == len(inputs) and layer == len(transformer.blocks) - 1
            kept = kept_at_last if is_end else None
            rows = of_rows if kept is None else tuple(of_rows[row] for row in kept.tolist())
            attention = StepAttention(
                rows,
                source_rows=torch.tensor(rows),
                kept=kept,
                cached=cache.layer(layer, num_own, len(texts), x.shape[1]),
                is_fused=is_fused,
            )
            read = reader(block, conditioning.layers[layer])
            if kept is not None:
                read = reader(block, both.of_rows([texts[row] for row in kept.tolist()]).layers[layer])
            assert isinstance(block, Block)
            x = block(
                x,
                conditioning.modulations[layer],
                rotation[:, start:end],
                num_own,
                attention.attend,
                read,
                kept,
            )
        outputs.append(x)
        start = cache.num_tokens = end
    return outputs


def run_at_once(networks: Networks, inputs: Sequence[Tensor], texts: Sequence[int]) -> list[Tensor]:
    """All steps in one pass, with a mask: no cache."""
    transformer, rotation = networks.transformer, rotation_of(networks)
    lengths = [x.shape[1] for x in inputs]
    scale = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    is_seen = scale[:, None] >= scale if transformer.config.is_causal else scale[:, None] == scale
    conditioning = TextConditioning(transformer, [random_text(5, 0), random_text(3, 1)]).of_rows(texts)

    def masked(queries: Tensor, keys: Tensor, values: Sequence[Tensor]) -> Tensor:
        q, k, v = queries.transpose(1, 2), keys.transpose(1, 2), torch.cat(list(values)).transpose(1, 2)
        weights = (q @ k.mT).masked_fill(~is_seen, -torch.inf).softmax(-1)
        return (weights @ v).transpose(1, 2).flatten(2)

    x = torch.cat(list(inputs), 1)
    for layer, block in enumerate(transformer.blocks):
        read = reader(block, conditioning.layers[layer])
        x = block(x, conditioning.modulations[layer], rotation, len(texts), masked, read)
    return list(x.split(lengths, 1))


@VARIANTS
@torch.inference_mode()
def test_steps_give_what_one_masked_pass_over_all_tokens_gives(is_causal: bool) -> None:
    networks = tiny_networks(is_causal=is_causal)
    inputs = step_inputs(networks, 2)
    stepped, at_once = run_steps(networks, inputs, [0, 1]), run_at_once(networks, inputs, [0, 1])
    for ours, whole in zip(stepped, at_once, strict=True):
        assert torch.allclose(ours, whole, atol=2e-5)


@torch.inference_mode()
def test_the_variants_differ_from_the_second_scale_on() -> None:
    alone, causal = (tiny_networks(is_causal=is_causal) for is_causal in (False, True))
    inputs = step_inputs(alone, 1)
    first, *others = zip(run_steps(alone, inputs, [0]), run_steps(causal, inputs, [0]), strict=True)
    assert torch.equal(*first)
    assert not any(torch.allclose(*pair, atol=1e-3) for pair in others)


@VARIANTS
@torch.inference_mode()
def test_a_row_corrected_by_an_equal_row_is_that_row(is_causal: bool) -> None:
    networks = tiny_networks(is_causal=is_causal)
    inputs = [x.repeat(2, 1, 1) for x in step_inputs(networks, 1)]
    plain = run_steps(networks, inputs, [0, 0])
    for ours, expected in zip(run_steps(networks, inputs, [0, 0], sources=(0, 0)), plain, strict=True):
        assert torch.allclose(ours, expected, atol=1e-5)


@VARIANTS
@torch.inference_mode()
def test_correction_uses_the_content_rows_queries_and_keys_and_the_rows_own_values(is_causal: bool) -> None:
    networks = tiny_networks(is_causal=is_causal)
    inputs = step_inputs(networks, 2)
    corrected = run_steps(networks, inputs, [0, 0], sources=(0, 0))
    plain = run_steps(networks, inputs, [0, 0])
    for ours, expected in zip(corrected, plain, strict=True):
        assert torch.equal(ours[0], expected[0])  # the content path never depends on the generation path
    assert not any(
        torch.allclose(ours[1], expected[1], atol=1e-3)
        for ours, expected in zip(corrected[1:], plain[1:], strict=True)
    )
    changed = [torch.stack([x[0] + 1, x[1]]) for x in inputs]
    after = run_steps(networks, changed, [0, 0], sources=(0, 0))
    assert not torch.allclose(after[-1][1], corrected[-1][1], atol=1e-3)


@VARIANTS
@torch.inference_mode()
def test_a_row_is_bit_for_bit_the_same_alone_and_in_any_batch(is_causal: bool) -> None:
    networks = tiny_networks(is_causal=is_causal)
    inputs, texts = step_inputs(networks, 5), [0, 0, 1, 0, 1]
    together = run_steps(networks, inputs, texts)
    for row, text in enumerate(texts):
        alone = run_steps(networks, [x[row : row + 1] for x in inputs], [text])
        for ours, expected in zip(together, alone, strict=True):
            assert torch.equal(ours[row], expected[0])


@VARIANTS
@torch.inference_mode()
def test_fused_kernels_agree(is_causal: bool) -> None:
    networks = tiny_networks(is_causal=is_causal)
    inputs = step_inputs(networks, 3)
    for sources in ((0, 1, 2), (0, 1, 0)):
        exact = run_steps(networks, inputs, [0, 1, 0], sources=sources)
        fused = run_steps(networks, inputs, [0, 1, 0], sources=sources, is_fused=True)
        for ours, expected in zip(fused, exact, strict=True):
            assert torch.allclose(ours, expected, atol=2e-5)


@VARIANTS
@pytest.mark.parametrize("is_fused", [False, True])
@torch.inference_mode()
def test_rows_that_only_guide_may_leave_before_the_last_blocks_values(
    is_causal: bool, is_fused: bool
) -> None:
    networks = tiny_networks(is_causal=is_causal)
    inputs, sources = step_inputs(networks, 3), (0, 1, 0)
    whole = run_steps(networks, inputs, [0, 1, 0], sources=sources, is_fused=is_fused)
    kept = torch.tensor([1, 2])
    left = run_steps(networks, inputs, [0, 1, 0], sources=sources, is_fused=is_fused, kept_at_last=kept)
    assert torch.allclose(left[-1], whole[-1][kept], atol=1e-5)


@VARIANTS
@torch.inference_mode()
def test_texts_read_together_with_padding_agree(is_causal: bool) -> None:
    transformer = tiny_networks(is_causal=is_causal).transformer
    texts, rows = [random_text(length, seed) for seed, length in enumerate((5, 16, 3))], [2, 0, 0, 1]
    separate, padded = (
        TextConditioning(transformer, texts, is_padded=is_padded).of_rows(rows) for is_padded in (False, True)
    )
    assert torch.equal(separate.modulations, padded.modulations)
    x = torch.randn(4, 9, transformer.config.width)
    for block, ours, expected in zip(transformer.blocks, padded.layers, separate.layers, strict=True):
        assert torch.allclose(reader(block, ours)(x), reader(block, expected)(x), atol=1e-5)


@torch.inference_mode()
def test_a_whole_step_is_bit_for_bit_the_same_alone_and_in_any_batch() -> None:
    """From the features so far to the next ones, through both ways of drawing."""
    networks, sampling = tiny_networks(), tiny_config().sampling
    transformer, tokenizer, grids = networks.transformer, networks.tokenizer, networks.grids
    texts = [random_text(length, seed) for seed, length in enumerate((5, 3, 7, 5, 4))]
    features = torch.randn(5, 8, 6, 6)

    def after(images: list[int], step: int) -> Tensor:
        conditioning = TextConditioning(transformer, [texts[image] for image in images])
        rows = conditioning.of_rows(range(len(images)))
        start = sum(grid.num_tokens for grid in grids[: step - 1])
        grid = grids[step - 1]
        x = transformer.inputs(as_tokens(pool(features[images], grid)), step)
        attend = StepAttention(tuple(range(len(images)))).attend
        for layer, block in enumerate(transformer.blocks):
            rotation = rotation_of(networks)[:, start : start + grid.num_tokens]
            x = block(
                x, rows.modulations[layer], rotation, len(images), attend, reader(block, rows.layers[layer])
            )
        logits = scaled(transformer.logits(x, rows.head_modulations), sampling, step)
        noise = StepNoise(tuple(100 + image for image in images), step, CPU)
        codes = draw_codes(logits, noise, tokenizer.codebook.weight, sampling, step, len(grids))
        return features[images] + tokenizer.spread(as_planes(codes, grid), step, grids)

    for step in range(2, len(grids) + 1):
        together = after([3, 0, 4, 1, 2], step)
        for place, image in enumerate([3, 0, 4, 1, 2]):
            assert torch.equal(together[place], after([image], step)[0])
        assert torch.equal(after([4, 3], step), together[[2, 0]])


@torch.inference_mode()
def test_a_forked_row_starts_from_its_source() -> None:
    networks = tiny_networks(is_causal=True)
    cache = empty_cache(networks.transformer.config, num_own=2, num_rows=4, num_tokens=7, device=CPU)
    for tensor in (*cache.keys, *cache.values):
        tensor.copy_(torch.randn(tensor.shape))
    cache.num_tokens = 5
    before = [values.clone() for values in cache.values]
    cache.fork([0, 1, 0, 1])
    for values, old in zip(cache.values, before, strict=True):
        assert torch.equal(values[2:, :, :5], old[:2, :, :5])
        assert torch.equal(values[:, :, 5:], old[:, :, 5:])


def test_the_variant_that_sees_one_scale_caches_nothing() -> None:
    config = tiny_networks().transformer.config
    cache = empty_cache(config, num_own=1, num_rows=1, num_tokens=7, device=CPU)
    assert (cache.keys, cache.values, cache.layer(0, 1, 1, 3)) == ([], [], None)


@pytest.mark.parametrize("tokens", [1, 255, 256, 300])
@torch.inference_mode()
def test_scores_in_chunks_are_those_at_once(tokens: int) -> None:
    generator = torch.Generator().manual_seed(tokens)
    queries = torch.randn(2, tokens, 2, 4, generator=generator) / 2
    keys, values = (
        torch.randn(2, 2, 900, 4, generator=generator),
        torch.randn(3, 2, 900, 4, generator=generator),
    )
    ours = attend(queries, keys, values, (0, 1, 0))
    fused = attend_fused(queries, keys, values, torch.tensor([0, 1, 0]))
    assert torch.allclose(ours, fused, atol=1e-5)


@pytest.mark.parametrize("name", ["switti-512", "switti-1024-ar"])
@torch.inference_mode()
def test_at_the_released_size_a_step_has_its_shapes(name: str) -> None:
    """The last step of a content path and a corrected one; there are no numbers on the meta device."""
    meta, config = torch.device("meta"), PRESETS[name].config
    side, (scales, step) = config.grids[-1], (square_scales(config.grids), len(config.grids))
    with meta:
        transformer = Transformer(config.transformer, config.tokenizer, step)
        tokenizer = Tokenizer(config.tokenizer)
        text = TextFeatures(torch.empty(77, 2048), torch.empty(1280))
        features = torch.empty(2, 32, side, side)
    rows = TextConditioning(transformer, [text, text], is_padded=True).of_rows([0, 1, 0, 1])
    assert rows.start.shape == (4, 1, 1920)
    cache = empty_cache(
        config.transformer, num_own=2, num_rows=4, num_tokens=sum(s.num_tokens for s in scales), device=meta
    )
    cache.num_tokens = sum(scale.num_tokens for scale in scales[:-1])
    rotation = rotations(scales, 64, 128, meta)[:, cache.num_tokens :]
    x = transformer.inputs(as_tokens(features), step).repeat_interleave(2, 0)
    for layer, block in enumerate(list(transformer.blocks)[:2]):
        cached = cache.layer(layer, 2, 4, side * side)
        attention = StepAttention(
            (0, 1, 0, 1), torch.empty(4, dtype=torch.int64, device=meta), cached=cached, is_fused=True
        )
        x = block(
            x, rows.modulations[layer], rotation, 2, attention.attend, reader(block, rows.layers[layer])
        )
    logits = transformer.logits(x, rows.head_modulations)
    assert logits.shape == (4, side * side, 4096)
    picture = tokenizer.decode(features)
    assert picture.shape == (2, 3, config.pixels, config.pixels)
    assert tokenizer.encode(picture).shape == features.shape


def test_positions_span_the_same_extent_at_every_scale_x_first() -> None:
    angles = rotations(square_scales([1, 3, 5]), 8, 128, CPU)
    assert angles.shape == (2, 1 + 9 + 25, 4)
    assert torch.equal(angles[:, 0], torch.tensor([[1.0] * 4, [0.0] * 4]))
    frequencies = torch.tensor([1.0, 10000 ** (-4 / 8)])
    corner, middle, right = (
        angles[:, 9],
        angles[:, 5],
        angles[:, 3],
    )  # of the 3 x 3 grid: (2, 2), (1, 1), (0, 2)
    assert torch.allclose(corner[0], torch.cat([128 * frequencies] * 2).cos(), atol=1e-5)
    assert torch.allclose(middle[1], torch.cat([64 * frequencies] * 2).sin(), atol=1e-5)
    assert torch.allclose(right[0], torch.cat([128 * frequencies, 0 * frequencies]).cos(), atol=1e-5)
    assert torch.allclose(angles[:, 1:10][:, [2, 6, 8]], angles[:, 10:][:, [4, 20, 24]], atol=1e-5)


def test_rotation_keeps_lengths_and_half_precision_uses_the_same_formula() -> None:
    x, rotation = torch.randn(2, 9, 3, 8), rotations(square_scales([3]), 8, 128, CPU)[:, :, None]
    turned = rotate(x, rotation)
    assert torch.allclose(turned.norm(dim=-1), x.norm(dim=-1), atol=1e-5)
    assert torch.allclose(rotate(x.double(), rotation.double()), turned.double(), atol=1e-5)


@torch.inference_mode()
def test_the_conditions_have_the_order_of_the_reference() -> None:
    transformer = tiny_networks().transformer
    block = transformer.blocks[0]
    assert isinstance(block, Block)
    block.crop_scale.fill_(0.5)
    pooled = random_text(3, 2).pooled[None]
    condition, crop = transformer.condition(pooled), transformer.crop_condition()
    flat = block.modulation(torch.nn.functional.silu(condition + 0.5 * crop)).view(6, -1)
    expected = torch.cat([flat[:2], 1 + flat[2:4], flat[4:]])
    assert torch.allclose(block.modulations(condition, crop)[:, 0, 0], expected, atol=1e-6)
    factor, shift = transformer.head_modulations(condition)[:, 0, 0]
    scale, offset = transformer.head_modulation(torch.nn.functional.silu(condition)).view(2, -1)
    assert torch.allclose(factor, 1 + scale)
    assert torch.allclose(shift, offset)


def test_half_precision_is_where_the_reference_trained_in_it() -> None:
    networks = tiny_networks()
    transformer: Transformer = networks.transformer
    transformer.hold_blocks_in(torch.bfloat16)
    block = transformer.blocks[0]
    assert isinstance(block, Block)
    halves = (block.attention.qkv, block.text_attention.key_value, block.feedforward.gate, block.modulation)
    assert {module.weight.dtype for module in halves} == {torch.bfloat16}
    full = (
        transformer.pool,
        transformer.code_in,
        transformer.head,
        block.text_norm,
        transformer.scale_embedding,
    )
    assert {module.weight.dtype for module in full} == {torch.float32}


@VARIANTS
@torch.inference_mode()
def test_half_precision_is_near(is_causal: bool) -> None:
    networks, half = (tiny_networks(is_causal=is_causal) for _ in range(2))
    half.transformer.hold_blocks_in(torch.bfloat16)
    inputs = step_inputs(networks, 1)[:3]
    exact = run_steps(networks, inputs, [0])
    for x, expected in zip(run_steps(half, inputs, [0], dtype=torch.bfloat16), exact, strict=True):
        assert x.dtype == torch.float32
        assert 0 < torch.dist(x, expected) < 0.05 * expected.norm()


@torch.inference_mode()
def test_what_the_exact_kernels_multiply_lies_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """On heads whose rows lie apart oneDNN took minutes for a step of 576 tokens."""
    seen = []

    def watched(queries: Tensor, keys: Tensor, values: Tensor, sources: Sequence[int]) -> Tensor:
        seen.append(keys.is_contiguous() and values.is_contiguous())
        return attend(queries, keys, values, sources)

    monkeypatch.setattr("service.model.attention.attend", watched)
    networks = tiny_networks()
    run_steps(networks, step_inputs(networks, 2), [0, 1])
    assert seen
    assert all(seen)
