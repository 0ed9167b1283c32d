"""How the program that writes a column of an unusable type can cast it."""

from __future__ import annotations

_ID_CASTS = (
    (
        ("double", "float", "halffloat", "decimal", "dictionary<values=double", "dictionary<values=float"),
        'cast it where it is written: {column} = {column}.astype("int64") (pandas), CAST({name} AS BIGINT) (SQL)',
    ),
    (
        ("fixed_size_binary[16]", "extension<arrow.uuid"),
        "write it as text: {column} = {column}.map(lambda b: str(uuid.UUID(bytes=b)))",
    ),
    (
        ("fixed_size_binary", "binary", "large_binary", "binary_view"),
        'write it as text: {column} = {column}.str.decode("utf-8"), or {column}.map(bytes.hex)',
    ),
    (("struct",), "write one field of it: SELECT {name}.id AS {name}"),
    (("list", "large_list", "fixed_size_list"), 'write one id per row: df = df.explode("{name}")'),
    (("timestamp", "date", "time", "bool", "duration"), "write it as text: {column} = {column}.astype(str)"),
)
_VECTOR_CASTS = (
    (("string", "large_string"), "write it as a list: {column} = {column}.map(json.loads)"),
    (("struct",), 'in Spark: df.withColumn("{name}", pyspark.ml.functions.vector_to_array("{name}", "float32"))'),
    (
        ("binary", "large_binary", "fixed_size_binary"),
        'write it as a list: {column} = {column}.map(lambda b: numpy.frombuffer(b, "f4"))',
    ),
    (
        ("list", "large_list", "fixed_size_list"),
        'cast it where it is written: {column} = {column}.map(lambda v: numpy.asarray(v, "f4")) (pandas), '
        "CAST({name} AS ARRAY<FLOAT>) (SQL)",
    ),
)


def cast_line(what: str, name: str, kind: str) -> str:
    """Return how to cast a column of this type to ids (``what`` is ``id``) or to vectors."""
    column = f'df["{name}"]'
    for starts, line in _ID_CASTS if what == "id" else _VECTOR_CASTS:
        if kind.startswith(starts):
            return line.format(column=column, name=name)
    return f"cast {name} to " + ("int64 or string" if what == "id" else "a list of float32") + " where it is written"
