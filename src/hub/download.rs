//! One file from the Hub into the cache: ask where it is, fetch it (from where a cut download ended), check its
//! length and content, publish it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use indicatif::{ProgressBar, ProgressStyle};

use super::ask::{Download, Meta};
use super::cache::{RepoCache, is_commit};
use super::digest::has_etag;
use super::http::Http;
use super::{HubError, Source, Wanted};
use crate::http::{Reply, encode, shown};

pub(super) struct Got {
    pub path: PathBuf,
    pub commit: String,
}

/// Fetches a file at `commit`, or at the source's revision when that is not resolved yet.
pub(super) fn download(http: &Http, cache: &RepoCache, wanted: &Wanted, commit: Option<&str>) -> Result<Got, HubError> {
    let Source::Hub { repo, revision } = &wanted.source else {
        return Err(HubError::NoFile(Box::new(wanted.clone())));
    };
    let at = encode(commit.unwrap_or(revision), false);
    let url = format!("{}/{repo}/resolve/{at}/{}", http.endpoint, encode(&wanted.file, true));
    Download { http, cache, wanted }.run(url)
}

impl Download<'_> {
    fn run(&self, url: String) -> Result<Got, HubError> {
        let mut meta = Meta::default();
        let (url, first) = self.follow(url, 0, &mut meta, true)?;
        let (Some(commit), Some(etag)) = (meta.commit, meta.etag) else {
            return Err(self.odd(&url, "no X-Repo-Commit or ETag"));
        };
        // Both become path components.
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if !is_commit(&commit) || etag.is_empty() || etag.starts_with('.') || !etag.chars().all(plain) {
            return Err(self.odd(&url, "X-Repo-Commit or ETag is malformed"));
        }
        let blob = self.cache.blob(&etag);
        // Held until the file is published; a second process then finds the blob and fetches nothing.
        let _lock = self.cache.lock(&etag).map_err(|why| self.disk(self.cache.folder(), &why))?;
        if !blob.is_file() {
            let part = self.cache.part(&etag);
            self.fill(&part, &url, first, meta.size)?;
            if !self.is_what_it_is_named(&part, &etag)? {
                // What another process left there may be anything: once from the start.
                tracing::warn!("{}: not what the Hub says it is; fetching it anew", self.wanted);
                self.fill(&part, &url, None, meta.size)?;
                if !self.is_what_it_is_named(&part, &etag)? {
                    return Err(HubError::WrongContent(self.boxed(), shown(&url)));
                }
            }
            fs::rename(&part, &blob).map_err(|why| self.disk(&blob, &why))?;
        }
        let path = self.cache.publish(&etag, &commit, &self.wanted.file);
        Ok(Got { path: path.map_err(|why| self.disk(self.cache.folder(), &why))?, commit })
    }

    /// Whether a finished file has the content that its ETag names; removed where not.
    fn is_what_it_is_named(&self, part: &Path, etag: &str) -> Result<bool, HubError> {
        let disk = |why: io::Error| self.disk(part, &why);
        let is = has_etag(part, etag).map_err(disk)?;
        if !is {
            fs::remove_file(part).map_err(disk)?;
        }
        Ok(is)
    }

    /// Brings the partial file to its full length. `first` is an answer already at hand, from byte 0.
    fn fill(&self, part: &Path, url: &str, first: Option<Reply>, size: Option<u64>) -> Result<(), HubError> {
        let disk = |why: io::Error| self.disk(part, &why);
        if let Some(folder) = part.parent() {
            fs::create_dir_all(folder).map_err(disk)?;
        }
        let mut file = OpenOptions::new().create(true).append(true).open(part).map_err(disk)?;
        let mut have = file.metadata().map_err(disk)?.len();
        if size == Some(have) {
            return Ok(());
        }
        if size.is_some_and(|size| have > size) {
            file.set_len(0).map_err(disk)?;
            have = 0;
        }
        let mut reply = match first {
            Some(reply) if have == 0 => reply,
            _ => self.fetch(url, have)?,
        };
        let goes_on = reply.status == 206 && reply.content_range().is_some_and(|(start, _)| start == have);
        if have > 0 && !goes_on {
            // The server ignores ranges, or has another length in mind: from the start.
            file.set_len(0).map_err(disk)?;
            have = 0;
            if reply.status != 200 {
                reply = self.fetch(url, 0)?;
            }
        }
        if !(reply.status == 200 || (have > 0 && reply.status == 206)) {
            return Err(self.odd(url, &format!("status {} for a whole file", reply.status)));
        }
        let told =
            if reply.status == 206 { reply.content_range().map(|range| range.1) } else { reply.content_length() };
        let total = size.or(told);
        if told.is_some() && told != total {
            // Without this, every further try would end as a cut.
            return Err(self.odd(url, "two lengths for one file"));
        }
        if total.is_none() && reply.header("transfer-encoding").is_none() {
            // The end of such a body cannot be told from a cut.
            return Err(self.odd(url, "no length"));
        }
        self.copy(&mut reply, &mut file, part, have, total)
    }

    fn fetch(&self, url: &str, from: u64) -> Result<Reply, HubError> {
        match self.follow(url.into(), from, &mut Meta::default(), false)? {
            (_, Some(reply)) => Ok(reply),
            (url, None) => Err(self.odd(&url, "no answer")),
        }
    }

    /// Appends the body to the file and checks the length.
    fn copy(
        &self,
        reply: &mut Reply,
        file: &mut File,
        part: &Path,
        start: u64,
        total: Option<u64>,
    ) -> Result<(), HubError> {
        let disk = |why: io::Error| self.disk(part, &why);
        let cut = |have, why: &str| HubError::Cut(self.boxed(), have, total, why.into());
        tracing::debug!("fetching {} from byte {start}, {total:?} bytes in all", self.wanted);
        let bar = bar(&self.wanted.file, start, total);
        let most = total.unwrap_or_else(|| longest(&self.wanted.file));
        let mut have = start;
        let mut buffer = vec![0; 128 * 1024];
        loop {
            let count = match reply.body.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(why) if why.kind() == ErrorKind::Interrupted => continue,
                Err(why) => return Err(cut(have, &self.http.clean(why.to_string()))),
            };
            have += count as u64;
            if have > most {
                break;
            }
            file.write_all(&buffer[..count]).map_err(disk)?;
            bar.set_position(have);
        }
        bar.finish_and_clear();
        match total {
            Some(total) if have < total => Err(cut(have, "the body ended early")),
            _ if have > most => {
                // Not worth keeping: which bytes are too many is not known.
                fs::remove_file(part).map_err(disk)?;
                Err(self.odd(&self.http.endpoint, &format!("{have} bytes of {most}")))
            }
            // A blob is trusted for ever once it has its name, so its bytes must be on the disk before.
            _ => file.sync_all().map_err(disk),
        }
    }

    fn disk(&self, path: &Path, why: &io::Error) -> HubError {
        match why.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => HubError::DiskFull(self.boxed(), path.into()),
            _ => HubError::Disk(self.boxed(), path.into(), why.to_string()),
        }
    }
}

/// On stderr; indicatif hides it when that is no terminal.
fn bar(file: &str, start: u64, total: Option<u64>) -> ProgressBar {
    let bar = total.map_or_else(ProgressBar::new_spinner, ProgressBar::new).with_position(start);
    let style = ProgressStyle::with_template("{msg} [{wide_bar}] {bytes}/{total_bytes} {bytes_per_sec} {eta}");
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar())).with_message(file.to_owned())
}

/// Longest file that comes without a length: texts are held in memory later, weights are not.
fn longest(file: &str) -> u64 {
    let is_text = [".json", ".txt", ".md", ".model", ".csv", ".jsonl"].iter().any(|ending| file.ends_with(ending));
    if is_text { 64 << 20 } else { 64 << 30 }
}
