//! The hub layer against a tiny Hub on 127.0.0.1: no environment, no real cache, no network.
#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use reportclip::hub::{DatasetFiles, HubError, HubSettings, ModelFiles, Source};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const OTHER: &str = "89abcdef0123456789abcdef0123456789abcdef";
const TOKEN: &str = "hf_secretsecret";

// ---- the server ----

#[derive(Clone, Default)]
struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
    /// Close the connection after so many bytes of the body.
    cut: Option<usize>,
    /// Answer 200 whatever the range.
    no_ranges: bool,
    /// Chunked transfer, so without a length.
    chunked: bool,
}

fn answer(status: u16) -> Answer {
    Answer { status, ..Answer::default() }
}

/// A file served by the Hub itself.
fn file(body: &[u8]) -> Answer {
    let mut answer = answer(200).with("X-Repo-Commit", COMMIT).with("ETag", "W/\"etag-1\"");
    answer.body = body.to_vec();
    answer
}

/// The download host's side of a large file.
fn blob(body: &[u8]) -> Answer {
    let mut answer = answer(200).with("ETag", "\"cdn\"");
    answer.body = body.to_vec();
    answer
}

/// The Hub's side of a large file.
fn linked(to: &str, size: usize) -> Answer {
    answer(302)
        .with("Location", to)
        .with("X-Repo-Commit", COMMIT)
        .with("X-Linked-Etag", "\"sha256-of-it\"")
        .with("X-Linked-Size", &size.to_string())
        .with("ETag", "\"not-this\"")
}

fn missing(code: &str) -> Answer {
    answer(404).with("X-Error-Code", code)
}

impl Answer {
    fn with(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    fn cut(mut self, after: usize) -> Self {
        self.cut = Some(after);
        self
    }

    fn send(mut self, range: Option<usize>, out: &mut TcpStream) {
        if let Some(start) = range.filter(|_| self.status == 200 && !self.no_ranges) {
            let total = self.body.len();
            self.status = if start < total { 206 } else { 416 };
            let range = if start < total { format!("{start}-{}", total - 1) } else { "*".into() };
            self.headers.push(("Content-Range", format!("bytes {range}/{total}")));
            self.body.drain(..start.min(total));
        }
        let mut head = format!("HTTP/1.1 {} X\r\nConnection: close\r\n", self.status);
        for (name, value) in &self.headers {
            head += &format!("{name}: {value}\r\n");
        }
        let mut body = self.body.clone();
        if self.chunked {
            head += "Transfer-Encoding: chunked\r\n\r\n";
            body = [format!("{:x}\r\n", body.len()).as_bytes(), &body, b"\r\n0\r\n\r\n"].concat();
        } else {
            head += &format!("Content-Length: {}\r\n\r\n", body.len());
        }
        let _ = out.write_all(head.as_bytes());
        let _ = out.write_all(&body[..self.cut.unwrap_or(body.len()).min(body.len())]);
    }
}

#[derive(Clone, Debug)]
struct Request {
    path: String,
    headers: HashMap<String, String>,
}

impl Request {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
}

/// The answers of each path in order; the last one repeats.
type Script = Arc<Mutex<HashMap<String, Vec<Answer>>>>;

struct Server {
    port: u16,
    script: Script,
    seen: Arc<Mutex<Vec<Request>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (script, seen, stop) = (Script::default(), Arc::default(), Arc::new(AtomicBool::new(false)));
        let shared = (Arc::clone(&script), Arc::clone(&seen), Arc::clone(&stop));
        let thread = thread::spawn(move || {
            let (script, seen, stop) = shared;
            for stream in listener.incoming() {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                let (script, seen) = (Arc::clone(&script), Arc::clone(&seen));
                thread::spawn(move || serve(stream.unwrap(), &script, &seen));
            }
        });
        Self { port, script, seen, stop, thread: Some(thread) }
    }

    fn on(&self, path: &str, answers: Vec<Answer>) -> &Self {
        self.script.lock().unwrap().insert(path.into(), answers);
        self
    }

    fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    fn seen(&self) -> Vec<Request> {
        self.seen.lock().unwrap().clone()
    }
}

/// From here on the port refuses connections. A program that another test starts at this moment has the socket, too,
/// until it runs: until then the port takes connections that nobody will answer.
impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let connects = || TcpStream::connect(("127.0.0.1", self.port)).is_ok();
        connects();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        let stopped = Instant::now();
        while connects() && stopped.elapsed() < Duration::from_secs(10) {
            thread::sleep(Duration::from_millis(1));
        }
    }
}

fn serve(mut stream: TcpStream, script: &Script, seen: &Mutex<Vec<Request>>) {
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
    let Some(first) = lines.next() else { return };
    let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
    let headers = lines
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_once(':').map(|(k, v)| (k.to_lowercase(), v.trim().to_owned())))
        .collect();
    let request = Request { path: path.clone(), headers };
    let range =
        request.header("range").map(|range| range.trim_start_matches("bytes=").trim_end_matches('-').parse().unwrap());
    seen.lock().unwrap().push(request);
    let answer = match script.lock().unwrap().get_mut(&path) {
        Some(answers) if answers.len() > 1 => answers.remove(0),
        Some(answers) => answers[0].clone(),
        None => answer(418),
    };
    answer.send(range, &mut stream);
}

// ---- helpers ----

fn settings(cache: &TempDir, server: &Server) -> HubSettings {
    HubSettings { cache: cache.path().into(), endpoint: server.url(""), token: None, offline: false }
}

fn org_name(revision: &str) -> Source {
    Source::Hub { repo: "org/name".into(), revision: revision.into() }
}

fn open(settings: &HubSettings) -> ModelFiles {
    ModelFiles::open_with(&org_name("main"), settings).unwrap()
}

fn repo_folder(cache: &TempDir) -> PathBuf {
    cache.path().join("models--org--name")
}

fn start() -> (TempDir, Server, HubSettings) {
    let (cache, server) = (TempDir::new().unwrap(), Server::start());
    let settings = settings(&cache, &server);
    (cache, server, settings)
}

const CONFIG: &str = "/org/name/resolve/main/config.json";
const MODEL: &str = "/org/name/resolve/main/model.safetensors";

fn line(error: &HubError) -> String {
    let line = error.to_string();
    assert!(!line.contains('\n') && !line.contains(TOKEN), "{line}");
    line
}

// ---- data sets ----

#[test]
fn parquet_files_of_a_data_set_are_listed_fetched_and_kept() {
    let (cache, server, mut settings) = start();
    let list = |commit: &str| {
        let mut answer = answer(200);
        let names = ["README.md", "data/train-1.parquet", "data/train-0.parquet", "../../out.parquet"];
        let siblings: Vec<_> = names.iter().map(|n| serde_json::json!({"rfilename": n})).collect();
        answer.body = serde_json::json!({"sha": commit, "siblings": siblings}).to_string().into_bytes();
        answer
    };
    server.on("/api/datasets/org/name/revision/main", vec![list(COMMIT)]);
    for (i, name) in ["data/train-0.parquet", "data/train-1.parquet"].into_iter().enumerate() {
        let answer = file(b"rows").with("ETag", &format!("etag-{i}"));
        let mut answer = answer;
        answer.headers.retain(|(name, value)| *name != "ETag" || value.starts_with("etag-"));
        server.on(&format!("/datasets/org/name/resolve/{COMMIT}/{name}"), vec![answer]);
    }
    let files = DatasetFiles::open_with("org/name", &settings).unwrap().files("parquet").unwrap();
    let snapshot = cache.path().join("datasets--org--name/snapshots").join(COMMIT);
    assert_eq!(files, [snapshot.join("data/train-0.parquet"), snapshot.join("data/train-1.parquet")]);
    // Once there, no network is needed.
    drop(server);
    settings.offline = true;
    assert_eq!(DatasetFiles::open_with("org/name", &settings).unwrap().files("parquet").unwrap(), files);
    let nothing = DatasetFiles::open_with("org/other", &settings).unwrap().files("parquet").unwrap_err();
    assert!(line(&nothing).contains("datasets/org/other"), "{nothing}");
    assert!(DatasetFiles::open_with("../etc", &settings).is_err());
}

#[test]
fn a_list_that_is_none_is_an_error() {
    let (_cache, server, settings) = start();
    let path = "/api/datasets/org/name/revision/main";
    for body in ["", "{}", "{\"sha\": \"x\", \"siblings\": []}"] {
        let mut odd = answer(200);
        odd.body = body.as_bytes().to_vec();
        server.on(path, vec![odd]);
        line(&DatasetFiles::open_with("org/name", &settings).unwrap().files("parquet").unwrap_err());
    }
    server.on(path, vec![missing("RepoNotFound")]);
    line(&DatasetFiles::open_with("org/name", &settings).unwrap().files("parquet").unwrap_err());
}

// ---- the cache and the way to it ----

#[test]
fn a_small_file_is_fetched_once_and_then_needs_no_server() {
    let (cache, server, settings) = start();
    server.on(CONFIG, vec![file(b"{}")]);
    let model = open(&settings);
    assert_eq!(model.commit(), None);
    let path = model.get("config.json").unwrap();
    assert_eq!(path, repo_folder(&cache).join("snapshots").join(COMMIT).join("config.json"));
    assert_eq!(fs::read(&path).unwrap(), b"{}");
    assert_eq!(fs::read_to_string(repo_folder(&cache).join("refs/main")).unwrap(), COMMIT);
    assert_eq!(fs::read(repo_folder(&cache).join("blobs/etag-1")).unwrap(), b"{}");
    #[cfg(unix)]
    assert_eq!(fs::read_link(&path).unwrap(), Path::new("../../blobs/etag-1"));
    assert_eq!(model.commit().as_deref(), Some(COMMIT));
    assert_eq!(model.get("config.json").unwrap(), path);
    assert_eq!(server.seen().len(), 1);
    assert_eq!(server.seen()[0].path, CONFIG);
    assert!(server.seen()[0].header("user-agent").unwrap().contains("reportclip/"));
    assert_eq!(server.seen()[0].header("authorization"), None);
    drop(server);
    let again = open(&settings);
    assert_eq!(again.get("config.json").unwrap(), path);
    assert_eq!(again.commit().as_deref(), Some(COMMIT));
}

#[test]
fn the_token_stays_on_the_hub_across_redirects() {
    let (cache, hub, mut settings) = start();
    let cdn = Server::start();
    settings.token = Some(TOKEN.into());
    let moved = "/api/resolve-cache/model.safetensors?x=1";
    hub.on(MODEL, vec![answer(307).with("Location", moved).with("X-Repo-Commit", COMMIT)]);
    hub.on(moved, vec![linked(&cdn.url("/signed?sig=a"), 5)]);
    cdn.on("/signed?sig=a", vec![answer(302).with("Location", "/elsewhere")]);
    cdn.on("/elsewhere", vec![blob(b"large")]);
    let path = open(&settings).get("model.safetensors").unwrap();
    assert_eq!(fs::read(path).unwrap(), b"large");
    assert!(repo_folder(&cache).join("blobs/sha256-of-it").is_file());
    let bearer = format!("Bearer {TOKEN}");
    let auth = |server: &Server| {
        server.seen().iter().map(|r| r.header("authorization").map(str::to_owned)).collect::<Vec<_>>()
    };
    assert_eq!(auth(&hub), [Some(bearer.clone()), Some(bearer)]);
    assert_eq!(auth(&cdn), [None, None]);
}

#[test]
fn a_cut_download_goes_on_where_it_ended() {
    let (cache, hub, settings) = start();
    let cdn = Server::start();
    let body: Vec<u8> = (0..200_000u32).map(|i| (i % 251) as u8).collect();
    hub.on(MODEL, vec![linked(&cdn.url("/blob"), body.len())]);
    cdn.on("/blob", vec![blob(&body).cut(150_000), blob(&body)]);
    let error = open(&settings).get("model.safetensors").unwrap_err();
    assert_eq!(
        line(&error),
        "model.safetensors of org/name@main: the connection broke after 150000 of 200000 bytes (Peer disconnected); \
         run again, it goes on from there"
    );
    let part = repo_folder(&cache).join("blobs/sha256-of-it.incomplete");
    assert_eq!(fs::metadata(&part).unwrap().len(), 150_000);
    assert!(!repo_folder(&cache).join("snapshots").exists());
    let path = open(&settings).get("model.safetensors").unwrap();
    assert_eq!(fs::read(path).unwrap(), body);
    assert_eq!(cdn.seen()[1].header("range"), Some("bytes=150000-"));
    assert!(!part.exists());
}

#[test]
fn a_cut_file_of_the_hub_itself_goes_on_too() {
    let (_cache, hub, settings) = start();
    hub.on(CONFIG, vec![file(b"0123456789").cut(4), file(b"0123456789")]);
    assert!(matches!(open(&settings).get("config.json"), Err(HubError::Cut(_, 4, Some(10), _))));
    assert_eq!(fs::read(open(&settings).get("config.json").unwrap()).unwrap(), b"0123456789");
    let ranges: Vec<_> = hub.seen().iter().map(|r| r.header("range").map(str::to_owned)).collect();
    assert_eq!(ranges, [None, None, Some("bytes=4-".into())]);
}

/// `left` is what an earlier try left; the file must come out whole after `requests` requests for it.
fn with_partial(left: &[u8], no_ranges: bool, requests: usize) {
    let (cache, hub, settings) = start();
    let cdn = Server::start();
    hub.on(MODEL, vec![linked(&cdn.url("/blob"), 5)]);
    cdn.on("/blob", vec![Answer { no_ranges, ..blob(b"large") }]);
    let blobs = repo_folder(&cache).join("blobs");
    fs::create_dir_all(&blobs).unwrap();
    fs::write(blobs.join("sha256-of-it.incomplete"), left).unwrap();
    assert_eq!(fs::read(open(&settings).get("model.safetensors").unwrap()).unwrap(), b"large");
    assert_eq!(cdn.seen().len(), requests);
}

#[test]
fn partial_files_of_every_kind_come_out_whole() {
    with_partial(b"lar", false, 1);
    with_partial(b"lar", true, 1);
    with_partial(b"large", false, 0);
    with_partial(b"larger than it", false, 1);
}

#[test]
fn lengths_are_checked() {
    let (cache, hub, settings) = start();
    let cdn = Server::start();
    hub.on(MODEL, vec![linked(&cdn.url("/blob"), 9)]);
    cdn.on("/blob", vec![blob(b"short"), Answer { chunked: true, ..blob(b"short") }]);
    let host = cdn.url("");
    assert_eq!(
        line(&open(&settings).get("model.safetensors").unwrap_err()),
        format!(
            "model.safetensors of org/name@main: {host} answers oddly (two lengths for one file); check HF_ENDPOINT, \
             and that no proxy answers in its place"
        )
    );
    assert!(matches!(open(&settings).get("model.safetensors"), Err(HubError::Cut(_, 5, Some(9), _))));
    assert!(!repo_folder(&cache).join("snapshots").exists());
    hub.on(CONFIG, vec![Answer { chunked: true, ..file(b"{}") }]);
    assert_eq!(fs::read(open(&settings).get("config.json").unwrap()).unwrap(), b"{}");
}

// ---- a Hub that lies ----

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The Hub's side of a large file that it names by its SHA-256.
fn linked_by_content(to: &str, body: &[u8]) -> Answer {
    let mut answer = linked(to, body.len());
    answer.headers.retain(|(name, _)| *name != "X-Linked-Etag");
    answer.with("X-Linked-Etag", &format!("\"{}\"", sha256(body)))
}

#[test]
fn a_part_that_is_junk_is_fetched_anew() {
    for junk in [&b"jun"[..], b"junkjunkj"] {
        let (cache, hub, settings) = start();
        let cdn = Server::start();
        hub.on(MODEL, vec![linked_by_content(&cdn.url("/blob"), b"nine byte")]);
        cdn.on("/blob", vec![blob(b"nine byte")]);
        let blobs = repo_folder(&cache).join("blobs");
        fs::create_dir_all(&blobs).unwrap();
        fs::write(blobs.join(format!("{}.incomplete", sha256(b"nine byte"))), junk).unwrap();
        assert_eq!(fs::read(open(&settings).get("model.safetensors").unwrap()).unwrap(), b"nine byte");
        assert_eq!(fs::read_dir(&blobs).unwrap().count(), 1);
    }
}

#[test]
fn content_that_is_not_what_it_is_named_by_is_never_published() {
    let (cache, hub, settings) = start();
    let cdn = Server::start();
    hub.on(MODEL, vec![linked_by_content(&cdn.url("/blob"), b"nine byte")]);
    cdn.on("/blob", vec![blob(b"evil byte")]);
    // As git names "{}\n".
    let mut small = file(b"[]\n");
    small.headers.retain(|(name, _)| *name != "ETag");
    hub.on(CONFIG, vec![small.with("ETag", "\"0967ef424bce6791893e9a57bb952f80fd536e93\"")]);
    for name in ["model.safetensors", "config.json"] {
        let error = open(&settings).get(name).unwrap_err();
        assert!(matches!(error, HubError::WrongContent(..)), "{error}");
        assert!(line(&error).contains("gives other content than the Hub names, twice"), "{error}");
    }
    assert_eq!(cdn.seen().len(), 2, "fetched anew once");
    assert_eq!(fs::read_dir(repo_folder(&cache).join("blobs")).unwrap().count(), 0);
    assert!(!repo_folder(&cache).join("snapshots").exists());
    let mut good = file(b"{}\n");
    good.headers.retain(|(name, _)| *name != "ETag");
    hub.on(CONFIG, vec![good.with("ETag", "\"0967ef424bce6791893e9a57bb952f80fd536e93\"")]);
    assert_eq!(fs::read(open(&settings).get("config.json").unwrap()).unwrap(), b"{}\n");
}

#[test]
fn bodies_without_a_length_have_a_limit() {
    let (cache, hub, settings) = start();
    let cdn = Server::start();
    // The Hub tells five bytes; the body does not end there.
    hub.on(MODEL, vec![linked(&cdn.url("/blob"), 5)]);
    cdn.on("/blob", vec![Answer { chunked: true, ..blob(&[0; 300_000]) }]);
    let error = open(&settings).get("model.safetensors").unwrap_err();
    assert!(line(&error).contains("bytes of 5"), "{error}");
    hub.on(CONFIG, vec![Answer { chunked: true, ..file(&vec![b' '; (64 << 20) + 1]) }]);
    let error = open(&settings).get("config.json").unwrap_err();
    assert!(line(&error).contains("bytes of 67108864"), "{error}");
    assert_eq!(fs::read_dir(repo_folder(&cache).join("blobs")).unwrap().count(), 0);
}

#[test]
fn a_token_that_cannot_be_one_is_told_and_not_shown() {
    let (_cache, hub, mut settings) = start();
    for bad in [format!("{TOKEN}\nX-Evil: 1"), format!("{TOKEN} two"), format!("{TOKEN}é"), format!("{TOKEN}\u{7f}")] {
        settings.token = Some(bad);
        let error = ModelFiles::open_with(&org_name("main"), &settings).unwrap_err();
        assert!(matches!(error, HubError::BadToken(_)) && line(&error).contains("HF_TOKEN"), "{error}");
    }
    assert!(hub.seen().is_empty());
    settings.offline = true;
    ModelFiles::open_with(&org_name("main"), &settings).unwrap();
}

#[test]
fn an_empty_file_is_a_file() {
    let (_cache, hub, settings) = start();
    hub.on(CONFIG, vec![file(b"")]);
    assert_eq!(fs::read(open(&settings).get("config.json").unwrap()).unwrap(), b"");
}

#[test]
fn all_files_come_from_one_commit_though_the_branch_moves() {
    let (cache, hub, settings) = start();
    hub.on(CONFIG, vec![file(b"{}")]);
    let other = answer(200).with("X-Repo-Commit", OTHER).with("ETag", "new");
    hub.on(MODEL, vec![other]);
    hub.on(&format!("/org/name/resolve/{COMMIT}/sub/a%20b.bin"), vec![file(b"{}")]);
    let model = open(&settings);
    model.get("config.json").unwrap();
    let path = model.get("sub/a b.bin").unwrap();
    assert_eq!(path, repo_folder(&cache).join("snapshots").join(COMMIT).join("sub/a b.bin"));
    assert_eq!(fs::read(path).unwrap(), b"{}");
    assert_eq!(fs::read_to_string(repo_folder(&cache).join("refs/main")).unwrap(), COMMIT);
}

#[test]
fn two_at_once_download_once() {
    let (_cache, hub, settings) = start();
    let cdn = Server::start();
    let body = vec![7; 3_000_000];
    hub.on(MODEL, vec![linked(&cdn.url("/blob"), body.len())]);
    cdn.on("/blob", vec![blob(&body)]);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| assert_eq!(fs::read(open(&settings).get("model.safetensors").unwrap()).unwrap(), body));
        }
    });
    assert_eq!(cdn.seen().len(), 1);
}

#[test]
fn a_missing_optional_file_is_asked_for_once() {
    let (cache, hub, settings) = start();
    hub.on(CONFIG, vec![missing("EntryNotFound").with("X-Repo-Commit", COMMIT)]);
    assert_eq!(open(&settings).find("config.json").unwrap(), None);
    assert!(repo_folder(&cache).join(".no_exist").join(COMMIT).join("config.json").is_file());
    assert_eq!(hub.seen().len(), 1);
    drop(hub);
    assert_eq!(open(&settings).find("config.json").unwrap(), None);
    assert!(matches!(open(&settings).get("config.json"), Err(HubError::EntryNotFound(_))));
}

#[test]
fn find_hides_nothing_but_a_missing_file() {
    let (_cache, hub, settings) = start();
    for code in ["RepoNotFound", "RevisionNotFound", "", "GatedRepo"] {
        hub.on(CONFIG, vec![missing(code)]);
        open(&settings).find("config.json").unwrap_err();
    }
    drop(hub);
    assert!(matches!(open(&settings).find("config.json"), Err(HubError::NoNetwork(..))));
}

#[test]
fn offline_uses_the_cache_and_makes_no_request() {
    let (cache, hub, mut settings) = start();
    settings.offline = true;
    let folder = repo_folder(&cache);
    let error = |model: &ModelFiles| line(&model.get("config.json").unwrap_err());
    let text = |revision: &str| {
        format!(
            "config.json of org/name@{revision}: not in the cache ({}) and HF_HUB_OFFLINE is set; unset it, or run \
             `reportclip model download org/name@{revision}` on a machine with network and copy that folder",
            folder.display()
        )
    };
    assert_eq!(error(&open(&settings)), text("main"));
    assert!(matches!(open(&settings).find("config.json"), Err(HubError::Offline(..))));
    // As Python leaves it for a download by commit: no refs.
    let snapshot = folder.join("snapshots").join(COMMIT);
    fs::create_dir_all(&snapshot).unwrap();
    fs::write(snapshot.join("vocab.json"), "{}").unwrap();
    let model = ModelFiles::open_with(&org_name(COMMIT), &settings).unwrap();
    assert_eq!(model.get("vocab.json").unwrap(), snapshot.join("vocab.json"));
    assert_eq!(model.commit().as_deref(), Some(COMMIT));
    assert_eq!(model.find("config.json").unwrap(), None);
    assert_eq!(error(&model), text(COMMIT));
    assert_eq!(hub.seen().len(), 0);
}

// ---- errors ----

#[test]
fn every_refusal_has_its_own_line() {
    let (_cache, hub, settings) = start();
    let host = hub.url("");
    let cases = [
        (
            missing("RepoNotFound"),
            format!(
                "{host} has no such repository and no such folder exists here; check the spelling (a folder may be \
                 written ./x)"
            ),
        ),
        (
            missing("RevisionNotFound"),
            "the repository has no such revision; check what follows the \"@\", or leave it away for main".into(),
        ),
        (
            missing("EntryNotFound"),
            "the repository has no such file at this revision; check that it holds a model of this kind".into(),
        ),
        (
            answer(404),
            format!("{host} answers 404 without a reason; check the repository, the revision and HF_ENDPOINT"),
        ),
        (
            answer(403).with("X-Error-Code", "GatedRepo"),
            format!(
                "access to this repository must be granted; ask for it at {host}/org/name, then set HF_TOKEN to your \
                 token"
            ),
        ),
        (answer(403), "access refused (403); check what the token in HF_TOKEN may read".into()),
        (
            answer(401).with("X-Error-Code", "RepoNotFound"),
            "the repository does not exist or is private (401); check the spelling, or set HF_TOKEN to a token that \
             may read it"
                .into(),
        ),
        (answer(500), format!("{host} answers 500, a fault on its side; try again in a few minutes")),
        (answer(429), format!("{host} answers 429, a fault on its side; try again in a few minutes")),
        (
            answer(200),
            format!(
                "{host} answers oddly (no X-Repo-Commit or ETag); check HF_ENDPOINT, and that no proxy answers in its \
                 place"
            ),
        ),
        (
            answer(200).with("X-Repo-Commit", COMMIT).with("ETag", "../../x"),
            format!(
                "{host} answers oddly (X-Repo-Commit or ETag is malformed); check HF_ENDPOINT, and that no proxy \
                 answers in its place"
            ),
        ),
        (
            answer(302).with("Location", "file:///etc/passwd"),
            format!(
                "{host} answers oddly (a redirect to nowhere, or from https to http); check HF_ENDPOINT, and that no \
                 proxy answers in its place"
            ),
        ),
        (
            answer(302).with("Location", CONFIG),
            format!(
                "{host} answers oddly (too many redirects); check HF_ENDPOINT, and that no proxy answers in its place"
            ),
        ),
    ];
    for (answer, text) in cases {
        hub.on(CONFIG, vec![answer]);
        let error = open(&settings).get("config.json").unwrap_err();
        assert_eq!(line(&error), format!("config.json of org/name@main: {text}"));
    }
    let settings = HubSettings { token: Some(TOKEN.into()), ..settings };
    hub.on(CONFIG, vec![answer(401)]);
    assert_eq!(
        line(&open(&settings).get("config.json").unwrap_err()),
        "config.json of org/name@main: the Hub refuses the token (401); renew it (HF_TOKEN or the token file), or \
         check the spelling"
    );
}

#[test]
fn another_revision_is_asked_for_and_named() {
    let (_cache, hub, settings) = start();
    hub.on("/org/name/resolve/refs%2Fpr%2F1/config.json", vec![missing("RevisionNotFound")]);
    let model = ModelFiles::open_with(&org_name("refs/pr/1"), &settings).unwrap();
    assert_eq!(
        line(&model.get("config.json").unwrap_err()),
        "config.json of org/name@refs/pr/1: the repository has no such revision; check what follows the \"@\", or \
         leave it away for main"
    );
}

#[test]
fn no_server_and_a_broken_download_host_are_told_apart() {
    let (_cache, hub, mut settings) = start();
    settings.token = Some(TOKEN.into());
    let cdn = Server::start();
    let (hub_at, cdn_at) = (hub.url(""), cdn.url(""));
    hub.on(MODEL, vec![linked(&cdn.url("/blob?signature=s3cret"), 5)]);
    cdn.on("/blob?signature=s3cret", vec![answer(403)]);
    let error = || line(&open(&settings).get("model.safetensors").unwrap_err());
    let file = "model.safetensors of org/name@main";
    assert_eq!(error(), format!("{file}: {cdn_at} answers 403, a fault on its side; try again in a few minutes"));
    let refused = |host: &str| {
        format!(
            "{file}: cannot reach {host} (Connection refused (os error 111)); check the network, the proxy and \
             HF_ENDPOINT, or set HF_HUB_OFFLINE=1 to use the cache only"
        )
    };
    drop(cdn);
    assert_eq!(error().replace("61)", "111)"), refused(&cdn_at));
    drop(hub);
    assert_eq!(error().replace("61)", "111)"), refused(&hub_at));
}

#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_is_named() {
    let (cache, hub, settings) = start();
    hub.on(CONFIG, vec![file(b"{}")]);
    let blobs = repo_folder(&cache).join("blobs");
    fs::create_dir_all(&blobs).unwrap();
    std::os::unix::fs::symlink("/dev/full", blobs.join("etag-1.incomplete")).unwrap();
    assert_eq!(
        line(&open(&settings).get("config.json").unwrap_err()),
        format!(
            "config.json of org/name@main: no space left for {}/etag-1.incomplete; free some or point HF_HUB_CACHE \
             to another disk, then run again",
            blobs.display()
        )
    );
}

#[test]
fn names_that_leave_the_model_are_refused() {
    let (_cache, hub, settings) = start();
    let folder = TempDir::new().unwrap();
    let local = ModelFiles::open_with(&Source::Folder(folder.path().into()), &settings).unwrap();
    let all = ["", "/etc/passwd", "../x", "a/../x", "a//b", "./x", "a/", "a\\b", "C:/x", "a\0b", "a\nb"];
    for name in all {
        for model in [&open(&settings), &local] {
            let error = model.get(name).unwrap_err();
            assert!(matches!(error, HubError::BadName(..)), "{name:?}");
            line(&error);
            model.find(name).unwrap_err();
        }
    }
    assert_eq!(
        line(&open(&settings).get("../x").unwrap_err()),
        "file name \"../x\" in org/name@main: it holds an empty, \".\" or \"..\" part; allowed: a relative name \
         inside the model, like sub/x.json"
    );
    for (repo, revision) in [("../x", "main"), ("org/name", "../../x"), ("org/name", ""), ("a/b/c", "main")] {
        let source = Source::Hub { repo: repo.into(), revision: revision.into() };
        assert!(matches!(ModelFiles::open_with(&source, &settings), Err(HubError::BadSource(..))), "{source}");
    }
    assert_eq!(hub.seen().len(), 0);
}

// ---- names, folders, settings ----

#[test]
fn model_names_are_read() {
    let folder = TempDir::new().unwrap();
    let existing = folder.path().to_str().unwrap();
    let hub = |repo: &str, revision: &str| Source::Hub { repo: repo.into(), revision: revision.into() };
    for path in ["./x", "../x", "/nowhere/x", ".", "..", existing, "src", "src/hub"] {
        // "src" exists in the package's folder, where tests run.
        if path.starts_with("src") && !Path::new(path).is_dir() {
            continue;
        }
        assert_eq!(Source::parse(path).unwrap(), Source::Folder(path.into()), "{path}");
    }
    assert_eq!(Source::parse("org/name").unwrap(), hub("org/name", "main"));
    assert_eq!(Source::parse("org/na.me-1_x@v1.0").unwrap(), hub("org/na.me-1_x", "v1.0"));
    assert_eq!(Source::parse("org/name@refs/pr/1").unwrap(), hub("org/name", "refs/pr/1"));
    assert_eq!(hub("org/name", "v1").to_string(), "org/name@v1");
    assert_eq!(Source::Folder("./x".into()).to_string(), "./x");
    let plain = "a Hub name has letters, digits, \"-\", \"_\" and \".\" around one \"/\"";
    let folder_like = "no such folder exists here, and it is no Hub name";
    for (text, why) in [
        ("", "it is empty"),
        ("org/na\nme", "it holds a control character"),
        ("no-such", "no such folder exists here, and a Hub name needs an organisation before a \"/\""),
        ("models/clip/v1", folder_like),
        ("models/", folder_like),
        ("models\\clip", folder_like),
        ("~/clip", "\"~\" is not expanded here and no such folder exists; write the path out"),
        ("or g/name", plain),
        ("org/na--me", plain),
        ("org/.name", plain),
        ("org/name@", "the revision after \"@\" is empty"),
        ("org/name@../x", "no revision can be called that"),
    ] {
        assert_eq!(
            line(&Source::parse(text).unwrap_err()),
            format!(
                "model {text:?}: {why}; allowed: a folder (./x, ../x, /x, or one that exists), or org/name or \
                 org/name@revision on the Hub"
            )
        );
    }
}

#[test]
fn a_folder_gives_its_files() {
    let folder = TempDir::new().unwrap();
    let at = folder.path().display();
    fs::create_dir(folder.path().join("sub")).unwrap();
    fs::write(folder.path().join("sub/x.json"), "{}").unwrap();
    let model = ModelFiles::open(&Source::Folder(folder.path().into())).unwrap();
    assert_eq!(model.get("sub/x.json").unwrap(), folder.path().join("sub/x.json"));
    assert_eq!(model.find("y.json").unwrap(), None);
    assert_eq!(model.find("sub/x.json/y").unwrap(), None);
    assert_eq!(model.commit(), None);
    assert_eq!(model.source(), &Source::Folder(folder.path().into()));
    assert_eq!(
        line(&model.get("y.json").unwrap_err()),
        format!("y.json of {at}: the folder has no such file; check that the model is complete")
    );
    assert_eq!(
        line(&model.find("sub").unwrap_err()),
        format!("sub of {at}: {at}/sub: not a file; check the path and its permissions")
    );
    assert_eq!(
        line(&ModelFiles::open(&Source::Folder("./no-such".into())).unwrap_err()),
        "model folder ./no-such: No such file or directory (os error 2); check the path"
    );
}

fn from_vars(vars: &[(&str, &str)]) -> HubSettings {
    HubSettings::from_lookup(|name| vars.iter().find(|(known, _)| *known == name).map(|(_, v)| OsString::from(v)))
}

#[test]
fn settings_follow_pythons_variables() {
    let plain = from_vars(&[("HOME", "/h")]);
    assert_eq!(plain.cache, Path::new("/h/.cache/huggingface/hub"));
    assert_eq!(plain.endpoint, "https://huggingface.co");
    assert_eq!((plain.token, plain.offline), (None, false));
    let cache = |vars: &[(&str, &str)]| from_vars(&[vars, &[("HOME", "/h")]].concat()).cache;
    assert_eq!(cache(&[("XDG_CACHE_HOME", "/x")]), Path::new("/x/huggingface/hub"));
    assert_eq!(cache(&[("HF_HOME", "~/hf"), ("XDG_CACHE_HOME", "/x")]), Path::new("/h/hf/hub"));
    assert_eq!(cache(&[("HF_HOME", "/hf"), ("HF_HUB_CACHE", "/c")]), Path::new("/c"));
    assert_eq!(cache(&[("HUGGINGFACE_HUB_CACHE", "/old"), ("HF_HUB_CACHE", "")]), Path::new("/old"));
    assert_eq!(from_vars(&[("HF_ENDPOINT", "http://mirror/hub/ ")]).endpoint, "http://mirror/hub");
    for (value, offline) in [("1", true), ("True", true), ("yes", true), ("ON", true), ("0", false), ("", false)] {
        assert_eq!(from_vars(&[("HF_HUB_OFFLINE", value)]).offline, offline, "{value}");
    }
}

#[test]
fn the_token_is_found_and_never_shown() {
    let home = TempDir::new().unwrap();
    let hf_home = home.path().to_str().unwrap();
    let elsewhere = home.path().join("elsewhere");
    fs::write(home.path().join("token"), "from-home\n").unwrap();
    fs::write(&elsewhere, "from-path\n").unwrap();
    let token = |vars: &[(&str, &str)]| from_vars(&[vars, &[("HF_HOME", hf_home)]].concat()).token;
    assert_eq!(token(&[]).as_deref(), Some("from-home"));
    assert_eq!(token(&[("HF_TOKEN_PATH", elsewhere.to_str().unwrap())]).as_deref(), Some("from-path"));
    assert_eq!(token(&[("HF_TOKEN", " t\n")]).as_deref(), Some("t"));
    let settings = from_vars(&[("HF_TOKEN", TOKEN)]);
    let model = ModelFiles::open_with(&org_name("main"), &HubSettings { cache: hf_home.into(), ..settings.clone() });
    assert!(!format!("{settings:?} {:?}", model.unwrap()).contains(TOKEN));
}
