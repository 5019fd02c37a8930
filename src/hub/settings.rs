//! Where the cache is, which Hub to ask, with which token, and whether to ask at all.

use std::ffi::OsString;
use std::path::PathBuf;
use std::{env, fmt};

use crate::fs::text_up_to;

const HUB: &str = "https://huggingface.co";

/// How to reach the Hub and where its files are kept.
#[derive(Clone, PartialEq, Eq)]
pub struct HubSettings {
    /// The folder that holds `models--org--name`.
    pub cache: PathBuf,
    /// The Hub's address, without a slash at its end.
    pub endpoint: String,
    /// Sent to `endpoint` only, never to the hosts it redirects to.
    pub token: Option<String>,
    /// Use the cache only, never the network.
    pub offline: bool,
}

/// Never shows the token.
impl fmt::Debug for HubSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HubSettings")
            .field("cache", &self.cache)
            .field("endpoint", &self.endpoint)
            .field("token", &self.token.as_ref().map(|_| "***"))
            .field("offline", &self.offline)
            .finish()
    }
}

impl HubSettings {
    /// The settings of the environment, read as Python's `huggingface_hub` does:
    /// * cache: `HF_HUB_CACHE`, else `HUGGINGFACE_HUB_CACHE`, else `$HF_HOME/hub`; `HF_HOME` is
    ///   `$XDG_CACHE_HOME/huggingface` or `~/.cache/huggingface` when not set;
    /// * endpoint: `HF_ENDPOINT`, else `https://huggingface.co`;
    /// * token: `HF_TOKEN`, else `HUGGING_FACE_HUB_TOKEN`, else the file `HF_TOKEN_PATH` or `$HF_HOME/token`;
    /// * offline: `HF_HUB_OFFLINE` or `TRANSFORMERS_OFFLINE` is `1`, `true`, `yes` or `on` in any case.
    ///
    /// An empty variable counts as not set. An unreadable token file counts as no token.
    pub fn from_env() -> Self {
        Self::from_lookup(|name| env::var_os(name))
    }

    /// As [`HubSettings::from_env`], with the variables from `lookup`. A `~/` at the start of a path is replaced
    /// by `HOME`.
    pub fn from_lookup(lookup: impl Fn(&str) -> Option<OsString>) -> Self {
        let var = |name: &str| lookup(name).filter(|value| !value.is_empty());
        let text = |name: &str| {
            let value = var(name)?.to_string_lossy().trim().to_owned();
            (!value.is_empty()).then_some(value)
        };
        let home = || var("HOME").map(PathBuf::from).or_else(env::home_dir).unwrap_or_default();
        let path = |name: &str| {
            let path = PathBuf::from(var(name)?);
            Some(match path.strip_prefix("~") {
                Ok(rest) => home().join(rest),
                Err(_) => path,
            })
        };
        let hf_home = path("HF_HOME")
            .unwrap_or_else(|| path("XDG_CACHE_HOME").unwrap_or_else(|| home().join(".cache")).join("huggingface"));
        let cache = path("HF_HUB_CACHE").or_else(|| path("HUGGINGFACE_HUB_CACHE"));
        let token = text("HF_TOKEN").or_else(|| text("HUGGING_FACE_HUB_TOKEN")).or_else(|| {
            let file = path("HF_TOKEN_PATH").unwrap_or_else(|| hf_home.join("token"));
            let token = text_up_to(&file, 1 << 16).ok()?.trim().to_owned();
            (!token.is_empty()).then_some(token)
        });
        let yes = |name: &str| {
            text(name).is_some_and(|value| ["1", "true", "yes", "on"].contains(&value.to_lowercase().as_str()))
        };
        Self {
            cache: cache.unwrap_or_else(|| hf_home.join("hub")),
            endpoint: text("HF_ENDPOINT").unwrap_or_else(|| HUB.into()).trim_end_matches('/').to_owned(),
            token,
            offline: yes("HF_HUB_OFFLINE") || yes("TRANSFORMERS_OFFLINE"),
        }
    }
}
