"""What all tests have in common."""

import hypothesis

# Other work on the machine must not fail a test: how long an example takes isn't what is asserted.
hypothesis.settings.register_profile("project", deadline=None)
hypothesis.settings.load_profile("project")
