"""Examples of requests and responses for the document, taken from a run of `nano`; files are cut."""

from __future__ import annotations

import json
from typing import Any

PNG = "iVBORw0KGgoAAAANSUhEUgAAAEAAAABACAIAAAAl"
STYLE_ID = "sty_tj2iudqh46neny27w4v5hzllhw"
OTHER_ID = "sty_3x2oyb6ngr5zx5ddvmtv2mkj4q"
STYLE_CODE = (
    "sc1_elyvl5DwYZQB383mJDrZMRc4QLNZRZH1CCFTBhpBnCLPEsOF00znKiqaLjgb88cU183F-UW-jjiDVtvlzRy6jRz_JvoAqWI6cucA"
    "IvIA3cX0rBjjjD76jBi7cuMEsHIKUcXFPDNAQA"
)
FINGERPRINT = "7a5caf9790f06194"
CREATED = 1795409142

# Requests

GENERATIONS: dict[str, Any] = {
    "plain": {"summary": "A prompt, nothing else", "value": {"prompt": "a star"}},
    "in a style": {
        "summary": "In a style, found again by its seed",
        "value": {"prompt": "a star", "style": STYLE_ID, "seed": 7},
    },
    "weaker": {
        "summary": "Less of the style, and a JPEG",
        "value": {
            "prompt": "a heart",
            "style": {"id": STYLE_ID, "strength": 0.6},
            "output_format": "jpeg",
            "output_compression": 85,
        },
    },
    "mixture": {
        "summary": "Two styles mixed, one of them twice as much",
        "value": {
            "prompt": "a fish",
            "styles": [{"id": STYLE_ID, "weight": 2}, {"id": OTHER_ID, "weight": 1}],
            "strength": 0.9,
        },
    },
    "each": {
        "summary": "The same image plain and in two styles",
        "value": {"prompt": "a house", "styles_each": [None, STYLE_ID, OTHER_ID], "seed": 7},
    },
    "stream": {
        "summary": "Streamed, with partial images on the way",
        "value": {"prompt": "a cat", "style": STYLE_ID, "stream": True, "partial_images": 2},
    },
}
UPLOADS: dict[str, Any] = {
    "one picture": {
        "summary": "One picture",
        "value": {"image": ["(the bytes of style.png)"], "name": "reeds at dusk"},
    },
    "several": {
        "summary": "Several pictures: one style, their mean",
        "value": {
            "image": ["(the bytes of first.png)", "(the bytes of second.png)"],
            "metadata": {"shoot": "march"},
        },
    },
}
SOURCES: dict[str, Any] = {
    "words": {
        "summary": "From words alone",
        "value": {"text": "ukiyo-e woodblock", "name": "woodblock", "metadata": {"for": "covers"}},
    },
    "code": {"summary": "From a style code", "value": {"code": STYLE_CODE}},
}
CHANGES: dict[str, Any] = {
    "rename": {"summary": "Another name", "value": {"name": "reeds at night"}},
    "clear": {"summary": "No metadata any more", "value": {"metadata": None}},
}

# Responses

STYLE: dict[str, Any] = {
    "id": STYLE_ID,
    "object": "style",
    "created": CREATED,
    "name": "reeds at dusk",
    "metadata": {"shoot": "march"},
    "source": "images",
    "num_images": 1,
    "image_width": 96,
    "image_height": 64,
    "text": None,
    "seed": None,
    "model": "nano",
    "fingerprint": FINGERPRINT,
    "is_read": True,
    "code": STYLE_CODE,
    "singular_values": [7.48468, 4.65755, 3.98973, 2.90934, 2.27765, 1.90377, 1.59958, 1.2663],
    "dominance": 0.472627,
    "agreement": None,
}
UNREAD_STYLE = {
    **STYLE,
    "id": OTHER_ID,
    "created": CREATED - 86400,
    "name": None,
    "metadata": {},
    "is_read": False,
    "code": None,
    "singular_values": None,
    "dominance": None,
}
STYLES = {
    "object": "list",
    "data": [STYLE, UNREAD_STYLE],
    "first_id": STYLE_ID,
    "last_id": OTHER_ID,
    "has_more": False,
}
DELETED = {"id": STYLE_ID, "object": "style.deleted", "deleted": True}
USAGE = {
    "input_tokens": 3,
    "input_tokens_details": {"text_tokens": 3, "image_tokens": 0},
    "output_tokens": 130,
    "total_tokens": 133,
}
CHOICE = {"id": STYLE_ID, "strength": 1.0, "alpha": 0.15}
GENERATION: dict[str, Any] = {
    "created": CREATED,
    "data": [{"b64_json": PNG, "seed": 7}],
    "model": "nano",
    "size": "64x64",
    "output_format": "png",
    "quality": "high",
    "background": "opaque",
    "usage": USAGE,
    "style": CHOICE,
}
OF_EACH = {key: value for key, value in GENERATION.items() if key != "style"} | {
    "data": [
        {"b64_json": PNG, "seed": 7},
        {"b64_json": PNG, "seed": 7, "style": CHOICE},
        {"b64_json": PNG, "seed": 7, "style": {**CHOICE, "id": OTHER_ID}},
    ]
}
OF_MIXTURE = {key: value for key, value in GENERATION.items() if key != "style"} | {
    "styles": [{"id": STYLE_ID, "weight": 0.667}, {"id": OTHER_ID, "weight": 0.333}],
    "strength": 0.9,
    "alpha": 0.15,
}
OF_EVENTS = {
    "b64_json": PNG,
    "created_at": CREATED,
    "size": "64x64",
    "quality": "high",
    "background": "opaque",
    "output_format": "png",
    "image_index": 0,
    "seed": 7,
    "style": CHOICE,
}
PARTIAL_EVENT = {
    **OF_EVENTS,
    "step": 5,
    "num_steps": 6,
    "type": "image_generation.partial_image",
    "partial_image_index": 0,
    "partial_size": "48x48",
}
COMPLETED_EVENT = {
    **OF_EVENTS,
    "step": 6,
    "num_steps": 6,
    "type": "image_generation.completed",
    "model": "nano",
    "usage": USAGE,
}
MODEL = {
    "id": "nano",
    "object": "model",
    "created": CREATED,
    "owned_by": "atelier",
    "fingerprint": FINGERPRINT,
    "sizes": ["64x64"],
    "default_size": "64x64",
    "native_sizes": ["64x64"],
    "precision": "fp32",
    "guidance": 8.0,
    "alpha": 0.15,
    "max_prompt_tokens": 64,
    "qualities": {"high": "exact", "medium": "guidance until step 5", "low": "guidance until step 4"},
    "resident_bytes": 23695228,
}
STREAM = "".join(
    f"event: {event['type']}\ndata: {json.dumps(event, separators=(',', ':'))}\n\n"
    for event in (PARTIAL_EVENT, COMPLETED_EVENT)
)
WEBP = "RIFF...WEBPVP8L... (the bytes of the picture)"
METRICS = (
    "# HELP atelier_images_total Images drawn and handed to a response.\n"
    "# TYPE atelier_images_total counter\n"
    "atelier_images_total 3.0\n"
)
