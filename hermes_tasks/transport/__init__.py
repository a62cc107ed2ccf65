"""Session queues for Celery: strict order per key, full parallelism across keys, on stock workers.

A Kombu transport over Redis. A queue named ``<prefix>.session.<id>`` is a *message group*, as SQS
FIFO has them: its messages run one after another, whatever dies, while any number of groups run at
once. Workers consume one physical queue, the run queue ``{<prefix>}.run``, which holds session
ids, so that a hundred thousand sessions cost an idle worker nothing. Every other queue behaves as
in :mod:`kombu.transport.redis`. Nothing here knows what the messages are for.

Use::

    app = Celery(broker="redis://", amqp=SessionAMQP)
    app.conf.task_queues = [Queue("celery"), run_queue()]

    @app.task(base=OrderedTask, bind=True)
    def work(self, thing): ...

    work.apply_async((thing,), queue=session_queue("customer-7"))

The rules, and what each is for
-------------------------------
Every state change is one Lua script on Redis time, beside this file, with its contract on top.

* **push** appends, bounds, and puts an idle session on the run queue. A retry carries the token of
  the claim it comes from and replaces the head in place; by id alone, a retry published after its
  lease ran out would append a message that another worker has already settled.
* **claim** turns a popped run-queue entry into a lease. The in-flight copy stays in Redis, so a
  worker that dies between pop and claim loses nothing. The token is the delivery tag, and the
  worker's own: a counter in Redis would repeat after Redis lost its last second.
* **A batch** is consecutive messages of one task and serializer that commit for themselves; after
  a failed attempt the head goes alone, so one bad follower cannot take the others with it.
* **begin** is fenced and precedes every write; **commit** settles. Acknowledged is not settled:
  Celery acknowledges a task for many reasons (success, failure, an unknown task, a body it cannot
  decode, a time limit, a lost pool process), and **complete** looks at what is left in flight:
  nothing, so the next head is promoted; something but progress was made, so ready at once;
  otherwise a failed attempt, that waits and comes again, and after five is a dead letter.
* **postpone** lets a session sleep in Redis for as long as its task says, with no attempt counted:
  what failed was not the message's fault. **note** adds to the trace of the head, which is
  forgotten when the head is settled, and told, once, when it is given up.
* **What a call may have written** is kept with the session, and until when it may still take
  effect, whatever its worker has heard of it (``session_landing``). **wait** lets the session sleep
  until then; :meth:`.SessionLease.ask_again` says when.
* **A session can be held** by whoever lets tasks go on only one by one: it is in no queue of this
  transport then, without a lease, and accepts messages. ``hold`` and ``go_on`` of ``common.lua``
  are for scripts of theirs.
* **A session can be paused** by an operator (:mod:`.steering`): what a worker has of it ends as it
  ends, and then nothing queues it until it is resumed. Whatever makes a session ready, or lets it
  sleep or idle, looks for that first, in ``common.lua``.
* **A dead letter** (:mod:`.dead`) is kept with its reason, its trace and its message. **retry**
  puts it back before what was accepted later, as long as nothing of that is written, or may be.
* **check** looks at a session for what the scripts never leave behind, and **repair** puts it
  right, without losing or reordering a message (:mod:`.check`).
* Tasks that do not commit are settled by their acknowledgement, as everywhere in Celery.
* **Late acknowledgement** is required: an early one comes before the task runs. So is a ``task``
  among the headers, as Celery's protocol 2 has it: what has none is a dead letter.
* **exchange** is an acknowledgement that brings the next session, for the slot that it frees. What
  others may wait for is left to them.
* **The keeper** (:mod:`.keeper`), a thread of the worker's main process, renews leases and rescues
  sessions: due sleepers, lapsed leases, and entries popped by a worker that died before its claim.
  The latter are found by number, because a clock that steps back would lose them.
* **A shutdown** gives back what no process works on, each session as it is, never a message out of
  it. A lost connection is not a shutdown: running tasks end under their lease.
* **A new Redis process** may have forgotten its last second, so all that was accepted before it is
  delivered as if a call had been made for it just then.

Broker URLs
-----------
* ``redis://[user:password@]host:port/db``
* ``rediss://…``: over TLS. The certificate is checked, against ``?ssl_ca_certs=/path`` where given;
  ``?ssl_cert_reqs=none`` turns that off.
* ``redis+socket://[:password@]/path/of/socket?virtual_host=db``
* ``sentinel://[user:password@]host:port/db;sentinel://…``, with the transport option
  ``master_name``. Each URL has the password of the master; Sentinel's own goes into the option
  ``sentinel_kwargs``.

:class:`SessionAMQP` chooses the transport by the URL. Without it, as for a plain
:class:`kombu.Connection`, name the transport: :func:`transport_for`.

Transport options
-----------------
``session_prefix``, ``session_lease``, ``session_waiting_limit``, ``session_backlog_limit``,
``session_batch_messages``, ``session_batch_size``, ``session_max_attempts``,
``session_retry_first``, ``session_retry_longest``, ``session_lease_max_age``,
``session_message_limit``: see
:class:`~hermes_tasks.transport.options.SessionOptions`. All of :mod:`kombu.transport.redis` work,
``global_keyprefix`` included. ``session_meet``, a callable, is told the run id of the Redis process
at the other end of every new connection, before anything is sent over it; what it raises refuses
the connection. ``session_made``, a callable, is told every connection of redis-py when it is made,
before it connects: to disconnect it ends whatever waits for it.
"""

from __future__ import annotations

from kombu import Exchange, Queue

from hermes_tasks.transport.answers import Progress, PushAnswer
from hermes_tasks.transport.channel import push_answers
from hermes_tasks.transport.keeper import private_store
from hermes_tasks.transport.keys import DEFAULT_PREFIX, Names
from hermes_tasks.transport.lease import BatchMessage, SessionLease
from hermes_tasks.transport.options import SessionOptions
from hermes_tasks.transport.pushing import Push, collected_pushes, push_all
from hermes_tasks.transport.sessions import SessionStore
from hermes_tasks.transport.task import BatchResult, BatchTask, OrderedTask, session_queue
from hermes_tasks.transport.transport import (
    SentinelTransport,
    SessionAMQP,
    Transport,
    transport_for,
)


def run_queue(prefix: str = DEFAULT_PREFIX) -> Queue:
    """The queue that workers consume, for ``task_queues``."""
    name = Names(prefix).run_queue
    return Queue(name, Exchange(""), routing_key=name, no_declare=True, durable=False)


__all__ = [
    "BatchMessage",
    "BatchResult",
    "BatchTask",
    "Names",
    "OrderedTask",
    "Progress",
    "Push",
    "PushAnswer",
    "SentinelTransport",
    "SessionAMQP",
    "SessionLease",
    "SessionOptions",
    "SessionStore",
    "Transport",
    "collected_pushes",
    "private_store",
    "push_all",
    "push_answers",
    "run_queue",
    "session_queue",
    "transport_for",
]
