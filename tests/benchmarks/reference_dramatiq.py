"""A Dramatiq actor with a message a call, all messages waiting before the start.

python -m benchmarks.reference_dramatiq URL REDIS_URL CALLS THREADS
"""

from __future__ import annotations

import sys
import threading
from uuid import uuid4

import dramatiq
from dramatiq.brokers.redis import RedisBroker

from benchmarks.reference_dial import Dialling
from benchmarks.references import serve

AT_ONCE = 1000


def main(url: str, redis_url: str, calls: str, threads: str) -> None:
    broker = RedisBroker(url=redis_url)
    dialling = Dialling(url)
    done = threading.Semaphore(0)

    @dramatiq.actor(broker=broker, queue_name="bench")
    def place(call_id: int) -> None:
        dialling.dial(call_id)
        done.release()

    _enqueue(broker, place, int(calls))
    worker = dramatiq.Worker(broker, worker_threads=int(threads))

    def work() -> None:
        worker.start()
        for _ in range(int(calls)):
            done.acquire()

    serve(work)
    worker.stop()


def _enqueue(broker: RedisBroker, actor: dramatiq.Actor, calls: int) -> None:
    # As Dramatiq documents it for enqueueing from elsewhere: `send` takes a round trip each.
    for first in range(1, calls + 1, AT_ONCE):
        pipeline = broker.client.pipeline()
        for call_id in range(first, min(first + AT_ONCE, calls + 1)):
            key = str(uuid4())
            message = actor.message(call_id).copy(options={"redis_message_id": key})
            pipeline.hset(f"dramatiq:{actor.queue_name}.msgs", key, message.encode())
            pipeline.rpush(f"dramatiq:{actor.queue_name}", key)
        pipeline.execute()


if __name__ == "__main__":
    main(*sys.argv[1:])
