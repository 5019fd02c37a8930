//! What a file is that was given for another, told by how it begins.

/// First bytes of files that are no text, where they stand, and what people call these.
const KINDS: [(usize, &[u8], &str); 8] = [
    (0, b"\x89PNG", "a PNG image"),
    (0, b"\xff\xd8\xff", "a JPEG image"),
    (0, b"GIF8", "a GIF image"),
    (128, b"DICM", "a DICOM image"),
    (0, b"%PDF", "a PDF document"),
    (0, b"PK\x03\x04", "a zip archive, as Excel and PyTorch write them"),
    (0, &[0x1f, 0x8b], "compressed by gzip"),
    (257, b"ustar", "a tar archive"),
];

/// What a file is that begins so; `None` where it may be text.
pub fn file_kind(head: &[u8]) -> Option<&'static str> {
    let known = KINDS.iter().find(|(at, magic, _)| head.get(*at..).is_some_and(|bytes| bytes.starts_with(magic)));
    known.map(|(.., kind)| *kind).or_else(|| is_safetensors(head).then_some("a safetensors file"))
}

/// The length of a JSON object, and that object.
fn is_safetensors(head: &[u8]) -> bool {
    let Some((length, rest)) = head.split_first_chunk() else { return false };
    (2..1 << 30).contains(&u64::from_le_bytes(*length)) && rest.first() == Some(&b'{')
}

#[cfg(test)]
mod tests {
    use super::file_kind;

    #[test]
    fn texts_are_no_kind() {
        let tensors = [&3u64.to_le_bytes()[..], b"{} "].concat();
        assert_eq!(file_kind(&tensors), Some("a safetensors file"));
        assert_eq!(file_kind(&[&[0; 128][..], b"DICM"].concat()), Some("a DICOM image"));
        for text in ["", "image,report\n", "seed = 1\n[model]\n", "{\"image\": \"a.png\"}", "      \n {\"a\": 1}"] {
            assert_eq!(file_kind(text.as_bytes()), None, "{text}");
        }
    }
}
