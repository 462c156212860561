"""What our own code costs, beside plain inference in the same process."""
