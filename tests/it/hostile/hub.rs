//! A hub that lies: every request is answered with the bytes of the case, be they HTTP or not.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Where [`LINKED`] leads.
const BLOB: &str = "/blob";
const LINKED: &str = "HTTP/1.1 302 Found\r\nLocation: /blob\r\nX-Repo-Commit: 0123456789abcdef0123456789abcdef01234567\r\n\
                      X-Linked-Etag: \"a5e4a5b7\"\r\nX-Linked-Size: 26\r\nContent-Length: 0\r\n\r\n";
const FILE: &str = "HTTP/1.1 200 OK\r\nETag: \"abc\"\r\nX-Repo-Commit: 0123456789abcdef0123456789abcdef01234567\r\n\
                    Accept-Ranges: bytes\r\nContent-Type: application/json\r\nContent-Length: 26\r\n\r\n{\"model_type\": \"clip\", \"a\"}";
const BLOB_ANSWER: &str = "HTTP/1.1 206 Partial Content\r\nETag: \"cdn\"\r\nContent-Range: bytes 0-25/26\r\n\
                           Content-Length: 26\r\n\r\n{\"model_type\": \"clip\", \"a\"}";
const CHUNKED: &str = "HTTP/1.1 200 OK\r\nETag: \"abc\"\r\nX-Repo-Commit: 0123456789abcdef0123456789abcdef01234567\r\n\
                       Transfer-Encoding: chunked\r\n\r\n10\r\n{\"model_type\": 1}\r\n0\r\n\r\n";
const MISSING: &str =
    "HTTP/1.1 404 Not Found\r\nX-Error-Code: EntryNotFound\r\nContent-Length: 14\r\n\r\nEntryNotFound.";
const GATED: &str =
    "HTTP/1.1 403 Forbidden\r\nX-Error-Code: GatedRepo\r\nX-Error-Message: ask for it\r\nContent-Length: 0\r\n\r\n";
const LIST: &str = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX-Repo-Commit: 0123456789abcdef0123456789abcdef01234567\r\n\
                    Link: </api/next>; rel=\"next\"\r\nContent-Length: 78\r\n\r\n\
                    [{\"type\":\"file\",\"path\":\"data/train-0.parquet\",\"size\":12,\"oid\":\"0123456789abcdef\"}]";

/// Answers to begin with, written to `place/hub`.
pub fn write_seeds(place: &Path) {
    let folder = place.join("hub");
    std::fs::create_dir_all(&folder).unwrap();
    let answers = [
        ("file", FILE),
        ("linked", LINKED),
        ("blob", BLOB_ANSWER),
        ("chunked", CHUNKED),
        ("missing", MISSING),
        ("gated", GATED),
        ("list", LIST),
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
        (true, false) => stream.write_all(LINKED.as_bytes()),
        (false, true) => stream.write_all(BLOB_ANSWER.as_bytes()),
        _ => stream.write_all(answer),
    });
}
