// Calls every operation of the document, with types that openapi-typescript generated. Prints the responses.
import createClient from "openapi-fetch";
import type { paths } from "./schema";

declare const process: { argv: string[] };
const [, , baseUrl, user, item] = process.argv;
const api = createClient<paths>({ baseUrl });

/** The answer in JSON; arrays, which the same operations can answer, are strings. */
function json<T>(data: T | undefined): Exclude<T, string> {
  if (typeof data !== "object") throw new Error(String(data));
  return data as Exclude<T, string>;
}

async function main(): Promise<void> {
  const users = [Number(user)];
  const found = await api.POST("/v1/search", { body: { users, string_ids: true, null_ids: true } });
  const ids: (number | string | null)[] = json(found.data).ids[0];
  const byUrl = await api.GET("/v1/search", { params: { query: { users: [user], k: 2, string_ids: true } } });
  const where = JSON.stringify({ name: `item ${item}` });
  const byLabel = await api.GET("/v1/search", {
    params: { query: { users: [user], k: 1, string_ids: true, where, labels: ["name"] } },
  });
  const lookup = await api.POST("/v1/lookup", { body: { side: "users", ids: [user, "-5"], missing: "mean" } });
  const lookupByUrl = await api.GET("/v1/lookup", { params: { query: { side: "users", ids: [user] } } });
  const vectors = json(lookup.data).vectors as number[][];
  const byVector = await api.POST("/v1/search", { body: { vectors, k: 2 } });
  const raw = await api.POST("/v1/transform", { body: { side: "users", vectors, inverse: true } });
  const folded = await api.POST("/v1/fold_in", { body: { ids: [[item]] } });
  const moved = await api.GET("/v1/movement", { params: { query: { side: "items", id: item } } });
  const version = await api.GET("/v1/version");
  const health = await api.GET("/healthz");
  const refused = await api.POST("/v1/search", { body: { users: ["-5"] } });
  const statuses = [found, byUrl, lookup, lookupByUrl, byVector, raw, folded, moved, version, health].map(
    (answer) => answer.response.status,
  );
  console.log(
    JSON.stringify({
      statuses,
      ids,
      by_url: json(byUrl.data).ids[0],
      by_label: [json(byLabel.data).ids[0], json(byLabel.data).labels?.[0].map((hit) => hit.name)],
      by_vector: json(byVector.data).ids.length,
      vector: json(lookupByUrl.data).vectors[0],
      folded: json(folded.data).vectors[0].length,
      steps: moved.data?.steps.length,
      version: version.data?.version,
      refused: [refused.response.status, refused.error?.what],
    }),
  );
}

void main();
