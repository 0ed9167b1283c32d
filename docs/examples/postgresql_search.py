"""Recommendations from PostgreSQL, also for users who are new or were away: psycopg alone.

    python postgresql_search.py URL

Reads lines "USER ITEM ITEM …", a user and items it liked (perhaps none), and answers each with a version and its ten best
items. Each answer is one statement, which cannot mix two versions.
"""

import json
import sys

import psycopg

#: The user's own vector, at most seven versions old; else one from what it liked; else the mean user's.
STATEMENT = """
SELECT version, item_id, score FROM embsync.search_vector(coalesce(
    (SELECT vector FROM embsync.current_users WHERE id = %(user)s AND age <= 7),
    (SELECT avg(l2_normalize(vector)) FROM embsync.current_items WHERE id = ANY(%(liked)s)),
    (SELECT avg(vector) FROM embsync.current_users WHERE live)), 10)
"""

if __name__ == "__main__":
    with psycopg.connect(sys.argv[1], autocommit=True) as connection:
        for line in sys.stdin:
            user, *liked = map(int, line.split())  # or str, where ids are strings
            rows = connection.execute(STATEMENT, {"user": user, "liked": liked}).fetchall()
            found = {"version": rows[0][0], "ids": [row[1] for row in rows], "scores": [row[2] for row in rows]}
            print(json.dumps(found), flush=True)
