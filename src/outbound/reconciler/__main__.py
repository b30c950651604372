"""`python -m outbound.reconciler` does what `outbound reconciler` does."""

from outbound import config
from outbound.reconciler.leader import serve

serve(config.read("database_url", "redis_url"))
