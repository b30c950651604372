"""RQ with a job a call and a SimpleWorker, all jobs waiting before the start.

python -m benchmarks.reference_rq URL REDIS_URL CALLS
"""

from __future__ import annotations

import logging
import os
import sys

import redis
import rq

from benchmarks.reference_dial import Dialling
from benchmarks.references import serve

_dialling = Dialling(os.environ.get("BENCH_REFERENCE_URL", ""))


def place(call_id: int) -> None:
    _dialling.dial(call_id)


def main(url: str, redis_url: str, calls: str) -> None:
    # RQ imports this module anew to find the job: not __main__, whose connection is not its.
    os.environ["BENCH_REFERENCE_URL"] = url
    logging.disable(logging.INFO)
    client = redis.Redis.from_url(redis_url)
    queue = rq.Queue("bench", connection=client)
    jobs = [
        rq.Queue.prepare_data("benchmarks.reference_rq.place", (call_id,))
        for call_id in range(1, int(calls) + 1)
    ]
    queue.enqueue_many(jobs)
    worker = rq.SimpleWorker([queue], connection=client)

    def work() -> None:
        worker.work(burst=True, logging_level="WARNING")

    serve(work)


if __name__ == "__main__":
    main(*sys.argv[1:])
