// Checks an exported CLIP with transformers.js: its class, processor and tokenizer over real images.
//
//     npm install @huggingface/transformers     # in the folder that NODE_PATH or this script's place can see
//     node scripts/golden/check_onnx.mjs MODELS_FOLDER NAME EMBEDS.json [dtype]
//
// EMBEDS.json: {"rows": [{"image": PATH, "report": TEXT, "image_embeds": […], "text_embeds": […]}, …]}, what
// `reportclip embed` worked out. Prints the largest differences; exits 1 above 1e-5 in f32. Take PNGs of the model's
// own size: transformers.js resizes images by a library of its own, so that its pixels differ.

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const require = createRequire(pathToFileURL(process.cwd() + "/"));
const { AutoModel, AutoProcessor, AutoTokenizer, RawImage, env } = await import(
  pathToFileURL(require.resolve("@huggingface/transformers"))
);

const [folder, name, embeds, dtype = "fp32"] = process.argv.slice(2);
env.localModelPath = folder;
env.allowRemoteModels = false;

const options = { dtype, device: "cpu" };
const model = await AutoModel.from_pretrained(name, options);
const processor = await AutoProcessor.from_pretrained(name);
const tokenizer = await AutoTokenizer.from_pretrained(name);
console.log(`class ${model.constructor.name}, inputs of the session: ${model.sessions.model.inputNames.join(", ")}`);

// transformers.js cuts a text that is too long together with its end mark, which CLIP's state is taken from.
const end = tokenizer([""]).input_ids.data.at(-1);
function tokenized(texts) {
  const tokens = tokenizer(texts, { padding: true, truncation: true });
  const [count, length] = tokens.input_ids.dims;
  for (let i = 0; i < count; i++) {
    const row = tokens.input_ids.data.subarray(i * length, (i + 1) * length);
    if (!row.includes(end)) row[length - 1] = end;
  }
  return tokens;
}

const { rows } = JSON.parse(readFileSync(embeds, "utf8"));
const worst = { image_embeds: 0, text_embeds: 0 };
const ours = [];
for (const row of rows) {
  const pixels = await processor(await RawImage.read(row.image));
  const tokens = tokenized([row.report]);
  const made = await model({ ...tokens, ...pixels });
  for (const output of Object.keys(worst)) {
    const got = made[output].data;
    for (let i = 0; i < got.length; i++) {
      worst[output] = Math.max(worst[output], Math.abs(got[i] - row[output][i]));
    }
  }
  ours.push(made);
}
// Several at once, padded together: the same as one by one.
const some = rows.slice(0, 4);
const together = await model({
  ...tokenized(some.map((row) => row.report)),
  ...(await processor(await Promise.all(some.map((row) => RawImage.read(row.image))))),
});
const width = together.text_embeds.dims[1];
let apart = 0;
some.forEach((_, i) => {
  for (const output of Object.keys(worst)) {
    for (let j = 0; j < width; j++) {
      apart = Math.max(apart, Math.abs(together[output].data[i * width + j] - ours[i][output].data[j]));
    }
  }
});
const [images, texts, four] = [worst.image_embeds, worst.text_embeds, apart].map((d) => d.toExponential(2));
console.log(`${rows.length} rows, dtype ${dtype}: largest absolute difference of images ${images}, of texts ${texts}; ` +
  `four at once against one by one ${four}`);
console.log(`logits_per_image ${JSON.stringify(together.logits_per_image.dims)}`);
process.exit(dtype === "fp32" && !(worst.image_embeds <= 1e-5 && worst.text_embeds <= 1e-5 && apart <= 1e-5) ? 1 : 0);
