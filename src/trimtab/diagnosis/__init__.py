"""From what was measured to causes: pure functions over a history."""
