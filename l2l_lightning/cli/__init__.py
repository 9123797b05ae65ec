"""The command line ``l2l``."""
