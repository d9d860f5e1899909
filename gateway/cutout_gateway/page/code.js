/** What is on the screen as code: programs that ask the same questions about the same picture, and run as they are. */

const METHODS = { text: "SegmentByText", points: "SegmentByPoints", everything: "SegmentEverything" };
const GRPC_PORT = 50051;

/** Whether options count or compare the masks of all prompts of a request. On the page each prompt was asked alone. */
const areAcrossPrompts = ({ strategy, nmsIou, maxObjects } = {}) => strategy === "STRATEGY_MERGE" || nmsIou !== undefined || maxObjects !== undefined;

/**
 * The requests, without the picture, that give some objects. Clicks and boxes asked with the same settings share one,
 * unless their answers would be others then.
 * @returns {{kind: string, body: object}[]}
 */
export function questions(objects) {
  const asked = new Map();
  for (const { id, cut } of objects) {
    const { prompts, ...rest } = cut.body;
    const key = JSON.stringify([cut.kind, rest, prompts && areAcrossPrompts(rest.options) && id]);
    if (!asked.has(key)) asked.set(key, { kind: cut.kind, body: prompts ? { prompts: [], ...rest } : rest });
    if (prompts) asked.get(key).body.prompts.push(...prompts);
  }
  return [...asked.values()];
}

/**
 * @typedef {object} Scene
 * @property {URL} server The gateway's address, with a slash at the end.
 * @property {string} file Name of the picture's file.
 * @property {string} address Where a sample's file can be had; empty for a picture of one's own.
 * @property {boolean} withKey Whether the server wants an API key: programs take it from CUTOUT_API_KEY.
 * @property {{kind: string, body: object}[]} questions
 */

/** @type {Record<string, (scene: Scene) => string>} */
export const LANGUAGES = { curl, python, javascript, grpcurl };

function curl({ server, file, address, withKey, questions }) {
  const key = withKey ? ' -H "x-api-key: $CUTOUT_API_KEY"' : "";
  const asked = questions.map(({ kind, body }) => {
    const fields = Object.entries(body).flatMap(([name, value]) => [value].flat().map((each) => [name, each]));
    const parts = fields.map(([name, value]) => `--form-string ${quoted(`${name}=${typeof value === "object" ? JSON.stringify(value) : value}`)}`);
    return [`curl -sS${key} ${server}v1/segment:${kind}`, `-F ${quoted(`image.content=@"${file}"`)}`, ...parts].join(" \\\n  ");
  });
  return lines(address && `curl -sSO ${address}`, ...asked);
}

function grpcurl({ server, file, address, withKey, questions }) {
  const key = withKey ? ' -H "x-api-key: $CUTOUT_API_KEY"' : "";
  const plain = server.protocol === "https:" ? "" : " -plaintext";
  const asked = questions.map(({ kind, body }) => {
    const rest = JSON.stringify(body) === "{}" ? '"}}' : `"}, ${JSON.stringify(body).slice(1)}`;
    return [
      `{ printf '{"image": {"content": "'; base64 < ${quoted(file)} | tr -d '\\n'; printf %s ${quoted(rest)}; } |`,
      `  grpcurl${plain}${key} -d @ ${server.hostname}:${GRPC_PORT} cutout.v1.SegmentationService/${METHODS[kind]}`,
    ].join("\n");
  });
  return lines(`# ${GRPC_PORT} is the server's port unless its operator chose another.`, address && `curl -sSO ${address}`, ...asked);
}

function python({ server, file, address, withKey, questions }) {
  const read = address ? `urlopen(${JSON.stringify(address)}).read()` : `open(${JSON.stringify(file)}, "rb").read()`;
  const headers = withKey ? ', {"x-api-key": os.environ["CUTOUT_API_KEY"]}' : "";
  return lines(
    "import json",
    withKey && "import os",
    "from urllib.request import Request, urlopen",
    "",
    `SERVER = ${JSON.stringify(server.href)}`,
    "",
    "",
    "def post(path, body):",
    `    with urlopen(Request(SERVER + path, body${headers})) as answer:`,
    "        return json.load(answer)",
    "",
    "",
    `picture = ${read}`,
    'image = {"imageId": post("v1/images", picture)["imageId"]}',
    ...questions.flatMap(({ kind, body }) => [
      "",
      'request = {\n    "image": image,',
      ...Object.entries(body).map(([name, value]) => `    ${JSON.stringify(name)}: ${pythonLiteral(value)},`),
      "}",
      `for each in post("v1/segment:${kind}", json.dumps(request).encode())["objects"]:`,
      '    print(each["label"], each["predictedIou"], each["box"], each["area"], each["masks"][0]["rle"])',
    ]),
  );
}

function javascript({ server, file, address, withKey, questions }) {
  const headers = withKey ? ', headers: { "x-api-key": process.env.CUTOUT_API_KEY }' : "";
  const read = address ? `await (await fetch(${JSON.stringify(address)})).blob()` : `await readFile(${JSON.stringify(file)})`;
  return lines(
    "// Save it as segment.mjs and run it with Node.js: node segment.mjs",
    !address && 'import { readFile } from "node:fs/promises";',
    "",
    `const server = ${JSON.stringify(server.href)};`,
    "",
    "async function post(path, body) {",
    `  const answer = await fetch(server + path, { method: "POST", body${headers} });`,
    "  if (!answer.ok) throw new Error(await answer.text());",
    "  return answer.json();",
    "}",
    "",
    `const picture = ${read};`,
    'const { imageId } = await post("v1/images", picture);',
    ...questions.flatMap(({ kind, body }) => [
      "{",
      `  const request = { image: { imageId }, ...${JSON.stringify(body)} };`,
      `  const { objects } = await post("v1/segment:${kind}", JSON.stringify(request));`,
      "  for (const { label, predictedIou, box, area, masks } of objects) {",
      "    console.log(label, predictedIou, box, area, masks[0].rle);",
      "  }",
      "}",
    ]),
  );
}

/** JSON has other names for the two truth values; requests have no null. */
function pythonLiteral(value) {
  if (Array.isArray(value)) return `[${value.map(pythonLiteral).join(", ")}]`;
  if (typeof value === "boolean") return value ? "True" : "False";
  if (typeof value !== "object") return JSON.stringify(value);
  return `{${Object.entries(value).map(([name, each]) => `${JSON.stringify(name)}: ${pythonLiteral(each)}`).join(", ")}}`;
}

/** For a POSIX shell. */
const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

const lines = (...parts) => `${parts.filter((part) => typeof part === "string").join("\n")}\n`.replace(/^\n+/, "");
