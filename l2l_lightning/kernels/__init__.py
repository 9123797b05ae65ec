"""Machine code for the hot steps of rules, each beside a PyTorch reference."""
