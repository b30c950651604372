# ruff: noqa: INP001 - gunicorn reads this file, nobody imports it
"""For those who start gunicorn themselves; `outbound web` does the same.

gunicorn -c deploy/gunicorn.conf.py outbound.api.wsgi:app
"""

# Every name here that is also a gunicorn setting is taken for one: `config`, for example.
from outbound import logs
from outbound.api.server import options
from outbound.config import read

_settings = read("database_url", "redis_url", "public_base_url")
logs.set_up(_settings, "api")  # the master writes lines of its own
globals().update(options(_settings))
