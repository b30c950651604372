"""For those who start gunicorn themselves: gunicorn -c deploy/gunicorn.conf.py "outbound.api.wsgi:app".

`outbound web` does the same.
"""

from outbound import config
from outbound.api.server import options

globals().update(options(config.read("database_url", "redis_url", "public_base_url")))
