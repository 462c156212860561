"""One run, from settings to results: its network is pruned, fine-tuned, evaluated and written down."""
