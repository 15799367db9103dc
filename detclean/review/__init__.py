"""The review app: one issue a screen, a key a decision, every decision on disk before the next screen."""

from detclean.review.app import make_server, serve

__all__ = ["make_server", "serve"]
