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

GENERATIONS: dict[str, Any] = {
    "in a style": {"value": {"prompt": "a star", "style": STYLE_ID, "seed": 7}},
    "a mixture of styles": {
        "value": {"prompt": "a fish", "styles": [{"id": STYLE_ID, "weight": 2}, {"id": OTHER_ID}]},
    },
    "plain and in two styles": {
        "value": {"prompt": "a house", "styles_each": [None, STYLE_ID, OTHER_ID]},
    },
    "streamed with previews": {
        "value": {"prompt": "a cat", "style": STYLE_ID, "stream": True, "partial_images": 2},
    },
}
EDITS: dict[str, Any] = {
    "in a style": {"value": {"image": PNG, "style": STYLE_ID, "structure": 0.7}},
    "inside a mask": {"value": {"image": PNG, "mask": PNG, "prompt": "a red star"}},
    "a style on each half": {
        "value": {
            "image": PNG,
            "regions": [
                {"style": STYLE_ID, "box": [0, 0, 0.5, 1]},
                {"style": OTHER_ID, "box": [0.5, 0, 1, 1], "strength": 0.8},
            ],
        },
    },
}
EDIT_FORMS: dict[str, Any] = {
    "in a style": {"value": {"image": "(the bytes of photo.jpg)", "style": STYLE_ID}},
}
UPLOADS: dict[str, Any] = {
    "pictures": {"value": {"image": ["(the bytes of style.png)"], "name": "reeds at dusk"}},
}
SOURCES: dict[str, Any] = {
    "text": {"value": {"text": "ukiyo-e woodblock", "metadata": {"for": "covers"}}},
    "style code": {"value": {"code": STYLE_CODE}},
}
CHANGES: dict[str, Any] = {"rename": {"value": {"name": "reeds at night", "metadata": None}}}

STYLE: dict[str, Any] = {
    "id": STYLE_ID,
    "object": "style",
    "created": CREATED,
    "name": "reeds at dusk",
    "metadata": {"shoot": "march"},
    "prompt_suffix": None,
    "source": "images",
    "num_images": 1,
    "image_width": 96,
    "image_height": 64,
    "text": None,
    "seed": None,
    "warnings": [],
    "model": "nano",
    "fingerprint": FINGERPRINT,
    "is_read": True,
    "code": STYLE_CODE,
    "singular_values": [7.48468, 4.65755, 3.98973, 2.90934, 2.27765, 1.90377, 1.59958, 1.2663],
    "dominance": 0.472627,
    "agreement": None,
}
STYLES = {"object": "list", "data": [STYLE], "first_id": STYLE_ID, "last_id": STYLE_ID, "has_more": False}
USAGE = {
    "input_tokens": 3,
    "input_tokens_details": {"text_tokens": 3, "image_tokens": 0},
    "output_tokens": 130,
    "total_tokens": 133,
}
_IMAGE = {
    "size": "64x64",
    "quality": "high",
    "background": "opaque",
    "output_format": "png",
    "style": {"id": STYLE_ID, "strength": 1.0, "alpha": 0.15},
}
GENERATION = {
    "created": CREATED,
    "data": [{"b64_json": PNG, "seed": 7}],
    "model": "nano",
    "usage": USAGE,
    **_IMAGE,
}
JOB_ID = "job_4ylrq2v5o6ndlnccjwdzm7hbfm"
JOB: dict[str, Any] = {
    "id": JOB_ID,
    "object": "job",
    "status": "queued",
    "endpoint": "/v1/images/generations",
    "created": CREATED,
    "started": None,
    "finished": None,
    "expires": None,
    "progress": 0.0,
    "attempts": 0,
    "preview": None,
    "result": None,
    "error": None,
}
_STARTED = JOB | {"started": CREATED + 2, "attempts": 1}
RUNNING_JOB = _STARTED | {"status": "running", "progress": 0.8333, "preview": f"/v1/jobs/{JOB_ID}/preview"}
_ENDED = _STARTED | {"finished": CREATED + 3, "expires": CREATED + 86403}
SUCCEEDED_JOB = _ENDED | {"status": "succeeded", "progress": 1.0, "result": GENERATION}
CANCELLED_JOB = JOB | {"status": "cancelled", "finished": CREATED + 1}
JOBS = {"object": "list", "data": [CANCELLED_JOB], "first_id": JOB_ID, "last_id": JOB_ID, "has_more": False}
JOB_STREAM = "".join(
    f"event: job.{job['status']}\ndata: {json.dumps({'type': 'job.' + job['status'], 'job': job})}\n\n"
    for job in (RUNNING_JOB, SUCCEEDED_JOB)
)
_EVENT = {"b64_json": PNG, "created_at": CREATED, "image_index": 0, "seed": 7, "num_steps": 6, **_IMAGE}
EVENTS = (
    {
        "type": "image_generation.partial_image",
        "step": 5,
        "partial_image_index": 0,
        "partial_size": "48x48",
        **_EVENT,
    },
    {"type": "image_generation.completed", "step": 6, "model": "nano", "usage": USAGE, **_EVENT},
)
STREAM = "".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in EVENTS)
EDITED = GENERATION | {"structure": 0.5}
EDIT_STREAM = STREAM.replace("image_generation.", "image_edit.")
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
    "draws": {
        "things": ["cat", "house"],
        "colours": ["red", "blue"],
        "media": ["neon", "watercolour"],
        "poses": ["centre", "left", "right"],
    },
    "resident_bytes": 23695228,
    "alias_of": None,
    "aliases": [],
}
