//! Fields of a request, each taken once; no complaint repeats what stood in one.

use serde_json::{Map, Value};

use super::refusal::Refusal;

/// An image as it was sent.
pub(super) enum SentImage {
    Bytes(Vec<u8>),
    /// In base64, or as a data URL.
    Text(String),
}

/// What is sent of one report: its only image, or all of them.
pub(super) enum SentStudy {
    One(SentImage),
    All(Vec<SentImage>),
}

/// Most files of one study.
const MOST_FILES: usize = 1024;

/// What a request asks for.
pub(super) struct Fields {
    object: Map<String, Value>,
    /// The body, where that is an image.
    image: Option<Vec<u8>>,
}

impl Fields {
    pub fn json(object: Map<String, Value>) -> Self {
        Self { object, image: None }
    }

    /// Of a body that is an image.
    pub fn image(bytes: Vec<u8>) -> Self {
        Self { object: Map::new(), image: Some(bytes) }
    }

    /// A field, where it is there and not null.
    pub fn take(&mut self, name: &str) -> Option<Value> {
        self.object.remove(name).filter(|value| !value.is_null())
    }

    /// A text that says something.
    pub fn text(&mut self, name: &str) -> Result<Option<String>, Refusal> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) if !text.trim().is_empty() => Ok(Some(text)),
            Some(_) => Err(Refusal::bad(format!("{name:?} must be a text that is not empty"))),
        }
    }

    /// One of `words`, for what it stands for.
    pub fn word<T: Copy>(&mut self, name: &str, words: [(&str, T); 2]) -> Result<Option<T>, Refusal> {
        let Some(value) = self.take(name) else { return Ok(None) };
        let found = value.as_str().and_then(|said| words.iter().find(|(word, _)| *word == said));
        let [(first, _), (second, _)] = words;
        let refusal = || Refusal::bad(format!("{name:?} must be {first:?} or {second:?}"));
        found.map(|(_, meant)| Some(*meant)).ok_or_else(refusal)
    }

    /// A number within `from` to `to`.
    pub fn number(&mut self, name: &str, (from, to): (f64, f64)) -> Result<Option<f64>, Refusal> {
        let Some(value) = self.take(name) else { return Ok(None) };
        let number = value.as_f64().filter(|number| (from..=to).contains(number));
        number.map(Some).ok_or_else(|| Refusal::bad(format!("{name:?} must be a number from {from} to {to}")))
    }

    /// A whole number from 1 to `most`.
    pub fn count(&mut self, name: &str, most: usize) -> Result<Option<usize>, Refusal> {
        let Some(value) = self.take(name) else { return Ok(None) };
        let number = value.as_u64().map(|number| number as usize).filter(|number| (1..=most).contains(number));
        number.map(Some).ok_or_else(|| Refusal::bad(format!("{name:?} must be a whole number from 1 to {most}")))
    }

    /// Yes or no; no where it is not there.
    pub fn flag(&mut self, name: &str) -> Result<bool, Refusal> {
        let value = self.take(name).map_or(Some(false), |value| value.as_bool());
        value.ok_or_else(|| Refusal::bad(format!("{name:?} must be true or false")))
    }

    /// The body, where that is an image.
    pub fn body(&mut self) -> Option<SentImage> {
        self.image.take().map(SentImage::Bytes)
    }

    /// The image or images: the body, or the field `image`, or those of the list `images`, which are one study.
    pub fn study(&mut self) -> Result<Option<SentStudy>, Refusal> {
        if let Some(image) = self.body() {
            return Ok(Some(SentStudy::One(image)));
        }
        let image = self.text("image")?.map(SentImage::Text);
        match (image, self.images()?) {
            (Some(_), Some(_)) => {
                Err(Refusal::bad("\"image\" is one, \"images\" are all of a study; send one of them"))
            }
            (image, images) => Ok(image.map(SentStudy::One).or(images.map(SentStudy::All))),
        }
    }

    fn images(&mut self) -> Result<Option<Vec<SentImage>>, Refusal> {
        let wrong = || Refusal::bad(format!("\"images\" must be a list of 1 to {MOST_FILES} images of one study"));
        let Some(value) = self.take("images") else { return Ok(None) };
        let Value::Array(images) = value else { return Err(wrong()) };
        if !(1..=MOST_FILES).contains(&images.len()) {
            return Err(wrong());
        }
        let image = |image| match image {
            Value::String(text) => Ok(SentImage::Text(text)),
            _ => Err(wrong()),
        };
        images.into_iter().map(image).collect::<Result<_, _>>().map(Some)
    }

    /// Refuses what nobody took; `known` are all names.
    pub fn end(self, known: &[&str]) -> Result<(), Refusal> {
        let unknown = self.object.iter().filter(|(name, value)| !value.is_null() || !known.contains(&name.as_str()));
        match unknown.count() {
            0 if self.image.is_none() => Ok(()),
            0 => Err(Refusal::bad(format!("this path takes JSON with {}", known.join(", ")))),
            n => Err(Refusal::bad(format!("{n} fields are unknown; known are {}", known.join(", ")))),
        }
    }
}
