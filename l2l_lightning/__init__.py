"""Learning to learn by gradient descent by gradient descent."""
