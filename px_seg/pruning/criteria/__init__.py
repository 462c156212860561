"""Criteria: what a weight is worth. A criterion only scores; `prune` ranks and masks."""
