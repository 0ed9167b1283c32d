"""The method on arrays that a program holds, with no store and no daemon."""
