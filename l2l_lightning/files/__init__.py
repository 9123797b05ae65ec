"""What lies on disk: checkpoints, exported rules, and the checks before either is used."""
