//! One GET to the Hub or to a host it points to.
//!
//! hf-hub's own `download` is not used, only its HTTP client: `download` sends the token to the download host
//! when it asks for the size, hides the headers that tell a missing file from a missing repository, appends a
//! whole body to a partial one when a server ignores `Range`, and cannot fetch empty files (0.5.0, `api/sync.rs`).

use std::time::Duration;

use hf_hub::Cache;
use hf_hub::api::sync::{ApiBuilder, ApiRepo};

use super::source::repo_of;
use super::{HubError, HubSettings};
use crate::http::{Reply, is_loopback, origin};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// For all headers of an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(120);
/// For each read, not for the whole body: a stalled connection ends, a slow one goes on as `Paced` says.
const READ_TIMEOUT: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(super) struct Http {
    client: ApiRepo,
    pub endpoint: String,
    token: Option<Token>,
}

struct Token(String);

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

impl Http {
    pub fn new(settings: &HubSettings, repo: &str, revision: &str) -> Result<Self, HubError> {
        if settings.token.as_ref().is_some_and(|token| !token.bytes().all(|b| b.is_ascii_graphic())) {
            return Err(HubError::BadToken(format!("{repo}@{revision}")));
        }
        let name = repo_of(repo, revision);
        let endpoint = settings.endpoint.trim_end_matches('/').to_owned();
        let api = ApiBuilder::from_cache(Cache::new(settings.cache.clone()))
            .with_endpoint(endpoint.clone())
            // hf-hub must not know the token, or it would put it on every request.
            .with_token(None)
            .with_user_agent("reportclip", env!("CARGO_PKG_VERSION"))
            .build()
            .map_err(|why| HubError::Setup(format!("{repo}@{revision}"), why.to_string()))?;
        Ok(Self { client: api.repo(name), endpoint, token: settings.token.clone().map(Token) })
    }

    pub fn has_token(&self) -> bool {
        self.token.is_some()
    }

    /// Whether an address is on the Hub itself: same scheme, host and port.
    pub fn is_hub(&self, url: &str) -> bool {
        origin(url) == origin(&self.endpoint)
    }

    /// Asks for `url` from byte `from` on. Follows no redirect; every status is an answer, not an error. The token
    /// goes to the Hub only. The error says why there was no answer.
    pub fn get(&self, url: &str, from: u64) -> Result<Reply, String> {
        // hf-hub does not export its HTTP crate; this request, turned to another address, is the way to it.
        let mut request = self.client.info_request().uri(url).header("Accept-Encoding", "identity");
        if from > 0 {
            request = request.header("Range", format!("bytes={from}-"));
        }
        if let Some(Token(token)) = self.token.as_ref().filter(|_| self.is_hub(url)) {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        let mut config = request
            .config()
            .http_status_as_error(false)
            .max_redirects(0)
            .timeout_resolve(Some(CONNECT_TIMEOUT))
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_recv_response(Some(ANSWER_TIMEOUT))
            .timeout_per_read(Some(READ_TIMEOUT));
        if is_loopback(url) {
            // A proxy cannot know this machine's own servers.
            config = config.proxy(None);
        }
        config.build().call().map(Reply::from).map_err(|why| self.clean(why.into_io().to_string()))
    }

    /// A short line without the token, whatever the HTTP crate says.
    pub fn clean(&self, text: String) -> String {
        let text = match &self.token {
            Some(Token(token)) if !token.is_empty() => text.replace(token.as_str(), "***"),
            _ => text,
        };
        text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(200).collect()
    }
}

/// The address that a `Location` points to; `None` for another scheme, or a step down from https.
pub(super) fn join(base: &str, location: &str) -> Option<String> {
    let scheme = base.split_once("://")?.0;
    let next = if location.contains("://") && !location.starts_with('/') {
        location.to_owned()
    } else if location.starts_with("//") {
        format!("{scheme}:{location}")
    } else if location.starts_with('/') {
        format!("{}{location}", origin(base))
    } else {
        let path = base.split(['?', '#']).next()?;
        format!("{}/{location}", path.rsplit_once('/')?.0)
    };
    let safe = next.starts_with("https://") || (scheme == "http" && next.starts_with("http://"));
    safe.then_some(next)
}
