"""Pure mathematics: arrays and blocks of rows in, frozen results out. No path, clock, log or global random state."""
