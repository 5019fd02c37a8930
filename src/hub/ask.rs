//! Questions to the Hub: where a file is, and what a refusal means.

use super::cache::{RepoCache, is_commit};
use super::http::{Http, join};
use super::{HubError, Wanted};
use crate::http::{Reply, shown};

const MAX_REDIRECTS: usize = 10;

/// What the Hub says about a file, from the headers of its answers.
#[derive(Default)]
pub(super) struct Meta {
    pub commit: Option<String>,
    /// Names the blob: the content's SHA-256 for large files, git's SHA-1 for small ones.
    pub etag: Option<String>,
    pub size: Option<u64>,
}

impl Meta {
    fn take(&mut self, reply: &Reply) {
        let header = |name| reply.header(name).map(|value| value.trim_start_matches("W/").trim_matches('"').to_owned());
        self.commit = header("x-repo-commit").or(self.commit.take());
        // An answer that points to the download host has its own ETag; the content's is the linked one.
        self.etag = header("x-linked-etag").or_else(|| header("etag")).or(self.etag.take());
        let length = if reply.status == 200 { reply.content_length() } else { None };
        self.size = header("x-linked-size").and_then(|size| size.parse().ok()).or(length).or(self.size);
    }

    fn is_known(&self) -> bool {
        self.commit.is_some() && self.etag.is_some()
    }
}

/// One file's way from the Hub into the cache; see `download.rs` for the second half.
pub(super) struct Download<'a> {
    pub http: &'a Http,
    pub cache: &'a RepoCache,
    pub wanted: &'a Wanted,
}

impl Download<'_> {
    /// Follows redirects to the first other answer (200, 206 or 416). With `until_known` it stops where the
    /// redirect leaves the Hub and `meta` is complete: the caller may want only a part of what is there.
    pub fn follow(
        &self,
        mut url: String,
        from: u64,
        meta: &mut Meta,
        until_known: bool,
    ) -> Result<(String, Option<Reply>), HubError> {
        for _ in 0..=MAX_REDIRECTS {
            let no_answer = |why| HubError::NoNetwork(self.boxed(), shown(&url), why);
            let reply = self.http.get(&url, from).map_err(no_answer)?;
            // A mirror may send on to the Hub; the download host's own ETag means nothing.
            if self.http.is_hub(&url) || reply.header("x-repo-commit").is_some() {
                meta.take(&reply);
            }
            if !reply.is_redirect() {
                return match reply.status {
                    200 | 206 | 416 => Ok((url, Some(reply))),
                    _ => Err(self.refusal(&url, &reply)),
                };
            }
            let next = reply.header("location").and_then(|location| join(&url, location));
            let Some(next) = next else {
                return Err(self.odd(&url, "a redirect to nowhere, or from https to http"));
            };
            if until_known && meta.is_known() && !self.http.is_hub(&next) {
                return Ok((next, None));
            }
            url = next;
        }
        Err(self.odd(&url, "too many redirects"))
    }

    /// The error for an answer of 4xx or 5xx. Notes a missing file in the cache.
    fn refusal(&self, url: &str, reply: &Reply) -> HubError {
        let (wanted, host) = (self.boxed(), shown(url));
        let code = reply.header("x-error-code").unwrap_or_default();
        match (reply.status, code) {
            // The download host's 4xx are about its signed address, not about the model.
            (status, _) if !self.http.is_hub(url) && code.is_empty() => HubError::Server(wanted, host, status),
            (_, "GatedRepo") => {
                let repo = wanted.source.to_string();
                let page = format!("{host}/{}", repo.split('@').next().unwrap_or_default());
                HubError::Gated(wanted, page)
            }
            (404, "RepoNotFound") => HubError::RepoNotFound(wanted, host),
            (404, "RevisionNotFound") => HubError::RevisionNotFound(wanted),
            (404, "EntryNotFound") => {
                if let Some(commit) = reply.header("x-repo-commit").filter(|commit| is_commit(commit)) {
                    self.cache.note_missing(commit, &wanted.file);
                }
                HubError::EntryNotFound(wanted)
            }
            (404, _) => HubError::NotFound(wanted, host),
            (401, _) if self.http.has_token() => HubError::TokenRefused(wanted),
            (401, _) => HubError::LoginNeeded(wanted),
            (403, _) => HubError::Forbidden(wanted),
            (429 | 500.., _) => HubError::Server(wanted, host, reply.status),
            (status, _) => HubError::Odd(wanted, host, format!("status {status}")),
        }
    }

    pub fn odd(&self, url: &str, what: &str) -> HubError {
        HubError::Odd(self.boxed(), shown(url), what.into())
    }

    pub fn boxed(&self) -> Box<Wanted> {
        Box::new(self.wanted.clone())
    }
}
