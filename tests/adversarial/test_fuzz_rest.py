"""Requests made from the OpenAPI document, by it and against it: no answer is the fault of the program.

`make fuzz` makes them for two minutes.
"""

import os
import time
from collections import Counter

import hypothesis
import pytest
import schemathesis
from cutout_gateway.descriptors import Contract
from cutout_gateway.openapi import document
from cutout_gateway.routes import Routes
from hypothesis import strategies
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance
from waiting import PATIENCE_S

from adversarial.good_caller import GoodCaller
from adversarial.stack import BAD, Stack

pytestmark = pytest.mark.slow

EXAMPLES = 10
SECONDS = float(os.environ.get("FUZZ_SECONDS", "0"))
CHECKS = [not_a_server_error, response_schema_conformance, content_type_conformance]
CONTRACT = Contract.load()
API = schemathesis.openapi.from_dict(document(CONTRACT, Routes(CONTRACT), "Cutout"))
OPERATIONS = {found.ok().label: found.ok() for found in API.get_all_operations()}


@pytest.mark.parametrize("label", OPERATIONS)
def test_no_request_is_a_server_error(label: str, stack: Stack):
    """Whatever is asked is answered or refused, in the documented form, and the next request finds all as it was."""
    modes = [schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE]
    cases = [OPERATIONS[label].as_strategy(generation_mode=mode) for mode in modes]
    statuses: Counter[int] = Counter()

    @hypothesis.settings(
        max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=[*hypothesis.HealthCheck]
    )
    @hypothesis.given(strategies.one_of(cases))
    def ask(case: schemathesis.Case) -> None:
        response = case.call(base_url=stack.url, headers={"x-api-key": BAD}, timeout=PATIENCE_S)
        statuses[response.status_code] += 1
        case.validate_response(response, checks=CHECKS)

    until = time.monotonic() + SECONDS / len(OPERATIONS)
    ask()
    while time.monotonic() < until:
        ask()
    assert statuses
    with GoodCaller(stack) as good_caller:
        good_caller.is_served(1)
