//! Images that a list names which is no manifest, such as a file of queries.

use std::path::Path;
use std::sync::Arc;

use super::row::{ImageFile, ImageSource, Images, Origin};

impl ImageSource {
    /// The image files that lines of `list` name: messages name the line, for a file may be called after a patient.
    /// Relative names start at the list's folder.
    pub fn of_list(list: &Path) -> impl Fn(u64, &str) -> Self {
        let folder = list.parent().unwrap_or(Path::new("")).to_path_buf();
        let origin = Arc::new(Origin { path: list.to_path_buf(), number: 0, images: Images::Files(folder.clone()) });
        move |line, name| Self::File(ImageFile { path: folder.join(name), row: Some((Arc::clone(&origin), line)) })
    }
}
