"""Learning to learn by gradient descent by gradient descent."""

from l2l_lightning.learned_optimizer import LearnedOptimizer

__all__ = ["LearnedOptimizer"]
