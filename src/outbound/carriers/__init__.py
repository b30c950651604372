"""Telephony carriers: the protocol in `base`, and one module for each provider."""
