//! Bodies of requests, read within bounds: each one's length, and what all of them take together.

use std::pin::pin;
use std::sync::Arc;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode, header};
use serde_json::Value;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::fields::Fields;
use super::refusal::Refusal;
use crate::json;

/// Bodies of the longest kind that may be held at once.
const LONGEST_AT_ONCE: usize = 8;
/// What is refused is read on to this many times what is allowed: a client that is still sending hears no answer. What
/// announces more is refused at once.
const READ_ON: usize = 4;
/// Bytes of a permit.
const UNIT: usize = 1024;
/// Permits that are taken at a time.
const STEP: usize = 64;

/// Room for bodies.
pub(super) struct Bodies {
    /// Longest, in bytes.
    most: usize,
    room: Arc<Semaphore>,
}

/// What a request asks for, with the room that it takes.
pub(super) struct Asked {
    pub fields: Fields,
    /// Given back once what was sent is decoded.
    pub room: OwnedSemaphorePermit,
}

/// A body, as its content type names it.
enum Kind {
    Json,
    /// An image or a volume as it is.
    Image,
}

impl Bodies {
    pub fn new(most: usize) -> Self {
        Self { most, room: Arc::new(Semaphore::new((LONGEST_AT_ONCE * most).div_ceil(UNIT))) }
    }

    /// What `request` asks for: a JSON object, or an image alone.
    ///
    /// # Errors
    /// Another type, too long, no room, or no JSON object.
    pub async fn read(&self, request: Request) -> Result<Asked, Refusal> {
        let kind = match kind(request.headers()) {
            Ok(kind) => kind,
            Err(refusal) => {
                self.read_on(request).await;
                return Err(refusal);
            }
        };
        let (bytes, room) = self.bytes(request.into_body()).await?;
        let fields = match kind {
            Kind::Image => Fields::image(bytes),
            // Long ones take a while, and other requests wait on this thread.
            Kind::Json => {
                tokio::task::spawn_blocking(move || object(&bytes)).await.map_err(|_| Refusal::failed())??
            }
        };
        Ok(Asked { fields, room })
    }

    /// Reads what is left of a request that is refused, so that its client hears why, and keeps none of it.
    pub async fn read_on(&self, request: Request) {
        // Who asks before sending is told at once.
        if request.headers().contains_key(header::EXPECT) {
            return;
        }
        let body = request.into_body();
        if self.is_endless(&body) {
            return;
        }
        let mut body = pin!(body);
        let mut length = 0;
        while let Some(Ok(frame)) = std::future::poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
            length += frame.data_ref().map_or(0, Bytes::len);
            if length > READ_ON * self.most {
                break;
            }
        }
    }

    /// Whether it announces more than is read on.
    fn is_endless(&self, body: &Body) -> bool {
        body.size_hint().lower() > (READ_ON * self.most) as u64
    }

    /// The body is longer than it may be.
    fn too_long(&self) -> Refusal {
        let most = self.most >> 20;
        Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, format!("the body is longer than {most} MiB (--max-body-mib)"))
    }

    /// Room for `units` more, and as much as is taken at a time.
    fn room(&self, units: usize) -> Option<OwnedSemaphorePermit> {
        let units = units.next_multiple_of(STEP);
        Arc::clone(&self.room).try_acquire_many_owned(units as u32).ok()
    }

    /// The body with its room, which is taken as it arrives: who announces much and sends nothing keeps nobody out.
    async fn bytes(&self, body: Body) -> Result<(Vec<u8>, OwnedSemaphorePermit), Refusal> {
        if self.is_endless(&body) {
            return Err(self.too_long());
        }
        let mut body = pin!(body);
        let (mut bytes, mut length) = (Vec::new(), 0);
        let mut is_full = false;
        let mut room = self.room(0).ok_or_else(Refusal::failed)?;
        while let Some(frame) = std::future::poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
            let frame = frame.map_err(|_| Refusal::bad("the body ended before its end"))?;
            let data = frame.into_data().unwrap_or_else(|_| Bytes::new());
            length += data.len();
            let wanted = length.min(self.most).div_ceil(UNIT);
            if length <= self.most && !is_full && wanted > room.num_permits() {
                match self.room(wanted - room.num_permits()) {
                    Some(more) => room.merge(more),
                    None => is_full = true,
                }
            }
            if length <= self.most && !is_full {
                bytes.extend_from_slice(&data);
            } else if length > READ_ON * self.most {
                break;
            } else {
                // What is read on is not kept, nor its room.
                bytes = Vec::new();
                drop(room.split(room.num_permits()));
            }
        }
        if length <= self.most && is_full {
            return Err(Refusal::full("there is no room for another body of that length"));
        }
        if length <= self.most {
            return Ok((bytes, room));
        }
        Err(self.too_long())
    }
}

/// Browsers send `text/plain` and forms across origins without asking; JSON and images they do not.
fn kind(headers: &HeaderMap) -> Result<Kind, Refusal> {
    let said = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let name = said.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match name.as_str() {
        "application/json" if is_utf8(said) => Ok(Kind::Json),
        "application/json" => Err(Refusal::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "Content-Type says another charset than utf-8, the only one that JSON is read in",
        )),
        "image/png"
        | "image/jpeg"
        | "application/dicom"
        | "application/gzip"
        | "application/x-gzip"
        | "application/octet-stream" => Ok(Kind::Image),
        _ => Err(Refusal::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "Content-Type must be application/json, or image/png, image/jpeg, application/dicom or application/gzip \
             (NIfTI) for an image or a volume alone",
        )),
    }
}

/// Whether a content type names no other charset.
fn is_utf8(said: &str) -> bool {
    let named = said.split(';').skip(1).filter_map(|part| part.split_once('='));
    let mut charsets = named.filter(|(name, _)| name.trim().eq_ignore_ascii_case("charset"));
    charsets.all(|(_, charset)| {
        let charset = charset.trim().trim_matches('"');
        ["utf-8", "utf8", "us-ascii"].iter().any(|known| charset.eq_ignore_ascii_case(known))
    })
}

fn object(bytes: &[u8]) -> Result<Fields, Refusal> {
    match json::parse_distinct(bytes) {
        Ok(Value::Object(object)) => Ok(Fields::json(object)),
        Ok(_) => Err(Refusal::bad("the body is no JSON object")),
        // It says where and why, and nothing of what stands there.
        Err(e) => Err(Refusal::bad(format!("the body: {e}"))),
    }
}
