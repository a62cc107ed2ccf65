"""A machine that cannot fail proves nothing: with a rule of a script undone, it must notice.

The invariants alone must, without the model. Most is found at once by the seed that finds it.
"""

from __future__ import annotations

import pytest
import redis
from hypothesis import Phase, seed, settings

from hermes_tasks.testing.servers import EmbeddedValkey
from tests.integration.editing import Edits
from tests.integration.hunting import seed_decides
from tests.integration.session_model.machine import QUICK, SessionMachine, SteeredMachine, run
from tests.integration.session_model.mutations import BROKEN, BROKEN_FOR_OPERATORS

only_valkey = pytest.mark.parametrize("server_type", [EmbeddedValkey], indirect=True)


#: Looks for a failure, the same way each time, and does not make it small. Many short hunts: one
#: long one explores around its first examples, and may find nothing for minutes.
HUNT = settings(QUICK, max_examples=40, phases=[Phase.generate], database=None)
#: Their seeds. The one that finds a mutation soon goes first, which is 2 for most.
HUNTS = range(30)
FOUND_SOON = {
    "a claim trusts what a rolled back Redis says": 11,
    "what a rolled back Redis forgot cannot land any more": 11,
    "a retry of the head forgets that the call before carried more": 11,
    "a dead letter ends what is in doubt": 12,
    "an answer to a question is one to the call before it": 12,
    "the questions before a call count after it": 21,
    "wait does not ask for the token": 12,
    "postpone does not ask for the token": 11,
    "who waits for less is not told": 12,
    "a claim that ends queues a session that is paused": 11,
    "a held session goes on though it is paused": 18,
    "a paused session goes to sleep": 25,
    "a drop takes what a worker has": 18,
    "a session is roused before the call has landed": 22,
}


def hunt(machine: type[SessionMachine], client: redis.Redis, mutation: str, edits: Edits) -> None:
    first = FOUND_SOON.get(mutation, 2)
    for number in sorted(HUNTS, key=lambda number: number != first):
        seeded = seed(number)(type(machine.__name__, (machine,), {}))
        with seed_decides():
            run(seeded, client, HUNT, edits)


@only_valkey
@pytest.mark.parametrize("mutation", BROKEN)
def test_the_invariants_notice_that(redis_client: redis.Redis, mutation: str) -> None:
    with pytest.raises((AssertionError, redis.ResponseError)):
        hunt(SessionMachine, redis_client, mutation, BROKEN[mutation])


@only_valkey
@pytest.mark.parametrize("mutation", BROKEN_FOR_OPERATORS)
def test_an_operator_makes_the_invariants_notice_that(
    redis_client: redis.Redis, mutation: str
) -> None:
    with pytest.raises((AssertionError, redis.ResponseError)):
        hunt(SteeredMachine, redis_client, mutation, BROKEN_FOR_OPERATORS[mutation])
