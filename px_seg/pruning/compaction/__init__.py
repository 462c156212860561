"""A network under masks as a smaller dense one: its operations, the channels that are needed, and the surgery."""
