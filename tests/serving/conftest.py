"""How the tests of `serving/` use hypothesis."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# Tests may share their cores with anything: what an example takes says nothing about the code.
settings.register_profile(
    "shared cores", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("shared cores")
