import { words } from "/words.js";

const $ = (id) => document.getElementById(id);
let language = navigator.language.startsWith("zh") ? "zh" : "en";
let theme = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
let server = {};
let pictures = []; // The files of one study.
let chosen = 0; // How many were chosen or dropped.
let shown = []; // What draws the results again in another language.
let asked = 0; // Raised by every question and every other image: an answer to what came before is late.

function say(word, ...values) {
  return words[language][word].replace(/\{(\d)\}/g, (_, i) => values[i]);
}

function element(name, className, text) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function draw() {
  document.documentElement.lang = language;
  document.documentElement.dataset.theme = theme;
  for (const each of document.querySelectorAll("[data-word]")) each.textContent = say(each.dataset.word);
  $("text").placeholder = say("example");
  $("theme").textContent = say(theme === "dark" ? "light" : "dark");
  $("language").textContent = say("other");
  $("language").lang = language === "zh" ? "en" : "zh";
  $("preview").alt = say("preview");
  if (server.model) $("model").textContent = say("model", server.model);
  about();
  $("error").textContent = "";
  shown.forEach((again) => again());
}

function wait(busy) {
  document.querySelectorAll(".buttons button").forEach((button) => (button.disabled = busy));
  $("status").textContent = busy ? say("working") : "";
}

function choose(files) {
  // Slices and views are numbered by their names.
  const byName = (a, b) => a.name.localeCompare(b.name, undefined, { numeric: true });
  pictures = [...files].sort(byName).slice(0, server.studies ? undefined : 1);
  chosen = files.length;
  // What is shown, or still to come, is of another image.
  asked++;
  wait(false);
  for (const section of ["classes", "explanation", "hits"]) $(section).hidden = true;
  shown = [];
  $("chosen").hidden = pictures.length === 0;
  const before = $("preview").src;
  if (before.startsWith("blob:")) URL.revokeObjectURL(before);
  const visible = pictures.find((file) => /^image\/(png|jpeg)$/.test(file.type));
  $("preview").hidden = !visible;
  if (visible) $("preview").src = URL.createObjectURL(visible);
  else $("preview").removeAttribute("src");
  about();
  if (pictures.length === 0) $("image").value = "";
}

function about() {
  const size = Math.ceil(pictures.reduce((sum, file) => sum + file.size, 0) / 1024);
  const [first] = pictures;
  const name = first ? `${first.name}, ${size} KiB` : "";
  const one = chosen > pictures.length ? say("onlyFirst", name, chosen) : name;
  $("about").textContent = pictures.length > 1 ? say("several", pictures.length, size) : one;
}

// What is asked about: one image, or all of a study.
async function study() {
  const all = await Promise.all(pictures.map(base64));
  return all.length === 1 ? { image: all[0] } : { images: all };
}

// The file in base64. Its type is seen by the server from the bytes themselves.
function base64(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result.slice(reader.result.indexOf(",") + 1));
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file);
  });
}

async function ask(path, body) {
  const headers = { "Content-Type": "application/json" };
  if ($("token").value) headers.Authorization = `Bearer ${$("token").value}`;
  let response;
  try {
    response = await fetch(path, { method: "POST", headers, body: JSON.stringify(body) });
  } catch {
    throw new Error(say("unreachable"));
  }
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(say("refused", response.status, answer.error?.message ?? response.statusText));
  return answer;
}

async function run(section, work) {
  const mine = ++asked;
  const last = document.activeElement;
  $("error").textContent = "";
  wait(true);
  try {
    const again = await work();
    if (mine !== asked) return;
    wait(false);
    shown = shown.filter((other) => other.section !== section);
    again.section = section;
    shown.push(again);
    again();
    $(section).hidden = false;
    $("status").textContent = say("done");
  } catch (error) {
    if (mine !== asked) return;
    wait(false);
    $("error").textContent = error.message;
  }
  // A button that is switched off loses the focus; whoever has moved on since is left where they are.
  if (document.activeElement === document.body) last?.focus?.();
}

function classes(answer) {
  const of = (word) => ({ yes: say("yes"), no: say("no"), unsure: say("isUnsure") })[word] ?? word;
  const unsure = answer.answer === "unsure";
  $("verdict").textContent = answer.multi_label ? "" : unsure ? say("unsure") : say("answer", answer.answer);
  $("calibration").textContent = say(answer.calibrated ? "calibrated" : "uncalibrated");
  $("bars").replaceChildren(...answer.classes.map(({ name, probability, answer: word }) => {
    const row = element("tr");
    const head = element("th", "", word ? `${name}: ${of(word)}` : name);
    head.scope = "row";
    const cell = element("td");
    const track = element("div", "track");
    const bar = element("div", "bar");
    bar.style.width = `${100 * probability}%`;
    track.append(bar);
    cell.append(track, element("span", "number", `${(100 * probability).toFixed(1)} %`));
    row.append(head, cell);
    return row;
  }));
}

function explanation(answer) {
  const cosine = answer.cosine.toFixed(3);
  const { bag_cosine: bag, images, explained_image: number } = answer;
  const ofStudy = () => say("ofStudy", bag.toFixed(3), images.length, number + 1, cosine);
  $("cosine").textContent = answer.strip ? ofStudy() : say("cosine", cosine);
  $("strip").hidden = !answer.strip;
  if (answer.strip) $("strip").src = answer.strip;
  $("strip").alt = say("strip");
  $("map").hidden = !answer.picture;
  if (answer.picture) $("map").src = answer.picture;
  $("map").alt = say("map");
  $("tokens").replaceChildren(...answer.tokens.flatMap(([text, value]) => {
    const token = element("span", "", text);
    token.style.backgroundColor = `rgba(var(--heat), ${(0.35 * value).toFixed(3)})`;
    token.title = value.toFixed(2);
    return [token, " "];
  }));
}

function hits(answer) {
  $("gallery").textContent = say("searched", answer.gallery);
  $("list").replaceChildren(...answer.hits.map((hit) => {
    const item = element("li");
    if (hit.thumbnail) {
      const image = element("img");
      image.src = hit.thumbnail;
      image.alt = say("thumbnail", hit.rank);
      item.append(image);
    } else {
      item.append(element("div", "no-image", say("noImage")));
    }
    const about = element("div");
    const place = hit.line ? say("place", hit.line) : say("row", hit.row);
    const parts = [`${hit.rank}.`, say("score", hit.score.toFixed(3)), place];
    if (hit.changed) parts.push(say("changed"));
    about.append(element("p", "place", parts.join(" · ")));
    if (hit.text) about.append(element("p", "report", hit.text));
    item.append(about);
    return item;
  }));
}

function search() {
  const text = $("text").value.trim();
  run("hits", async () => {
    if (!text && pictures.length === 0) throw new Error(say("needsOne"));
    const body = { k: 10, thumbnails: true };
    if (text) body.text = text;
    if (pictures.length > 0) Object.assign(body, await study());
    const answer = await ask("/search", body);
    return () => hits(answer);
  });
}

function classify() {
  run("classes", async () => {
    if (pictures.length === 0) throw new Error(say("needsImage"));
    const answer = await ask("/zero-shot", await study());
    return () => classes(answer);
  });
}

function explain() {
  const text = $("text").value.trim();
  run("explanation", async () => {
    if (pictures.length === 0 || !text) throw new Error(say("needsBoth"));
    const answer = await ask("/explain", { ...(await study()), text });
    return () => explanation(answer);
  });
}

$("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  if (server.index) search();
  else if (server.classes && pictures.length > 0) classify();
});
$("text").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    $("ask").requestSubmit();
  }
});
$("classify").addEventListener("click", classify);
$("explain").addEventListener("click", explain);
$("image").addEventListener("change", () => choose($("image").files));
$("clear").addEventListener("click", () => {
  choose([]);
  $("image").focus();
});
$("language").addEventListener("click", () => {
  language = language === "zh" ? "en" : "zh";
  draw();
});
$("theme").addEventListener("click", () => {
  theme = theme === "dark" ? "light" : "dark";
  draw();
});
// A file that misses the field would take the page's place.
for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    $("drop").classList.toggle("over", kind === "dragenter" || kind === "dragover");
    if (kind === "drop" && event.dataTransfer.files.length > 0) {
      $("image").files = event.dataTransfer.files;
      choose(event.dataTransfer.files);
    }
  });
}

draw();
fetch("/health").then((response) => response.json()).then((health) => {
  server = health;
  $("token-field").hidden = !health.token;
  $("search").hidden = !health.index;
  $("classify").hidden = !health.classes;
  $("explain").hidden = !health.explains;
  $("image").multiple = health.studies;
  if (health.studies) {
    $("image").accept += ",.nii,.gz,application/gzip";
    document.querySelector("label[for=image]").dataset.word = "studyFiles";
  }
  draw();
}, () => {
  $("error").textContent = say("unreachable");
});
