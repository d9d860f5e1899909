// Cuts out what a phrase names: node client.mjs SERVER PICTURE PHRASE
import { readFileSync, writeFileSync } from "node:fs";
import grpc from "@grpc/grpc-js";
import protoLoader from "@grpc/proto-loader";

const [server, picture, phrase] = process.argv.slice(2);
const contract = protoLoader.loadSync("cutout/v1/segmentation_service.proto", { includeDirs: ["contracts"] });
const { SegmentationService } = grpc.loadPackageDefinition(contract).cutout.v1;
const client = new SegmentationService(server, grpc.credentials.createInsecure());

const request = {
  image: { content: readFileSync(picture) },
  phrases: [phrase],
  options: { maskFormats: ["MASK_FORMAT_PNG"] },
};
client.segmentByText(request, { deadline: Date.now() + 60_000 }, (error, answer) => {
  if (error) {
    console.error(`${grpc.status[error.code]}: ${error.details}`);
    process.exitCode = 1;
    return;
  }
  answer.segmentation.objects.forEach((object, i) => {
    console.log(`${object.label}: ${object.area} pixels, mask-${i}.png`);
    writeFileSync(`mask-${i}.png`, object.masks[0].png);
  });
});
