"""Independent statements of every formula, from its paper, exact enough to test the last bits."""
