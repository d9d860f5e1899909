// Calls a gateway through the types that openapi-typescript made of its OpenAPI document: words, a refusal, models.
// Usage: node openapi.mjs http://host:port picture; beside api.d.ts, against which `tsc` checks it.
// @ts-check
import { readFileSync } from "node:fs";
import createClient from "openapi-fetch";

const [baseUrl, picture] = process.argv.slice(2);
/** @type {import("openapi-fetch").Client<import("./api.js").paths>} */
const client = createClient({ baseUrl });
const content = readFileSync(picture).toString("base64");

const found = await client.POST("/v1/segment:text", {
  body: { image: { content }, phrases: ["cat"], options: { maskFormats: ["MASK_FORMAT_RLE"] } },
});
const cat = found.data?.objects?.[0];
const refused = await client.POST("/v1/segment:text", { body: { image: { content }, phrases: [] } });
const models = await client.GET("/v1/models");

console.log(
  JSON.stringify({
    area: cat?.area,
    size: cat?.masks?.[0].rle?.size,
    refused: [refused.response.status, refused.error?.message],
    models: models.data?.models?.map((model) => model.name),
  }),
);
