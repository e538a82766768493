"""Jobs over HTTP: submit one, follow it to its end."""

from __future__ import annotations

import json
from typing import Any

import httpx

from tests.support.generations import GENERATIONS

ASYNC = {"Prefer": "respond-async"}


def submit(client: httpx.Client, *, headers: dict[str, str] | None = None, **fields: Any) -> dict[str, Any]:
    """The job that is accepted."""
    response = client.post(GENERATIONS, json={"prompt": "a star"} | fields, headers=ASYNC | (headers or {}))
    assert response.status_code == 202, response.text
    job: dict[str, Any] = response.json()
    assert response.headers["Location"] == f"/v1/jobs/{job['id']}"
    assert response.headers["Preference-Applied"] == "respond-async"
    return job


def job_events(client: httpx.Client, job_id: str) -> list[dict[str, Any]]:
    """All events of a job, from now to its end; each has the name of its type."""
    with client.stream("GET", f"/v1/jobs/{job_id}/events") as response:
        assert response.status_code == 200, response.read()
        blocks = [block for block in "".join(response.iter_text()).split("\n\n") if block and block[0] != ":"]
    events = []
    for block in blocks:
        name, content = block.splitlines()
        events.append(json.loads(content.removeprefix("data: ")))
        assert name == f"event: {events[-1]['type']}" == f"event: job.{events[-1]['job']['status']}"
    return events


def ended(client: httpx.Client, job: dict[str, Any]) -> dict[str, Any]:
    """The job once it has ended."""
    last: dict[str, Any] = job_events(client, job["id"])[-1]["job"]
    return last
