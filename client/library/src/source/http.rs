//! A binary cache behind a URL.

use ureq::Agent;

use super::{SourceError, SourceFile};
use crate::http_client::{FetchError, agent, get, head};

#[derive(Debug)]
pub(super) struct HttpSource {
    // Without a slash at its end.
    address: String,
    agent: Agent,
}

impl HttpSource {
    pub(super) fn new(address: &str) -> Self {
        Self { address: address.trim_end_matches('/').to_owned(), agent: agent() }
    }

    pub(super) fn address(&self) -> &str {
        &self.address
    }

    pub(super) fn has(&self, name: &str) -> Result<bool, SourceError> {
        head(&self.agent, &self.url(name)).map_err(|error| failed(name, &error))
    }

    pub(super) fn open_file(&self, url: &str) -> Result<Option<SourceFile>, SourceError> {
        let fetched = get(&self.agent, &self.url(url)).map_err(|error| failed(url, &error))?;
        Ok(fetched.map(|fetched| SourceFile { reader: fetched.reader, bytes: fetched.bytes }))
    }

    fn url(&self, name: &str) -> String {
        format!("{}/{name}", self.address)
    }
}

fn failed(name: &str, error: &FetchError) -> SourceError {
    SourceError::Fetch { name: name.to_owned(), reason: error.to_string() }
}
