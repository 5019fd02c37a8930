//! A hub that lies: every request is answered with the bytes of the case, be they HTTP or not.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Where the hub sends for large files.
const BLOB: &str = "/blob";
const COMMIT: &str = "X-Repo-Commit: 0123456789abcdef0123456789abcdef01234567\r\nETag: \"abc\"\r\n";
/// What is asked for, as far as it is a model's config or a list of a data set's files.
const BODY: &str = r#"{"model_type": "clip", "projection_dim": 12, "text_config": {}, "vision_config": {}}"#;
const LIST: &str = r#"[{"type":"file","path":"data/train-0.parquet","size":12,"oid":"0123456789abcdef"}]"#;

/// An answer with its length.
fn answer(status: &str, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\n\r\n{body}", body.len())
}

fn linked() -> String {
    let size = BODY.len();
    answer(
        "302 Found",
        &format!("Location: {BLOB}\r\n{COMMIT}X-Linked-Etag: \"a5e4\"\r\nX-Linked-Size: {size}\r\n"),
        "",
    )
}

fn blob() -> String {
    let size = BODY.len();
    answer("206 Partial Content", &format!("ETag: \"cdn\"\r\nContent-Range: bytes 0-{}/{size}\r\n", size - 1), BODY)
}

/// Answers to begin with, written to `place/hub`.
pub fn write_seeds(place: &Path) {
    let folder = place.join("hub");
    std::fs::create_dir_all(&folder).unwrap();
    let chunked = format!("{:x}\r\n{BODY}\r\n0\r\n\r\n", BODY.len());
    let answers = [
        ("file", answer("200 OK", &format!("{COMMIT}Accept-Ranges: bytes\r\n"), BODY)),
        ("linked", linked()),
        ("blob", blob()),
        ("chunked", format!("HTTP/1.1 200 OK\r\n{COMMIT}Transfer-Encoding: chunked\r\n\r\n{chunked}")),
        ("missing", answer("404 Not Found", "X-Error-Code: EntryNotFound\r\n", "EntryNotFound.")),
        ("gated", answer("403 Forbidden", "X-Error-Code: GatedRepo\r\nX-Error-Message: ask for it\r\n", "")),
        ("list", answer("200 OK", &format!("{COMMIT}Link: </api/next>; rel=\"next\"\r\n"), LIST)),
    ];
    answers.iter().for_each(|(name, answer)| std::fs::write(folder.join(format!("{name}.http")), answer).unwrap());
}

/// Answers until it is dropped.
pub struct Hub {
    pub endpoint: String,
    over: Arc<AtomicBool>,
}

impl Hub {
    pub fn start(answer: Vec<u8>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let over = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&over);
        std::thread::spawn(move || {
            while !told.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((stream, _)) => serve(stream, &answer),
                    Err(_) => std::thread::sleep(Duration::from_millis(1)),
                }
            }
        });
        Self { endpoint, over }
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

/// One request, one answer; what goes wrong on the way is the client's.
fn serve(mut stream: TcpStream, answer: &[u8]) {
    drop(stream.set_nonblocking(false));
    drop(stream.set_read_timeout(Some(Duration::from_secs(2))));
    let (mut request, mut byte) = (Vec::new(), [0]);
    while !request.ends_with(b"\r\n\r\n") && request.len() < 10_000 && stream.read(&mut byte).is_ok_and(|n| n == 1) {
        request.push(byte[0]);
    }
    // An answer for the download host is asked for after the hub has named that host.
    let of_blob = answer.windows(7).any(|w| w == b" 206 Pa");
    let asks_blob = String::from_utf8_lossy(&request).contains(BLOB);
    drop(match (of_blob, asks_blob) {
        (true, false) => stream.write_all(linked().as_bytes()),
        (false, true) => stream.write_all(blob().as_bytes()),
        _ => stream.write_all(answer),
    });
}
