//! Requests to servers: what the Hub's client and those of servers that a user names, MLflow's or a PACS, have in
//! common.
//!
//! A [`Client`] follows no redirect, so that what it sends goes to the server that was named and nowhere else; names,
//! passwords and tokens come from the environment and are never shown; bodies are read within bounds.

mod address;
mod pace;

use std::io::Read;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ureq::{Agent, RequestBuilder};

pub use address::{check_base, encode, is_loopback, origin, shown};
pub use pace::Paced;

/// An answer, its body not yet read.
pub struct Reply {
    /// As HTTP has it.
    pub status: u16,
    /// Names in lower case, and values.
    pub headers: Vec<(String, String)>,
    /// The body, of any length.
    pub body: Box<dyn Read>,
}

impl Reply {
    /// A header by its lower-case name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Whether it says to ask somewhere else.
    pub fn is_redirect(&self) -> bool {
        matches!(self.status, 301 | 302 | 303 | 307 | 308)
    }

    /// Bytes of the body, where the answer says.
    pub fn content_length(&self) -> Option<u64> {
        self.header("content-length")?.trim().parse().ok()
    }

    /// First byte and total length of a partial answer: "bytes 5-9/10" → (5, 10).
    pub fn content_range(&self) -> Option<(u64, u64)> {
        let (range, total) = self.header("content-range")?.trim().strip_prefix("bytes ")?.split_once('/')?;
        Some((range.split_once('-')?.0.trim().parse().ok()?, total.trim().parse().ok()?))
    }

    /// The whole body, which may have up to `most` bytes.
    ///
    /// # Errors
    /// It is longer, or cut; in words.
    pub fn bytes(self, most: u64) -> Result<Vec<u8>, String> {
        let mut bytes = Vec::new();
        self.body.take(most + 1).read_to_end(&mut bytes).map_err(|why| short(&why.to_string()))?;
        if bytes.len() as u64 > most {
            return Err(format!("the answer has more than {most} bytes"));
        }
        Ok(bytes)
    }
}

impl From<ureq::http::Response<ureq::Body>> for Reply {
    fn from(response: ureq::http::Response<ureq::Body>) -> Self {
        let (parts, body) = response.into_parts();
        let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
        let headers = parts.headers.iter().map(|(name, value)| (name.to_string(), text(value.as_bytes()))).collect();
        Self { status: parts.status.as_u16(), headers, body: Box::new(Paced::new(body.into_reader())) }
    }
}

/// How long a server may take.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// To be found and to accept a connection.
    pub connect: Duration,
    /// To send all headers of its answer.
    pub answer: Duration,
    /// For each read of a body: a stalled connection ends, a slow one goes on as [`Paced`] says.
    pub read: Duration,
    /// For all of it, where there is a limit.
    pub whole: Option<Duration>,
}

/// What a server knows a user by; never shown.
pub struct Credentials(String);

impl Credentials {
    /// `PREFIX_TOKEN`, or `PREFIX_USERNAME` and `PREFIX_PASSWORD`; none where neither is set.
    ///
    /// # Errors
    /// A token with characters that no header has; a name without a password, or with a colon.
    pub fn of_environment(prefix: &str) -> Result<Option<Self>, String> {
        let value = |what: &str| std::env::var(format!("{prefix}_{what}")).ok().filter(|value| !value.is_empty());
        match (value("TOKEN"), value("USERNAME"), value("PASSWORD")) {
            (Some(token), ..) if token.bytes().all(|b| b.is_ascii_graphic()) => {
                Ok(Some(Self(format!("Bearer {token}"))))
            }
            (Some(_), ..) => Err(format!("{prefix}_TOKEN holds a character that no token has")),
            (None, Some(name), Some(password)) if !name.contains(':') => {
                Ok(Some(Self(format!("Basic {}", STANDARD.encode(format!("{name}:{password}"))))))
            }
            (None, Some(name), Some(_)) if name.contains(':') => Err(format!("{prefix}_USERNAME holds a colon")),
            (None, None, None) => Ok(None),
            _ => Err(format!("{prefix}_USERNAME and {prefix}_PASSWORD belong together, and one is not set")),
        }
    }
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

/// A server that a user named.
#[derive(Debug)]
pub struct Client {
    agent: Agent,
    base: String,
    credentials: Option<Credentials>,
}

impl Client {
    /// A client of the server at `base`, which [`check_base`] took.
    pub fn new(base: &str, credentials: Option<Credentials>, patience: Patience) -> Self {
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .user_agent(concat!("reportclip/", env!("CARGO_PKG_VERSION")))
            // What unpacks itself has no length that could be bounded beforehand.
            .accept_encoding("identity")
            .timeout_resolve(Some(patience.connect))
            .timeout_connect(Some(patience.connect))
            .timeout_recv_response(Some(patience.answer))
            .timeout_per_read(Some(patience.read))
            .timeout_global(patience.whole);
        if is_loopback(base) {
            // A proxy cannot know this machine's own servers.
            config = config.proxy(None);
        }
        Self { agent: config.build().into(), base: base.trim_end_matches('/').to_string(), credentials }
    }

    /// Whether credentials would cross a network in the clear.
    pub fn is_open(&self) -> bool {
        self.credentials.is_some() && self.base.starts_with("http://") && !is_loopback(&self.base)
    }

    /// Asks for `path`, which begins with a slash, in a form that `accept` names. Every status is an answer.
    ///
    /// # Errors
    /// Why there was none, in words without path, name, password or token.
    pub fn get(&self, path: &str, accept: &str) -> Result<Reply, String> {
        let request = self.agent.get(format!("{}{path}", self.base)).header("Accept", accept);
        self.signed(request).call().map(Reply::from).map_err(|why| self.why(why))
    }

    /// Sends JSON to `path`. Every status is an answer.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub fn post(&self, path: &str, json: &serde_json::Value) -> Result<Reply, String> {
        let request = self.agent.post(format!("{}{path}", self.base)).header("Content-Type", "application/json");
        self.signed(request).send(json.to_string()).map(Reply::from).map_err(|why| self.why(why))
    }

    fn signed<B>(&self, request: RequestBuilder<B>) -> RequestBuilder<B> {
        match &self.credentials {
            Some(Credentials(value)) => request.header("Authorization", value),
            None => request,
        }
    }

    /// What may be told of an error: some kinds of it repeat addresses.
    fn why(&self, error: ureq::Error) -> String {
        match error {
            ureq::Error::BadUri(_) | ureq::Error::Http(_) => "the address cannot be asked for".into(),
            error => short(&error.into_io().to_string()),
        }
    }
}

/// A short line, whatever the HTTP crate says.
fn short(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_in_the_clear_are_known_for_what_they_are() {
        let second = Duration::from_secs(1);
        let patience = Patience { connect: second, answer: second, read: second, whole: None };
        let is_open =
            |base: &str, has: bool| Client::new(base, has.then(|| Credentials("Bearer x".into())), patience).is_open();
        assert!(is_open("http://pacs.example", true) && is_open("http://127.example.org", true));
        assert!(!is_open("http://pacs.example", false) && !is_open("https://pacs.example", true));
        assert!(!is_open("http://127.0.0.1:8042/dicom-web", true) && !is_open("http://localhost", true));
    }
}
