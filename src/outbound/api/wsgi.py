"""`outbound.api.wsgi:app`, for a gunicorn that somebody else starts. Never with --preload."""

from outbound import config
from outbound.api.server import build_app

app = build_app(config.read("database_url", "redis_url", "public_base_url"))
