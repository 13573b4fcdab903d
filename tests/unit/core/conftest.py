"""Settings of property tests: machines are noisy, so no example is timed."""

from hypothesis import settings

settings.register_profile("calm", deadline=None)
settings.load_profile("calm")
