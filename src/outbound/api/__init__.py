"""The HTTP API. The only package that knows Falcon."""
