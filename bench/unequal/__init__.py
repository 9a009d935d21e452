"""Plans against dense training on fewer samples, on unequal clusters at equal step time."""
