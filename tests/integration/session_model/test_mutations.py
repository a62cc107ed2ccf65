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
#: Their seeds. The one that finds a mutation soon goes first, which is 5 for many.
HUNTS = range(30)
FOUND_SOON = {
    "a retry is known by its id, not by its token": 7,
    "the bound is one too late": 2,
    "the newest overflows, not the oldest": 2,
    "the backlog is given up from its tail": 2,
    "a claim takes from waiting before the backlog": 2,
    "a claim trusts what a rolled back Redis says": 4,
    "what a rolled back Redis forgot cannot land any more": 4,
    "a dead letter ends what is in doubt": 1,
    "an answer to a question is one to the call before it": 9,
    "wait does not ask for the token": 9,
    "what an acknowledgement settles is not noted as written": 3,
    "begin does not ask for the token": 4,
    "commit does not ask for the token": 7,
    "complete does not ask for the token": 3,
    "a settled message leaves its id behind": 2,
    "an idle session is kept for ever": 3,
    "the lease outlives the claim": 3,
    "what was popped and never claimed stays away": 66,
    "a purge keeps the ids": 4,
    "any entry gives the session, whoever has it": 8,
    "postpone does not ask for the token": 1,
    "note does not ask for the token": 1,
    "a held session keeps its lease": 4,
    "an acknowledgement ends what is held": 3,
    "who waits is not told of what is written": 1,
    "who waits is not told of an overflow": 8,
    "who waits is told too early": 1,
    "who waits for less is not told": 3,
    "a session that moves on lags as before": 2,
    "after an overflow a session lags as before": 2,
    "an exchange claims the next session under the keys of the one that ends": 17,
    "an exchange reserves an entry though others want for work": 38,
    "an exchange takes an entry though it has claimed the reserved one": 3,
    "a session with work is forgotten after a day": 1,
    "a claim that ends queues a session that is paused": 6,
    "a paused session goes to sleep": 13,
    "a held session goes on though it is paused": 0,
    "an exchange takes the next session for paused because the one that ends is": 71,
    "a pause without work is forgotten after a day": 0,
    "a drop takes what a worker has": 7,
    "a session is roused before the call has landed": 4,
}


def hunt(machine: type[SessionMachine], client: redis.Redis, mutation: str, edits: Edits) -> None:
    first = FOUND_SOON.get(mutation, 5)
    for number in dict.fromkeys((first, *HUNTS)):
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
