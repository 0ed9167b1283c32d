"""The method: arrays and blocks of rows in, frozen results out; no paths, clocks, logs or global random state."""
