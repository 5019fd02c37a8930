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
/// What is too long is read on to this many times what is allowed: a client that is still sending hears no answer.
const READ_ON: usize = 4;
/// Bytes of a permit.
const UNIT: usize = 1024;

/// Room for bodies.
pub(super) struct Bodies {
    /// Longest, in bytes.
    most: usize,
    room: Arc<Semaphore>,
}

/// What a request asks for, with the room that it takes.
pub(super) struct Asked {
    pub fields: Fields,
    pub _room: OwnedSemaphorePermit,
}

/// A body, as its content type names it.
enum Kind {
    Json,
    /// An image as it is.
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
        let kind = kind(request.headers())?;
        let length = request.headers().get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<usize>().ok());
        let wanted = length.unwrap_or(self.most).min(self.most).div_ceil(UNIT).max(1);
        let room = Arc::clone(&self.room).try_acquire_many_owned(wanted as u32);
        let room = room.map_err(|_| Refusal::full("there is no room for another body of that length"))?;
        let bytes = self.bytes(request.into_body()).await?;
        let fields = match kind {
            Kind::Image => Fields::image(bytes),
            // Long ones take a while, and other requests wait on this thread.
            Kind::Json => {
                tokio::task::spawn_blocking(move || object(&bytes)).await.map_err(|_| Refusal::failed())??
            }
        };
        Ok(Asked { fields, _room: room })
    }

    async fn bytes(&self, body: Body) -> Result<Vec<u8>, Refusal> {
        let mut body = pin!(body);
        let (mut bytes, mut length) = (Vec::new(), 0);
        while let Some(frame) = std::future::poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
            let frame = frame.map_err(|_| Refusal::bad("the body ended before its end"))?;
            let data = frame.into_data().unwrap_or_else(|_| Bytes::new());
            length += data.len();
            if length <= self.most {
                bytes.extend_from_slice(&data);
            } else if length > READ_ON * self.most {
                break;
            } else {
                bytes = Vec::new();
            }
        }
        if length <= self.most {
            return Ok(bytes);
        }
        let most = self.most >> 20;
        Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, format!("the body is longer than {most} MiB (--max-body-mib)")))
    }
}

/// Browsers send `text/plain` and forms across origins without asking; JSON and images they do not.
fn kind(headers: &HeaderMap) -> Result<Kind, Refusal> {
    let said = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let name = said.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match name.as_str() {
        "application/json" => Ok(Kind::Json),
        "image/png" | "image/jpeg" | "application/dicom" | "application/octet-stream" => Ok(Kind::Image),
        _ => Err(Refusal::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "Content-Type must be application/json, or image/png, image/jpeg or application/dicom for an image alone",
        )),
    }
}

fn object(bytes: &[u8]) -> Result<Fields, Refusal> {
    // What the parser says of a mistake may repeat what it found there.
    match json::parse(bytes) {
        Ok(Value::Object(object)) => Ok(Fields::json(object)),
        Ok(_) => Err(Refusal::bad("the body is no JSON object")),
        Err(_) => Err(Refusal::bad("the body is no JSON, or has too many values")),
    }
}
