"""The engine that has Spark read, map and write the rows where they are, using data frames only."""
