"""What tests of several rooms share. `tests/` is on the path, in processes that the tests start too."""
