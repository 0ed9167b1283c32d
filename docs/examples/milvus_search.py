"""Recommendations from Milvus, also for users who are new or were away: pymilvus and NumPy.

    python milvus_search.py URL

Reads lines "USER ITEM ITEM …", a user and items it liked (perhaps none), and answers each with a version and its ten best
items. The alias is resolved once a line: calls by the alias itself may see two versions.
"""

import json
import sys

import numpy as np
from pymilvus import MilvusClient, MilvusException


class Version:
    """The collection of one version, by its own name."""

    def __init__(self, client, name):
        self.client, self.name = client, name
        about = client.get(name, ids=["generation"], output_fields=["about"])[0]["about"]
        self.about = json.loads(about)  # version, space_id, metric, search, recall, …

    def vector_of(self, user, liked):
        """The user's own vector, at most seven versions old; else one from what it liked; else zeros."""
        own = self.client.get(self.name, ids=[f"users:{user}"], output_fields=["vector", "age"])
        if own and own[0]["age"] <= 7:
            return own[0]["vector"]
        keys = [f"items:{item}" for item in liked]
        rows = self.client.get(self.name, ids=keys, output_fields=["vector"]) if keys else []
        units = [np.array(row["vector"]) / (np.linalg.norm(row["vector"]) or 1) for row in rows]
        return np.mean(units or [np.zeros(self.about["dimension"])], axis=0).tolist()

    def search(self, user, liked, k=10):
        hits = self.client.search(
            self.name,
            data=[self.vector_of(user, liked)],
            anns_field="vector",
            limit=k,
            output_fields=["id"],
            partition_names=["items"],
            filter="live == true",
            search_params={"params": self.about["search"]},
        )[0]
        found = [(hit["entity"]["id"], hit["distance"]) for hit in hits]
        return {"version": self.about["version"], "ids": [one for one, _ in found], "scores": [at for _, at in found]}


def answer(client, held, user, liked):
    """Answer from the current version; one that was dropped meanwhile is left for the one that is current now."""
    for _ in range(3):
        name = client.describe_alias("embsync")["collection_name"]  # once
        try:
            version = held if held and held.name == name else Version(client, name)
            return version, version.search(user, liked)
        except MilvusException:
            held = None
    raise LookupError("no version could be read")


if __name__ == "__main__":
    client, version = MilvusClient(sys.argv[1]), None
    for line in sys.stdin:
        user, *liked = line.split()
        version, found = answer(client, version, user, liked)
        print(json.dumps(found), flush=True)
