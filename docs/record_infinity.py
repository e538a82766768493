"""Records what upstream makes of Infinity-2B, for `atelier verify --model infinity-2b --against OUT`.

In a checkout of FoundationVision/Infinity with its requirements:
python record_infinity.py WEIGHTS PICTURE OUT
"""

import argparse
import hashlib
import sys

import numpy as np
import torch
from PIL import Image
from safetensors.numpy import save_file


def save(file, arrays, **about):
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(name.encode() + arrays[name].tobytes())
    save_file(arrays, file, about | {"sha256": digest.hexdigest()})


def flat(scales):
    bits = [scale.reshape(-1, scale.shape[-1]).cpu().numpy() > 0 for scale in scales]
    return np.concatenate(bits).astype(np.uint8)


@torch.no_grad()
def main(weights, picture, out, prompt="a red star on a blue background", guidance=4.0):
    from tools import run_infinity as upstream

    args = argparse.Namespace(
        pn="1M", vae_type=32, vae_path=f"{weights}/infinity_vae_d32reg.pth", apply_spatial_patchify=0,
        model_type="infinity_2b", model_path=f"{weights}/infinity_2b_reg.pth", checkpoint_type="torch",
        bf16=0, cache_dir="/nowhere", enable_model_cache=0, text_channels=2048, use_bit_label=1,
        use_flex_attn=0, rope2d_each_sa_layer=1, rope2d_normalized_by_hw=2,
        use_scale_schedule_embedding=0,
        add_lvl_embeding_only_first_block=1,
    )  # fmt: skip
    vae = upstream.load_visual_tokenizer(args)
    model = upstream.load_transformer(vae, args)
    words, encoder = upstream.load_tokenizer(f"{weights}/flan-t5-xl")
    square = min(upstream.h_div_w_templates, key=lambda ratio: abs(ratio - 1))
    shape = upstream.dynamic_resolution_h_w[square]["1M"]
    schedule = [(1, height, width) for _, height, width in shape["scales"]]
    pixels = upstream.transform(Image.open(picture).convert("RGB"), *shape["pixel"])[None].cuda()
    text = upstream.encode_prompt(words, encoder, prompt)
    drawn, codes_of = [], vae.quantizer.lfq.indices_to_codes
    vae.quantizer.lfq.indices_to_codes = lambda bits, **more: drawn.append(bits) or codes_of(bits, **more)
    with torch.autocast("cuda", torch.bfloat16):
        model.autoregressive_infer_cfg(
            vae=vae, scale_schedule=schedule, label_B_or_BLT=text, g_seed=0, top_k=1, vae_type=32,
            cfg_list=[guidance] * len(schedule), tau_list=[0.5] * len(schedule), cfg_insertion_layer=[0],
            returns_vemb=1, inference_mode=True,
        )  # fmt: skip
    vae.quantizer.lfq.indices_to_codes = codes_of
    image = ((pixels[0].permute(1, 2, 0).cpu().numpy() + 1) / 2 * 255).round().astype(np.uint8)
    arrays = {"style_image": image, "style_bits": flat(vae.encode(pixels, scale_schedule=schedule)[3])}
    arrays |= {"text": text[0].float().cpu().numpy(), "bits": flat(drawn)}
    save(out, arrays, made_by="FoundationVision/Infinity", prompt=prompt, guidance=str(guidance))


if __name__ == "__main__":
    main(*sys.argv[1:])
