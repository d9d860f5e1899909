// Calls a server through stubs that protoc-gen-es made from the contracts: upload, segment by box, stream, session, error.
// Usage: node segment.mjs http://host:port picture build/node
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";
import { resolve } from "node:path";
import { createClient } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";

const [url, picture, stubs] = process.argv.slice(2);
const load = (file) => import(pathToFileURL(resolve(stubs, "cutout/v1", file)));
const { SegmentationService } = await load("segmentation_service_pb.js");
const { ImageService } = await load("image_service_pb.js");
const { MaskFormat } = await load("mask_pb.js");
const { BadRequestSchema } = await import(pathToFileURL(resolve(stubs, "google/rpc/error_details_pb.js")));

const transport = createGrpcTransport({ baseUrl: url });
const segmentation = createClient(SegmentationService, transport);
const images = createClient(ImageService, transport);
const data = readFileSync(picture);
const box = { xMin: 60, yMin: 20, xMax: 400, yMax: 290 };

async function* chunks() {
  for (let start = 0; start < data.length; start += 65536) {
    yield { chunk: { data: data.subarray(start, start + 65536) } };
  }
}

const stored = await images.uploadImage(chunks());
const image = { source: { case: "imageId", value: stored.imageId } };

const unary = await segmentation.segmentByBox({ image, boxes: [box], options: { maskFormats: [MaskFormat.RLE] } });
const found = unary.segmentation.objects[0];

const events = [];
for await (const message of segmentation.streamSegmentation({ request: { case: "box", value: { image, boxes: [box] } } })) {
  events.push(message.event.case);
}

async function* prompts() {
  yield { message: { case: "open", value: { image } } };
  yield { message: { case: "box", value: { boxes: [box] } } };
}
const session = [];
for await (const message of segmentation.segmentSession(prompts())) {
  session.push(message.message.case);
}

let refused = {};
try {
  await segmentation.segmentByBox({ image, boxes: [] });
} catch (error) {
  refused = { code: error.code, fields: error.findDetails(BadRequestSchema)[0].fieldViolations.map((v) => v.field) };
}

console.log(
  JSON.stringify({
    size: [stored.width, stored.height],
    area: found.area,
    rle: { size: found.masks[0].encoding.value.size, counts: found.masks[0].encoding.value.counts },
    events,
    session,
    refused,
  }),
);
