"""What ``make soak`` adds: hypothesis' profile ``soak``, for property tests that state no number of examples."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("soak", max_examples=20_000, deadline=None)
