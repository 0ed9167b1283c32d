"""The SQL of a delivery schema: its tables, views and search functions, and the tables of one version.

A statement sees one snapshot of the database, and the views and functions take the current version from the pointer row
in that snapshot: they cannot mix two versions. The functions are ``STABLE``, so that their own statements use the
snapshot of the calling statement. The set of partitions is not part of a snapshot, so if nothing is found, the
functions check whether the version was removed meanwhile.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import LiteralString

from psycopg import sql

from embsync.delivery.postgresql.binary_copy import COLUMNS, LABELS
from embsync.reader import Side, Version
from embsync.sides import SideName

MADE_BY = "embsync"
FORMAT = 1
#: pgvector's limits on the width of an index on ``vector`` and on ``halfvec``, and on ``hnsw.ef_search``.
WIDEST_VECTOR, WIDEST_HALFVEC, MOST_EF_SEARCH = 2_000, 4_000, 1_000

_TABLES: LiteralString = """
CREATE TABLE {s}.generations (
    version bigint PRIMARY KEY,
    state text NOT NULL CHECK (state IN ('loading', 'complete', 'dropping')),
    fingerprint text NOT NULL,
    space_id text NOT NULL,
    created text NOT NULL,
    dimension integer NOT NULL,
    metric text NOT NULL CHECK (metric IN ('inner_product', 'cosine', 'l2')),
    index text NOT NULL CHECK (index IN ('hnsw', 'ivfflat')),
    halfvec boolean NOT NULL,
    search jsonb NOT NULL DEFAULT '{{}}',
    k integer,
    recall double precision,
    target_recall double precision NOT NULL,
    staged timestamptz NOT NULL DEFAULT now());
CREATE TABLE {s}.pointer (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    made_by text NOT NULL,
    format integer NOT NULL,
    version bigint REFERENCES {s}.generations);
INSERT INTO {s}.pointer (made_by, format) VALUES ({made_by}, {format});
CREATE VIEW {s}.current_version AS
    SELECT g.* FROM {s}.pointer AS p JOIN {s}.generations AS g USING (version);
"""

_SIDE: LiteralString = """
CREATE TABLE {s}.{side} ({columns}, PRIMARY KEY (version, id)) PARTITION BY LIST (version);
CREATE VIEW {s}.{view} AS
    SELECT * FROM {s}.{side} WHERE version = (SELECT p.version FROM {s}.pointer AS p);
"""

_SEARCH_VERSION: LiteralString = """
CREATE FUNCTION {s}.search_version(of_version bigint, query {v}.vector, k integer, effort integer DEFAULT NULL,
    condition jsonpath DEFAULT NULL)
RETURNS TABLE (version bigint, item_id {item}, score double precision)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, {v}, pg_temp
SET hnsw.ef_search = 40
SET hnsw.iterative_scan = 'strict_order'
SET ivfflat.probes = 1
SET enable_seqscan = off
AS $function$
#variable_conflict use_column
DECLARE
    g record;
    kind text;
    distance text;
    nearest text;
    hits bigint;
    fields text := 'SELECT c.id, c.vector %s $1 AS d FROM %I.items AS c WHERE c.version = %s AND c.live%s';
BEGIN
    IF query IS NULL THEN
        RETURN;
    END IF;
    IF k IS NULL OR k < 1 THEN
        RAISE EXCEPTION 'k is %, expected 1 or more', k USING ERRCODE = 'invalid_parameter_value';
    END IF;
    SELECT * INTO g FROM {s}.generations AS o WHERE o.version = of_version AND o.state = 'complete';
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no version %', of_version USING ERRCODE = 'no_data_found';
    END IF;
    IF vector_dims(query) <> g.dimension THEN
        RAISE EXCEPTION 'a query of % numbers, version % has %', vector_dims(query), of_version, g.dimension
            USING ERRCODE = 'data_exception';
    END IF;
    IF effort IS NULL THEN
        effort := coalesce(g.search ->> 'ef_search', g.search ->> 'probes', '40')::integer;
        effort := ceil(effort * greatest(1, k / coalesce(g.k, k)::float8));  -- more neighbours, more effort
    END IF;
    PERFORM set_config('hnsw.ef_search', least(greatest(effort, k), {most})::text, true);
    PERFORM set_config('ivfflat.probes', least(effort, 32768)::text, true);
    kind := format('%s(%s)', CASE WHEN g.halfvec THEN 'halfvec' ELSE 'vector' END, g.dimension);
    distance := CASE g.metric WHEN 'inner_product' THEN '<#>' WHEN 'cosine' THEN '<=>' ELSE '<->' END;
    fields := format(fields, distance, {schema}, of_version,
        CASE WHEN condition IS NULL THEN '' ELSE ' AND c.labels @@ $2' END);
    nearest := format('%s ORDER BY (c.vector::%s) %s $1::%s LIMIT %s',
        fields, kind, distance, kind, CASE WHEN g.halfvec THEN 4 * k ELSE k END);
    IF condition IS NOT NULL THEN  -- where the index finds too few, all items that meet it are compared
        nearest := format('WITH n AS MATERIALIZED (%s), m AS MATERIALIZED (SELECT count(*) < %s AS few FROM n)'
            ' SELECT n.* FROM n WHERE NOT (SELECT few FROM m)'
            ' UNION ALL SELECT a.* FROM (%s ORDER BY d LIMIT %s) AS a WHERE (SELECT few FROM m)',
            nearest, k, fields, k);
    END IF;
    RETURN QUERY EXECUTE format(
        'SELECT %s::bigint, f.id, %s AS score FROM (%s) AS f ORDER BY score DESC, f.id LIMIT %s',
        of_version,
        CASE g.metric WHEN 'inner_product' THEN '-f.d' WHEN 'l2' THEN '-f.d * f.d'
            ELSE 'CASE WHEN f.d = ''NaN'' THEN 0 ELSE 1 - f.d END' END,
        nearest, k) USING query, condition;
    GET DIAGNOSTICS hits = ROW_COUNT;
    IF hits = 0 AND NOT EXISTS (SELECT FROM {s}.items AS c WHERE c.version = of_version) THEN
        RAISE EXCEPTION 'version % was removed while it was read', of_version
            USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'Begin a new transaction.';
    END IF;
END
$function$;
CREATE FUNCTION {s}.search_vector(query {v}.vector, k integer DEFAULT 10, condition jsonpath DEFAULT NULL)
RETURNS TABLE (version bigint, item_id {item}, score double precision)
LANGUAGE sql STABLE AS $function$
    SELECT f.* FROM {s}.pointer AS p CROSS JOIN LATERAL {s}.search_version(p.version, query, k, NULL, condition) AS f
    WHERE p.version IS NOT NULL
$function$;
"""

#: Search by user, and by item, which leaves out the item itself.
_SEARCH_BY_ID: LiteralString = """
CREATE FUNCTION {s}.{function}({argument} {id}, k integer DEFAULT 10, condition jsonpath DEFAULT NULL)
RETURNS TABLE (version bigint, item_id {item}, score double precision)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, {v}, pg_temp
AS $function$
#variable_conflict use_column
DECLARE
    served bigint := (SELECT p.version FROM {s}.pointer AS p);
    query vector;
BEGIN
    SELECT o.vector INTO query FROM {s}.{side} AS o WHERE o.version = served AND o.id = $1;
    IF FOUND THEN
        RETURN QUERY
            SELECT f.* FROM {s}.search_version(served, query, k + {more}, NULL, condition) AS f {without} LIMIT k;
    ELSIF served IS NOT NULL
        AND pg_partition_root(to_regclass(format('%I.%I', {schema}, {prefix} || served))) IS NULL THEN
        RAISE EXCEPTION 'version % was removed while it was read', served
            USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'Begin a new transaction.';
    END IF;
END
$function$;
"""


@dataclass(frozen=True)
class Schema:
    """The SQL of one delivery schema.

    Parameters
    ----------
    name : str
        Name of the schema.
    extension : str
        The schema that pgvector is in.
    """

    name: str
    extension: str

    def contents(self, version: Version) -> sql.Composed:
        """Return the statements that create the contents of the schema, for the store of a version."""
        item = id_type(version.items)
        parts = [self._sql(_TABLES, made_by=sql.Literal(MADE_BY), format=sql.Literal(FORMAT))]
        for side in version.sides:
            view = sql.Identifier(f"current_{side.name}")
            parts.append(self._sql(_SIDE, side=sql.Identifier(side.name), columns=self._columns(side), view=view))
        parts.append(self._sql(_SEARCH_VERSION, item=sql.SQL(item), most=sql.Literal(MOST_EF_SEARCH)))
        parts.append(self._search_by_id("search_by_item", version.items, item))
        if version.users is not None:
            parts.append(self._search_by_id("search", version.users, item))
        return sql.Composed(parts)

    def partition(self, side: SideName, number: int) -> sql.Identifier:
        """Return the name of a version's partition of a side."""
        return sql.Identifier(self.name, partition_name(side, number))

    def table(self, name: str) -> sql.Identifier:
        """Return the name of a table."""
        return sql.Identifier(self.name, name)

    def created_aside(self, side: Side, number: int) -> sql.Composed:
        """Return the statement that creates a detached partition; its check saves a scan when it is attached."""
        return self._sql(
            "CREATE TABLE {partition} ({columns}, CHECK (version = {number}))",
            partition=self.partition(side.name, number),
            columns=self._columns(side),
            number=sql.Literal(number),
        )

    def attached(self, side: SideName, number: int) -> sql.Composed:
        """Return the statement that attaches a partition."""
        return self._sql(
            "ALTER TABLE {table} ATTACH PARTITION {partition} FOR VALUES IN ({number})",
            table=self.table(side),
            partition=self.partition(side, number),
            number=sql.Literal(number),
        )

    def indexes(self, side: Side, number: int, search_index: sql.Composable | None) -> sql.Composed:
        """Return the statements that create a loaded partition's key, search index and statistics."""
        partition = self.partition(side.name, number)
        parts = [self._sql("ALTER TABLE {partition} ADD PRIMARY KEY (version, id);", partition=partition)]
        if search_index is not None:
            parts.append(
                self._sql("CREATE INDEX ON {partition} {index} WHERE live;", partition=partition, index=search_index)
            )
        parts.append(self._sql("ANALYZE {partition}", partition=partition))
        return sql.Composed(parts)

    def search_index(self, kind: str, halfvec: bool, width: int, metric: str, live: int) -> sql.Composed:
        """Return method, expression and options of the index on the live items."""
        numbers = "halfvec" if halfvec else "vector"
        suffix = {"inner_product": "ip", "cosine": "cosine", "l2": "l2"}[metric]
        if kind == "hnsw":
            options = sql.Composed([sql.SQL("m = 16, ef_construction = 128")])
        else:
            options = sql.SQL("lists = {}").format(sql.Literal(lists_for(live)))
        return self._sql(
            "USING {kind} ((vector::{v}.{numbers}({width})) {v}.{operators}) WITH ({options})",
            kind=sql.Identifier(kind),
            numbers=sql.Identifier(numbers),
            width=sql.Literal(width),
            operators=sql.Identifier(f"{numbers}_{suffix}_ops"),
            options=options,
        )

    def _search_by_id(self, function: str, side: Side, item: LiteralString) -> sql.Composed:
        itself = side.name == "items"
        return self._sql(
            _SEARCH_BY_ID,
            function=sql.Identifier(function),
            argument=sql.Identifier(f"{side.name[:-1]}_id" if not itself else "id"),
            id=sql.SQL(id_type(side)),
            item=sql.SQL(item),
            side=sql.Identifier(side.name),
            more=sql.Literal(int(itself)),
            without=sql.SQL("WHERE f.item_id <> $1" if itself else ""),
            prefix=sql.Literal(f"{side.name}_"),
        )

    def _columns(self, side: Side) -> sql.Composed:
        """Return the definitions of a table's columns; ids are ordered by their bytes, as in the store."""
        types = {
            None: sql.SQL('text COLLATE "C"' if id_type(side) == "text" else "bigint"),
            "vector": sql.SQL("{}.vector").format(sql.Identifier(self.extension)),
        }
        columns = [
            sql.SQL("{} {}{}").format(
                sql.Identifier(name),
                types.get(kind) or sql.SQL(kind or ""),
                sql.SQL("" if name == "last_seen_at" else " NOT NULL"),
            )
            for name, kind in (*COLUMNS, *([LABELS] if side.name == "items" else []))
        ]
        return sql.Composed([part for column in columns for part in (sql.SQL(", "), column)][1:])

    def _sql(self, text: LiteralString, **values: sql.Composable) -> sql.Composed:
        names = {"s": self.name, "v": self.extension}
        known = {name: sql.Identifier(value) for name, value in names.items()} | {"schema": sql.Literal(self.name)}
        return sql.SQL(text).format(**{**known, **values})


def lists_for(live: int) -> int:
    """Return the number of lists of an IVFFlat index: as pgvector advises, within its limits."""
    return min(32_768, max(1, round(live / 1000 if live <= 1_000_000 else live**0.5)))


def id_type(side: Side) -> LiteralString:
    """Return the type of a side's ids."""
    return "bigint" if side.ids.dtype.kind == "i" else "text"


def partition_name(side: SideName, number: int) -> str:
    """Return the name of a version's partition of a side, within the schema."""
    return f"{side}_{number}"
