"""Commands beside ``fit``, ``validate`` and ``test``, most of which make one table and one figure of several runs."""
