//! A DICOMweb server, asked by GET only.

use std::time::Duration;

use anyhow::{Result, anyhow, bail};

use crate::http::{Client, Credentials, Patience, Reply, check_base, shown};

/// Where credentials stand: `DICOMWEB_TOKEN`, or `DICOMWEB_USERNAME` and `DICOMWEB_PASSWORD`.
const CREDENTIALS: &str = "DICOMWEB";

const PATIENCE: Patience = Patience {
    connect: Duration::from_secs(10),
    // A server that reads from tape, or looks through all its studies.
    answer: Duration::from_secs(120),
    read: Duration::from_secs(60),
    // The largest image over a slow line.
    whole: Some(Duration::from_secs(3600)),
};

#[derive(Debug)]
pub(super) struct Server {
    client: Client,
    /// The address as it may be shown.
    pub shown: String,
}

impl Server {
    /// # Errors
    /// No address of a server, or credentials in the environment that cannot be used.
    pub fn new(address: &str) -> Result<Self> {
        check_base(address).map_err(|why| anyhow!("--dicomweb {why}, such as https://pacs.example/dicom-web"))?;
        let credentials = Credentials::of_environment(CREDENTIALS).map_err(anyhow::Error::msg)?;
        let client = Client::new(address, credentials, PATIENCE);
        if client.is_open() {
            tracing::warn!("--dicomweb: the address is http://, so token or password cross it in the clear");
        }
        Ok(Self { client, shown: shown(address) })
    }

    /// An answer that has what was asked for, or says that there is nothing.
    ///
    /// # Errors
    /// No answer, or a refusal.
    pub fn get(&self, path: &str, accept: &str) -> Result<Reply> {
        let reply = self.client.get(path, accept).map_err(|why| anyhow!("{}: {why}", self.shown))?;
        match reply.status {
            200 | 204 | 206 => Ok(reply),
            401 | 403 => bail!(
                "{}: status {}; {CREDENTIALS}_TOKEN, or {CREDENTIALS}_USERNAME and {CREDENTIALS}_PASSWORD, say who \
                 asks",
                self.shown,
                reply.status
            ),
            404 => bail!("{}: status 404, there is no such thing", self.shown),
            406 => bail!("{}: status 406, it does not give what is asked for ({accept})", self.shown),
            _ if reply.is_redirect() => {
                bail!("{}: status {}, it leads somewhere else; name that address", self.shown, reply.status)
            }
            status => bail!("{}: status {status}", self.shown),
        }
    }
}
