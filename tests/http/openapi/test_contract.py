"""The service keeps its own OpenAPI document: schemathesis makes requests out of it, all its checks on."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis import Case
from schemathesis.config import SchemathesisConfig

from service.app import create_app
from service.settings import Settings
from tests.support.server import Running

pytestmark = pytest.mark.slow

CONFIG = SchemathesisConfig.from_dict(
    {
        "checks": {
            # A deadline of its own may pass before the answer is there.
            "not_a_server_error": {"expected-statuses": ["2xx", "3xx", "4xx", 504]},
            # What no schema can say: the model's sizes, what a file holds, which styles there are.
            "positive_data_acceptance": {
                "expected-statuses": ["2xx", "400", "404", "409", "415", "422", "504"],
            },
        }
    }
)


def document_without_defaults() -> dict[str, Any]:
    """The document without its default responses: each status must be documented by itself."""
    document = deepcopy(create_app(Settings()).openapi())
    for operations in document["paths"].values():
        for operation in operations.values():
            del operation["responses"]["default"]
    return document


document = schemathesis.openapi.from_dict(document_without_defaults(), config=CONFIG)


@document.parametrize()
@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_every_operation_keeps_the_document(case: Case[Any], server: Running) -> None:
    case.call_and_validate(base_url=server.url)
