"""The engine in which Spark reads, maps and writes the rows where they are, using data frames only."""
