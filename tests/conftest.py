"""Fixtures that files share. The browser is one for a whole session: Playwright bears no second one in a process."""

from browser import browser  # noqa: F401
