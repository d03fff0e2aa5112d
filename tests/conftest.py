"""Property tests draw the same examples every time; ``HYPOTHESIS_PROFILE=explore`` draws new ones, and more of them."""

import os

from hypothesis import settings

settings.register_profile("steady", derandomize=True)
settings.register_profile("explore", max_examples=500, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "steady"))
