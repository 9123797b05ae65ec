"""How phi's gradient is found over one window."""
