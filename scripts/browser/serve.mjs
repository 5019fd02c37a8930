// The server's page in a real browser: search, drop, classes, explanation, errors, both themes and languages, keyboard.
//
//   npm i playwright axe-core          (in any folder; run from there)
//   node .../scripts/browser/serve.mjs http://127.0.0.1:8417 IMAGE[,IMAGE…] OUT_FOLDER [CHROMIUM]
//
// The server must have --index (of a manifest, with images) and --prompts. Of a model of studies all images are dropped
// at once; one may be a volume (.nii.gz). Writes screenshots into OUT_FOLDER; fails on a violation that axe-core finds, on any message on the console that is not a refusal that was meant, and on a request
// to another host.

import assert from "node:assert/strict";
import fs from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";

const require = createRequire(path.join(process.cwd(), "x.js"));
const { chromium } = require("playwright");
const axe = fs.readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");
const [url, imagePaths, out, executablePath] = process.argv.slice(2);
const paths = imagePaths.split(",");
const types = { ".png": "image/png", ".jpg": "image/jpeg", ".dcm": "application/dicom", ".gz": "application/gzip" };
const images = paths.map((file) => ({
  name: path.basename(file),
  type: types[path.extname(file)] ?? "",
  data: fs.readFileSync(file).toString("base64"),
}));
const isSeen = images.some(({ type }) => /^image\/(png|jpeg)$/.test(type));
fs.mkdirSync(out, { recursive: true });

const browser = await chromium.launch({ executablePath, args: ["--no-sandbox"] });
let checks = 0;

async function drop(page, files) {
  const transfer = await page.evaluateHandle((files) => {
    const transfer = new DataTransfer();
    for (const { data, name, type } of files) {
      const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
      transfer.items.add(new File([bytes], name, { type }));
    }
    return transfer;
  }, files);
  await page.dispatchEvent("#drop", "dragover", { dataTransfer: transfer });
  assert(await page.evaluate(() => document.getElementById("drop").classList.contains("over")), "the field answers");
  await page.dispatchEvent("#drop", "drop", { dataTransfer: transfer });
  assert(await page.isVisible("#chosen"));
}

async function violations(page, where) {
  await page.evaluate(axe);
  const found = await page.evaluate(() => window.axe.run());
  const told = found.violations.map((v) => `${v.id}: ${v.nodes.map((n) => n.html).join(" | ")}`);
  assert.deepEqual(told, [], `axe-core, ${where}`);
  assert(found.passes.length > 10, "axe-core looked at something");
  checks += found.passes.length;
}

async function loaded(page, selector) {
  await page.waitForFunction(
    (selector) => [...document.querySelectorAll(selector)].every((i) => i.complete && i.naturalWidth > 0),
    selector,
  );
}

// Keeps back the answer to the next request for `path`, until what this gives is called.
async function hold(page, path) {
  let release;
  const held = new Promise((resolve) => (release = resolve));
  const answer = async (route) => {
    const response = await route.fetch();
    await held;
    await route.fulfill({ response });
  };
  await page.route(path, answer, { times: 1 });
  return async () => {
    const asked = (request) => request.url().endsWith(path.slice(2));
    const finished = page.waitForEvent("requestfinished", asked);
    release();
    await finished;
    // The page's own turn.
    await page.evaluate(() => new Promise((resolve) => setTimeout(resolve, 100)));
  };
}

async function visit(colorScheme, locale, viewport) {
  const where = `${colorScheme}, ${locale}`;
  const context = await browser.newContext({ colorScheme, locale, viewport });
  const page = await context.newPage();
  const messages = [];
  page.on("console", (message) => messages.push(message.text()));
  page.on("pageerror", (error) => messages.push(String(error)));
  page.on("request", (request) => {
    if (!/^(data|blob):/.test(request.url())) assert(request.url().startsWith(url), `asks ${request.url()}`);
  });
  const file = (name) => path.join(out, `${colorScheme}-${locale}-${name}.png`);
  const shot = (name) => page.screenshot({ path: file(name), fullPage: true });
  // The policy of the page lets no text be run as a script.
  const until = (field, button, says) =>
    page.waitForFunction(
      ([field, button, says]) =>
        Boolean(document.getElementById(field).textContent) === says && !document.getElementById(button).disabled,
      [field, button, says],
    );
  await page.goto(url);
  await page.waitForSelector("#search:not([hidden])");
  assert.equal(await page.getAttribute("html", "lang"), locale.slice(0, 2));
  await violations(page, `${where}, empty`);
  await shot("empty");

  // By keyboard alone: the field of the text comes after the two buttons.
  for (let i = 0; i < 3; i++) await page.keyboard.press("Tab");
  assert.equal(await page.evaluate(() => document.activeElement.id), "text", "reached by Tab");
  await page.keyboard.type("Large left pleural effusion.");
  await page.keyboard.press("Enter");
  await page.waitForSelector("#hits:not([hidden]) li");
  assert.equal(await page.locator("#list li").count(), 10);
  assert((await page.locator("#list img").count()) > 0 || !isSeen, "hits have pictures, but for volumes");
  await loaded(page, "#list img");
  assert(await page.locator("#list .report").first().innerText(), "hits have reports");

  await drop(page, images);
  assert.equal(await page.isVisible("#preview"), isSeen);
  if (isSeen) await loaded(page, "#preview");
  const about = await page.innerText("#about");
  assert(images.length > 1 ? about.includes(images.length) : about.includes(images[0].name), about);
  await shot("chosen");
  await page.click("#classify");
  await page.waitForSelector("#classes:not([hidden]) tbody tr");
  const shares = (await page.locator("#bars .number").allInnerTexts()).map(parseFloat);
  assert(Math.abs(shares.reduce((a, b) => a + b) - 100) < 0.5, `${shares}`);
  const drawn = (bars) => bars.map((bar) => bar.offsetWidth / bar.parentElement.offsetWidth);
  const widths = await page.locator("#bars .bar").evaluateAll(drawn);
  widths.forEach((width, i) => assert(Math.abs(100 * width - shares[i]) < 2, "bars are as long as they say"));
  assert(await page.innerText("#verdict"));
  await page.click("#explain");
  await page.waitForSelector("#explanation:not([hidden]) #map:not([hidden])");
  await loaded(page, "#map");
  if (images.length > 1) await page.waitForSelector("#strip:not([hidden])");
  if (await page.isVisible("#strip")) await loaded(page, "#strip");
  assert((await page.locator("#tokens span").count()) > 3);
  await page.click("#search");
  await until("status", "search", true);
  await violations(page, `${where}, with results`);
  await shot("results");

  // Language and theme change everything at once, what is shown too.
  const before = await page.innerText("#verdict");
  await page.click("#language");
  assert.notEqual(await page.getAttribute("html", "lang"), locale.slice(0, 2));
  assert.notEqual(await page.innerText("#verdict"), before);
  await page.click("#theme");
  await violations(page, `${where}, other theme and language`);
  await page.click("#theme");
  await page.click("#language");
  assert.equal(await page.innerText("#verdict"), before);
  assert.deepEqual(messages, [], `console, ${where}`);

  // Refusals are told, and the page goes on. Chromium itself tells of them on the console.
  await page.click("#clear");
  await page.click("#classify");
  await page.waitForFunction(() => document.getElementById("error").textContent);
  assert.equal(messages.length, 0, "nothing was asked");
  await drop(page, [{ data: Buffer.from("no image").toString("base64"), name: "note.txt", type: "text/plain" }]);
  await page.click("#classify");
  await page.waitForFunction(() => /400/.test(document.getElementById("error").textContent));
  await violations(page, `${where}, refused`);
  await shot("refused");
  assert(messages.length === 1 && /400/.test(messages[0]), `${messages}`);
  await page.click("#clear");
  await page.setInputFiles("#image", paths);
  await page.click("#classify");
  await until("error", "classify", false);
  assert.equal(messages.length, 1);

  // What is answered late, for an image that is gone or a question before the last one, is not shown.
  let release = await hold(page, "**/zero-shot");
  await page.click("#classify");
  assert(await page.isDisabled("#classify"));
  await page.click("#clear");
  await page.setInputFiles("#image", paths);
  assert(await page.isEnabled("#classify"), "another image can be asked for at once");
  await release();
  assert(await page.isHidden("#classes"), "no classes of an image that is gone");
  await page.click("#classify");
  await page.waitForSelector("#classes:not([hidden])");
  await page.click("#clear");
  release = await hold(page, "**/search");
  await page.fill("#text", "Large left pleural effusion.");
  await page.press("#text", "Enter");
  await page.fill("#text", "Clear lungs, no pneumothorax.");
  await page.press("#text", "Enter");
  await page.waitForSelector("#hits:not([hidden]) li");
  const list = await page.innerText("#list");
  await page.focus("#language");
  await release();
  assert.equal(await page.innerText("#list"), list, "the last question is the one that is answered");
  assert.equal(await page.evaluate(() => document.activeElement.id), "language", "the focus stays");
  await context.close();
}

try {
  await visit("light", "en-US", { width: 1100, height: 900 });
  await visit("dark", "zh-CN", { width: 1100, height: 900 });
  await visit("light", "zh-CN", { width: 390, height: 800 });
  console.log(`the page is well: ${checks} checks of axe-core passed, no message, screenshots in ${out}`);
} finally {
  await browser.close();
}
