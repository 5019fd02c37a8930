//! The server over a real socket, as programs and careless clients use it.
#![allow(clippy::unwrap_used)]
#![cfg(unix)]

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reportclip::data::{ImageSource, Prompts};
use reportclip::eval::class_directions;
use reportclip::session::Session;
use serde_json::{Value, json};

use crate::bags::nifti;
use crate::common::{gray, skipped, tensors};
use crate::runs::{PROMPTS, Place, json as parsed, text};

/// A small model and classes, made once for the tests that run at a time.
fn trained() -> Arc<Place> {
    static PLACE: Mutex<Weak<Place>> = Mutex::new(Weak::new());
    let mut kept = PLACE.lock().unwrap();
    kept.upgrade().unwrap_or_else(|| {
        let place = Arc::new(Place::new());
        fs::write(place.path("classes.toml"), PROMPTS).unwrap();
        place.train_ok("run", &["--set", "train.max_steps=8"]);
        *kept = Arc::downgrade(&place);
        place
    })
}

/// The program while it serves; what it says goes to a file.
struct Server {
    child: Child,
    address: String,
    log: PathBuf,
    /// Of [`trained`], as long as it serves.
    place: Option<Arc<Place>>,
}

impl Server {
    fn start(place: &Place, args: &[&str]) -> Self {
        static NUMBER: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        let log = place.path(&format!("serve-{number}.log"));
        let mut command = place.command(&[&["serve", "--port", "0", "-vv"], args].concat());
        let command = command.stdout(Stdio::piped()).stderr(fs::File::create(&log).unwrap());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("listening on http://").map(str::to_string);
        let address = address.unwrap_or_else(|| panic!("{line:?}: {}", fs::read_to_string(&log).unwrap()));
        Self { child, address, log, place: None }
    }

    /// Of [`trained`]'s model.
    fn of_run(args: &[&str]) -> Self {
        let place = trained();
        let mut server = Self::start(&place, &[&["--model", "run/model"], args].concat());
        server.place = Some(place);
        server
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream
    }

    /// Sends `method path` with `headers`, each ended, and a body.
    fn ask(&self, line: &str, headers: &str, body: &[u8]) -> Answer {
        let mut stream = self.connect();
        self.send(&mut stream, line, headers, body);
        Answer::read(stream)
    }

    fn send(&self, stream: &mut TcpStream, line: &str, headers: &str, body: &[u8]) {
        let host = if headers.to_ascii_lowercase().contains("host:") { String::new() } else { self.host() };
        let length =
            if line.starts_with("POST") { format!("Content-Length: {}\r\n", body.len()) } else { String::new() };
        let head = format!("{line} HTTP/1.1\r\n{host}{length}Connection: close\r\n{headers}\r\n");
        // A server that refuses early reads no further.
        let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
    }

    fn host(&self) -> String {
        format!("Host: {}\r\n", self.address)
    }

    fn post(&self, path: &str, body: &Value) -> Answer {
        self.ask(&format!("POST {path}"), JSON, body.to_string().as_bytes())
    }

    fn get(&self, path: &str) -> Answer {
        self.ask(&format!("GET {path}"), "", b"")
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    fn signal(&self, name: &str) {
        assert!(Command::new("kill").args([name, &self.child.id().to_string()]).status().unwrap().success());
    }

    /// Asks it to stop, and waits for that.
    fn stop(&mut self) -> i32 {
        self.signal("-TERM");
        self.wait()
    }

    fn wait(&mut self) -> i32 {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code().unwrap_or(-1);
            }
            assert!(begun.elapsed() < Duration::from_secs(60), "it does not end: {}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// A count of `/metrics`.
    fn count(&self, name: &str) -> f64 {
        let text = text(&self.get("/metrics").body);
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("reportclip_{name} ")));
        line.unwrap_or_else(|| panic!("{name}: {text}")).parse().unwrap()
    }

    /// A place is given back when the answer is written, which its reader may see a little before.
    fn gives_places_back(&self) {
        let begun = Instant::now();
        while self.count("queue_items") > 0.0 {
            assert!(begun.elapsed() < Duration::from_secs(20), "a place is never given back");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const JSON: &str = "Content-Type: application/json\r\n";

struct Answer {
    status: u16,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

impl Answer {
    fn read(mut stream: TcpStream) -> Self {
        let mut bytes = Vec::new();
        // One that is cut off has sent its answer before.
        let ended = stream.read_to_end(&mut bytes);
        let end = bytes.windows(4).position(|w| w == b"\r\n\r\n");
        let end = end.unwrap_or_else(|| panic!("no answer, {ended:?}: {}", text(&bytes)));
        let head = text(&bytes[..end]);
        let mut lines = head.lines();
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let header = |line: &str| {
            let (name, value) = line.split_once(':').unwrap();
            (name.to_ascii_lowercase(), value.trim().to_string())
        };
        Self { status, headers: lines.map(header).collect(), body: bytes.split_off(end + 4) }
    }

    fn json(&self) -> Value {
        parsed(&self.body)
    }

    /// The body of an answer that is good.
    fn ok(&self) -> Value {
        assert_eq!(self.status, 200, "{}", text(&self.body));
        self.json()
    }

    /// The message of one that is not: one line in OpenAI's form.
    fn refusal(&self, status: u16) -> String {
        assert_eq!(self.status, status, "{}", text(&self.body));
        let error = &self.json()["error"];
        let message = error["message"].as_str().unwrap();
        assert!(!message.is_empty() && message.len() < 500 && !message.contains('\n'), "{message}");
        assert!(error["type"].is_string() && error["code"] == status, "{error}");
        message.to_string()
    }
}

/// The first images of the phantom set, as the manifest names them.
fn images(count: usize) -> Vec<PathBuf> {
    let manifest = fs::read_to_string(trained().path("phantom/manifest.csv")).unwrap();
    let mut reader = csv::Reader::from_reader(manifest.as_bytes());
    let rows = reader.records().map(|row| trained().path("phantom").join(&row.unwrap()[0]));
    rows.take(count).collect()
}

fn base64(path: &Path) -> String {
    STANDARD.encode(fs::read(path).unwrap())
}

fn rows(answer: &Value) -> Vec<Vec<f32>> {
    let row = |row: &Value| serde_json::from_value(row["embedding"].clone()).unwrap();
    answer["data"].as_array().unwrap().iter().map(row).collect()
}

fn assert_near(ours: &[f32], expected: &[f32], what: &str) {
    let worst = ours.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(ours.len() == expected.len() && worst <= 1e-6, "{what}: differs by {worst}");
}

#[test]
fn embeddings_are_those_of_embed() {
    let place = trained();
    let (files, lines) = (images(5), ["Large left pleural effusion.", "No acute disease.", "右下肺斑片影", "Clear."]);
    fs::write(place.path("lines.txt"), lines.join("\n")).unwrap();
    let names: Vec<&str> = files.iter().map(|path| path.to_str().unwrap()).collect();
    let args = ["embed", "--model", "run/model", "--texts", "lines.txt", "--out", "served.safetensors", "--images"];
    let embedded = place.run(&[&args[..], &names].concat());
    assert!(embedded.status.success(), "{}", text(&embedded.stderr));
    let expected = tensors(&place.path("served.safetensors"));
    let expected = |name: &str| expected[name].to_vec2::<f32>().unwrap();
    let (of_images, of_texts) = (expected("image_embeds"), expected("text_embeds"));

    let mut server = Server::of_run(&[]);
    let answer = server.post("/v1/embeddings", &json!({"input": lines, "model": "any", "user": "me"})).ok();
    assert_eq!((&answer["object"], &answer["model"]), (&json!("list"), &json!("model")));
    assert!(answer["usage"]["prompt_tokens"].as_u64().unwrap() > 10);
    for (i, (ours, expected)) in rows(&answer).iter().zip(&of_texts).enumerate() {
        assert_eq!((&answer["data"][i]["index"], &answer["data"][i]["object"]), (&json!(i), &json!("embedding")));
        assert_near(ours, expected, "text");
    }
    // Texts and images in one request; data URLs and plain base64, with and without padding.
    let url = |path: &Path| format!("data:image/png;base64,{}", base64(path));
    let input = json!([
        url(&files[0]), lines[0], {"image": base64(&files[1])}, {"text": lines[1]},
        {"image": base64(&files[2]).trim_end_matches('=')},
    ]);
    let both = rows(&server.post("/v1/embeddings", &json!({"input": input})).ok());
    let wanted = [&of_images[0], &of_texts[0], &of_images[1], &of_texts[1], &of_images[2]];
    both.iter().zip(wanted).for_each(|(ours, expected)| assert_near(ours, expected, "both"));
    assert_eq!(both.len(), 5);
    // Base64 has the bits of the numbers.
    let single = rows(&server.post("/v1/embeddings", &json!({"input": lines[0]})).ok());
    let coded = json!({"input": lines[0], "encoding_format": "base64", "dimensions": single[0].len()});
    let coded = server.post("/v1/embeddings", &coded).ok();
    let bytes = STANDARD.decode(coded["data"][0]["embedding"].as_str().unwrap()).unwrap();
    let floats: Vec<f32> = bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    assert_eq!(floats, single[0], "the same numbers, whatever their form");
    // An image as the body, a DICOM file among them.
    let alone = server.ask("POST /v1/embeddings", "Content-Type: image/png\r\n", &fs::read(&files[3]).unwrap());
    assert_near(&rows(&alone.ok())[0], &of_images[3], "a body");
    let dicom = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/dicom/mono2_12.dcm");
    let session = Session::open(place.path("run/model").to_str().unwrap(), "cpu").unwrap();
    let expected = session.encoder(1).unwrap().images(&[ImageSource::from(dicom.clone())]).unwrap();
    let expected: Vec<f32> = expected.flatten_all().unwrap().to_vec1().unwrap();
    let sent = server.ask("POST /v1/embeddings", "Content-Type: application/dicom\r\n", &fs::read(&dicom).unwrap());
    assert_near(&rows(&sent.ok())[0], &expected, "DICOM");
    let url = format!("data:application/dicom;base64,{}", base64(&dicom));
    assert_near(&rows(&server.post("/v1/embeddings", &json!({"input": url})).ok())[0], &expected, "DICOM as a URL");
    assert_eq!(server.stop(), 0);
}

#[test]
fn requests_share_batches_and_are_counted() {
    let server = Server::of_run(&["--batch-window", "300", "--max-batch", "8"]);
    let ask = |i: usize| server.post("/v1/embeddings", &json!({"input": format!("Text {i}.")})).ok();
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..16).map(|i| scope.spawn(move || ask(i))).collect();
        all.into_iter().for_each(|one| assert_eq!(one.join().unwrap()["data"].as_array().unwrap().len(), 1));
    });
    let (batches, items) = (server.count("batches_total"), server.count("batch_items_total"));
    assert!(items == 16.0 && (2.0..=8.0).contains(&batches), "{items} in {batches}");
    server.gives_places_back();
    assert!(server.count("resident_memory_bytes") > 1e6);
    let counts = text(&server.get("/metrics").body);
    for line in [
        "reportclip_requests_total{route=\"/v1/embeddings\",status=\"200\"} 16",
        "reportclip_request_duration_seconds_count{route=\"/v1/embeddings\"} 16",
        "reportclip_request_duration_seconds_bucket{route=\"/v1/embeddings\",le=\"+Inf\"} 16",
        "# TYPE reportclip_request_duration_seconds histogram",
    ] {
        assert!(counts.contains(line), "{line}: {counts}");
    }
}

const ZERO: [&str; 7] =
    ["zero-shot", "--model", "run/model", "--data", "phantom/manifest.csv", "--prompts", "classes.toml"];

#[test]
fn zero_shot_is_calibrated_by_what_the_model_keeps() {
    // A model of its own: what it keeps is nothing to others.
    let place = Place::new();
    fs::write(place.path("classes.toml"), PROMPTS).unwrap();
    place.train_ok("run", &["--set", "train.max_steps=8"]);
    let judge =
        |more: &[&str]| place.run(&[&ZERO[..], &["--split", "test", "--bootstrap", "0", "--json"], more].concat());
    let serve = || Server::start(&place, &["--model", "run/model", "--prompts", "classes.toml"]);
    let plain = serve();
    let manifest = fs::read_to_string(place.path("phantom/manifest.csv")).unwrap();
    let lines: Vec<&str> = manifest.lines().collect();
    let first = place.path("phantom").join(lines[1].split(',').next().unwrap());
    let answer = plain.post("/zero-shot", &json!({"image": base64(&first)})).ok();
    assert_eq!((&answer["calibrated"], &answer["may_abstain"]), (&json!(false), &json!(false)));
    drop(plain);

    // As a kill leaves it where the folder was tried.
    fs::write(place.path("run/model/.reportclip.tmp"), "").unwrap();
    let report = judge(&["--keep-temperature"]);
    assert!(report.status.success(), "{}", text(&report.stderr));
    let report = parsed(&report.stdout);
    let kept: toml::Table =
        fs::read_to_string(place.path("run/model/reportclip_calibration.toml")).unwrap().parse().unwrap();
    assert_eq!(kept["fitted_on"].as_str(), Some("split val"));
    let temperature = kept["temperature"].as_float().unwrap();
    let fitted = report["calibration"]["temperature"].as_f64().unwrap();
    assert!((temperature - fitted).abs() < 1e-9 * fitted, "fitted on val, as the report says: {temperature} {fitted}");
    let chosen = ["0.6", "0.5", "0.4", "0.3", "0.2", "0.1"].into_iter();
    assert!(chosen.map(|wanted| judge(&["--keep-abstention", wanted])).any(|output| output.status.success()));
    let inspected = place.run(&["model", "inspect", "run/model", "--verify"]);
    assert!(inspected.status.success(), "{}", text(&inspected.stdout));

    let answers = parsed(&judge(&["--abstain"]).stdout)["abstained"]["answers"].as_array().unwrap().clone();
    assert!(answers.len() > 3);
    let told = judge(&["--predictions", "said.jsonl"]);
    let word = format!("probabilities by the kept temperature {temperature:.3}, fitted on split val");
    assert!(text(&told.stderr).contains(&word), "{word}: {}", text(&told.stderr));
    let said = fs::read_to_string(place.path("said.jsonl")).unwrap();
    let said: Vec<Value> = said.lines().map(|line| parsed(line.as_bytes())).collect();
    let session = Session::open(place.path("run/model").to_str().unwrap(), "cpu").unwrap();
    let encoder = session.encoder(8).unwrap();
    let prompts = Prompts::open(&place.path("classes.toml")).unwrap();
    let directions = class_directions(&encoder, &prompts).unwrap();
    let scale = f64::from(encoder.model.scale().unwrap().to_scalar::<f32>().unwrap());
    let mut server = serve();
    for answer in &answers {
        let line = lines[answer["line"].as_u64().unwrap() as usize - 1];
        let image = place.path("phantom").join(line.split(',').next().unwrap());
        let served = server.post("/zero-shot", &json!({"image": base64(&image)})).ok();
        assert_eq!(served["answer"], answer["answer"], "as `zero-shot --abstain` answers");
        assert_eq!((&served["calibrated"], &served["may_abstain"]), (&json!(true), &json!(true)));
        let embeds = encoder.images(&[ImageSource::from(image)]).unwrap();
        let cosines = embeds.matmul(&directions.t().unwrap()).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let powers: Vec<f64> = cosines.iter().map(|c| (scale * f64::from(*c) / temperature).exp()).collect();
        let sum: f64 = powers.iter().sum();
        for (class, power) in served["classes"].as_array().unwrap().iter().zip(&powers) {
            assert!((class["probability"].as_f64().unwrap() - power / sum).abs() < 1e-5, "{served}");
        }
        assert_eq!(served["classes"][0]["name"], "normal");
        let row = said.iter().find(|row| row["line"] == answer["line"]).unwrap();
        let highest = powers.iter().fold(0.0f64, |most, power| most.max(power / sum));
        assert!((row["probability"].as_f64().unwrap() - highest).abs() < 1e-5, "as `serve` tells it: {row} {served}");
    }
    assert_eq!(server.stop(), 0);
    // One patient says nothing of how sure to be.
    fs::write(place.path("phantom/one.csv"), format!("{}\n{}\n", lines[0], lines[1])).unwrap();
    let one = ["zero-shot", "--model", "run/model", "--data", "phantom/one.csv", "--prompts", "classes.toml"];
    let errors = place.errors(&[&one[..], &["--keep-temperature", "--bootstrap", "0"]].concat(), 1);
    assert!(errors[0].contains("cannot be fitted on labels of 1 patients (the rows that were judged)"), "{errors:?}");
    // Other prompts are other predictions: what was kept for these says nothing of them.
    fs::write(place.path("classes.toml"), PROMPTS.replace("Clear lungs.", "Nothing.")).unwrap();
    let others = serve();
    let answer = others.post("/zero-shot", &json!({"image": base64(&first)})).ok();
    assert_eq!((&answer["calibrated"], &answer["may_abstain"]), (&json!(false), &json!(false)));
    assert!(others.log().contains("was chosen with other prompts"), "{}", others.log());
    let own = judge(&["--predictions", "own.jsonl"]);
    assert!(text(&own.stderr).contains("probabilities are the model's own"), "{}", text(&own.stderr));
    // What is there and no file is not taken for nothing.
    let kept = place.path("run/model/reportclip_calibration.toml");
    fs::remove_file(&kept).unwrap();
    assert!(Command::new("mkfifo").arg(&kept).status().unwrap().success());
    let refused = |args: &[&str]| {
        let errors = place.errors(args, 1);
        assert!(errors.len() == 1 && errors[0].contains("reportclip_calibration.toml: is no file"), "{errors:?}");
    };
    refused(&["serve", "--model", "run/model", "--prompts", "classes.toml"]);
    fs::remove_file(&kept).unwrap();
    std::os::unix::fs::symlink("nowhere", &kept).unwrap();
    refused(&["serve", "--model", "run/model", "--prompts", "classes.toml"]);
    refused(&[&ZERO[..], &["--split", "test", "--predictions", "none.jsonl"]].concat());
    fs::remove_file(&kept).unwrap();
    // The list of checksums still names it.
    fs::remove_file(place.path("run/model/SHA256SUMS")).unwrap();
    // Findings have an answer each.
    let findings = "A = { positive = \"Effusion.\", negative = \"No effusion.\" }\n\
                    B = { positive = \"Nodule.\", negative = \"No nodule.\" }\n";
    fs::write(place.path("classes.toml"), findings).unwrap();
    let answer = serve().post("/zero-shot", &json!({"image": base64(&first)})).ok();
    assert!(answer["multi_label"] == true && answer["answer"].is_null(), "{answer}");
    for class in answer["classes"].as_array().unwrap() {
        let yes = class["probability"].as_f64().unwrap() > 0.5;
        assert_eq!(class["answer"], if yes { "yes" } else { "no" }, "{answer}");
    }
}

#[test]
fn searches_are_those_of_search() {
    let place = Place::new();
    place.train_ok("run", &["--set", "train.max_steps=8"]);
    let embed = ["embed", "--model", "run/model", "--data", "phantom/manifest.csv", "--out", "all.safetensors"];
    assert!(place.run(&embed).status.success());
    let manifest = fs::read_to_string(place.path("phantom/manifest.csv")).unwrap();
    let image = place.path("phantom").join(manifest.lines().nth(1).unwrap().split(',').next().unwrap());
    let said = "Large left pleural effusion.";
    let mut server = Server::start(&place, &["--model", "run/model", "--index", "all.safetensors"]);
    let ask = |body: Value| server.post("/search", &body).ok();
    let searched = |query: &[&str]| {
        let args = ["search", "--index", "all.safetensors", "-k", "7", "--json"];
        parsed(&place.run(&[&args[..], query].concat()).stdout)
    };
    let same = |ours: &Value, expected: &Value| {
        assert_eq!((&ours["searched"], &ours["gallery"]), (&expected["searched"], &expected["gallery"]));
        let (ours, expected) = (ours["hits"].as_array().unwrap(), expected["hits"].as_array().unwrap());
        assert_eq!((ours.len(), expected.len()), (7, 7));
        for (a, b) in ours.iter().zip(expected) {
            for key in ["rank", "row", "line", "text"] {
                assert_eq!(a[key], b[key], "{key}");
            }
            assert!((a["score"].as_f64().unwrap() - b["score"].as_f64().unwrap()).abs() < 1e-5);
            assert!(a.get("image").is_none(), "a file may be called after a patient");
        }
    };
    let by_text = ask(json!({"text": said, "k": 7, "thumbnails": true}));
    same(&by_text, &searched(&["--text", said]));
    same(&ask(json!({"image": base64(&image), "k": 7})), &searched(&["--image", image.to_str().unwrap()]));
    // Of both, the mean of the vectors by their weights.
    let scores = |body: Value| -> Vec<f64> {
        let found = ask(body);
        let mut hits = found["hits"].as_array().unwrap().clone();
        hits.sort_by_key(|hit| hit["row"].as_u64());
        hits.iter().map(|hit| hit["score"].as_f64().unwrap()).collect()
    };
    let all = |mut body: Value| {
        body["k"] = json!(100);
        body["among"] = json!("images");
        scores(body)
    };
    let (text_alone, image_alone) = (all(json!({"text": said})), all(json!({"image": base64(&image)})));
    assert!(text_alone.len() < 100, "all of them");
    let both = all(json!({"text": said, "image": base64(&image), "weight": 0.7}));
    for ((t, i), both) in text_alone.iter().zip(&image_alone).zip(&both) {
        assert!((0.7 * t + 0.3 * i - both).abs() < 1e-5, "{t} {i} {both}");
    }
    // The image itself comes first among images, with its picture.
    let own = ask(json!({"image": base64(&image), "among": "images", "k": 3, "thumbnails": true}));
    let jpeg = own["hits"][0]["thumbnail"].as_str().unwrap().strip_prefix("data:image/jpeg;base64,").unwrap();
    let thumbnail = reportclip::data::image::decode(&STANDARD.decode(jpeg).unwrap(), 0).unwrap();
    assert_eq!((thumbnail.width, thumbnail.height), (32, 32));
    assert!((own["hits"][0]["score"].as_f64().unwrap() - 1.0).abs() < 1e-5);
    // An index that does not know what its images held shows none: who knows what lies there today.
    let bytes = fs::read(place.path("all.safetensors")).unwrap();
    let mut older = bytes.clone();
    let at: Vec<usize> = (0..bytes.len() - 6).filter(|&i| bytes[i..].starts_with(b"pixels")).collect();
    assert!(at.len() > 5, "a digest a row");
    at.iter().for_each(|&i| older[i..i + 6].copy_from_slice(b"pixelz"));
    fs::write(place.path("older.safetensors"), older).unwrap();
    let before = Server::start(&place, &["--model", "run/model", "--index", "older.safetensors"]);
    let found = before.post("/search", &json!({"text": said, "k": 7, "thumbnails": true})).ok();
    assert!(found["hits"].as_array().unwrap().iter().all(|hit| hit["line"].is_u64()), "{found}");
    assert!(found["hits"].as_array().unwrap().iter().all(|hit| hit.get("thumbnail").is_none()), "{found}");
    drop(before);
    // Another image under the same name has no picture, nor has one that is gone.
    let row = own["hits"][0]["row"].clone();
    for change in [true, false] {
        if change {
            fs::write(&image, image_of_another()).unwrap();
        } else {
            fs::remove_file(&image).unwrap();
        }
        let sent = STANDARD.encode(image_of_another());
        let found = ask(json!({"image": sent, "among": "images", "k": 100, "thumbnails": true}));
        let hit = found["hits"].as_array().unwrap().iter().find(|hit| hit["row"] == row).cloned();
        if let Some(hit) = hit {
            assert!(hit["changed"] == true && hit.get("thumbnail").is_none(), "{hit}");
        }
        let shown = found["hits"].as_array().unwrap().iter().filter(|hit| hit.get("thumbnail").is_some()).count();
        assert!(shown > 5, "the others are as they were");
    }
    for body in [
        json!({}),
        json!({"text": said, "k": 0}),
        json!({"text": said, "k": 1000}),
        json!({"text": said,
        "among": "rows"}),
        json!({"text": said, "weight": 2}),
        json!({"text": said, "weight": 0.5}),
        json!({"text": said, "path": "/etc/passwd"}),
    ] {
        server.post("/search", &body).refusal(400);
    }
    assert_eq!(server.stop(), 0);
    let errors = place.errors(&["serve", "--model", "phantom", "--index", "all.safetensors"], 1);
    assert_eq!(errors.len(), 1, "{errors:?}");
    // Without an index there is nothing to search.
    let server = Server::of_run(&[]);
    assert!(server.post("/search", &json!({"text": "a"})).refusal(404).contains("--index"));
    assert!(server.post("/zero-shot", &json!({})).refusal(404).contains("--prompts"));
}

fn image_of_another() -> Vec<u8> {
    reportclip::data::image::png(&gray(32, 32, |x, y| (x * 3 + y * 5) as u8)).unwrap()
}

#[test]
fn explanations_are_those_of_explain() {
    let place = trained();
    let image = &images(1)[0];
    let said = "Large left pleural effusion.";
    let args = ["explain", "--model", "run/model", "--image", image.to_str().unwrap(), "--text", said, "--json"];
    let expected = place.run(&[&args[..], &["--out", "served-why.png"]].concat());
    let expected = parsed(&expected.stdout);
    let server = Server::of_run(&[]);
    let ours = server.post("/explain", &json!({"image": base64(image), "text": said})).ok();
    for key in ["cosine", "logit", "grid"] {
        assert_eq!(ours[key], expected[key], "{key}");
    }
    let (tokens, wanted) = (ours["tokens"].as_array().unwrap(), expected["tokens"].as_array().unwrap());
    assert!(tokens.len() == wanted.len() && tokens.len() > 3);
    for (token, wanted) in tokens.iter().zip(wanted) {
        assert_eq!(token[0], wanted[0]);
        assert!((token[1].as_f64().unwrap() - wanted[1].as_f64().unwrap()).abs() < 1e-6, "{token} {wanted}");
    }
    assert_eq!(ours["patches"].as_array().unwrap().len(), 4);
    let picture = ours["picture"].as_str().unwrap().strip_prefix("data:image/png;base64,").unwrap();
    assert!(STANDARD.decode(picture).unwrap() == fs::read(place.path("served-why.png")).unwrap());
}

/// The images of a study, and the slices of a volume, are one row, as `embed` makes it.
#[test]
fn studies_and_volumes_are_those_of_embed() {
    let place = trained();
    let files = images(3);
    let sent: Vec<String> = files.iter().map(|path| base64(path)).collect();
    nifti(&place.path("served.nii"), 7);
    let names: Vec<&str> = files.iter().map(|path| path.to_str().unwrap()).collect();
    fs::write(place.path("served-study.csv"), format!("image,report\n{},x\nserved.nii,y\n", names.join(";"))).unwrap();
    let data = ["--data", "served-study.csv", "--out", "served-study.safetensors"];
    let embedded = |model: &str| -> Vec<Vec<f32>> {
        let args = [&["embed", "--model", model, "--force"], &data[..]].concat();
        let out = place.run(&args);
        assert!(out.status.success(), "{}", text(&out.stderr));
        tensors(&place.path("served-study.safetensors"))["image_embeds"].to_vec2().unwrap()
    };
    let expected = embedded("run/model");
    let all = ["embed", "--model", "run/model", "--data", "phantom/manifest.csv", "--out", "served-all.safetensors"];
    assert!(place.run(&all).status.success());
    let server =
        Server::of_run(&["--prompts", "classes.toml", "--index", "served-all.safetensors", "--max-batch", "2"]);
    let volume = fs::read(place.path("served.nii")).unwrap();
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(&volume).unwrap();
    let packed = packed.finish().unwrap();
    let single = rows(&server.post("/v1/embeddings", &json!({"input": [{"image": sent[0]}]})).ok());
    let input = json!([{"images": sent}, {"images": [STANDARD.encode(&packed)]}, {"image": sent[0]}, "Clear lungs."]);
    let found = rows(&server.post("/v1/embeddings", &json!({"input": input})).ok());
    assert_eq!(found.len(), 4);
    assert_near(&found[0], &expected[0], "a study");
    assert_near(&found[1], &expected[1], "a volume");
    assert_near(&found[2], &single[0], "an image beside studies");
    for (kind, body) in [("application/gzip", &packed), ("application/octet-stream", &volume)] {
        let alone = server.ask("POST /v1/embeddings", &format!("Content-Type: {kind}\r\n"), body).ok();
        assert_near(&rows(&alone)[0], &expected[1], kind);
    }
    // Everything that takes an image takes a study.
    assert!(server.post("/zero-shot", &json!({"images": sent})).ok()["classes"].is_array());
    assert!(server.post("/search", &json!({"images": sent, "text": "effusion"})).ok()["hits"].is_array());
    let said = "Large left pleural effusion.";
    let args = ["explain", "--model", "run/model", "--text", said, "--json", "--force", "--strip"];
    for (images, of) in [(names, json!(sent)), (vec!["served.nii"], json!([STANDARD.encode(&volume)]))] {
        let wanted = place.run(&[&args[..], &["served-strip.png", "--image"], &images].concat());
        let wanted = parsed(&wanted.stdout);
        let ours = server.post("/explain", &json!({"images": of, "text": said})).ok();
        assert_eq!(ours["explained_image"], wanted["explained_image"]);
        let parts = |of: &Value| -> Vec<f32> {
            of["images"].as_array().unwrap().iter().map(|image| image["part"].as_f64().unwrap() as f32).collect()
        };
        assert_near(&parts(&ours), &parts(&wanted), "parts");
        let sum: f32 = parts(&ours).iter().sum();
        assert!((f64::from(sum) - ours["bag_cosine"].as_f64().unwrap()).abs() < 1e-5, "{ours}");
        let strip = ours["strip"].as_str().unwrap().strip_prefix("data:image/png;base64,").unwrap();
        assert!(STANDARD.decode(strip).unwrap() == fs::read(place.path("served-strip.png")).unwrap());
    }
    let alone = server.post("/explain", &json!({"image": sent[0], "text": said})).ok();
    assert!(alone["strip"].is_null() && alone["images"].is_null());
    // What is wrong is told in a line.
    for (body, said) in [
        (json!({"images": sent, "image": sent[0]}), "send one of them"),
        (json!({"images": []}), "1 to 1024"),
        (json!({"images": [1]}), "1 to 1024"),
        (json!({"images": [sent[0], STANDARD.encode(b"text")]}), "2 of 2 is not an image"),
        (json!({"image": STANDARD.encode(&packed[..packed.len() / 2])}), "the image "),
    ] {
        let refused = server.post("/zero-shot", &body).refusal(400);
        assert!(refused.contains(said), "{refused}");
    }
    let health = server.get("/health").json();
    assert_eq!((&health["studies"], &health["volumes"]), (&json!(false), &json!(false)));
    // A model that was made for volumes does not answer of one slice.
    nifti(&place.path("served-val.nii"), 5);
    let manifest = fs::read_to_string(place.path("phantom/manifest.csv")).unwrap();
    let of_volume = |row: &str| {
        let (_, rest) = row.split_once(',')?;
        let split = [(",train,", "served.nii"), (",val,", "served-val.nii")].into_iter();
        split.filter(|(split, _)| rest.contains(split)).map(|(_, file)| format!("../{file},{rest}")).next()
    };
    let rows_of_volumes = manifest.lines().take(1).map(str::to_string).chain(manifest.lines().filter_map(of_volume));
    fs::write(place.path("phantom/served.csv"), rows_of_volumes.collect::<Vec<_>>().join("\n")).unwrap();
    let sets = ["train.max_steps=2", "data.train=phantom/served.csv", "data.window=[0, 200]", "data.bag.max=3"];
    place.train_ok("of-volumes", &sets.iter().flat_map(|set| ["--set", set]).collect::<Vec<_>>());
    let expected = embedded("of-volumes/model");
    let server = Server::start(&place, &["--model", "of-volumes/model"]);
    let refused = server.post("/v1/embeddings", &json!({"input": [{"image": sent[0]}]})).refusal(400);
    assert!(refused.contains("reads volumes"), "{refused}");
    let found = rows(&server.ask("POST /v1/embeddings", "Content-Type: application/gzip\r\n", &packed).ok());
    assert_near(&found[0], &expected[1], "three of seven slices");
    let health = server.get("/health").json();
    assert_eq!((&health["studies"], &health["volumes"]), (&json!(true), &json!(true)));
    // So does one that reads them as is usual, and leaves out what cannot be read: by what its folder keeps.
    let sets = ["train.max_steps=2", "data.train=phantom/served.csv", "data.bag.on_bad=drop"];
    place.train_ok("usual", &sets.iter().flat_map(|set| ["--set", set]).collect::<Vec<_>>());
    let expected = embedded("usual/model");
    let server = Server::start(&place, &["--model", "usual/model"]);
    let refused = server.post("/v1/embeddings", &json!({"input": [{"image": sent[0]}]})).refusal(400);
    assert!(refused.contains("reads volumes"), "{refused}");
    let cut = STANDARD.encode(&packed[..packed.len() - 9]);
    let both = json!({"input": [{"images": [cut, STANDARD.encode(&packed)]}]});
    let found = server.post("/v1/embeddings", &both).ok();
    assert_near(&rows(&found)[0], &expected[1], "the one that can be read");
    assert_eq!(found["data"][0]["left_out"], 1);
    let damaged = json!({"input": [{"images": [STANDARD.encode([0; 400]), STANDARD.encode(&packed)]}]});
    let found = server.post("/v1/embeddings", &damaged).ok();
    assert_near(&rows(&found)[0], &expected[1], "beside one of which nothing tells what it was");
    assert_eq!(found["data"][0]["left_out"], 1);
    let refused = server.post("/v1/embeddings", &json!({"input": [{"images": [cut, cut]}]})).refusal(400);
    assert!(refused.contains("no other image"), "{refused}");
}

#[test]
fn bad_requests_get_one_line_and_never_end_the_server() {
    let server = Server::of_run(&["--prompts", "classes.toml", "--max-body-mib", "1"]);
    let png = fs::read(&images(1)[0]).unwrap();
    let cut = STANDARD.encode(&png[..png.len() / 2]);
    let dicom = fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/dicom/mono2_12.dcm")).unwrap();
    let huge = reportclip::data::image::png(&gray(1, 1, |_, _| 0)).unwrap();
    let wide = [&huge[..16], &40_000u32.to_be_bytes(), &huge[20..]].concat();
    let secret = "Zxqv^Miller";
    let cases = [
        ("/v1/embeddings", json!({})),
        ("/v1/embeddings", json!({"input": []})),
        ("/v1/embeddings", json!({"input": ""})),
        ("/v1/embeddings", json!({"input": [secret, 7]})),
        ("/v1/embeddings", json!({"input": [[1, 2, 3]]})),
        ("/v1/embeddings", json!({"input": vec![secret; 300]})),
        ("/v1/embeddings", json!({"input": secret, "encoding_format": secret})),
        ("/v1/embeddings", json!({"input": secret, "dimensions": 3})),
        ("/v1/embeddings", json!({"input": secret, secret: 1})),
        ("/v1/embeddings", json!({"input": {"text": secret, "image": "AAAA"}})),
        ("/v1/embeddings", json!({"input": {"image": secret}})),
        ("/v1/embeddings", json!({"input": format!("data:text/html;base64,{secret}")})),
        ("/v1/embeddings", json!({"input": format!("data:image/png,{secret}")})),
        ("/v1/embeddings", json!({"input": {"image": cut}})),
        ("/v1/embeddings", json!({"input": {"image": STANDARD.encode(&wide)}})),
        ("/v1/embeddings", json!({"input": {"image": STANDARD.encode(&dicom[..dicom.len() / 2])}})),
        ("/v1/embeddings", json!({"input": {"image": STANDARD.encode(format!("GIF89a {secret}"))}})),
        ("/zero-shot", json!({})),
        ("/zero-shot", json!({"image": 7})),
        ("/zero-shot", json!({"image": STANDARD.encode(secret)})),
        ("/zero-shot", json!({"image": STANDARD.encode(&png), "text": secret})),
        ("/explain", json!({"text": secret})),
        ("/explain", json!({"image": STANDARD.encode(&png)})),
        ("/explain", json!({"image": STANDARD.encode(&png), "text": "  "})),
        ("/explain", json!({"image": STANDARD.encode(&png), "text": ["a"]})),
        ("/explain", json!({"image": STANDARD.encode("x"), "text": secret})),
        ("/v1/embeddings", json!(secret)),
        ("/v1/embeddings", json!([secret])),
    ];
    for (path, body) in &cases {
        let message = server.post(path, body).refusal(400);
        assert!(!message.contains("Zxqv") && !message.contains(&cut[..20]), "{path}: {message}");
    }
    // Of several, which one is at fault.
    for (input, told) in [
        (json!(["a", " ", "b"]), "input 2 of 3: the text is empty"),
        (json!(["a", {"text": ""}]), "input 2 of 2: \"text\" must be a text that is not empty"),
        (json!([7, "a"]), "input 1 of 2: an input must be a text, "),
        (json!([" "]), "the text is empty"),
    ] {
        let message = server.post("/v1/embeddings", &json!({"input": input})).refusal(400);
        assert!(message.starts_with(told), "{message}");
    }
    let raw = |headers: &str, body: &[u8]| server.ask("POST /v1/embeddings", headers, body);
    for twice in [r#"{"input": "a", "input": "a"}"#, r#"{"input": {"image": "Zxqv", "text": "a", "text": "b"}}"#] {
        assert!(raw(JSON, twice.as_bytes()).refusal(400).contains("the body: a name stands twice"), "{twice}");
    }
    for (body, told) in [
        (&b""[..], "the body: not JSON: it is empty"),
        (&b"\xef\xbb\xbf{\"input\": \"Zxqv\"}"[..], "byte order mark"),
        (&b"{\"input\":\n\"Zxqv\" \"Zxqv\"}"[..], "the body: not JSON from line 2, column 8 on: "),
    ] {
        let message = raw(JSON, body).refusal(400);
        assert!(message.contains(told) && !message.contains("Zxqv"), "{message}");
    }
    for word in [json!(1), json!("Zxqv"), json!("")] {
        let message = server.post("/v1/embeddings", &json!({"input": "a", "encoding_format": word})).refusal(400);
        assert_eq!(message, "\"encoding_format\" must be \"float\" or \"base64\"");
    }
    for body in [&b""[..], b"{", b"{\"input\": \"\xff\"}", &b"[".repeat(100_000), &b"{\"a\":".repeat(10_000)] {
        raw(JSON, body).refusal(400);
    }
    raw("Content-Type: image/png\r\n", &png[..40]).refusal(400);
    raw("Content-Type: image/jpeg\r\n", b"\xff\xd8\xff").refusal(400);
    raw("Content-Type: text/plain\r\n", b"{\"input\": \"a\"}").refusal(415);
    raw("Content-Type: application/x-www-form-urlencoded\r\n", b"input=a").refusal(415);
    raw("", b"{}").refusal(415);
    let charset = |name: &str| format!("Content-Type: application/json; charset={name}\r\n");
    assert!(raw(&charset("utf-16"), b"{\"input\": \"a\"}").refusal(415).contains("charset"));
    raw(&charset("UTF-8"), b"{\"input\": \"a\"}").ok();
    raw("Content-Type: text/plain\r\n", &vec![b' '; 3_000_000]).refusal(415);
    // Too long, told before and while it is sent.
    let long = server.ask("POST /v1/embeddings", JSON, &vec![b' '; 1_200_000]);
    assert!(long.refusal(413).contains("1 MiB"));
    let mut announced = server.connect();
    let head = format!("POST /zero-shot HTTP/1.1\r\n{}{JSON}Content-Length: 99999999999999\r\n\r\n", server.host());
    announced.write_all(head.as_bytes()).unwrap();
    let begun = Instant::now();
    assert_eq!(Answer::read(announced).refusal(413), long.refusal(413));
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    let mut chunked = server.connect();
    let head = format!("POST /zero-shot HTTP/1.1\r\n{}{JSON}Transfer-Encoding: chunked\r\n\r\n", server.host());
    chunked.write_all(head.as_bytes()).unwrap();
    for _ in 0..20 {
        chunked.write_all(b"10000\r\n").unwrap();
        chunked.write_all(&[b' '; 0x10000]).unwrap();
        chunked.write_all(b"\r\n").unwrap();
    }
    chunked.write_all(b"0\r\n\r\n").unwrap();
    assert_eq!(Answer::read(chunked).refusal(413), long.refusal(413));
    // Elsewhere, and otherwise.
    server.get(&format!("/images/{secret}.png")).refusal(404);
    server.get("/../../etc/passwd").refusal(404);
    server.get("/v1/embeddings").refusal(405);
    server.post("/health", &json!({})).refusal(405);
    // What is no HTTP.
    for bytes in [&b"\0\0\0"[..], b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", &b"A".repeat(100_000)] {
        let mut stream = server.connect();
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let _ = stream.read_to_end(&mut Vec::new());
    }
    let log = server.log();
    assert!(!log.contains("Zxqv") && !log.contains("a bug in reportclip") && !log.contains("panicked"), "{log}");
    assert_eq!(
        server.post("/v1/embeddings", &json!({"input": "still here"})).ok()["data"].as_array().unwrap().len(),
        1
    );
}

#[test]
fn a_full_queue_refuses_and_goes_on() {
    let server = Server::of_run(&["--queue", "2", "--max-batch", "8", "--batch-window", "1500"]);
    let ask = |input: Value| server.post("/v1/embeddings", &json!({"input": input}));
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| ask(json!(["a", "b"])));
        while server.count("queue_items") < 2.0 {
            std::thread::sleep(Duration::from_millis(5));
        }
        let refused = ask(json!("c"));
        assert!(refused.refusal(503).contains("queue is full"));
        assert_eq!(refused.headers["retry-after"], "1");
        assert_eq!(waiting.join().unwrap().ok()["data"].as_array().unwrap().len(), 2);
    });
    ask(json!(["a", "b", "c"])).refusal(400);
    ask(json!("c")).ok();
    server.gives_places_back();
}

#[test]
fn what_takes_too_long_is_told_so() {
    let server = Server::of_run(&["--timeout", "1", "--batch-window", "3000"]);
    // A body that does not come.
    let begun = Instant::now();
    let mut slow = server.connect();
    let head = format!("POST /v1/embeddings HTTP/1.1\r\n{}{JSON}Content-Length: 1000\r\n\r\n{{", server.host());
    slow.write_all(head.as_bytes()).unwrap();
    assert!(Answer::read(slow).refusal(408).contains("longer than 1 s"));
    // A model that has no time.
    server.post("/v1/embeddings", &json!({"input": "a"})).refusal(408);
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    server.gives_places_back();
}

#[test]
fn clients_that_go_away_leave_nothing_behind() {
    let mut server = Server::of_run(&["--batch-window", "50"]);
    let body = json!({"input": vec!["Some text."; 20]}).to_string();
    for i in 0..60 {
        let mut stream = server.connect();
        let head =
            format!("POST /v1/embeddings HTTP/1.1\r\n{}{JSON}Content-Length: {}\r\n\r\n", server.host(), body.len());
        let all = [head.as_bytes(), body.as_bytes()].concat();
        // Before, within and after the body.
        let _ = stream.write_all(&all[..all.len() * i / 59]);
    }
    assert_eq!(server.post("/v1/embeddings", &json!({"input": "still here"})).ok()["object"], "list");
    server.gives_places_back();
    assert!(!server.log().contains("a bug in reportclip"), "{}", server.log());
    assert_eq!(server.stop(), 0);
}

#[test]
fn clients_that_never_read_are_cut_off() {
    let server = Server::of_run(&["--timeout", "1"]);
    let mut deaf = server.connect();
    deaf.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
    let ask = format!("GET /page.js HTTP/1.1\r\n{}\r\n", server.host()).repeat(100);
    let (begun, mut waited) = (Instant::now(), false);
    // Answers fill what lies between, then requests do; then nothing moves until the server ends it.
    loop {
        match deaf.write(ask.as_bytes()) {
            Ok(_) => {}
            Err(e) if matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
                waited = true
            }
            Err(_) => break,
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "it keeps its place");
    }
    assert!(waited, "the server waited for it");
}

#[test]
fn a_connection_ends_after_a_thousand_requests() {
    let server = Server::of_run(&[]);
    let mut stream = server.connect();
    let ask = format!("GET /health HTTP/1.1\r\n{}\r\n", server.host()).repeat(1000);
    stream.write_all(ask.as_bytes()).unwrap();
    let mut answers = String::new();
    stream.read_to_string(&mut answers).unwrap();
    assert_eq!(answers.matches("HTTP/1.1 200").count(), 1000);
    let last = answers.rfind("HTTP/1.1 200").unwrap();
    let closes = |text: &str| text.to_ascii_lowercase().contains("connection: close");
    assert!(closes(&answers[last..]) && !closes(&answers[..last]), "the last says that it is");
    assert_eq!(server.get("/health").status, 200, "others go on");
}

#[test]
fn texts_that_are_too_long_are_refused_before_they_wait() {
    let server = Server::of_run(&["--queue", "2", "--batch-window", "4000"]);
    let mut waiting = server.connect();
    server.send(&mut waiting, "POST /v1/embeddings", JSON, br#"{"input": ["a", "b"]}"#);
    let begun = Instant::now();
    while server.count("queue_items") < 2.0 {
        assert!(begun.elapsed() < Duration::from_secs(3), "it does not wait");
        std::thread::sleep(Duration::from_millis(5));
    }
    // No place is free, and none is asked for.
    let long = "word ".repeat(1 << 18);
    assert!(server.post("/v1/embeddings", &json!({"input": ["a", &long]})).refusal(400).contains("a text of 1310720"));
    server.post("/v1/embeddings", &json!({"input": "a"})).refusal(503);
    assert_eq!(Answer::read(waiting).ok()["data"].as_array().unwrap().len(), 2);
}

#[test]
fn bodies_that_do_not_come_keep_nobody_out() {
    let server = Server::of_run(&["--max-body-mib", "1"]);
    let head = format!("POST /v1/embeddings HTTP/1.1\r\n{}{JSON}", server.host());
    let ends = ["Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n", "Content-Length: 1048576\r\n\r\n{"];
    let sent = |end: &str| {
        let mut stream = server.connect();
        stream.write_all(format!("{head}{end}").as_bytes()).unwrap();
        stream
    };
    let waiting: Vec<_> = (0..12).map(|i| sent(ends[i % 2])).collect();
    std::thread::sleep(Duration::from_millis(200));
    server.post("/v1/embeddings", &json!({"input": "a", "model": "", "user": ""})).ok();
    drop(waiting);
}

#[test]
fn many_inputs_find_places_among_single_ones() {
    let server = Server::of_run(&["--queue", "4", "--max-batch", "4", "--batch-window", "20"]);
    let over = std::sync::atomic::AtomicBool::new(false);
    let is_over = || over.load(std::sync::atomic::Ordering::SeqCst);
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                while !is_over() {
                    assert!([200, 503].contains(&server.post("/v1/embeddings", &json!({"input": "a"})).status));
                }
            });
        }
        let many = std::panic::catch_unwind(|| {
            (0..3).for_each(|_| drop(server.post("/v1/embeddings", &json!({"input": ["a", "b", "c", "d"]})).ok()))
        });
        over.store(true, std::sync::atomic::Ordering::SeqCst);
        many.unwrap();
    });
    // A report may begin as a data URL does.
    server.post("/v1/embeddings", &json!({"input": "data: none, nothing to compare with"})).ok();
    server.gives_places_back();
}

#[test]
fn files_of_the_index_that_do_not_answer_stop_nothing() {
    let place = trained();
    let (image, index) = (place.path("stalls.png"), "stalls.safetensors");
    fs::copy(&images(1)[0], &image).unwrap();
    let embed = ["embed", "--model", "run/model", "--out", index, "--keep-names", "--images", image.to_str().unwrap()];
    assert!(place.run(&embed).status.success());
    let mut server = Server::of_run(&["--index", index]);
    fs::remove_file(&image).unwrap();
    assert!(Command::new("mkfifo").arg(&image).status().unwrap().success());
    let found = server.post("/search", &json!({"text": "a", "thumbnails": true})).ok();
    assert!(found["hits"][0]["changed"] == true && found["hits"][0].get("thumbnail").is_none(), "{found}");
    assert_eq!(server.stop(), 0);
}

#[test]
fn what_was_asked_is_answered_before_it_stops() {
    for signal in ["-TERM", "-INT"] {
        let mut server = Server::of_run(&["--batch-window", "1500"]);
        let mut stream = server.connect();
        server.send(&mut stream, "POST /v1/embeddings", JSON, b"{\"input\": \"a\"}");
        while server.count("queue_items") < 1.0 {
            std::thread::sleep(Duration::from_millis(5));
        }
        server.signal(signal);
        assert_eq!(Answer::read(stream).ok()["data"].as_array().unwrap().len(), 1);
        assert_eq!(server.wait(), 0, "{}", server.log());
        assert!(TcpStream::connect(&server.address).is_err());
    }
}

#[test]
fn others_need_the_token() {
    let place = trained();
    let errors = place.errors(&["serve", "--model", "run/model", "--host", "0.0.0.0"], 2);
    assert!(errors[0].contains("name a --token-file"), "{errors:?}");
    fs::write(place.path("short"), "abc").unwrap();
    let errors = place.errors(&["serve", "--model", "run/model", "--token-file", "short"], 1);
    assert!(errors[0].contains("holds no token") && !errors[0].contains("abc"), "{errors:?}");
    let secret = "Zxqv-0123456789-secret";
    fs::write(place.path("token"), format!("{secret}\n")).unwrap();
    for (host, mode) in [("0.0.0.0", 0o644), ("127.0.0.1", 0o640)] {
        fs::set_permissions(place.path("token"), fs::Permissions::from_mode(mode)).unwrap();
        let mut server = Server::of_run(&["--host", host, "--token-file", "token", "--prompts", "classes.toml"]);
        let warned = server.log().contains("everybody on this machine can read the token; `chmod 600`");
        assert_eq!(warned, mode == 0o644, "{}", server.log());
        server.address = server.address.replace("0.0.0.0", "127.0.0.1");
        let with = |token: &str| {
            let headers = format!("{JSON}Authorization: {token}\r\n");
            server.ask("POST /v1/embeddings", &headers, b"{\"input\": \"a\"}")
        };
        with(&format!("Bearer {secret}")).ok();
        with(&format!("bearer {secret}")).ok();
        // A proxy in front has an origin of its own.
        with(&format!("Bearer {secret}\r\nOrigin: https://front.example")).ok();
        assert!(host == "0.0.0.0" || with("Bearer wrong\r\nOrigin: https://front.example").status == 403);
        for wrong in ["", "Bearer", "Bearer Zxqv-0123456789-secreT", &format!("Basic {secret}"), secret] {
            let answer = with(wrong);
            assert!(!answer.refusal(401).contains("Zxqv"));
            assert_eq!(answer.headers["www-authenticate"], "Bearer");
        }
        server.post("/zero-shot", &json!({})).refusal(401);
        server.get("/metrics").refusal(401);
        server.get(&format!("/metrics?token={secret}")).refusal(401);
        server.get("/nowhere").refusal(401);
        assert_eq!(server.get("/health").ok()["token"], true);
        assert_eq!(server.get("/").status, 200, "the page asks for the token");
        assert!(!server.log().contains("Zxqv"), "{}", server.log());
    }
}

#[test]
fn pages_of_the_web_cannot_ask() {
    let server = Server::of_run(&[]);
    let ask = |headers: &str| server.ask("POST /v1/embeddings", &format!("{JSON}{headers}"), b"{\"input\": \"a\"}");
    let own = server.host();
    ask(&format!("{own}Origin: http://{}\r\nSec-Fetch-Site: same-origin\r\n", server.address)).ok();
    ask("Host: localhost:1\r\n").ok();
    for headers in [
        "Host: rebound.example\r\n".to_string(),
        "Host: 127.0.0.1.rebound.example:8417\r\n".to_string(),
        format!("{own}Origin: http://evil.example\r\n"),
        format!("{own}Origin: null\r\n"),
        format!("{own}Sec-Fetch-Site: cross-site\r\n"),
    ] {
        ask(&headers).refusal(403);
    }
    for path in ["/", "/page.js", "/health", "/metrics"] {
        server.ask(&format!("GET {path}"), "Host: rebound.example\r\n", b"").refusal(403);
    }
    // No other origin is ever told that it may read.
    let preflight = server.ask("OPTIONS /v1/embeddings", &format!("{own}Origin: http://evil.example\r\n"), b"");
    assert!(preflight.status == 403 && !preflight.headers.contains_key("access-control-allow-origin"));
}

#[test]
fn the_page_is_whole_and_fetches_nothing_from_elsewhere() {
    let server = Server::of_run(&[]);
    let page = server.get("/");
    let policy = &page.headers["content-security-policy"];
    assert!(policy.starts_with("default-src 'none'; script-src 'self'; style-src 'self';"), "{policy}");
    assert!(!policy.contains("unsafe") && policy.contains("frame-ancestors 'none'"), "{policy}");
    assert_eq!(
        (page.headers["x-content-type-options"].as_str(), page.headers["cache-control"].as_str()),
        ("nosniff", "no-store")
    );
    let html = text(&page.body);
    for inline in ["<script>", " style=", " onclick", "<style"] {
        assert!(!html.contains(inline), "the policy refuses {inline}");
    }
    let named = regex::Regex::new("(?:src|href)=\"([^\"]+)\"|from \"([^\"]+)\"").unwrap();
    let script = text(&server.get("/page.js").body);
    let mut count = 0;
    for found in named.captures_iter(&html).chain(named.captures_iter(&script)) {
        let path = found.get(1).or(found.get(2)).unwrap().as_str();
        let file = server.get(path);
        assert!(file.status == 200 && !file.body.is_empty(), "{path}");
        let content = text(&file.body).replace("http://www.w3.org/2000/svg", "");
        assert!(!content.contains("http://") && !content.contains("https://"), "{path}");
        count += 1;
    }
    assert_eq!(count, 4, "icon, style, script and words");
    // Every word of the page is there in both languages.
    let words = text(&server.get("/words.js").body);
    let used = regex::Regex::new("data-word=\"(\\w+)\"|say\\(\"(\\w+)\"").unwrap();
    for found in used.captures_iter(&html).chain(used.captures_iter(&script)) {
        let word = found.get(1).or(found.get(2)).unwrap().as_str();
        assert_eq!(words.matches(&format!(" {word}: \"")).count(), 2, "{word}");
    }
}

/// The examples of docs/serve.md, as they stand there.
#[test]
fn the_examples_of_the_docs_work() {
    if Command::new("curl").arg("--version").output().is_err() {
        return skipped("there is no curl");
    }
    let place = trained();
    let embed = ["embed", "--model", "run/model", "--data", "phantom/manifest.csv", "--out", "docs.safetensors"];
    assert!(place.run(&embed).status.success());
    let server = Server::of_run(&["--prompts", "classes.toml", "--index", "docs.safetensors"]);
    fs::copy(&images(1)[0], place.path("scan.png")).unwrap();
    let dicom = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/dicom/mono2_12.dcm");
    fs::copy(dicom, place.path("scan.dcm")).unwrap();
    let docs = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/serve.md")).unwrap();
    let blocks = docs.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    let mut ran = 0;
    for block in blocks.filter(|block| block.contains("curl ")) {
        let script = block.replace("127.0.0.1:8417", &server.address);
        let output = Command::new("sh").args(["-ec", &script]).current_dir(place.path("")).output().unwrap();
        let said = text(&output.stdout);
        assert!(output.status.success() && !said.contains("\"error\""), "{script}\n{said}{}", text(&output.stderr));
        ran += 1;
    }
    assert!(ran >= 5, "{ran} examples");
}
