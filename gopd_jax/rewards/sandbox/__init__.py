"""Where programs under test run: a forked process and what the kernel holds it with."""
